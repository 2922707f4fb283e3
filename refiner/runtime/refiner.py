"""Refiner: 3D pose sequences to better ones."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.resample import resample_poses
from refiner.errors import UsageError
from refiner.runtime.engine import RefinerEngine
from refiner.runtime.inputs import check_image_size, check_lengths, check_pose_2d, check_pose_3d
from refiner.runtime.lifter import MODEL_FPS
from refiner.runtime.loading import open_engine
from refiner.runtime.stitching import run_windows
from refiner.skeleton import joint_set, to_h36m17


class Refiner:
    """A refiner over sequences of any length.

    ``frames`` is the length of its window, ``hop`` the distance of two windows, ``metadata`` its checkpoint's
    configuration or its manifest. Make one with `load`.
    """

    def __init__(self, engine: RefinerEngine, hop: int | None = None) -> None:
        if hop is not None and not 1 <= hop <= engine.frames:
            raise UsageError(f"hop must lie between 1 and the window's {engine.frames} frames, got {hop}")
        self._engine = engine
        self.hop = hop or max(1, engine.frames // 2)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        engine: str | None = None,
        steps: int | None = None,
        threads: int | None = None,
        hop: int | None = None,
    ) -> Refiner:
        """Load a checkpoint or an ``.onnx`` file; without a path the bundled refiner.

        ``steps`` is K instead of the checkpoint's. Raises CheckpointError, ArtefactError, UsageError and
        MissingComponentError.
        """
        return cls(open_engine(path, "refiner", engine, steps, threads), hop)

    @property
    def frames(self) -> int:
        return self._engine.frames

    @property
    def metadata(self) -> dict[str, Any]:
        return self._engine.metadata

    def refine(
        self,
        pose_2d: ArrayLike,
        pose_3d: ArrayLike,
        image_size: tuple[float, float],
        fps: float | None = None,
        joints: str = "h36m17",
    ) -> NDArray[np.float32]:
        """``(F, J, 2)`` pixels and ``(F, J, 3)`` metres in camera axes -> refined ``(F, 17, 3)`` metres.

        The root (mid-hip) of ``pose_3d`` may lie anywhere and is kept. ``image_size`` is (width, height) in
        pixels; ``fps`` the frame rate where it is not the model's 50; ``joints`` the joint set of both inputs.
        The inputs are not changed. Raises an InputError that says what is wrong with them.
        """
        size = check_image_size(image_size)
        kind = joint_set(joints)
        pixels = to_h36m17(check_pose_2d(pose_2d, size, kind), joints).astype(np.float32)
        metres = to_h36m17(check_pose_3d(pose_3d, kind), joints).astype(np.float32)
        check_lengths(pixels, metres)
        root = metres[:, :1]
        body = metres - root
        if fps is not None and fps != MODEL_FPS:
            pixels = resample_poses(pixels, fps, MODEL_FPS).astype(np.float32)
            body = resample_poses(body, fps, MODEL_FPS).astype(np.float32)

        def model(windows_2d: NDArray[np.float32], windows_3d: NDArray[np.float32]) -> NDArray[np.float32]:
            return self._engine(windows_2d, windows_3d, np.tile(np.float32(size), (len(windows_2d), 1)))

        refined = run_windows(model, (pixels, body), self.frames, self.hop)
        if fps is not None and fps != MODEL_FPS:
            refined = resample_poses(refined, MODEL_FPS, fps, frames_out=len(root)).astype(np.float32)
        refined[:, 0] = 0.0
        return refined + root
