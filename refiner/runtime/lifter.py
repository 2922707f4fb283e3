"""`Lifter`: it lifts sequences of 2D poses to 3D."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.actions import GUESS, action_number
from refiner.arguments import check_flag, shown
from refiner.camera import Camera
from refiner.data.inputs import check_fps
from refiner.data.resample import resample_back
from refiner.engines import EngineOptions
from refiner.errors import UsageError
from refiner.ground import Ground
from refiner.lens import check_lens
from refiner.runtime.engine import LifterEngine, check_kind
from refiner.runtime.loading import open_engine
from refiner.runtime.stitching import DEFAULT_BATCH, mirror_pixels, run_live, run_strided
from refiner.runtime.window_model import FocalLength, ImageSize, WindowModel
from refiner.skeleton import confidence_to_h36m17, flip_pose, to_h36m17
from refiner.trajectory import Placement, place_body, root_trajectory

Array = NDArray[np.float32]


class Lifter(WindowModel[LifterEngine]):
    """A model that lifts 2D pose sequences of any length to 3D. Make one with `load`.

    Args:
        engine: runs the windows.
        flip_test: also lift the mirrored poses and average the two results, at twice the cost.
        hop: frames from the start of one window to the start of the next; by default half a window.
        batch: windows that run at a time.
        live: lift each frame only from the frames before it, as a stream without delay does. This costs one window for
            every frame; ``hop`` has no meaning then.

    Raises:
        UsageError: ``hop`` lies outside of 1 to the window's length.
    """

    def __init__(
        self,
        engine: LifterEngine,
        flip_test: bool = False,
        hop: int | None = None,
        batch: int = DEFAULT_BATCH,
        live: bool = False,
    ) -> None:
        check_kind(engine, "lifter")
        super().__init__(engine, hop, batch)
        self.flip_test, self.live = check_flag(flip_test, "flip_test"), check_flag(live, "live")

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
        """Load a checkpoint or an artefact that refiner-export wrote.

        Args:
            path: the file; a bare name is a bundled checkpoint; None is the bundled lifter.
            engine: the name of an engine; None is the engine that the file is for.
            flip_test: see `Lifter`; None takes ``flip_test`` of the checkpoint's configuration, which is False by
                default.
            threads: the engine's threads; None is the engine's default, which for PyTorch is one thread
                (`refiner.runtime.replay.default_threads`).
            hop: see `Lifter`.
            device: "cpu" or "cuda"; None is the device that an artefact was made for, and the CPU for a checkpoint.
            goal: "latency" or "throughput", where the engine can be tuned for either.
            live: see `Lifter`.

        Raises:
            CheckpointError, ArtefactError: the file cannot be used.
            UsageError: the file and the options do not go together.
            MissingComponentError: a package or the device is missing.
        """
        opened = open_engine(path, "lifter", EngineOptions(engine, None, threads, device, goal))
        flip = opened.flip_test if flip_test is None else flip_test
        return cls(opened, flip, hop, live=live)

    def lift(
        self,
        pose_2d: ArrayLike,
        image_size: ImageSize | None,
        fps: float | None = None,
        joints: str = "h36m17",
        action: str | None = None,
        *,
        confidence: ArrayLike | None = None,
        focal_length: FocalLength | None = None,
        camera: Camera | None = None,
        trajectory: bool = False,
        height: float | None = None,
        ground: Ground | None = None,
    ) -> Array:
        """Lift a sequence of 2D poses to 3D.

        Frames that show nobody are guessed from the frames around them, with an `InputWarning`.

        Args:
            pose_2d: ``(F, J, 2)`` pixels. For a model that sees rays (`sees_rays`), NaN marks a missing joint.
            image_size: (width, height) in pixels; may be None with a ``camera``.
            fps: the frame rate of the input; None is the model's.
            joints: the joint set of the input.
            action: the action that the person performs, for a lifter that has `actions`: one of them or "unknown". None
                lets the lifter guess it.
            confidence: ``(F, J)``, the detector's confidence from 0 to 1; 0 where a joint is missing.
            focal_length: pixels, one number or (horizontal, vertical), for a model that sees rays. Without a focal
                length and a camera the model takes `refiner.camera.default_focal_length`, with a `DefaultLensWarning`.
            camera: a calibrated camera instead, for a model that sees rays. The distortion of its lens is undone.
            trajectory: also find where the person is (`refiner.trajectory.root_trajectory`, which tells more). The
                poses then have their place in front of the camera. Any lifter takes the lens for this.
            height: metres from the sole to the crown of the person, for ``trajectory``.
            ground: the floor, for ``trajectory``.

        Returns:
            ``(F, 17, 3)`` metres in camera axes, relative to the root (mid-hip), in Human3.6M's joints; with
            ``trajectory`` relative to the lens. The input does not change.

        Raises:
            InputError: something is wrong with the input; the message says what.
            UsageError: the joint set, the frame rate or the action is unknown, or the options do not go together.
        """
        if not trajectory and (height is not None or ground is not None):
            raise UsageError("height and ground belong to trajectory=True; leave them out")
        placement = Placement(height, ground)
        number = self._action_number(action)
        rate = check_fps(fps, self.fps)
        if trajectory and not self.sees_rays:
            # The lens is for the trajectory alone, and must not be refused as useless.
            size = check_lens(image_size, focal_length, camera, quiet=True).image_size
            seen = self._model_input(pose_2d, size, joints, confidence, None, None)
        else:
            seen = self._model_input(pose_2d, image_size, joints, confidence, focal_length, camera)
        keypoints = self._resampled(seen.keypoints, rate)
        lifted = self._windows(self._engine, keypoints, seen.image, number)
        lifted = resample_back(lifted, self.fps, rate, len(seen.keypoints))
        if not trajectory:
            return lifted
        if self.sees_rays:
            return place_body(seen.keypoints, seen.image, lifted, rate, placement).place(lifted)
        # A model of image coordinates does not know the rays.
        found = root_trajectory(
            to_h36m17(pose_2d, joints),
            lifted,
            image_size,
            rate,
            confidence=None if confidence is None else confidence_to_h36m17(confidence, joints),
            focal_length=focal_length,
            camera=camera,
            height=height,
            ground=ground,
        )
        return found.place(lifted)

    def hypotheses(
        self, pose_2d: ArrayLike, image_size: ImageSize | None, fps: float | None = None, action: str | None = None
    ) -> Array:
        """Lift with a diffusion lifter and return all of its hypotheses; `lift` returns their mean.

        `refiner.hypotheses` makes one pose from them.

        Args:
            pose_2d: ``(F, 17, 2)`` pixels in Human3.6M's joints.
            image_size: see `lift`.
            fps: see `lift`.
            action: see `lift`.

        Returns:
            ``(H, F, 17, 3)`` metres in camera axes, relative to the root.

        Raises:
            InputError: like `lift`.
            UsageError: like `lift`. Also for a lifter without hypotheses, and for an exported graph, which holds only
                their mean.
        """
        engine = getattr(self._engine, "hypotheses", None)
        if engine is None:
            raise UsageError(
                "this lifter gives one pose: only a checkpoint of D3DP or FinePOSE, run by PyTorch, gives hypotheses"
            )
        number = self._action_number(action)
        rate = check_fps(fps, self.fps)
        seen = self._model_input(pose_2d, image_size, "h36m17", None, None, None)
        keypoints = self._resampled(seen.keypoints, rate)

        def frames_first(*inputs: Array) -> Array:
            return np.moveaxis(engine(*inputs), 1, 2)  # [B, H, T, 17, 3] -> [B, T, H, 17, 3]

        lifted = self._windows(frames_first, keypoints, seen.image, number)  # [F, H, 17, 3]
        parts = [
            resample_back(lifted[:, index], self.fps, rate, len(seen.keypoints)) for index in range(lifted.shape[1])
        ]
        return np.stack(parts)

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of the actions that the lifter takes (FinePOSE); empty for most lifters."""
        return self._engine.actions

    @property
    def guesses_action(self) -> bool:
        """Whether a lifter that takes an action can guess it."""
        return self._engine.guesses_action

    @property
    def validation_curve(self) -> tuple[tuple[int, float], ...]:
        """(training step, MPJPE in mm) of the validation person; empty for a graph, whose manifest has none."""
        return self._engine.validation_curve

    def _action_number(self, action: str | None) -> int | None:
        """The number of an action for the engine; None where the engine takes no action."""
        if self.actions:
            return GUESS if action is None else action_number(self.actions, action)
        if action is not None:
            raise UsageError(f"this lifter knows no actions; leave action={shown(action)} out")
        return None

    def _windows(
        self,
        engine: Callable[..., Array],
        keypoints: Array,
        image: Array,
        action: int | None,
    ) -> Array:
        """Run ``engine`` over all windows of a sequence and stitch its results; average with the mirrored pass.

        Args:
            engine: a `LifterEngine`, or a function with the same arguments.
            keypoints: ``(F, 17, 2 or 3)``, see `refiner.runtime.window_model.ModelInput`.
            image: ``(2,)`` or ``(3,)``, see there.
            action: the number of the action; None where the engine takes none.
        """

        def model(windows: Array) -> Array:
            others = [np.tile(image, (len(windows), 1))]
            if action is not None:
                others.append(np.full((len(windows), 1), action, np.float32))
            return engine(windows, *others)

        def run(sequence: Array) -> Array:
            least = self._engine.least_batch
            if self.live:
                return run_live(model, (sequence,), self.frames, self.batch, least, self.stride)
            return run_strided(model, (sequence,), self.frames, self.hop, self.batch, least, self.stride)

        lifted = run(keypoints)
        if self.flip_test:
            lifted = (lifted + flip_pose(run(mirror_pixels(keypoints, float(image[0]))))) * np.float32(0.5)
        return lifted
