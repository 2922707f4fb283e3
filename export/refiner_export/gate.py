"""How close an artefact is to the PyTorch model, in millimetres, and whether that is close enough."""

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
# Spread and correlation from frame to frame of the errors on built-in motion, where no lifter is at hand.
ERROR_M, ERROR_CORRELATION = 0.04, 0.98


@dataclass(frozen=True)
class GateWindows:
    """Windows of motion: ``pose_2d`` pixels, ``pose_3d`` with its errors, ``truth`` (root at 0), ``image_size``; and
    ``wild`` ones that look like nothing, for float32 alone, which must agree there too. ``real``: the 3D poses are a
    lifter's on recorded people, so that the MPJPE on them says something.

    ``confidence`` ``(N, T, 17)`` and ``focal_length`` ``(N,)`` in pixels are for models that see rays, which take
    keypoints and cameras.
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
        """The inputs of a kind of model; one that knows actions is told each in turn, the unknown one, and none."""
        keypoints, camera = ray_inputs(self.pose_2d, self.confidence, self.image_size, self.focal_length)
        every = {
            "pose_2d": self.pose_2d,
            "keypoints": keypoints,
            "pose_3d": self.pose_3d,
            "image_size": self.image_size,
            "camera": camera,
            "action": (np.arange(len(self.truth)) % (actions + 2) - 1).astype(np.float32)[:, None],
        }
        return tuple(every[name] for name in input_names(kind, rays))


def gate_windows(
    options: ExportOptions,
    frames: int,
    seed: int = SEED,
    part: Part = "validation",
    rays: bool = False,
    stride: int = 1,
) -> GateWindows:
    """Fresh windows: of one part of the people of the data folder where one is given, of built-in motion otherwise.

    ``rays``: for a model that sees rays. ``stride``: windows take every so many frames.
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
    error = rng.normal(0, ERROR_M, (count, frames, 17, 3))
    for frame in range(1, frames):
        error[:, frame] *= np.sqrt(1 - ERROR_CORRELATION**2)
        error[:, frame] += ERROR_CORRELATION * error[:, frame - 1]
    error[:, :, 0] = 0.0
    # Generators of their own: the windows are the same for every form of input.
    confidence = confidences(count, frames, np.random.default_rng([seed, 1]))
    focal = focal_lengths(chosen, np.random.default_rng([seed, 2]))
    keypoints, camera = ray_inputs(pose_2d, confidence, size, focal)
    lifted = None
    if options.data is not None:
        lifted = _bundled_lifter_s((pose_2d, size), (keypoints, camera), frames, stride, rays)
    root = rng.normal(0, 2, (count, frames, 1, 3))  # anywhere before the camera
    pose_3d = ((truth + error if lifted is None else lifted) + root).astype(np.float32)
    motion = "built-in (synthetic)" if options.data is None else f"{folder.description.name}, {part} people"
    poses = "true ones with random smooth errors" if lifted is None else "the bundled lifter's"
    motion += f"; 3D poses to refine: {poses}"
    if rays:
        motion += "; confidences made up, some joints and frames missing; half of the lenses unknown"
    return GateWindows(pose_2d, pose_3d, truth, size, confidence, focal, motion, lifted is not None)


def _bundled_lifter_s(
    screen: tuple[Array, Array], seen: tuple[Array, Array], frames: int, stride: int, rays: bool
) -> Array | None:
    """What the bundled lifter makes of the 2D poses, given in both forms of input; None without it, where its windows
    are others, and for a refiner that sees rays where the lifter does not."""
    file = bundled.lifter_of(rays)
    if not file.is_file():
        return None
    engine = open_engine(file, "lifter")
    if (engine.frames, engine.stride) != (frames, stride) or (rays and not engine.rays):
        return None
    lifted: Array = run_batches(engine, seen if engine.rays else screen, [16])
    return lifted


def with_wild_windows(windows: GateWindows, seed: int = SEED) -> GateWindows:
    """The same with a quarter of them replaced by random walks in images of several sizes."""
    wild, frames = len(windows.truth) // 4, windows.truth.shape[1]
    pose_2d, pose_3d, size = parity_windows(wild, frames, seed)
    random = {
        "pose_2d": pose_2d,
        "pose_3d": pose_3d,
        "image_size": size,
        "confidence": confidences(wild, frames, np.random.default_rng([seed, 1]), wild=True),
        "focal_length": wild_focal_lengths(size, np.random.default_rng([seed, 2])),
    }
    changes: dict[str, Any] = {}
    for name, value in random.items():
        changes[name] = np.concatenate([getattr(windows, name)[: len(windows.truth) - wild], value])
    return dataclasses.replace(windows, **changes, wild=wild)


def parity_windows(windows: int, frames: int, seed: int = SEED) -> tuple[Array, ...]:
    """Random smooth poses: ``(N, T, 17, 2)`` pixels, ``(N, T, 17, 3)`` metres, ``(N, 2)`` image sizes."""
    rng = np.random.default_rng(seed)
    pose_3d = rng.normal(0, 0.4, (windows, 1, 17, 3)) + np.cumsum(rng.normal(0, 0.02, (windows, frames, 17, 3)), axis=1)
    size = rng.choice([[1000.0, 1002.0], [1920.0, 1080.0], [640.0, 480.0]], windows)
    pixels = size[:, None, None] * (0.5 + 0.2 * pose_3d[..., :2]) + rng.normal(0, 5, (*pose_3d.shape[:-1], 2))
    root = rng.normal(0, 2, (windows, frames, 1, 3))
    return pixels.astype(np.float32), (pose_3d + root).astype(np.float32), size.astype(np.float32)


def ray_parity_windows(windows: int, frames: int, seed: int = SEED) -> tuple[Array, ...]:
    """As `parity_windows`, for a model that sees rays: keypoints ``(N, T, 17, 3)``, metres, cameras ``(N, 3)``."""
    pose_2d, pose_3d, size = parity_windows(windows, frames, seed)
    confidence = confidences(windows, frames, np.random.default_rng([seed, 1]), wild=True)
    focal = wild_focal_lengths(size, np.random.default_rng([seed, 2]))
    keypoints, camera = ray_inputs(pose_2d, confidence, size, focal)
    return keypoints, pose_3d, camera


def run_batches(run: Run, inputs: tuple[Array, ...], sizes: list[int]) -> Array:
    """``run`` over all windows in batches of ``sizes`` in turn, the last size again and again; the last batch is filled
    up with its last window."""
    outputs, first, turn = [], 0, 0
    while first < len(inputs[0]):
        size = sizes[min(turn, len(sizes) - 1)]
        index = np.minimum(np.arange(first, first + size), len(inputs[0]) - 1)
        outputs.append(run(*(array[index] for array in inputs))[: len(inputs[0]) - first])
        first, turn = first + size, turn + 1
    return np.concatenate(outputs)


def batch_sizes(options: ExportOptions) -> list[int]:
    """1, 2 and the largest, of those that the artefact takes."""
    batch = options.batch
    return sorted({size for size in (1, 2, batch.most) if batch.least <= size <= batch.most})


def window_count(options: ExportOptions) -> int:
    """How many windows are compared: as many as asked for, and enough for a batch of every size."""
    return max(options.windows, sum(batch_sizes(options)))


def reference(module: Exportable) -> Run:
    """Float32 PyTorch as a function of arrays."""

    def run(*inputs: Array) -> Array:
        with torch.inference_mode():
            out: Array = module(*(torch.from_numpy(array) for array in inputs)).numpy()
        return out

    return run


def compare(found: Array, expected: Array, windows: GateWindows) -> dict[str, Any]:
    """Distances in mm of what was found: largest, mean, 99th percentile over joints, the change of MPJPE, the worst
    windows. NaN anywhere counts as infinitely far."""
    with np.errstate(invalid="ignore"):
        distance = 1000.0 * np.linalg.norm((found - expected).astype(np.float64), axis=-1)
    distance[~np.isfinite(distance)] = np.inf
    worst = distance.max(axis=(1, 2))
    motion = len(windows.truth) - windows.wild
    before, after = (_mpjpe_mm(poses[:motion], windows.truth[:motion]) for poses in (expected, found))
    return {
        "windows": len(found),
        "largest_mm": float(distance.max()),
        "mean_mm": float(distance.mean()),
        "p99_mm": float(np.percentile(distance, 99, method="nearest")),
        "mpjpe_mm": after,
        "reference_mpjpe_mm": before,
        "mpjpe_change_mm": after - before,
        "worst_windows": [int(index) for index in np.argsort(worst)[::-1][:5]],
    }


def judge(result: dict[str, Any], options: ExportOptions) -> None:
    """Raises ParityError where an artefact is farther from its model than its precision allows."""
    allowed, mpjpe = options.mean_tolerance_mm(), MPJPE_TOLERANCE_MM[options.precision]
    what = "largest_mm" if options.precision == "fp32" else "mean_mm"
    words = {"largest_mm": "largest joint difference", "mean_mm": "mean joint difference"}[what]
    problems = []
    if not result[what] < allowed:
        problems.append(f"{words} {result[what]:.4f} mm, allowed: less than {allowed:g} mm")
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
