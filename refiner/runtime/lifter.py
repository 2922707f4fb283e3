"""Lifter: 2D pose sequences to 3D."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.actions import GUESS, action_number
from refiner.data.inputs import check_fps, check_image_size, check_pose_2d
from refiner.data.resample import resample_back, resample_poses
from refiner.errors import UsageError
from refiner.runtime.engine import LifterEngine
from refiner.runtime.loading import open_engine
from refiner.runtime.stitching import DEFAULT_BATCH, mirror_pixels, run_windows
from refiner.runtime.window_model import WindowModel
from refiner.skeleton import flip_pose, joint_set, to_h36m17


class Lifter(WindowModel[LifterEngine]):
    """A 2D-to-3D lifter over sequences of any length. Make one with `load`.

    Args:
        engine: what runs its windows.
        flip_test: average with the mirrored pass, at twice the cost.
        hop: frames from one window to the next; half a window by default. Raises UsageError outside of 1 to
            the window's length.
        batch: windows that run at a time.
    """

    def __init__(
        self, engine: LifterEngine, flip_test: bool = False, hop: int | None = None, batch: int = DEFAULT_BATCH
    ) -> None:
        super().__init__(engine, hop, batch)
        self.flip_test = flip_test

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        engine: str | None = None,
        flip_test: bool | None = None,
        threads: int | None = None,
        hop: int | None = None,
        device: str | None = None,
        goal: str = "latency",
    ) -> Lifter:
        """Load a checkpoint or an artefact of refiner-export; without a path the bundled lifter.

        ``flip_test`` None does what the checkpoint's configuration says (``flip_test``), by default not;
        ``device`` is "cpu" or "cuda"; ``goal`` "latency" or "throughput". Raises CheckpointError, ArtefactError,
        UsageError and MissingComponentError.
        """
        opened = open_engine(path, "lifter", engine, threads=threads, device=device, goal=goal)
        flip = bool(opened.metadata.get("flip_test", False)) if flip_test is None else flip_test
        return cls(opened, flip, hop)

    def lift(
        self,
        pose_2d: ArrayLike,
        image_size: tuple[float, float],
        fps: float | None = None,
        joints: str = "h36m17",
        action: str | None = None,
    ) -> NDArray[np.float32]:
        """``(F, J, 2)`` pixels -> ``(F, 17, 3)`` metres in camera axes, relative to the root (mid-hip).

        ``image_size`` is (width, height) in pixels; ``fps`` the frame rate where it is not the model's;
        ``joints`` the joint set of the input, the result is in Human3.6M's. ``action``: what is done, for a lifter that
        knows `actions`: one of them or "unknown"; None lets it guess. The input is not changed. Raises an InputError
        that says what is wrong with it, UsageError for an unknown joint set, frame rate or action.
        """
        told = self._told(action)
        size = check_image_size(image_size)
        rate = check_fps(fps, self.fps)
        given = to_h36m17(check_pose_2d(pose_2d, size, joint_set(joints)), joints)
        pixels = resample_poses(given, rate, self.fps)
        lifted = self._windows(pixels, size, told)
        if self.flip_test:
            lifted = (lifted + flip_pose(self._windows(mirror_pixels(pixels, size[0]), size, told))) * np.float32(0.5)
        return resample_back(lifted, self.fps, rate, len(given))

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of the actions that the lifter can be told (FinePOSE); none for most lifters."""
        return tuple(self._engine.metadata.get("actions", ()))

    def _told(self, action: str | None) -> int | None:
        """The number that the engine is given for an action; None where it takes none."""
        if self.actions:
            return GUESS if action is None else action_number(self.actions, action)
        if action is not None:
            raise UsageError(f"this lifter knows no actions; leave action={action!r} out")
        return None

    def _windows(self, pixels: NDArray[np.float32], size: tuple[float, float], told: int | None) -> NDArray[np.float32]:
        def model(windows: NDArray[np.float32]) -> NDArray[np.float32]:
            given = [np.tile(np.asarray(size, np.float32), (len(windows), 1))]
            if told is not None:
                given.append(np.full((len(windows), 1), told, np.float32))
            return self._engine(windows, *given)

        return run_windows(model, (pixels,), self.frames, self.hop, self.batch, self._engine.least_batch)
