"""Lifter: 2D pose sequences to 3D."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.resample import resample_poses
from refiner.runtime.engine import LifterEngine
from refiner.runtime.inputs import check_image_size, check_pose_2d
from refiner.runtime.loading import open_engine
from refiner.runtime.stitching import run_windows
from refiner.skeleton import flip_pose, joint_set, to_h36m17

MODEL_FPS = 50.0


class Lifter:
    """A 2D-to-3D lifter over sequences of any length.

    ``frames`` is the length of its window, ``hop`` the distance of two windows, ``metadata`` its checkpoint's
    configuration. Make one with `load`.
    """

    def __init__(self, engine: LifterEngine, flip_test: bool = False, hop: int | None = None) -> None:
        self._engine = engine
        self.flip_test = flip_test
        self.hop = hop or max(1, engine.frames // 2)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        engine: str | None = None,
        flip_test: bool = False,
        threads: int | None = None,
        hop: int | None = None,
    ) -> Lifter:
        """Load a checkpoint or an ``.onnx`` file; without a path the bundled lifter.

        ``flip_test`` averages with the mirrored pass, at twice the cost. Raises CheckpointError, ArtefactError,
        UsageError and MissingComponentError.
        """
        return cls(open_engine(path, "lifter", engine, threads=threads), flip_test, hop)

    @property
    def frames(self) -> int:
        return self._engine.frames

    @property
    def metadata(self) -> dict[str, Any]:
        return self._engine.metadata

    def lift(
        self,
        pose_2d: ArrayLike,
        image_size: tuple[float, float],
        fps: float | None = None,
        joints: str = "h36m17",
    ) -> NDArray[np.float32]:
        """``(F, J, 2)`` pixels -> ``(F, 17, 3)`` metres in camera axes, relative to the root (mid-hip).

        ``image_size`` is (width, height) in pixels; ``fps`` the frame rate where it is not the model's 50;
        ``joints`` the joint set of the input. Raises an InputError that says what is wrong with the input.
        """
        size = check_image_size(image_size)
        pixels = to_h36m17(check_pose_2d(pose_2d, size, joint_set(joints)), joints).astype(np.float32)
        count = len(pixels)
        if fps is not None and fps != MODEL_FPS:
            pixels = resample_poses(pixels, fps, MODEL_FPS).astype(np.float32)
        lifted = self._windows(pixels, size)
        if self.flip_test:
            mirrored = flip_pose(pixels)
            mirrored[..., 0] += size[0]  # -x about the image's left edge, moved back into the image
            lifted = (lifted + flip_pose(self._windows(mirrored, size))) / 2
        if fps is not None and fps != MODEL_FPS:
            lifted = resample_poses(lifted, MODEL_FPS, fps, frames_out=count).astype(np.float32)
        return lifted

    def _windows(self, pixels: NDArray[np.float32], size: tuple[float, float]) -> NDArray[np.float32]:
        def model(windows: NDArray[np.float32]) -> NDArray[np.float32]:
            return self._engine(windows, np.tile(np.float32(size), (len(windows), 1)))

        return run_windows(model, (pixels,), self.frames, self.hop)
