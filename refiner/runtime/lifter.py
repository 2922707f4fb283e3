"""`Lifter`: it lifts sequences of 2D poses to 3D."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.actions import GUESS, action_number
from refiner.arguments import check_flag, shown
from refiner.camera import Camera
from refiner.data.gaps import shows_person
from refiner.data.inputs import check_fps
from refiner.data.resample import resample_back
from refiner.engines import EngineOptions
from refiner.errors import UsageError
from refiner.ground import Ground
from refiner.lens import check_lens
from refiner.runtime.engine import LifterEngine, check_kind
from refiner.runtime.loading import open_engine
from refiner.runtime.report import RefinementReport, concatenated, guessed_note
from refiner.runtime.stitching import DEFAULT_BATCH, Run, mirror_pixels, run_live, run_strided
from refiner.runtime.window_model import FocalLength, ImageSize, ModelInput, WindowModel
from refiner.skeleton import confidence_to_h36m17, flip_pose, to_h36m17
from refiner.trajectory import Placement, place_body, root_trajectory

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PreparedKeypoints:
    """A checked sequence of 2D poses in the model's joints, from `Lifter.prepare`.

    Attributes:
        seen: the sequence at its own frame rate.
        parts: the stretches ``(begin, end)`` of frames between gaps.
        keypoints: for each stretch the keypoints ``(N, 17, 2 or 3)`` at the model's frame rate.
        rate: the frame rate of the input, frames/s.
        action: the number of the action; None for a lifter that takes none.
    """

    seen: ModelInput
    parts: tuple[tuple[int, int], ...]
    keypoints: tuple[Array, ...]
    rate: float
    action: int | None

    @property
    def constants(self) -> tuple[Array, ...]:
        """The inputs of the engine beside the keypoints."""
        image = (self.seen.image,)
        return image if self.action is None else (*image, np.full(1, self.action, np.float32))


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
        precision: str | None = None,
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
            precision: see `refiner.Refiner.load`.

        Raises:
            CheckpointError, ArtefactError: the file cannot be used.
            UsageError: the file and the options do not go together.
            MissingComponentError: a package or the device is missing.
        """
        opened = open_engine(path, "lifter", EngineOptions(engine, None, threads, device, goal, precision=precision))
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
        least_confidence: float = 0.0,
        focal_length: FocalLength | None = None,
        camera: Camera | None = None,
        trajectory: bool = False,
        height: float | None = None,
        ground: Ground | None = None,
    ) -> Array:
        """Lift a sequence of 2D poses to 3D.

        Args:
            pose_2d: ``(F, J, 2)`` pixels. A joint is missing where a coordinate is NaN, where both are exactly 0 or
                exactly -1, and where ``confidence`` says so. Missing joints are guessed from other frames.
            image_size: (width, height) in pixels; may be None with a ``camera``.
            fps: the frame rate of the input; None is the model's.
            joints: the joint set of the input.
            action: the action that the person performs, for a lifter that has `actions`: one of them or "unknown". None
                lets the lifter guess it.
            confidence: ``(F, J)``, the detector's confidence from 0 to 1; 0 where a joint is missing.
            least_confidence: a joint whose confidence is not above this is missing.
            focal_length: pixels, one number or (horizontal, vertical), for a model that sees rays. Without a focal
                length and a camera the model takes `refiner.camera.default_focal_length`, with a `DefaultLensWarning`.
            camera: a calibrated camera instead, for a model that sees rays. The distortion of its lens is undone.
            trajectory: also find where the person is (`refiner.trajectory.root_trajectory`, which tells more). The
                poses then have their place in front of the camera. Any lifter takes the lens for this.
            height: metres from the sole to the crown of the person, for ``trajectory``.
            ground: the floor, for ``trajectory``.

        Returns:
            ``(F, 17, 3)`` metres in camera axes, relative to the root (mid-hip), in Human3.6M's joints; with
            ``trajectory`` relative to the lens. NaN where the
            person is not seen for more than half a second, and before the first and after the last sight; shorter gaps
            are guessed, with an `InputWarning`. The input does not change.

        Raises:
            InputError: something is wrong with the input; the message says what.
            UsageError: the joint set, the frame rate or the action is unknown, or the options do not go together.
        """
        if not trajectory and (height is not None or ground is not None):
            raise UsageError("height and ground belong to trajectory=True; leave them out")
        placement = Placement(height, ground)
        own_focal, own_camera = focal_length, camera
        size = image_size
        if trajectory and not self.sees_rays:
            # The lens is for the trajectory alone, and must not be refused as useless.
            size, own_focal, own_camera = (
                check_lens(image_size, focal_length, camera, quiet=True).image_size,
                None,
                None,
            )
        prepared = self._prepare(
            pose_2d, size, fps, joints, action, confidence, least_confidence, own_focal, own_camera
        )
        report, seen, rate = self.lift_prepared([prepared])[0], prepared.seen, prepared.rate
        if not trajectory:
            return report.pose_3d
        pixels = None if self.sees_rays else to_h36m17(pose_2d, joints)
        score = None if confidence is None or self.sees_rays else confidence_to_h36m17(confidence, joints)
        placed = report.pose_3d.copy()
        for begin, end in prepared.parts:
            lifted = report.pose_3d[begin:end]
            if pixels is None:
                found = place_body(seen.keypoints[begin:end], seen.image, lifted, rate, placement)
            else:
                # A model of image coordinates does not know the rays.
                found = root_trajectory(
                    pixels[begin:end],
                    lifted,
                    image_size,
                    rate,
                    confidence=None if score is None else score[begin:end],
                    focal_length=focal_length,
                    camera=camera,
                    height=height,
                    ground=ground,
                )
            placed[begin:end] = found.place(lifted)
        return placed

    def lift_report(
        self,
        pose_2d: ArrayLike,
        image_size: ImageSize | None,
        fps: float | None = None,
        joints: str = "h36m17",
        action: str | None = None,
        *,
        confidence: ArrayLike | None = None,
        least_confidence: float = 0.0,
        focal_length: FocalLength | None = None,
        camera: Camera | None = None,
    ) -> RefinementReport:
        """Lift a sequence as `lift`, and report what was guessed, assumed or found on the way.

        The arguments and the errors are those of `lift`.
        """
        prepared = self._prepare(
            pose_2d, image_size, fps, joints, action, confidence, least_confidence, focal_length, camera
        )
        return self.lift_prepared([prepared])[0]

    def prepare(
        self,
        pose_2d: ArrayLike,
        image_size: ImageSize | None,
        fps: float | None = None,
        joints: str = "h36m17",
        action: str | None = None,
        *,
        confidence: ArrayLike | None = None,
        least_confidence: float = 0.0,
        focal_length: FocalLength | None = None,
        camera: Camera | None = None,
    ) -> PreparedKeypoints:
        """Check a sequence and bring it to the joints and the frame rate of the model, for `lift_prepared`.

        The arguments and the errors are those of `lift`.
        """
        return self._prepare(
            pose_2d, image_size, fps, joints, action, confidence, least_confidence, focal_length, camera
        )

    def lift_prepared(self, sequences: Sequence[PreparedKeypoints]) -> list[RefinementReport]:
        """Lift many sequences together: their windows share batches, which pays where sequences are short.

        Args:
            sequences: from `prepare` of this lifter.

        Returns:
            The report of each sequence, as of `lift_report` but for the rounding of batches.
        """
        runs = [Run((keypoints,), prepared.constants) for prepared in sequences for keypoints in prepared.keypoints]
        lifted = iter(self._windows(self._engine, runs))
        return [self._finish(prepared, [next(lifted) for _ in prepared.parts]) for prepared in sequences]

    def _prepare(
        self,
        pose_2d: ArrayLike,
        image_size: ImageSize | None,
        fps: float | None,
        joints: str,
        action: str | None,
        confidence: ArrayLike | None,
        least_confidence: float,
        focal_length: FocalLength | None,
        camera: Camera | None,
    ) -> PreparedKeypoints:
        number = self._action_number(action)
        rate = check_fps(fps, self.fps)
        seen = self._model_input(pose_2d, image_size, joints, confidence, focal_length, camera, least_confidence)
        parts = self._parts(shows_person(~seen.missing), rate)
        keypoints = tuple(self._resampled(seen.keypoints[begin:end], rate) for begin, end in parts)
        return PreparedKeypoints(seen, parts, keypoints, rate, number)

    def _finish(self, prepared: PreparedKeypoints, lifted: Sequence[Array]) -> RefinementReport:
        """The report of a sequence from the lifted poses of its parts."""
        seen, rate = prepared.seen, prepared.rate
        parts = [
            (begin, resample_back(poses, self.fps, rate, end - begin))
            for (begin, end), poses in zip(prepared.parts, lifted, strict=True)
        ]
        whole = concatenated(parts, len(seen.keypoints))
        gaps: NDArray[np.bool_] = np.asarray(np.isnan(whole).all(axis=(1, 2)))
        notes = [*seen.notes, *self._resampling_note(rate), *guessed_note(seen.missing, gaps)]
        return RefinementReport(whole, seen.missing & ~gaps[:, None], gaps, tuple(notes))

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
                "this lifter gives one pose: only a checkpoint of D3DP or FinePOSE, run by PyTorch, gives hypotheses; "
                "D3DP's also run by the native engine"
            )
        prepared = self._prepare(pose_2d, image_size, fps, "h36m17", action, None, 0.0, None, None)

        def frames_first(*inputs: Array) -> Array:
            return np.moveaxis(engine(*inputs), 1, 2)  # [B, H, T, 17, 3] -> [B, T, H, 17, 3]

        runs = [Run((keypoints,), prepared.constants) for keypoints in prepared.keypoints]
        parts = []
        for (begin, end), lifted in zip(prepared.parts, self._windows(frames_first, runs), strict=True):
            resampled = [
                resample_back(lifted[:, index], self.fps, prepared.rate, end - begin)
                for index in range(lifted.shape[1])  # [F, H, 17, 3]
            ]
            parts.append((begin, np.stack(resampled, axis=1)))
        return np.moveaxis(concatenated(parts, len(prepared.seen.keypoints)), 1, 0)

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

    def _windows(self, engine: Callable[..., Array], runs: Sequence[Run]) -> list[Array]:
        """Run ``engine`` over all windows of sequences and stitch its results; average with the mirrored pass.

        Args:
            engine: a `LifterEngine`, or a function with the same arguments.
            runs: keypoints ``(F, 17, 2 or 3)``, with `PreparedKeypoints.constants`.
        """

        def run(some: Sequence[Run]) -> list[Array]:
            least = self._engine.least_batch
            if self.live:
                return [run_live(engine, one, self.frames, self.batch, least, self.stride) for one in some]
            return run_strided(engine, some, self.frames, self.hop, self.batch, least, self.stride)

        lifted = run(runs)
        if not self.flip_test:
            return lifted
        mirrored = run([Run((mirror_pixels(r.arrays[0], float(r.constants[0][0])),), r.constants) for r in runs])
        return [(one + flip_pose(two)) * np.float32(0.5) for one, two in zip(lifted, mirrored, strict=True)]
