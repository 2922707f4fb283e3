"""Run a training, from a configuration to a trained checkpoint; `refiner-train` calls this module."""

from __future__ import annotations

import ctypes
import dataclasses
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from refiner.data.clips import CameraClip, MotionFolder, action_of
from refiner.data.training_set import check_detections, training_clips
from refiner.data.windows import split_windows
from refiner.errors import CheckpointError, ConfigError
from refiner.model_files.build import build_model, module_of
from refiner.model_files.checkpoint import Checkpoint, load_checkpoint, without_folders
from refiner.model_spec import ModelSpec
from refiner.models import D3DP, LiftingModule, PoseDenoiser, SmoothNet
from refiner.models.canonical import sees_rays
from refiner.training.config import Config
from refiner.training.diffusion_lifter import DiffusionLifterTask
from refiner.training.loop import train
from refiner.training.noise_fit import fit_noise
from refiner.training.pool import EstimatorPool, frames_between, pool_length
from refiner.training.predictions import Predictions, PredictionSampler
from refiner.training.processes import current
from refiner.training.repeated import RepeatedBatches, stored_poses
from refiner.training.scene_refiner import LiftedScenes, RayLifter, canonical_clip, scene_length
from refiner.training.scene_tasks import RayLifterTask, SceneWindows, validation_clips
from refiner.training.scenes import SceneSampler
from refiner.training.scenes.motion import MotionClip, synthetic_clips
from refiner.training.schedule import TimeBox
from refiner.training.smoothing import SmoothingTask
from refiner.training.tasks import (
    ClipPair,
    LifterTask,
    Poses,
    RefinerTask,
    Task,
    ValidationClips,
    ValidationWindows,
    lift_sequences,
    phases_of,
    poses_of_clip,
)
from refiner.training.text import complete_text, fill_text
from refiner.training.unrolled_task import UnrolledRefinerTask, ValidatedEstimator
from refiner.training.windows import Lift, Sampler, Windows, WindowSampler

LiftPoses = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run before its first step.

    Attributes:
        config: the configuration as the checkpoint stores it.
        task: the loss and the validation.
        sampler: the source of the batches, or of the parts of a batch where ``training.parts`` is above 1.
        description: the description of the data that the checkpoint stores.
    """

    config: Config
    task: Task
    sampler: Sampler
    description: dict[str, Any]


def train_lifter(
    config: Config,
    folder: MotionFolder,
    output: Path,
    without: Collection[str] = (),
    quiet: bool = False,
    minutes: float | None = None,
    finish: bool = False,
) -> Path:
    """Train a lifter on the training people of a motion folder.

    Args:
        config: the configuration of the run.
        folder: the motion data.
        output: the folder of the run.
        without: people to leave out, for cross-fitting.
        quiet: show no progress bar.
        minutes: stop after this time, see `TimeBox`.
        finish: let the schedule end with the time, see `TimeBox`.

    Returns:
        The path of the best checkpoint.

    Raises:
        ConfigError: see `prepare_lifter`. `train` lists the other errors.
    """
    box = TimeBox(minutes, finish)
    return _train(prepare_lifter(config, folder, without), output, quiet, box)


def _train(run: PreparedRun, output: Path, quiet: bool, box: TimeBox) -> Path:
    return train(run.config, run.task, run.sampler, output, run.description, quiet, box)


def prepare_lifter(config: Config, folder: MotionFolder, without: Collection[str] = ()) -> PreparedRun:
    """Prepare the run of `train_lifter`.

    Raises:
        ConfigError: the configuration is not for a lifter, contradicts itself or does not fit the data.
    """
    config = _prepare(config, "lifter")
    people = [person for person in folder.description.train if person not in without]
    description = _describe(folder, people) | {"without": sorted(without)}
    if sees_rays(dataclasses.asdict(config.model)):
        return _ray_lifter(config, folder, people, without, description)
    config = complete_text(config, (action_of(key) for person in people for key in folder.positions[person]))
    sampler = _sampler(config, folder, people)
    validation = ValidationWindows.of_clips(_validation_clips(config, folder), config.frames, config.stride)
    torch.manual_seed(config.training.seed)
    model = build_model(dataclasses.asdict(config))
    fill_text(model, config)
    start_from(model, config, without)
    task: Task = (
        DiffusionLifterTask(config, model, validation)
        if isinstance(model, D3DP)
        else LifterTask(config, model, validation)
    )
    return PreparedRun(config, task, sampler, description)


def _ray_lifter(
    config: Config,
    folder: MotionFolder,
    people: Collection[str],
    without: Collection[str],
    description: dict[str, Any],
) -> PreparedRun:
    """Prepare a lifter that sees rays, for any camera."""
    sampler = _scene_sampler(config, folder, people)
    validation = SceneWindows.of_clips(validation_clips(folder), config.frames, config.stride)
    torch.manual_seed(config.training.seed)
    model = build_model(dataclasses.asdict(config))
    start_from(model, config, without)
    return PreparedRun(config, RayLifterTask(config, model, validation), sampler, description)


def _scene_sampler(
    config: Config,
    folder: MotionFolder,
    people: Collection[str],
    frames: int = 0,
    batch: int = 0,
    stride: int = 0,
) -> SceneSampler:
    clips = [
        MotionClip(clip.subject, clip.action, clip.positions, clip.weight, clip.cameras)
        for clip in training_clips(folder, people)
    ]
    if config.scene.synthetic > 0:
        clips += synthetic_clips(clips, config.scene.synthetic)
    settings = config.training
    return SceneSampler(
        clips,
        folder.detector,
        config.scene,
        frames or config.window,
        batch or config.windows_of_part,
        settings.seed,
        settings.device,
        stride or config.stride,
    )


def train_refiner(
    config: Config,
    folder: MotionFolder,
    output: Path,
    quiet: bool = False,
    minutes: float | None = None,
    finish: bool = False,
) -> Path:
    """Train a refiner on the outputs of the lifter, or of the cross-fitted lifters, that the configuration names.

    Args:
        config: the configuration of the run.
        folder: the motion data.
        output: the folder of the run.
        quiet: show no progress bar.
        minutes: stop after this time, see `TimeBox`.
        finish: let the schedule end with the time, see `TimeBox`.

    Returns:
        The path of the best checkpoint.

    Raises:
        ConfigError: see `prepare_refiner`. `train` lists the other errors.
    """
    box = TimeBox(minutes, finish)
    return _train(prepare_refiner(config, folder), output, quiet, box)


def prepare_refiner(config: Config, folder: MotionFolder) -> PreparedRun:
    """Prepare the run of `train_refiner`.

    Raises:
        ConfigError: the configuration is not for a refiner, contradicts itself, or does not fit the data or the lifter.
    """
    config = _prepare(config, "refiner")
    if not config.lifter:
        raise ConfigError("a refiner's configuration needs lifter = the checkpoint to refine (or --lifter PATH)")
    if config.diffusion.train_on == "unrolled":
        return _unrolled(config, folder)
    if sees_rays(dataclasses.asdict(config.model)):
        return _ray_refiner(config, folder)
    people = list(folder.description.train)
    sampler = _sampler(config, folder, people)
    _check_stride(config)
    lifter = _lifter_of(load_checkpoint(config.lifter, "lifter"), config)
    lift = cross_fitted_lift(config, people) if config.noise.cross_fit else _plain_lift(lifter)
    validation = _validation(config, [poses_of_clip(clip) for clip in _validation_clips(config, folder)])
    lifted = validation.each(lifter, validation.pose_2d)
    source: Sampler = sampler
    if config.training.distinct_batches:
        distinct_parts = config.training.distinct_batches * config.training.parts
        source, lift = RepeatedBatches(sampler, lift, distinct_parts), stored_poses
    description = _describe(folder, people) | {"cross_fitted": bool(config.noise.cross_fit)}
    task = _refiner_task(config, source, lift, validation, lifted)
    return PreparedRun(config, task, source, description)


def _ray_refiner(config: Config, folder: MotionFolder) -> PreparedRun:
    """Prepare a refiner that sees rays, trained on one lifter that sees rays."""
    if config.stride != 1 or config.training.window:
        raise ConfigError("a refiner that sees rays takes every frame: leave stride and training.window out")
    people = list(folder.description.train)
    lifter = RayLifter.of_checkpoint(load_checkpoint(config.lifter, "lifter"), config.training.device)
    length = scene_length(config.frames, [lifter])
    scenes = _scene_sampler(config, folder, people, length, _scenes_of_part(config, length // config.frames))
    sampler = LiftedScenes(scenes, [lifter], config.frames)
    clips = [canonical_clip(clip) for _, clip in validation_clips(folder)]
    validation = _validation(config, clips)
    lifted = [lifter.lift_clip(features) for features, _ in clips]
    task = _refiner_task(config, sampler, stored_poses, validation, _validation_poses(config, lifted))
    return PreparedRun(config, task, sampler, _describe(folder, people))


def _unrolled(config: Config, folder: MotionFolder) -> PreparedRun:
    """Prepare a refiner for any camera and any estimator: it is trained on a pool of lifters and systematic errors."""
    _check_unrolled(config)
    lifters, held_out = _pool_of(config)
    people = list(folder.description.train)
    every = 1 if config.model.causal else frames_between(config, lifters)
    if config.training.batch % every:
        raise ConfigError(
            f"training.batch is {config.training.batch}; expected a multiple of {every}, the windows of a scene"
        )
    number = _scenes_of_part(config, every)
    # Lifters of different reach get the same scenes; a lifter of smaller reach ignores the first frames.
    reach = max(lifter.reach for lifter in lifters) if config.estimators.live else 0
    length = pool_length(config, every, reach)
    scenes = _scene_sampler(config, folder, people, length, number, config.stride // every)
    pool = EstimatorPool(scenes, lifters, config)
    fitted = pool.fit(config)
    clips = [canonical_clip(clip) for _, clip in validation_clips(folder)]
    windows = _validation(config, clips)

    def validated(lifter: RayLifter, name: str) -> ValidatedEstimator:
        lift = lifter.lift_clip_live if config.estimators.live else lifter.lift_clip
        return ValidatedEstimator(name, windows, _validation_poses(config, [lift(features) for features, _ in clips]))

    estimators = [(lifters[0], "lifter"), *((one, f"held_out_{number}") for number, one in enumerate(held_out, 1))]
    # Only the first process validates.
    validation = [validated(lifter, name) for lifter, name in estimators if current().first]
    torch.manual_seed(config.training.seed)
    model = build_model(dataclasses.asdict(config))
    assert isinstance(model, PoseDenoiser)
    start_from(model, config)
    noise = fitted[0]
    if config.start_from:
        # Keep the unit of the network's output from the first run. The loss is in metres, so any unit is possible.
        scale = load_checkpoint(config.start_from, "refiner").tensors["error_scale"]
        noise = dataclasses.replace(noise, error_scale=scale.double().numpy())
    task = UnrolledRefinerTask(config, model, noise, validation)
    return PreparedRun(config, task, pool, _describe(folder, people))


def _scenes_of_part(config: Config, windows: int) -> int:
    """The scenes of a part of a batch. Raises ConfigError if the parts cannot have equally many."""
    scenes, parts = config.training.batch // windows, config.training.parts
    if scenes % parts:
        raise ConfigError(
            f"a batch of {config.training.batch} windows has {scenes} scenes of {windows} windows: expected parts "
            f"(training.parts, {parts} here) that divide the {scenes} scenes"
        )
    return scenes // parts


def _check_unrolled(config: Config) -> None:
    if not sees_rays(dataclasses.asdict(config.model)):
        raise ConfigError('diffusion.train_on = "unrolled" is for refiners that see rays: take model.input = "rays"')
    _check_stride(config)
    if config.diffusion.start != "lifter":
        raise ConfigError(f'diffusion.train_on = "unrolled" starts from the pose: not from "{config.diffusion.start}"')


def _check_stride(config: Config) -> None:
    if config.model.causal and config.stride != 1:
        raise ConfigError("a causal refiner takes every frame: leave stride out")


def _pool_of(config: Config) -> tuple[list[RayLifter], list[RayLifter]]:
    """Load the lifters to train the refiner on, and the held-out lifters."""

    def load(path: str) -> RayLifter:
        return RayLifter.of_checkpoint(load_checkpoint(path, "lifter"), config.training.device)

    pool = [load(path) for path in (config.lifter, *config.estimators.others)]
    return pool, [load(path) for path in config.estimators.held_out]


def train_refiner_on_predictions(
    config: Config,
    predictions: Predictions,
    validation_person: str,
    output: Path,
    quiet: bool = False,
    minutes: float | None = None,
    finish: bool = False,
) -> Path:
    """Train a refiner for any estimator, on a file of its predictions.

    Args:
        config: the configuration of the run.
        predictions: the predictions with the ground truth.
        validation_person: a person of the file for the validation, not used for training.
        output: the folder of the run.
        quiet: show no progress bar.
        minutes: stop after this time, see `TimeBox`.
        finish: let the schedule end with the time, see `TimeBox`.

    Returns:
        The path of the best checkpoint.

    Raises:
        ConfigError: the file lacks that person or has nobody else, or the configuration needs a lifter that runs.
    """
    box = TimeBox(minutes, finish)
    config = _prepare(config, "refiner")
    _check_stride(config)
    people = [person for person in predictions.people if person != validation_person]
    if len(people) == len(predictions.people) or not people:
        raise ConfigError(
            f"the validation person {validation_person!r} must be one of at least two people of the file: "
            f"{', '.join(predictions.people)}"
        )
    settings = config.training
    if settings.distinct_batches:
        raise ConfigError("training.distinct_batches needs a lifter that runs: predictions are already computed")
    if config.data.recombine or config.data.reverse or config.data.detected:
        raise ConfigError(
            "data.recombine, data.reverse and data.detected need a lifter that runs: predictions are already computed"
        )
    sampler = PredictionSampler(
        predictions, people, config.window, config.windows_of_part, settings.seed, config.data.flip, config.stride
    )
    own = predictions.of([validation_person])
    validation = _validation(config, [(clip.pose_2d, clip.truth) for clip in own])
    lifted = _validation_poses(config, [clip.lifted for clip in own])
    description = {
        "name": predictions.name,
        "fps": predictions.fps,
        "train": people,
        "validation": [validation_person],
        "frames": {person: sum(len(clip.pose_2d) for clip in predictions.of([person])) for person in people},
    }
    task = _refiner_task(config, sampler, stored_poses, validation, lifted)
    return train(config, task, sampler, output, description, quiet, box)


def _validation(config: Config, pairs: list[ClipPair]) -> ValidationWindows | ValidationClips:
    """The validation data of a refiner: whole clips for a causal refiner, which runs on them as on a stream."""
    if config.model.causal:
        return ValidationClips(pairs)
    phases = [phase for pair in pairs for phase in phases_of(config.frames, config.stride, *pair)]
    return ValidationWindows(phases, config.frames)


def _validation_poses(config: Config, poses: list[NDArray[np.float32]]) -> Poses:
    """The lifted poses in the form and order of `_validation`: whole clips for a causal refiner, otherwise windows."""
    if config.model.causal:
        return [pose[None] for pose in poses]
    parts = [part for pose in poses for part, _ in phases_of(config.frames, config.stride, pose, pose)]
    return np.concatenate([split_windows(part, config.frames) for part in parts])


def _refiner_task(
    config: Config, sampler: Sampler, lift: Lift, validation: ValidationWindows | ValidationClips, lifted: Poses
) -> Task:
    torch.manual_seed(config.training.seed)
    model = build_model(dataclasses.asdict(config))
    start_from(model, config)
    if isinstance(model, SmoothNet):
        if isinstance(validation, ValidationClips):
            raise ConfigError("SmoothNet sees whole windows; leave model.causal out")
        return SmoothingTask(config, model, lift, validation, lifted)
    assert isinstance(model, PoseDenoiser)
    return RefinerTask(config, model, lift, fit_noise(sampler, lift, config), validation, lifted)


def start_from(model: nn.Module, config: Config, without: Collection[str] = ()) -> None:
    """Load the weights of the checkpoint ``config.start_from`` into a model, if the configuration names one.

    A windowed refiner can start from a causal one and the other way round.

    Args:
        model: the fresh model.
        config: the configuration of the run.
        without: the people that the run leaves out.

    Raises:
        CheckpointError: the checkpoint holds another network.
        ConfigError: the checkpoint was trained on people that this run leaves out.
    """
    if not config.start_from:
        return
    checkpoint = load_checkpoint(config.start_from, config.kind)
    seen = sorted(set(without) - set(checkpoint.spec.left_out))
    if seen:
        raise ConfigError(f"{config.start_from} was trained on {', '.join(seen)}, to be left out in this run")
    try:
        model.load_state_dict(checkpoint.state())
    except RuntimeError as error:
        raise CheckpointError(
            f"a run cannot start from {config.start_from}, whose network is not the configuration's: {error}"
        ) from error


def cross_fitted_lift(config: Config, people: Collection[str]) -> Lift:
    """Build a function that lifts every person with a lifter that never saw this person.

    The data description of each checkpoint in ``noise.cross_fit`` names the people that it was trained without.
    The first lifter lifts the synthetic people.

    Args:
        config: the configuration of the run.
        people: the training people.

    Raises:
        ConfigError: there is no such lifter for one of the people.
    """
    lifters, lifter_of_person = [], {"synthetic": 0}
    for index, path in enumerate(config.noise.cross_fit):
        checkpoint = load_checkpoint(path, "lifter")
        lifters.append(_lifter_of(checkpoint, config))
        for person in checkpoint.spec.left_out:
            lifter_of_person.setdefault(person, index)
    missing = [person for person in people if person not in lifter_of_person]
    if missing:
        raise ConfigError(f"no lifter of noise.cross_fit was trained without {', '.join(missing)}")

    def lift(windows: Windows) -> NDArray[np.float32]:
        lifted = np.empty_like(windows.pose_3d)
        chosen = np.array([lifter_of_person[str(subject)] for subject in windows.subjects])
        for index in np.unique(chosen):
            rows = chosen == index
            lifted[rows] = lifters[index](windows.pose_2d[rows])
        return lifted

    return lift


def _plain_lift(lifter: LiftPoses) -> Lift:
    return lambda windows: lifter(windows.pose_2d)


def _lifter_of(checkpoint: Checkpoint, config: Config) -> LiftPoses:
    if checkpoint.spec.stride != config.stride:
        raise ConfigError(
            f"the lifter takes every {checkpoint.spec.stride} frames, the refiner every {config.stride}: "
            f"set stride = {checkpoint.spec.stride}"
        )
    module = module_of(checkpoint).to(config.training.device)
    assert isinstance(module, LiftingModule)
    return partial(lift_sequences, module.lifter, module.frames, root=module.root)


def _sampler(config: Config, folder: MotionFolder, people: Collection[str]) -> WindowSampler:
    settings = config.training
    data, length = config.data, config.window
    return WindowSampler(folder, data, length, config.windows_of_part, settings.seed, people, config.stride)


def _validation_clips(config: Config, folder: MotionFolder) -> list[CameraClip]:
    """The clips of the validation people. If the run trains on real detections, they are checked here, too."""
    people = folder.description.validation
    if not people:
        raise ConfigError(f"{folder.description.name} names nobody for validation; refiner-train --validation-person")
    if config.data.detected:
        check_detections(folder, people)
    return folder.clips("validation", detected=config.data.detections != "ground-truth")


def _describe(folder: MotionFolder, people: Collection[str]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": folder.description.name,
        "fps": folder.description.fps,
        "train": list(people),
        "validation": list(folder.description.validation),
        "frames": {person: sum(len(clip) for clip in folder.positions[person].values()) for person in people},
    }
    if folder.archives:
        described["archives"] = [
            {"name": file.name, "cameras": file.source, "weight": file.weight, "detections": file.detections}
            for file in folder.archives
        ]
    return described


def _prepare(config: Config, kind: str) -> Config:
    """Check a configuration, prepare PyTorch for it, and return it for this process (`Processes.configured`)."""
    if config.kind != kind:
        raise ConfigError(f"the configuration is for a {config.kind}, the command trains a {kind}")
    if config.data.recombine and (config.noise.cross_fit or config.model.architecture == "finepose"):
        raise ConfigError(
            "data.recombine makes people of two people and actions: leave it out with noise.cross_fit, whose lifters "
            "never saw one of them, and with finepose, whose prompts name the action"
        )
    if kind == "lifter" and config.model.causal:
        raise ConfigError("model.causal is of refiners: leave it out of a lifter's configuration")
    batches = config.training.distinct_batches
    if batches < 0 or (batches and kind == "lifter"):
        raise ConfigError(f"training.distinct_batches is {batches}; expected 0, or for a refiner a number of batches")
    frames = batches * config.training.batch * config.window
    if 0 < frames < config.noise.fit_frames and ModelSpec.of_config(dataclasses.asdict(config)).is_denoiser:
        raise ConfigError(
            f"training.distinct_batches = {batches} are {frames:,} frames, and noise.fit_frames asks for "
            f"{config.noise.fit_frames:,}: take more batches, or a fit on fewer frames"
        )
    if config.window < config.frames or (config.window > config.frames and not config.model.causal):
        raise ConfigError(
            f"training.window is {config.window} with frames = {config.frames}; expected 0, or for a causal refiner "
            "(model.causal = true) at least as many"
        )
    processes = current()
    anywhere = dataclasses.replace(config, training=dataclasses.replace(config.training, device=""))
    processes.check_alike(without_folders(dataclasses.asdict(anywhere)), "their configuration")
    config = processes.configured(config)
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    keep_large_blocks()
    return config


def keep_large_blocks() -> None:
    """Let the C library keep freed memory, on Linux with glibc. Does nothing elsewhere.

    By default the library returns blocks above a threshold of 128 kB to 32 MB to the system, and the system must map
    them again at every step. This costs a third of a training step on the CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
        mallopt(m_mmap_threshold, 32 * 1024 * 1024)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 64 * 1024 * 1024)
