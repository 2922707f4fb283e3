"""Lifter: 2D pose sequences to 3D."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.actions import GUESS, action_number
from refiner.camera import Camera
from refiner.data.inputs import check_fps
from refiner.data.resample import resample_back
from refiner.engines import EngineOptions
from refiner.errors import UsageError
from refiner.runtime.engine import LifterEngine
from refiner.runtime.loading import open_engine
from refiner.runtime.stitching import DEFAULT_BATCH, mirror_pixels, run_live, run_strided
from refiner.runtime.window_model import WindowModel
from refiner.skeleton import flip_pose


class Lifter(WindowModel[LifterEngine]):
    """A 2D-to-3D lifter over sequences of any length. Make one with `load`.

    Args:
        engine: what runs its windows.
        flip_test: average with the mirrored pass, at twice the cost.
        hop: frames from one window to the next; half a window by default. Raises UsageError outside of 1 to
            the window's length.
        batch: windows that run at a time.
        live: lift each frame from those before it alone, as a stream does that answers at once, at the cost of a window
            for every frame; ``hop`` has no meaning then.
    """

    def __init__(
        self,
        engine: LifterEngine,
        flip_test: bool = False,
        hop: int | None = None,
        batch: int = DEFAULT_BATCH,
        live: bool = False,
    ) -> None:
        super().__init__(engine, hop, batch)
        self.flip_test, self.live = flip_test, live

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
        live: bool = False,
    ) -> Lifter:
        """Load a checkpoint or an artefact of refiner-export; without a path the bundled lifter.

        ``flip_test`` None does what the checkpoint's configuration says (``flip_test``), by default not;
        ``device`` is "cpu" or "cuda"; ``goal`` "latency" or "throughput"; ``live``: see the class. Raises
        CheckpointError, ArtefactError, UsageError and MissingComponentError.
        """
        opened = open_engine(path, "lifter", EngineOptions(engine, None, threads, device, goal))
        flip = opened.flip_test if flip_test is None else flip_test
        return cls(opened, flip, hop, live=live)

    def lift(
        self,
        pose_2d: ArrayLike,
        image_size: tuple[float, float],
        fps: float | None = None,
        joints: str = "h36m17",
        action: str | None = None,
        *,
        confidence: ArrayLike | None = None,
        focal_length: Any = None,
        camera: Camera | None = None,
    ) -> NDArray[np.float32]:
        """``(F, J, 2)`` pixels -> ``(F, 17, 3)`` metres in camera axes, relative to the root (mid-hip).

        ``image_size`` is (width, height) in pixels; ``fps`` the frame rate where it is not the model's;
        ``joints`` the joint set of the input, the result is in Human3.6M's. ``action``: what is done, for a lifter that
        knows `actions`: one of them or "unknown"; None lets it guess. ``confidence`` ``(F, J)``: the detector's, 0 to
        1, 0 where a joint is missing. A model that sees rays (`sees_rays`) also takes NaN for a missing joint, and the
        lens: ``focal_length`` in pixels, one number or (horizontal, vertical), or a calibrated ``camera``, whose
        distortion is undone (``image_size`` may be None then); of neither the default of
        `refiner.camera.default_focal_length` is taken, with a `DefaultLensWarning`. Frames that show nobody are guessed
        from those around them, with an `InputWarning`.

        The input is not changed. Raises an InputError that says what is wrong with it, UsageError for an unknown joint
        set, frame rate or action.
        """
        told = self._told(action)
        rate = check_fps(fps, self.fps)
        seen, size = self._seen(pose_2d, image_size, joints, confidence, focal_length, camera)
        pixels = self._resampled(seen, rate)
        lifted = self._windows(self._engine, pixels, size, told)
        return resample_back(lifted, self.fps, rate, len(np.asarray(pose_2d)))

    def hypotheses(
        self, pose_2d: ArrayLike, image_size: tuple[float, float], fps: float | None = None, action: str | None = None
    ) -> NDArray[np.float32]:
        """All hypotheses of a diffusion lifter, ``(H, F, 17, 3)``, of 2D poses in Human3.6M's joints.

        `lift` gives their mean, and has the same arguments and errors.

        `refiner.hypotheses` makes one pose of them. Raises UsageError for a lifter that has none, and for an exported
        graph, which holds the mean alone.
        """
        engine = getattr(self._engine, "hypotheses", None)
        if engine is None:
            raise UsageError(
                "this lifter gives one pose: hypotheses come of a checkpoint of D3DP or FinePOSE, in PyTorch"
            )
        told = self._told(action)
        rate = check_fps(fps, self.fps)
        seen, size = self._seen(pose_2d, image_size, "h36m17", None, None, None)
        pixels = self._resampled(seen, rate)

        def frames_first(*given: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.moveaxis(engine(*given), 1, 2)

        lifted = self._windows(frames_first, pixels, size, told)  # (F, H, 17, 3)
        parts = [
            resample_back(lifted[:, index], self.fps, rate, len(np.asarray(pose_2d)))
            for index in range(lifted.shape[1])
        ]
        return np.stack(parts)

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of the actions that the lifter can be told (FinePOSE); none for most lifters."""
        return self._engine.actions

    @property
    def guesses_action(self) -> bool:
        """Whether a lifter that takes an action can guess it."""
        return self._engine.guesses_action

    @property
    def validation_curve(self) -> tuple[tuple[int, float], ...]:
        """(training step, MPJPE in mm) of the validation person; empty for a graph, whose manifest has none."""
        return self._engine.validation_curve

    def _told(self, action: str | None) -> int | None:
        """The number that the engine is given for an action; None where it takes none."""
        if self.actions:
            return GUESS if action is None else action_number(self.actions, action)
        if action is not None:
            raise UsageError(f"this lifter knows no actions; leave action={action!r} out")
        return None

    def _windows(
        self,
        engine: Callable[..., NDArray[np.float32]],
        pixels: NDArray[np.float32],
        size: NDArray[np.float32],
        told: int | None,
    ) -> NDArray[np.float32]:
        """What ``engine`` makes of the windows, stitched; with the flip test, the mean with the mirrored pass."""

        def model(windows: NDArray[np.float32]) -> NDArray[np.float32]:
            given = [np.tile(size, (len(windows), 1))]
            if told is not None:
                given.append(np.full((len(windows), 1), told, np.float32))
            return engine(windows, *given)

        def run(given: NDArray[np.float32]) -> NDArray[np.float32]:
            if self.live:
                return run_live(model, (given,), self.frames, self.batch, self._engine.least_batch, self.stride)
            return run_strided(
                model, (given,), self.frames, self.hop, self.batch, self._engine.least_batch, self.stride
            )

        lifted = run(pixels)
        if self.flip_test:
            lifted = (lifted + flip_pose(run(mirror_pixels(pixels, float(size[0]))))) * np.float32(0.5)
        return lifted
