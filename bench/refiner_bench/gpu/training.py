"""Training within the time that is left, several models at once, from where an earlier run stopped."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from refiner_bench.gpu.jobs import Job, Result, run_jobs
from refiner_bench.gpu.parts import Place, environment


@dataclass(frozen=True)
class Plan:
    """What is trained: the name of its files, its kind, its configuration, and what is changed of it."""

    name: str
    kind: Literal["lifter", "refiner"]
    configuration: str
    changes: tuple[str, ...] = ()


# In the order in which they train, and come back.
PLANS = (
    Plan("lifter-base", "lifter", "lifter-base-rays"),
    Plan("lifter-small", "lifter", "lifter-small-rays", ("training.batch=256", "training.steps=40000")),
    Plan("refiner-base", "refiner", "refiner-base-rays"),
)
# The ways in which a step may run, the fastest first.
WAYS = {"cuda": ("compile-graph", "graph", "compile", "none"), "cpu": ("none",)}
# A refiner has the windows of the lifters that it is given.
TOY_SIZE_OF_REFINERS = (
    "noise.fit_frames=2000",
    "training.threads=1",
    "model.blocks=1",
    "model.dim=32",
    "training.batch=4",
    "training.steps=100000",
)
TOY_SIZE = ("frames=9", *TOY_SIZE_OF_REFINERS[1:])
# Seconds for validation and saving after the last step; those that a run is worth starting for; those of a toy run.
TO_FINISH = {"cuda": 40.0, "cpu": 20.0}
LEAST = {"cuda": 30.0, "cpu": 1.0}
TOY_SECONDS = 8.0
# A step that is compiled or captured may hang, and its time box does not see that from inside: what has not come past
# its first steps after so many seconds is stopped, and the next way has the rest.
TO_BEGIN = 180.0
# How `refiner.training.loop.refuse_other_run` ends.
OTHER_RUN = "choose another --output, or remove it"


@dataclass(frozen=True)
class Training:
    """What trains on what.

    ``until``: a time of `time.monotonic`. ``words``: more of the command of a plan, by its name.
    """

    place: Place
    data: tuple[str, ...]
    weights: tuple[str, ...]
    until: float
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def folder(self, plan: Plan) -> Path:
        """Where the run of ``plan`` lies."""
        return self.place.work / "runs" / plan.name


def take_up(plan: Plan, states: Sequence[Path], training: Training) -> list[Result]:
    """Bring back what earlier runs left; where the state is damaged or missing, the weights alone.

    A state that cannot be read is a failed part, and so are weights; training then begins with the weights, or anew.
    """
    from refiner.errors import CheckpointError
    from refiner.training.travel import has_state, join_state, restart_from_weights

    name, run, began = plan.name, training.folder(plan), time.monotonic()
    results: list[Result] = []

    def tell(what: str, status: Any, why: str) -> None:
        results.append(Result(f"{name}, {what}", status, round(time.monotonic() - began, 1), None, why))

    if any(has_state(folder, name) for folder in states):
        try:
            step = join_state(states, name, run)
        except CheckpointError as error:
            tell("state", "failed", str(error))
        else:
            tell("state", "ok", f"going on from step {step:,}")
            return results
    files = [file for folder in reversed(states) if (file := folder / f"{name}.safetensors").is_file()]
    if not files:
        if states and not results:
            tell("state", "skipped", "no earlier run of it; it begins anew")
        return results
    try:
        step = restart_from_weights(files[0], run)
    except CheckpointError as error:
        tell("weights", "failed", f"{error}; it begins anew")
    else:
        tell("weights", "ok", f"going on from the weights of step {step:,} alone, with a new optimiser")
    return results


def refusal(plan: Plan, training: Training) -> str:
    """Why a plan cannot run here; nothing where it can."""
    from refiner.training.config import CONFIG_FOLDER

    if not (CONFIG_FOLDER / f"{plan.configuration}.toml").is_file():
        return f"there is no configuration {plan.configuration}"
    if plan.kind == "refiner" and plan.name not in training.words:
        return f"it needs a lifter: --plan-option '{plan.name}=--lifter FILE'"
    return ""


def ways_of(plan: Plan, device: str) -> list[str]:
    """The ways in which a plan's steps may run, the fastest first."""
    from refiner.training.config import load_config

    # A way that cannot work is found out late, after the data is loaded and the noise fitted.
    graphs = plan.kind == "lifter" or load_config(plan.configuration).diffusion.train_on == "unrolled"
    return [way for way in WAYS[device] if graphs or not way.endswith("graph")]


def train_plan(plan: Plan, training: Training) -> list[Result]:
    """Train in the first way that works, while there is time.

    A state of another configuration or of other data fails once, and goes on under the present ones; one of another
    network is left, and the run begins anew.
    """
    place = training.place
    results: list[Result] = []
    why = refusal(plan, training)
    if why:
        return [Result(plan.name, "skipped", 0.0, None, why)]
    ways, adopted = ways_of(plan, place.device), False
    while ways:
        way = ways.pop(0)
        left = training.until - time.monotonic()
        seconds = left - TO_FINISH[place.device]
        if place.toy:
            seconds = min(seconds, TOY_SECONDS)
        name = f"{plan.name}, {way}"
        if seconds < LEAST[place.device]:
            return [*results, Result(name, "skipped", 0.0, None, "no time was left")]
        before = progress_of(training.folder(plan))
        (result,) = run_jobs([_job(name, plan, way, training, seconds)], place.work / "logs", environment())
        if result.status == "ok":
            why = _told(before, progress_of(training.folder(plan)))
            return [*results, dataclasses.replace(result, why=why)]
        results.append(result)
        if OTHER_RUN in result.why and not adopted:
            adopted = True
            results.append(_adopt(plan, way, training))
            ways.insert(0, way)
    return results


def _job(name: str, plan: Plan, way: str, training: Training, seconds: float) -> Job:
    from refiner.training.loop import BEGUN_FILE

    begun = training.folder(plan) / BEGUN_FILE
    begun.unlink(missing_ok=True)
    command = training.place.command("refiner.cli.train", *_options(plan, way, training, seconds))
    # Operation by operation nothing can hang, and there is no other way left.
    to_begin = math.inf if way == "none" else TO_BEGIN
    return Job(name, command, training.until - time.monotonic(), begun, to_begin)


def _adopt(plan: Plan, way: str, training: Training) -> Result:
    from refiner.errors import CheckpointError
    from refiner.training.config import load_config
    from refiner.training.travel import adopt_state

    name, run = f"{plan.name}, other run", training.folder(plan)
    try:
        step = adopt_state(run, load_config(plan.configuration, _changes(plan, way, training)))
    except CheckpointError as error:
        shutil.rmtree(run)
        return Result(name, "failed", 0.0, None, f"{error}; it begins anew")
    return Result(name, "ok", 0.0, None, f"going on from step {step:,} under the present configuration and data")


def progress_of(run: Path) -> dict[str, Any] | None:
    """The last point of a run's curve; None where it has none."""
    from refiner.training.loop import HISTORY_FILE

    try:
        history: list[dict[str, Any]] = json.loads((run / HISTORY_FILE).read_text(encoding="utf-8"))
    except OSError:
        return None
    return history[-1] if history else None


def _told(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    if after is None:
        return "it has no curve"
    first = before["step"] if before else 0
    if first == after["step"]:
        return f"done before, at step {first:,}, {after['mpjpe_mm']:.2f} mm"
    pace = f"{after['windows_per_s']:,.0f} windows/s" if "windows_per_s" in after else "no pace"
    return f"step {first:,} to {after['step']:,}, {pace}, validation {after['mpjpe_mm']:.2f} mm"


def _options(plan: Plan, way: str, training: Training, seconds: float) -> list[str]:
    changes = _changes(plan, way, training)
    options = [plan.kind, "--config", plan.configuration, "--output", str(training.folder(plan)), "--quiet"]
    options += ["--minutes", f"{seconds / 60:.4f}", "--finish"]
    for option, values in (("--data", training.data), ("--weight", training.weights), ("--set", changes)):
        options += [word for value in values for word in (option, value)]
    return options + _words_and_changes(plan, training)[0]


def words_to_profile(plan: Plan, training: Training) -> list[str]:
    """Words of `refiner-train` whose first steps are profiled; a refiner's noise is fitted on less."""
    words = _options(plan, "none", training, 60.0)
    return [*words, "--set", "noise.fit_frames=2000"] if plan.kind == "refiner" else words


def _changes(plan: Plan, way: str, training: Training) -> list[str]:
    place = training.place
    changes = [*plan.changes, *_words_and_changes(plan, training)[1]]
    changes += [f"training.device={place.device}", f"training.compile={way}"]
    changes += [f"training.precision={'bfloat16' if place.device == 'cuda' else 'float32'}"]
    toy = TOY_SIZE if plan.kind == "lifter" else TOY_SIZE_OF_REFINERS
    return changes + list(toy if place.toy else ())


def _words_and_changes(plan: Plan, training: Training) -> tuple[list[str], list[str]]:
    """The further words of a plan's command, without what they ``--set``; and that, which its configuration needs."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--set", action="append", default=[])
    found, words = parser.parse_known_args(training.words.get(plan.name, ()))
    return words, found.set
