"""What `Lifter` and `Refiner` share: an engine for windows of a fixed length, and how they follow each other."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.camera import Camera
from refiner.data.inputs import check_image_size, check_pose_2d
from refiner.data.keypoints import check_keypoints
from refiner.data.resample import resample_poses
from refiner.errors import InputWarning
from refiner.lens import check_lens
from refiner.runtime.engine import LifterEngine, RefinerEngine
from refiner.runtime.stitching import DEFAULT_BATCH, check_hop
from refiner.skeleton import joint_set, to_h36m17

Array = NDArray[np.float32]

EngineT = TypeVar("EngineT", LifterEngine, RefinerEngine)


class WindowModel(Generic[EngineT]):
    """A model that runs over sequences of any length in overlapping windows.

    Args:
        engine: what runs its windows.
        hop: frames from one window to the next; half a window by default. Raises UsageError outside of 1 to
            the window's length.
        batch: windows that run at a time, at most as many as the engine takes.
    """

    def __init__(self, engine: EngineT, hop: int | None = None, batch: int = DEFAULT_BATCH) -> None:
        self._engine: EngineT = engine
        self.hop = check_hop(hop, engine.frames)
        self.batch = min(batch, engine.largest_batch)

    @property
    def frames(self) -> int:
        """The length of a window."""
        return self._engine.frames

    @property
    def stride(self) -> int:
        """Frames of a sequence from one frame of a window to the next."""
        return self._engine.stride

    @property
    def causal(self) -> bool:
        """Whether a frame's result depends on that frame and those before it alone, in sequences of any length."""
        return getattr(self._engine, "reach", None) is not None

    @property
    def sees_rays(self) -> bool:
        """Whether the model takes the lens and the confidence into account; models of screen coordinates do not."""
        return bool(self._engine.rays)

    def _seen(
        self,
        pose_2d: ArrayLike,
        image_size: Any,
        joints: str,
        confidence: ArrayLike | None,
        focal_length: Any,
        camera: Camera | None,
    ) -> tuple[Array, Array]:
        """What the model sees of a checked sequence in Human3.6M's joints: ``(F, 17, 2)`` pixels, or ``(F, 17, 3)``
        with their confidence; and ``(2,)`` the image's size, or ``(3,)`` with the focal length."""
        kind = joint_set(joints)
        if self.sees_rays:
            lens = check_lens(image_size, focal_length, camera)
            return check_keypoints(pose_2d, confidence, lens, kind, sides=True).values, lens.row()
        if focal_length is not None or camera is not None:
            lens = check_lens(image_size, focal_length, camera)
            warnings.warn(
                "this model sees screen coordinates: it makes no use of focal_length and camera", InputWarning, 4
            )
            image_size = lens.image_size
        size = check_image_size(image_size)
        row = np.array(size, np.float32)
        if confidence is None:
            return to_h36m17(check_pose_2d(pose_2d, size, kind), joints), row
        whole = check_keypoints(pose_2d, confidence, check_lens(size, quiet=True), kind)
        return np.ascontiguousarray(whole.values[..., :2]), row

    def _resampled(self, seen: Array, rate: float) -> Array:
        """What the model sees, at the model's rate; a frame is as sure as the one nearest to it."""
        if seen.shape[-1] == 2:
            return resample_poses(seen, rate, self.fps)
        pixels = resample_poses(seen[..., :2], rate, self.fps)
        nearest = np.rint(np.arange(len(pixels)) * (rate / self.fps)).astype(np.intp)
        sure = seen[np.minimum(nearest, len(seen) - 1), :, 2:]
        return np.concatenate([pixels, sure], axis=-1)

    @property
    def fps(self) -> float:
        """The frame rate that the model was trained at."""
        return self._engine.fps

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The checkpoint's configuration or the artefact's manifest, and ``engine``, as JSON for records."""
        return self._engine.metadata
