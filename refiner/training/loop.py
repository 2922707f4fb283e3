"""The training loop: progress, validation, moving average, and a saved state that an interrupted run resumes from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from refiner.errors import CheckpointError, ConfigError, TrainingError
from refiner.files import atomic_path, atomic_write_text
from refiner.machine import this_machine
from refiner.model_files.arrays import MODEL_PREFIX
from refiner.model_files.build import build_model
from refiner.model_files.checkpoint import save_checkpoint, without_folders
from refiner.tensor_hashes import sha256_without_hashes
from refiner.training.config import Config, config_from_dict, same_configuration
from refiner.training.optimiser import MuonWithAdamW, build_optimiser
from refiner.training.parts import PartedSampler, PartedStep
from refiner.training.processes import Processes, SharedTime, current
from refiner.training.schedule import MovingAverage, TimeBox
from refiner.training.steps import FIRST_STEPS, Step, build_step, captures, check_device
from refiner.training.tasks import Task
from refiner.training.windows import Sampler

STATE_FILE, HISTORY_FILE = "state.safetensors", "history.json"
BEST_FILE, LAST_FILE = "best.safetensors", "last.safetensors"
# This file appears once the first steps are done. It shows to an observer that the run is past compilation.
BEGUN_FILE = "begun"
# After this many steps everything is compiled and captured. A schedule that follows the clock starts then.
SETTLING_STEPS = FIRST_STEPS + 2
# Steps between two checks that the loss is finite.
CHECK_EVERY = 50
# Training settings that may change when a run continues elsewhere: they change how a step is computed, or which windows
# of the same kind it draws.
ELSEWHERE = ("device", "compile", "parts")


def train(
    config: Config,
    task: Task,
    sampler: Sampler,
    folder: Path,
    description: dict[str, Any],
    quiet: bool = False,
    box: TimeBox | None = None,
) -> Path:
    """Train a task, and return the path of its best checkpoint by validation MPJPE.

    The folder also gets the checkpoint of the last step. If the folder holds the state of a run with the same
    configuration, this run is resumed. When the time of ``box`` is over, the run validates, saves and stops, and can
    be resumed later. It takes at least one step.

    Where several processes train (`refiner.training.processes.joined`), all of them call this function. The first one
    reads the state, validates and writes the files, and the others wait for it.

    Args:
        config: the configuration of the run, as `Processes.configured` returns it.
        task: the loss and the validation.
        sampler: the source of the batches, or of the parts of a batch where ``training.parts`` is above 1.
        folder: the folder of the run.
        description: a description of the data, stored in the checkpoint with the digests of the checkpoints that the
            run uses.
        quiet: show no progress bar.
        box: limits the time of the run.

    Raises:
        TrainingError: the folder holds a run of another configuration or on other data, the loss is not finite, or the
            processes do not have the same data or weights.
        ConfigError: the device cannot run the steps as ``training.compile`` asks.
        MissingComponentError: ``training.device`` is not available.
    """
    processes = current()
    settings = config.training
    if settings.parts % processes.size:
        raise ConfigError(f"training.parts is {settings.parts} for {processes.size} processes: expected a multiple")
    check_device(settings.device)
    capturable = captures(config)
    box = box or TimeBox()
    model = task.model.to(settings.device)
    optimiser = build_optimiser(model, config.optimiser, capturable)
    average = MovingAverage(model, settings.ema)
    run = _Run(config, folder, description | source_digests(config), processes)
    start = run.resume(model, optimiser, average)
    run.followed_clock |= box.finish
    clock: TimeBox | SharedTime = box if processes.group is None else SharedTime(box, processes)
    take_step: Step | PartedStep
    if settings.parts > 1:
        take_step = PartedStep(config, task, optimiser, average, processes)
        source: Sampler = PartedSampler(sampler, settings.parts, processes)
    else:
        take_step, source = build_step(config, task, optimiser, average), sampler
    hidden = True if quiet or not processes.first else None
    progress = tqdm(total=settings.steps, initial=start, disable=hidden, unit="step", dynamic_ncols=True)
    device = torch.device(settings.device)
    began, seen, running = time.perf_counter(), 0, torch.zeros((), device=device)
    model.train()
    for step in range(start, settings.steps):
        running, seen = running + take_step(step, source.batch(step), clock.gone()), seen + 1
        progress.update()
        done = step + 1
        if done == start + SETTLING_STEPS:
            clock.begin()
            if processes.first:
                (folder / BEGUN_FILE).touch()
        if seen % CHECK_EVERY == 0:
            # Only here does the host wait for the device between validations, so that it cannot run far ahead.
            _check_finite(processes.mean(running), done - seen, done, folder)
        stop = clock.over()
        if done % settings.validate_every == 0 or done == settings.steps or stop:
            running = processes.mean(running)
            _check_finite(running, done - seen, done, folder)
            if processes.size > 1:
                processes.check_alike(_digest(model), "the trained weights")
            if processes.first:
                mean_loss = float(running) / seen
                speed = seen * settings.batch / (time.perf_counter() - began)
                metrics = _validate(config, task, average)
                run.record(done, mean_loss, speed, metrics, task, average)
                run.save_state(done, model, optimiser, average)
                progress.set_postfix_str(
                    f"loss {mean_loss:.4f}, {_speed_text(speed, processes)}, validation {metrics['mpjpe_mm']:.2f} mm"
                )
                progress.write(f"step {done}: {progress.postfix}")
            processes.wait()
            began, seen, running = time.perf_counter(), 0, torch.zeros((), device=device)
        if stop and done < settings.steps:
            if processes.first:
                progress.write(f"out of time at step {done} of {settings.steps}; the same command continues from there")
            break
    progress.close()
    return folder / BEST_FILE


def _speed_text(speed: float, processes: Processes) -> str:
    each = f" ({speed / processes.size:.0f} a process)" if processes.size > 1 else ""
    return f"{speed:.0f} windows/s{each}"


def _digest(model: nn.Module) -> str:
    """SHA-256 of a model's parameters."""
    digest = hashlib.sha256()
    for value in model.parameters():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_finite(running: Tensor, before: int, step: int, folder: Path) -> None:
    """Raise TrainingError if the sum of the losses is not finite."""
    if not torch.isfinite(running):
        raise TrainingError(
            f"the loss was not finite between steps {before} and {step}; the last good state is in {folder}: lower "
            "optimiser.rate or set optimiser.clip_norm, and train in a new folder"
        )


def _validate(config: Config, task: Task, average: MovingAverage) -> dict[str, float]:
    averaged = build_model(dataclasses.asdict(config)).to(config.training.device).eval()
    averaged.load_state_dict(average.state())
    return task.validate(averaged)


def _machine(device: str) -> dict[str, Any]:
    return this_machine() | ({"gpu": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {})


def source_digests(config: Config) -> dict[str, Any]:
    """SHA-256 of the checkpoints that a configuration names. They identify the checkpoints wherever the files lie.

    Raises:
        CheckpointError: a checkpoint cannot be read.
    """

    def digest(path: str) -> str:
        try:
            return sha256_without_hashes(Path(path))
        except OSError as error:
            raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error

    digests: dict[str, Any] = {}
    if config.lifter:
        digests["lifter_sha256"] = digest(config.lifter)
    if config.start_from:
        digests["start_from_sha256"] = digest(config.start_from)
    if config.noise.cross_fit:
        digests["cross_fit_sha256"] = [digest(path) for path in config.noise.cross_fit]
    for name in ("others", "held_out"):
        if getattr(config.estimators, name):
            digests[f"{name}_sha256"] = [digest(path) for path in getattr(config.estimators, name)]
    return digests


def refuse_other_run(
    folder: Path,
    stored: Mapping[str, Any],
    stored_description: Mapping[str, Any],
    config: Config,
    description: Mapping[str, Any],
) -> None:
    """Raise TrainingError if a folder holds a run of another configuration, or on other data.

    The files of checkpoints may have moved: the digests of their content are compared (`source_digests`, in the
    description), not their folders. The device and the way its steps ran may differ. An entry that the stored
    description lacks is not compared, so that runs of older versions can be resumed.

    Args:
        folder: the folder of the run, for the message.
        stored: the configuration of the run in the folder.
        stored_description: the description of its data.
        config: the configuration of the new run.
        description: the description of its data.
    """
    wanted = config_from_dict(without_folders(dataclasses.asdict(config)))
    settings = {name: getattr(wanted.training, name) for name in ELSEWHERE}
    current = {**without_folders(stored), "training": {**stored.get("training", {}), **settings}}
    if not same_configuration(current, wanted):
        raise TrainingError(f"{folder} holds a run with another configuration; choose another --output, or remove it")
    different = [name for name, value in description.items() if stored_description.get(name, value) != value]
    if different:
        raise TrainingError(
            f"{folder} holds a run on other data or from other checkpoints ({', '.join(different)}); choose another "
            "--output, or remove it"
        )


class _Run:
    """The files of a run in its folder: checkpoints, history and state."""

    def __init__(self, config: Config, folder: Path, description: dict[str, Any], processes: Processes) -> None:
        self.config, self.folder, self.description = dataclasses.asdict(config), folder, description
        self._processes = processes
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.followed_clock = False
        self._began = time.perf_counter()
        if processes.first:
            folder.mkdir(parents=True, exist_ok=True)

    def record(
        self,
        step: int,
        loss: float,
        speed: float,
        metrics: dict[str, float],
        task: Task,
        average: MovingAverage,
    ) -> None:
        """Extend the validation curve and write the last checkpoint, and the best one if this is the best so far."""
        number = self._processes.size
        shared = {"processes": number, "windows_per_s_per_process": speed / number} if number > 1 else {}
        self.history.append({"step": step, "loss": loss, "windows_per_s": speed, **shared, **metrics})
        wall = self.seconds + time.perf_counter() - self._began
        config = {
            **without_folders(self.config),
            "data_description": self.description,
            "metrics": {
                "validation": metrics,
                "validation_curve": [[point["step"], round(point["mpjpe_mm"], 3)] for point in self.history],
                "step": step,
                "wall_s": round(wall, 1),
                "machine": _machine(self.config["training"]["device"]),
                **({"processes": number} if number > 1 else {}),
                # The rates of such a run depended on the clock and cannot be reproduced.
                **({"rate_followed_clock": True} if self.followed_clock else {}),
            },
        }
        tensors = {f"{MODEL_PREFIX}{name}": value for name, value in average.state().items()}
        best = min(self.history, key=lambda point: point["mpjpe_mm"])
        for name in (LAST_FILE, BEST_FILE) if best["step"] == step else (LAST_FILE,):
            save_checkpoint(self.folder / name, config, {**tensors, **task.extra_tensors()})

    def save_state(
        self, step: int, model: nn.Module, optimiser: torch.optim.Optimizer | MuonWithAdamW, average: MovingAverage
    ) -> None:
        """Write everything that `resume` needs atomically into one file, including the history."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {f"model.{name}": value for name, value in model.named_parameters()}
        tensors |= {f"average.{name}": value for name, value in average.state().items()}
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
        header = {
            "config": self.config,
            "description": self.description,
            "step": step,
            "updates": average.updates,
            "history": self.history,
            "seconds": self.seconds + time.perf_counter() - self._began,
            "rate_followed_clock": self.followed_clock,
        }
        with atomic_path(self.folder / STATE_FILE) as temporary:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
                temporary,
                {"run": json.dumps(header)},
            )
        atomic_write_text(self.folder / HISTORY_FILE, json.dumps(self.history, indent=1))

    def resume(self, model: nn.Module, optimiser: torch.optim.Optimizer | MuonWithAdamW, average: MovingAverage) -> int:
        """Restore the last saved step, and return its number; 0 in a new folder.

        The first process reads the folder for all, which so need not share it.

        Raises:
            CheckpointError: the state cannot be read.
            TrainingError: the state belongs to another run (see `refuse_other_run`), or the processes do not have the
                same data.
        """
        wanted = config_from_dict(self.config)
        self._processes.check_alike(self.description, "their data or checkpoints")
        state_of_first = self._processes.of_first(self._read_state() if self._processes.first else None)
        if state_of_first is None:
            return 0
        header, tensors = state_of_first
        refuse_other_run(self.folder, header["config"], header.get("description", {}), wanted, self.description)
        model.load_state_dict({name: tensors[f"model.{name}"] for name, _ in model.named_parameters()})
        for name, value in average.values.items():
            value.copy_(tensors[f"average.{name}"])
        average.updates = header["updates"]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        self.history, self.seconds = header["history"], header["seconds"]
        self.followed_clock = header.get("rate_followed_clock", False)
        return int(header["step"])

    def _read_state(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        file = self.folder / STATE_FILE
        if not file.exists():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="pt") as opened:
                header = json.loads((opened.metadata() or {})["run"])
                return header, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise CheckpointError(f"cannot resume from {file} ({error}); remove it to start again") from error
