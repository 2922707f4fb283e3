"""The base of `Lifter` and `Refiner`: it checks a sequence and brings it to the joints and frame rate of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.arguments import check_whole
from refiner.camera import Camera
from refiner.data.gaps import LEAST_JOINTS, parts_between_gaps
from refiner.data.inputs import check_image_size, check_pose_2d
from refiner.data.keypoints import check_keypoints
from refiner.data.resample import resample_poses
from refiner.errors import EmptySequenceError
from refiner.lens import check_lens
from refiner.reasons import Note
from refiner.runtime.engine import ANY_BATCH, LifterEngine, RefinerEngine
from refiner.runtime.stitching import DEFAULT_BATCH, check_hop
from refiner.skeleton import joint_set, to_h36m17

Array = NDArray[np.float32]
# (width, height) of an image in pixels.
ImageSize = tuple[float, float]
# Pixels: one number, or (horizontal, vertical).
FocalLength = float | Sequence[float] | NDArray[np.floating]

EngineT = TypeVar("EngineT", LifterEngine, RefinerEngine)


@dataclass(frozen=True, eq=False)
class ModelInput:
    """A checked sequence of 2D poses in Human3.6M's joints, as an engine takes it.

    Attributes:
        keypoints: ``(F, 17, 2)`` pixels; for a model that sees rays ``(F, 17, 3)``, pixels and confidence.
        image: ``(2,)`` width and height in pixels; for a model that sees rays ``(3,)``, with the focal length.
        missing: ``(F, 17)``, the joints that were not seen.
        notes: what was found in the poses, or done to them.
    """

    keypoints: Array
    image: Array
    missing: NDArray[np.bool_]
    notes: tuple[Note, ...]


class WindowModel(Generic[EngineT]):
    """A model that runs over sequences of any length in overlapping windows.

    Args:
        engine: runs the windows.
        hop: frames from the start of one window to the start of the next; by default half a window.
        batch: windows that run at a time. The engine's largest batch limits it.

    Raises:
        UsageError: ``hop`` lies outside of 1 to the window's length, or ``batch`` is below 1.
    """

    def __init__(self, engine: EngineT, hop: int | None = None, batch: int = DEFAULT_BATCH) -> None:
        self._engine: EngineT = engine
        self.hop = check_hop(hop, engine.frames)
        self.batch = min(check_whole(batch, "batch", 1, ANY_BATCH), engine.largest_batch)

    @property
    def frames(self) -> int:
        """The number of frames in a window."""
        return self._engine.frames

    @property
    def stride(self) -> int:
        """The distance, in frames of the sequence, between two neighbouring frames of a window."""
        return self._engine.stride

    @property
    def fps(self) -> float:
        """The frame rate that the model was trained at."""
        return self._engine.fps

    @property
    def causal(self) -> bool:
        """Whether the result of a frame depends only on this frame and the frames before it."""
        return getattr(self._engine, "reach", None) is not None

    @property
    def sees_rays(self) -> bool:
        """Whether the model uses the lens and the confidence of the keypoints; models of image coordinates do not."""
        return bool(self._engine.rays)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The checkpoint's configuration or the artefact's manifest, and ``engine``, as JSON for records."""
        return self._engine.metadata

    def _model_input(
        self,
        pose_2d: ArrayLike,
        image_size: ImageSize | None,
        joints: str,
        confidence: ArrayLike | None,
        focal_length: FocalLength | None,
        camera: Camera | None,
        least_confidence: float,
    ) -> ModelInput:
        """Check a sequence at its own frame rate and convert it to the joints of Human3.6M."""
        kind = joint_set(joints)
        if self.sees_rays:
            lens = check_lens(image_size, focal_length, camera)
            found = check_keypoints(pose_2d, confidence, lens, kind, True, least_confidence)
            return ModelInput(found.values, lens.row(), found.missing, lens.notes + found.notes)
        notes: tuple[Note, ...] = ()
        if focal_length is not None or camera is not None:
            lens = check_lens(image_size, focal_length, camera)
            message = "this model works on image coordinates: it makes no use of focal_length and camera"
            # A stack level of 5 points at the caller of `Refiner.refine`.
            notes = (Note("lens unused", message).warn(stacklevel=4),)
            image_size = lens.image_size
        size = check_image_size(image_size)
        found = check_keypoints(pose_2d, confidence, check_lens(size, quiet=True), kind, False, least_confidence)
        pixels = np.ascontiguousarray(found.values[..., :2])
        if not found.missing.any():
            # As these models always got it: converted with the precision of the input.
            pixels = to_h36m17(check_pose_2d(pose_2d, size, kind), joints)
        return ModelInput(pixels, np.array(size, np.float32), found.missing, notes + found.notes)

    def _parts(self, shown: NDArray[np.bool_], rate: float) -> tuple[tuple[int, int], ...]:
        """The stretches of frames that have poses, from the frames ``(F,)`` that show the person."""
        parts = parts_between_gaps(shown, rate)
        if not parts:
            raise EmptySequenceError(f"none of the {len(shown)} frames shows {LEAST_JOINTS} joints of a person")
        return parts

    def _resampling_note(self, rate: float) -> list[Note]:
        if rate == self.fps:
            return []
        return [Note("resampled", f"from {rate:g} frames/s to the model's {self.fps:g} and back")]

    def _resampled(self, keypoints: Array, rate: float) -> Array:
        """Resample keypoints ``(F, 17, 2 or 3)`` from ``rate`` frames/s to the model's frame rate.

        A confidence cannot be interpolated: a new frame takes it from the nearest frame of the input.
        """
        if keypoints.shape[-1] == 2:
            return resample_poses(keypoints, rate, self.fps)
        pixels = resample_poses(keypoints[..., :2], rate, self.fps)
        nearest = np.rint(np.arange(len(pixels)) * (rate / self.fps)).astype(np.intp)
        confidence = keypoints[np.minimum(nearest, len(keypoints) - 1), :, 2:]
        return np.concatenate([pixels, confidence], axis=-1)
