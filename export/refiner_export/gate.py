"""The gate: compare an artefact with its PyTorch model in millimetres, and refuse it where it differs too much."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refiner import bundled
from refiner.data import MotionFolder, open_motion_folder
from refiner.data.clips import Part
from refiner.data.synthetic import synthetic_folder
from refiner.errors import ParityError, UsageError
from refiner.runtime.engine import input_names
from refiner.runtime.loading import open_engine
from refiner_export.graph import Exportable
from refiner_export.options import MPJPE_TOLERANCE_MM, ExportOptions
from refiner_export.ray_inputs import confidences, focal_lengths, ray_inputs, wild_focal_lengths

Array = NDArray[np.float32]
Run = Callable[..., Array]

SEED = 20240607
# The standard deviation, and the correlation from frame to frame, of the random errors of the 3D poses where no lifter
# makes them.
ERROR_M, ERROR_CORRELATION = 0.04, 0.98


@dataclass(frozen=True)
class GateWindows:
    """``N`` windows of ``T`` frames on which an artefact is compared with its model.

    Attributes:
        pose_2d: ``(N, T, 17, 2)`` pixels.
        pose_3d: ``(N, T, 17, 3)`` metres in camera axes, with errors: the input of a refiner.
        truth: ``(N, T, 17, 3)`` metres, root at 0: the ground truth.
        image_size: ``(N, 2)`` width and height in pixels.
        confidence: ``(N, T, 17)``, for models that see rays.
        focal_length: ``(N,)`` pixels, for models that see rays.
        motion: where the motion comes from, in words.
        real: whether a lifter made the 3D poses from recorded people, so that their MPJPE is meaningful.
        wild: how many windows at the end are random walks instead of human motion. Only float32 artefacts are compared
            on them; they must agree there too.
    """

    pose_2d: Array
    pose_3d: Array
    truth: Array
    image_size: Array
    confidence: Array
    focal_length: Array
    motion: str
    real: bool = False
    wild: int = 0

    def of_kind(self, kind: str, actions: int = 0, rays: bool = False) -> tuple[Array, ...]:
        """The inputs of a model for all windows, in order.

        Args:
            kind: the kind of the model, see `refiner.runtime.engine.input_names`.
            actions: the number of actions that the model takes. The windows get each of them in turn, the unknown
                action, and a guess.
            rays: the model is camera-aware.
        """
        keypoints, camera = ray_inputs(self.pose_2d, self.confidence, self.image_size, self.focal_length)
        arrays = {
            "pose_2d": self.pose_2d,
            "keypoints": keypoints,
            "pose_3d": self.pose_3d,
            "image_size": self.image_size,
            "camera": camera,
            "action": (np.arange(len(self.truth)) % (actions + 2) - 1).astype(np.float32)[:, None],
        }
        return tuple(arrays[name] for name in input_names(kind, rays))


def gate_windows(
    options: ExportOptions,
    frames: int,
    seed: int = SEED,
    part: Part = "validation",
    rays: bool = False,
    stride: int = 1,
) -> GateWindows:
    """Choose random windows of motion.

    Args:
        options: their ``data`` is a motion archive; None takes the built-in synthetic motion. ``windows`` and ``batch``
            give the number of windows.
        frames: T, the frames in a window.
        seed: of the choice.
        part: the people of the archive: "train", "validation" or "test".
        rays: the windows are for a model that sees rays.
        stride: the distance, in frames of the motion, between two neighbouring frames of a window.

    Raises:
        UsageError: the archive has no clip that is long enough.
    """
    span = stride * (frames - 1) + 1
    rng = np.random.default_rng(seed)
    folder: MotionFolder = (
        synthetic_folder(seed, subjects=3, frames=max(250, span + 1))
        if options.data is None
        else open_motion_folder(options.data)
    )
    clips = [clip for clip in folder.clips(part if options.data else "all") if clip.frames >= span]
    if not clips:
        raise UsageError(f"{options.data} holds no clip of {span} frames to compare on; leave --data out")
    count = window_count(options)
    chosen = [clips[index] for index in rng.integers(0, len(clips), count)]
    pose_2d = np.empty((count, frames, 17, 2), np.float32)
    truth = np.empty((count, frames, 17, 3), np.float32)
    for row, clip in enumerate(chosen):
        start = rng.integers(0, clip.frames - span + 1)
        taken = slice(start, start + span, stride)
        pose_2d[row], truth[row] = clip.pose_2d[taken], clip.pose_3d[taken]
    size = np.array([clip.image_size for clip in chosen], np.float32)
    errors = rng.normal(0, ERROR_M, (count, frames, 17, 3))
    for frame in range(1, frames):
        errors[:, frame] *= np.sqrt(1 - ERROR_CORRELATION**2)
        errors[:, frame] += ERROR_CORRELATION * errors[:, frame - 1]
    errors[:, :, 0] = 0.0
    # These have random generators of their own, so that the windows are the same for all kinds of models.
    confidence = confidences(count, frames, np.random.default_rng([seed, 1]))
    focal = focal_lengths(chosen, np.random.default_rng([seed, 2]))
    keypoints, camera = ray_inputs(pose_2d, confidence, size, focal)
    lifted = None
    if options.data is not None:
        lifted = _lifted((pose_2d, size), (keypoints, camera), frames, stride, rays)
    root = rng.normal(0, 2, (count, frames, 1, 3))  # the root may lie anywhere
    pose_3d = ((truth + errors if lifted is None else lifted) + root).astype(np.float32)
    motion = "built-in (synthetic)" if options.data is None else f"{folder.description.name}, {part} people"
    poses = "true ones with random smooth errors" if lifted is None else "the bundled lifter's"
    motion += f"; 3D poses to refine: {poses}"
    if rays:
        motion += "; confidences made up, some joints and frames missing; half of the lenses unknown"
    return GateWindows(pose_2d, pose_3d, truth, size, confidence, focal, motion, lifted is not None)


def _lifted(
    image_arrays: tuple[Array, Array], ray_arrays: tuple[Array, Array], frames: int, stride: int, rays: bool
) -> Array | None:
    """Lift the windows with the bundled lifter.

    Args:
        image_arrays: 2D poses and image sizes, for a lifter of image coordinates.
        ray_arrays: keypoints and cameras, for a lifter that sees rays.
        frames: the frames in a window.
        stride: see `gate_windows`.
        rays: the poses are for a refiner that sees rays.

    Returns:
        ``(N, T, 17, 3)`` metres. None where there is no bundled lifter, where its windows have another length or
        stride, or where only the refiner sees rays.
    """
    file = bundled.lifter_of(rays)
    if not file.is_file():
        return None
    engine = open_engine(file, "lifter")
    if (engine.frames, engine.stride) != (frames, stride) or (rays and not engine.rays):
        return None
    lifted: Array = run_batches(engine, ray_arrays if engine.rays else image_arrays, [16])
    return lifted


def with_wild_windows(windows: GateWindows, seed: int = SEED) -> GateWindows:
    """Replace the last quarter of the windows by random walks in images of several sizes."""
    wild, frames = len(windows.truth) // 4, windows.truth.shape[1]
    pose_2d, pose_3d, size = parity_windows(wild, frames, seed)
    confidence = confidences(wild, frames, np.random.default_rng([seed, 1]), wild=True)
    focal_length = wild_focal_lengths(size, np.random.default_rng([seed, 2]))
    motion = len(windows.truth) - wild
    return dataclasses.replace(
        windows,
        pose_2d=np.concatenate([windows.pose_2d[:motion], pose_2d]),
        pose_3d=np.concatenate([windows.pose_3d[:motion], pose_3d]),
        image_size=np.concatenate([windows.image_size[:motion], size]),
        confidence=np.concatenate([windows.confidence[:motion], confidence]),
        focal_length=np.concatenate([windows.focal_length[:motion], focal_length]),
        wild=wild,
    )


def parity_windows(windows: int, frames: int, seed: int = SEED) -> tuple[Array, ...]:
    """Make random smooth poses.

    Returns:
        ``(N, T, 17, 2)`` pixels, ``(N, T, 17, 3)`` metres and ``(N, 2)`` image sizes.
    """
    rng = np.random.default_rng(seed)
    pose_3d = rng.normal(0, 0.4, (windows, 1, 17, 3)) + np.cumsum(rng.normal(0, 0.02, (windows, frames, 17, 3)), axis=1)
    size = rng.choice([[1000.0, 1002.0], [1920.0, 1080.0], [640.0, 480.0]], windows)
    pixels = size[:, None, None] * (0.5 + 0.2 * pose_3d[..., :2]) + rng.normal(0, 5, (*pose_3d.shape[:-1], 2))
    root = rng.normal(0, 2, (windows, frames, 1, 3))
    return pixels.astype(np.float32), (pose_3d + root).astype(np.float32), size.astype(np.float32)


def ray_parity_windows(windows: int, frames: int, seed: int = SEED) -> tuple[Array, ...]:
    """Like `parity_windows`, but for a model that sees rays.

    Returns:
        ``(N, T, 17, 3)`` keypoints, ``(N, T, 17, 3)`` metres and ``(N, 3)`` cameras.
    """
    pose_2d, pose_3d, size = parity_windows(windows, frames, seed)
    confidence = confidences(windows, frames, np.random.default_rng([seed, 1]), wild=True)
    focal = wild_focal_lengths(size, np.random.default_rng([seed, 2]))
    keypoints, camera = ray_inputs(pose_2d, confidence, size, focal)
    return keypoints, pose_3d, camera


def run_batches(run: Run, inputs: tuple[Array, ...], sizes: list[int]) -> Array:
    """Run a model over all windows in batches.

    Args:
        run: takes a batch of each input.
        inputs: arrays with one row for each window.
        sizes: the sizes of the first batches. All further batches have the last size. The last batch is filled up with
            the last window.

    Returns:
        The outputs of all windows.
    """
    outputs, first, turn = [], 0, 0
    while first < len(inputs[0]):
        size = sizes[min(turn, len(sizes) - 1)]
        index = np.minimum(np.arange(first, first + size), len(inputs[0]) - 1)
        outputs.append(run(*(array[index] for array in inputs))[: len(inputs[0]) - first])
        first, turn = first + size, turn + 1
    return np.concatenate(outputs)


def batch_sizes(options: ExportOptions) -> list[int]:
    """The batch sizes to compare: 1, 2 and the largest one, where the artefact takes them."""
    batch = options.batch
    return sorted({size for size in (1, 2, batch.most) if batch.least <= size <= batch.most})


def window_count(options: ExportOptions) -> int:
    """The number of windows to compare: as many as the options say, or as a batch of every size needs."""
    return max(options.windows, sum(batch_sizes(options)))


def reference(module: Exportable) -> Run:
    """Wrap a float32 PyTorch module as a function of arrays."""

    def run(*inputs: Array) -> Array:
        with torch.inference_mode():
            out: Array = module(*(torch.from_numpy(array) for array in inputs)).numpy()
        return out

    return run


def compare(actual: Array, expected: Array, windows: GateWindows) -> dict[str, Any]:
    """Compare the outputs of an artefact with those of PyTorch, joint by joint.

    Args:
        actual: the artefact's poses, ``(N, T, 17, 3)`` metres. A NaN counts as infinitely far away.
        expected: PyTorch's poses.
        windows: the inputs.

    Returns:
        The largest, mean and 99th percentile of the distances in mm, MPJPE and its change in mm without the wild
        windows, and the indices of the worst windows, as JSON for the manifest.
    """
    with np.errstate(invalid="ignore"):
        distance = 1000.0 * np.linalg.norm((actual - expected).astype(np.float64), axis=-1)
    distance[~np.isfinite(distance)] = np.inf
    worst = distance.max(axis=(1, 2))
    motion = len(windows.truth) - windows.wild
    before, after = (_mpjpe_mm(poses[:motion], windows.truth[:motion]) for poses in (expected, actual))
    return {
        "windows": len(actual),
        "largest_mm": float(distance.max()),
        "mean_mm": float(distance.mean()),
        "p99_mm": float(np.percentile(distance, 99, method="nearest")),
        "mpjpe_mm": after,
        "reference_mpjpe_mm": before,
        "mpjpe_change_mm": after - before,
        "worst_windows": [int(index) for index in np.argsort(worst)[::-1][:5]],
    }


def judge(result: dict[str, Any], options: ExportOptions) -> None:
    """Raises ParityError where an artefact differs from its model by more than its precision allows.

    ``result``: as `compare` returns it.
    """
    allowed, mpjpe = options.mean_tolerance_mm(), MPJPE_TOLERANCE_MM[options.precision]
    key = "largest_mm" if options.precision == "fp32" else "mean_mm"
    title = {"largest_mm": "largest joint difference", "mean_mm": "mean joint difference"}[key]
    problems = []
    if not result[key] < allowed:
        problems.append(f"{title} {result[key]:.4f} mm, allowed: less than {allowed:g} mm")
    if not abs(result["mpjpe_change_mm"]) <= mpjpe:
        problems.append(f"MPJPE changed by {result['mpjpe_change_mm']:.4f} mm, allowed: {mpjpe:g} mm")
    if problems:
        raise ParityError(
            f"the artefact differs from float32 PyTorch: {'; '.join(problems)} (on {result['windows']} fresh windows, "
            f"most in windows {', '.join(map(str, result['worst_windows']))}). Take a higher --precision; "
            "--tolerance-mm moves the limit of the joint difference, not that of MPJPE"
        )


def _mpjpe_mm(pose: Array, truth: Array) -> float:
    with np.errstate(invalid="ignore"):
        relative = (pose - pose[..., :1, :]).astype(np.float64)
        return float(1000.0 * np.linalg.norm(relative - truth, axis=-1).mean())
