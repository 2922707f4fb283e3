"""Short trainings that tests compute by one process and by several. Started as a program, it is one of several."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from toy import toy_config, toy_people

from refiner.cli.common import run
from refiner.training.config import Config
from refiner.training.processes import current, joined
from refiner.training.runs import train_lifter, train_refiner
from refiner.training.windows import WindowSampler

# Adam divides a gradient by its own size, so that rounding in a gradient near 0 may move a weight by a whole rate. With
# a small rate the gradients of the next steps do not feel it.
OPTIMISER = {"name": "adam", "rate": 1e-5, "clip_norm": 0.5}
RAYS = {"model": {"input": "rays"}, "scene": {"synthetic": 0.0}}
# The network does not know boxing, so that the parts of a batch have different numbers of known actions.
FINEPOSE = {
    "model": {"architecture": "finepose", "root": "zeroed", "drop_path": 0.1},
    "sampling": {"steps": 1, "hypotheses": 1, "flip": False},
    "text": {
        **dict.fromkeys(("width", "encoder_hidden"), 16),
        **dict.fromkeys(("heads", "encoder_heads"), 2),
        **dict.fromkeys(("layers", "encoder_layers"), 1),
        "classifier": 8,
        "unknown": 0.3,
        "actions": ["Jumping", "Walking"],
    },
}
# No time is left after the first step of a piece.
LEAST_MINUTES = 1e-9


def shared_config(name: str, lifters: Path) -> Config:
    """The configuration of a training; ``lifters`` has the lifters that the refiners refine."""
    plain, rays, mlp = (str(lifters / kind / "best.safetensors") for kind in ("plain", "rays", "mlp"))
    shared = {"parts": 4, "batch": 8}
    dropout = {"drop_path": 0.5, "dropout": 0.1}
    configs = {
        "lifter": {"kind": "lifter", "model": dropout, "training": shared},
        "muon": {"kind": "lifter", "optimiser": {"name": "muon", "matrix_rate": 1e-5}, "training": shared},
        "refiner": {"kind": "refiner", "lifter": plain, "noise": {"time": "full"}, "training": {**shared, "parts": 2}},
        "repeated": {"kind": "refiner", "lifter": plain, "training": {**shared, "distinct_batches": 6}},
        "pool": {
            "kind": "refiner",
            **RAYS,
            "stride": 3,
            "lifter": rays,
            "estimators": {"others": [mlp]},
            "diffusion": {"train_on": "unrolled"},
            "training": shared,
        },
        "actions": {"kind": "lifter", **FINEPOSE, "training": shared},
        # As many parts as processes.
        "default": {"kind": "lifter", "training": {"steps": 3, "batch": 8}},
    }
    content = {**configs[name]}
    content["optimiser"] = {**OPTIMISER, **content.get("optimiser", {})}
    return toy_config(content.pop("kind"), **content)


def train_lifters(folder: Path) -> None:
    """Train the lifters that `shared_config` names for a moment."""
    short, people = {"steps": 4, "validate_every": 4}, toy_people()
    train_lifter(toy_config("lifter", training=short), people, folder / "plain", quiet=True)
    for name, model in (("rays", {}), ("mlp", {"architecture": "mlp"})):
        config = toy_config("lifter", stride=3, scene=RAYS["scene"], model={"input": "rays", **model}, training=short)
        train_lifter(config, people, folder / name, quiet=True)


def train_shared(names: Iterable[str], lifters: Path, output: Path, minutes: float | None = None) -> None:
    """Train each run in a folder of its name."""
    people = toy_people()
    for name in names:
        config = shared_config(name, lifters)
        train = train_lifter if config.kind == "lifter" else train_refiner
        train(config, people, output / name, quiet=True, minutes=minutes)


def fail_at(rank: int, number: int, how: str) -> None:
    """Let a process fail when it draws the part of a number."""
    draw = WindowSampler.batch

    def drawn(self: WindowSampler, step: int) -> object:
        if step == number and current().rank == rank:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device", "windows.npz")
        return draw(self, step)

    WindowSampler.batch = drawn  # type: ignore[method-assign, assignment]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--lifters", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--one-step", nargs=2, metavar=("NAME", "DIR"), help="train this one for one step")
    parser.add_argument("--fail", nargs=3, metavar=("RANK", "NUMBER", "HOW"))

    def command(arguments: argparse.Namespace) -> None:
        if arguments.fail:
            fail_at(int(arguments.fail[0]), int(arguments.fail[1]), arguments.fail[2])
        with joined():
            train_shared(arguments.names, arguments.lifters, arguments.output)
            if arguments.one_step:
                name, folder = arguments.one_step
                train_shared([name], arguments.lifters, Path(folder), LEAST_MINUTES)

    return run(command, parser)


if __name__ == "__main__":
    sys.exit(main())
