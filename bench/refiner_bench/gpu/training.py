"""Trains models within the time that is left. A training continues where an earlier run stopped."""

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
from typing import Literal

from refiner_bench.gpu.jobs import Job, Result, Status, run_jobs
from refiner_bench.gpu.parts import RunSetup, environment
from refiner_bench.report import JsonObject


@dataclass(frozen=True)
class Plan:
    """A model to train.

    Attributes:
        name: The name of its files.
        kind: "lifter" or "refiner".
        configuration: The name of its configuration.
        changes: Changes of the configuration.
    """

    name: str
    kind: Literal["lifter", "refiner"]
    configuration: str
    changes: tuple[str, ...] = ()


# The plans in the order in which they train, and in which their results are copied to the output folder.
PLANS = (
    Plan("lifter-base", "lifter", "lifter-base-rays"),
    Plan("lifter-small", "lifter", "lifter-small-rays", ("training.batch=256", "training.steps=40000")),
    Plan("refiner-base", "refiner", "refiner-base-rays"),
    Plan("refiner-nano", "refiner", "refiner-nano-rays-long", ("training.batch=288", "training.precision=float32")),
)
# The ways in which a training step can run (the setting training.compile), by device, the fastest first.
WAYS = {"cuda": ("compile-graph", "graph", "compile", "none"), "cpu": ("none",)}
# A refiner has no change of its frames, because its windows are those of its lifters.
TOY_SIZE_OF_REFINERS = (
    "noise.fit_frames=2000",
    "training.threads=1",
    "model.blocks=1",
    "model.dim=32",
    "training.batch=6",  # a multiple of the windows of a scene
    "training.steps=100000",
)
TOY_SIZE = ("frames=9", *TOY_SIZE_OF_REFINERS[1:])
# Seconds for validation and saving after the last step; least seconds for the start of a run; seconds of a toy run.
TO_FINISH = {"cuda": 40.0, "cpu": 20.0}
LEAST = {"cuda": 30.0, "cpu": 1.0}
TOY_SECONDS = 8.0
# A compiled or captured step may hang, and cannot stop itself then. A run that has not finished its first steps after
# this time is stopped, and the next way gets the rest of the time.
TO_BEGIN = 180.0
# The end of the message of `refiner.training.loop.refuse_other_run`.
OTHER_RUN = "choose another --output, or remove it"


@dataclass(frozen=True)
class Training:
    """The setup of all training.

    Attributes:
        setup: The setup of the run.
        data: The motion archives.
        weights: The values of ``--weight`` for ``refiner-train``.
        until: The end of the training as a time of `time.monotonic`.
        words: Further arguments of ``refiner-train`` by the name of a plan.
    """

    setup: RunSetup
    data: tuple[str, ...]
    weights: tuple[str, ...]
    until: float
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def folder(self, plan: Plan) -> Path:
        """The folder of the run of a plan."""
        return self.setup.work / "runs" / plan.name


def resume(plan: Plan, states: Sequence[Path], training: Training) -> list[Result]:
    """Prepare the run of a plan from the state of an earlier run.

    If the state is damaged or missing, the training starts from the weights alone. If the weights are damaged or
    missing too, it starts from the beginning.

    Args:
        plan: The plan.
        states: The output folders of earlier runs.
        training: The setup of the training.

    Returns:
        The results of this part; a damaged state and damaged weights are results with the status "failed".
    """
    from refiner.errors import CheckpointError
    from refiner.training.travel import has_state, join_state, restart_from_weights

    name, run, began = plan.name, training.folder(plan), time.monotonic()
    results: list[Result] = []

    def tell(what: str, status: Status, why: str) -> None:
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
            tell("state", "skipped", "no earlier run of it; it starts from the beginning")
        return results
    try:
        step = restart_from_weights(files[0], run)
    except CheckpointError as error:
        tell("weights", "failed", f"{error}; it starts from the beginning")
    else:
        tell("weights", "ok", f"going on from the weights of step {step:,} alone, with a new optimiser")
    return results


def refusal(plan: Plan, training: Training) -> str:
    """The reason why a plan cannot run here; an empty string if it can."""
    from refiner.training.config import CONFIG_FOLDER

    if not (CONFIG_FOLDER / f"{plan.configuration}.toml").is_file():
        return f"there is no configuration {plan.configuration}"
    if plan.kind == "refiner" and plan.name not in training.words:
        return f"it needs a lifter: --plan-option '{plan.name}=--lifter FILE'"
    return ""


def ways_of(plan: Plan, device: str) -> list[str]:
    """The ways in which the steps of a plan can run, the fastest first."""
    from refiner.training.config import load_config

    # This check saves time: a way that does not work fails only after loading the data and fitting the noise.
    graphs = plan.kind == "lifter" or load_config(plan.configuration).diffusion.train_on == "unrolled"
    return [way for way in WAYS[device] if graphs or not way.endswith("graph")]


def train_plan(plan: Plan, training: Training) -> list[Result]:
    """Train a plan in the first way that works, while there is time.

    If the resumed state is from another configuration or other data, the first attempt fails; the next attempt
    continues under the present configuration and data. If it is from another network, the run starts from the
    beginning.

    Returns:
        The result of each attempt.
    """
    setup = training.setup
    results: list[Result] = []
    why = refusal(plan, training)
    if why:
        return [Result(plan.name, "skipped", 0.0, None, why)]
    ways, adopted = ways_of(plan, setup.device), False
    while ways:
        way = ways.pop(0)
        left = training.until - time.monotonic()
        seconds = left - TO_FINISH[setup.device]
        if setup.toy:
            seconds = min(seconds, TOY_SECONDS)
        name = f"{plan.name}, {way}"
        if seconds < LEAST[setup.device]:
            return [*results, Result(name, "skipped", 0.0, None, "no time was left")]
        before = progress_of(training.folder(plan))
        (result,) = run_jobs([_job(name, plan, way, training, seconds)], setup.work / "logs", environment())
        if result.status == "ok":
            why = _progress_text(before, progress_of(training.folder(plan)))
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
    command = training.setup.command("refiner.cli.train", *_options(plan, way, training, seconds))
    # The way "none" cannot hang, and it is the last way.
    to_begin = math.inf if way == "none" else TO_BEGIN
    return Job(name, command, training.until - time.monotonic(), begun, to_begin)


def _adopt(plan: Plan, way: str, training: Training) -> Result:
    """Let the state of another run continue under the present configuration; remove it if that is not possible."""
    from refiner.errors import CheckpointError
    from refiner.training.config import load_config
    from refiner.training.travel import adopt_state

    name, run = f"{plan.name}, other run", training.folder(plan)
    try:
        step = adopt_state(run, load_config(plan.configuration, _changes(plan, way, training)))
    except CheckpointError as error:
        shutil.rmtree(run)
        return Result(name, "failed", 0.0, None, f"{error}; it starts from the beginning")
    return Result(name, "ok", 0.0, None, f"going on from step {step:,} under the present configuration and data")


def progress_of(run: Path) -> JsonObject | None:
    """The last entry of a run's training history; None if there is none."""
    from refiner.training.loop import HISTORY_FILE

    try:
        history: list[JsonObject] = json.loads((run / HISTORY_FILE).read_text(encoding="utf-8"))
    except OSError:
        return None
    return history[-1] if history else None


def _progress_text(before: JsonObject | None, after: JsonObject | None) -> str:
    """The progress of a training in words."""
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
    """The arguments of ``refiner-train`` for the profile. A refiner's noise is fitted on fewer frames, to save time."""
    words = _options(plan, "none", training, 60.0)
    return [*words, "--set", "noise.fit_frames=2000"] if plan.kind == "refiner" else words


def _changes(plan: Plan, way: str, training: Training) -> list[str]:
    setup = training.setup
    # A plan may choose another precision: a small network gains little from bfloat16, and loses accuracy.
    changes = [f"training.precision={'bfloat16' if setup.device == 'cuda' else 'float32'}"]
    changes += [*plan.changes, *_words_and_changes(plan, training)[1]]
    changes += [f"training.device={setup.device}", f"training.compile={way}"]
    toy = TOY_SIZE if plan.kind == "lifter" else TOY_SIZE_OF_REFINERS
    return changes + list(toy if setup.toy else ())


def _words_and_changes(plan: Plan, training: Training) -> tuple[list[str], list[str]]:
    """The further arguments of a plan without ``--set``, and the values of ``--set``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--set", action="append", default=[])
    known, words = parser.parse_known_args(training.words.get(plan.name, ()))
    return words, known.set
