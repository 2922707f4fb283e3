"""`Refiner`: it improves the 3D poses of a sequence."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.arguments import check_flag
from refiner.arrays import as_array
from refiner.camera import Camera, default_focal_length, normalise_screen
from refiner.data.agreement import ORDERS, disagreement, refuse_wrong_order
from refiner.data.gaps import fill_absent, shows_person
from refiner.data.inputs import check_fps, check_lengths, check_pose_3d
from refiner.data.resample import resample_back, resample_poses
from refiner.data.swaps import exchange_sides, find_swapped_sides, swapped_sides
from refiner.diffusion.familiarity import Familiarity
from refiner.diffusion.uncertainty import JointUncertainty
from refiner.engines import EngineOptions
from refiner.errors import InputWarning, UsageError
from refiner.rays import seen_by_network, turned
from refiner.reasons import Note
from refiner.runtime.engine import RefinerEngine, check_kind
from refiner.runtime.loading import open_engine
from refiner.runtime.report import RefinementReport, concatenated, guessed_note, seconds_to_sight, without_repetition
from refiner.runtime.stitching import DEFAULT_BATCH, Run, mirror_pixels, run_causal, run_strided
from refiner.runtime.window_model import FocalLength, ImageSize, WindowModel
from refiner.shape import check_bone_lengths, pool_checked
from refiner.skeleton import flip_pose, joint_set, to_h36m17
from refiner.smoothing import savitzky_golay

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Given:
    """The arguments of `Refiner.refine` without those of the lens."""

    pose_2d: ArrayLike
    pose_3d: ArrayLike
    image_size: ImageSize | None
    fps: float | None
    joints: str
    joints_3d: str | None
    confidence: ArrayLike | None
    least_confidence: float


@dataclass(frozen=True, eq=False)
class _Part:
    """A stretch of frames that show the person.

    Attributes:
        begin: its first frame.
        frames: how many frames of the input it has.
        keypoints: ``(N, 17, 2)`` pixels at the model's frame rate; for a model that sees rays ``(N, 17, 3)``, pixels
            and confidence.
        body: ``(N, 17, 3)`` metres relative to the root, at the model's frame rate.
    """

    begin: int
    frames: int
    keypoints: Array
    body: Array


@dataclass(frozen=True, eq=False)
class PreparedSequence:
    """A checked sequence of F frames in the model's joints, from `Refiner.prepare`.

    Attributes:
        parts: the stretches of frames between gaps.
        root: ``(F, 1, 3)`` metres: the root's positions at the frame rate of the input.
        image: ``(2,)`` width and height in pixels; for a model that sees rays ``(3,)``, with the focal length.
        rate: the frame rate of the input, frames/s.
        missing: ``(F, 17)``, the joints that were not seen, or have no 3D pose.
        notes: what was found, or done.
    """

    parts: tuple[_Part, ...]
    root: Array
    image: Array
    rate: float
    missing: NDArray[np.bool_]
    notes: tuple[Note, ...]


class Refiner(WindowModel[RefinerEngine]):
    """A model that refines 3D pose sequences of any length. Make one with `load`.

    A causal refiner runs over the whole sequence in one pass. Each of its frames equals the frame that a stream would
    have given at that time.

    Args:
        engine: runs the windows.
        hop: frames from the start of one window to the start of the next; by default half a window. A causal refiner
            takes none.
        batch: windows that run at a time.
        flip_test: also refine the mirrored poses and average the two results, at twice the cost.
        pool_shape: give the same bones to all frames of a sequence, which must show one person (`refiner.shape`).
            True takes the bone lengths from the sequence itself. An array ``(17,)`` holds known bone lengths in metres,
            such as `refiner.shape.pooled_lengths` of more frames of that person.
        smoothing: run a Savitzky-Golay filter after the refiner (`refiner.smoothing`). It also uses later frames.

    Raises:
        UsageError: ``hop`` lies outside of 1 to the window's length, or the refiner is causal and takes no hop.
        InputError: ``pool_shape`` is an array that holds no bone lengths.
    """

    def __init__(
        self,
        engine: RefinerEngine,
        hop: int | None = None,
        batch: int = DEFAULT_BATCH,
        flip_test: bool = False,
        pool_shape: bool | ArrayLike | None = False,
        smoothing: bool = False,
    ) -> None:
        check_kind(engine, "refiner")
        if engine.reach is not None and hop is not None:
            raise UsageError("a causal refiner takes whole sequences, not windows; leave hop out")
        super().__init__(engine, hop, batch)
        self.flip_test, self.smoothing = check_flag(flip_test, "flip_test"), check_flag(smoothing, "smoothing")
        if pool_shape is None or isinstance(pool_shape, (bool, np.bool_)):
            self.pool_shape, self._bone_lengths = bool(pool_shape), None
        else:
            self.pool_shape, self._bone_lengths = True, check_bone_lengths(pool_shape)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        engine: str | None = None,
        steps: int | None = None,
        threads: int | None = None,
        hop: int | None = None,
        device: str | None = None,
        flip_test: bool = False,
        goal: str = "latency",
        pool_shape: bool | ArrayLike | None = False,
        smoothing: bool = False,
        precision: str | None = None,
    ) -> Refiner:
        """Load a checkpoint or an artefact that refiner-export wrote.

        Args:
            path: the file; a bare name is a bundled checkpoint; None is the bundled refiner.
            engine: the name of an engine; None is the engine that the file is for. "torch-compile" instead of "torch"
                compiles a checkpoint.
            steps: the number of denoising steps K; None is the checkpoint's K.
            threads: the engine's threads; None is the engine's default, which for PyTorch is one thread
                (`refiner.runtime.replay.default_threads`).
            hop: see `Refiner`.
            device: "cpu" or "cuda"; None is the device that an artefact was made for, and the CPU for a checkpoint.
            flip_test: see `Refiner`.
            goal: "latency" or "throughput", where the engine can be tuned for either.
            pool_shape: see `Refiner`.
            smoothing: see `Refiner`.
            precision: "fp32" or "bf16" for a checkpoint in the native engine, which needs a processor with
                instructions for bfloat16; None is float32. An artefact has the precision that it was exported in.

        Raises:
            CheckpointError, ArtefactError: the file cannot be used.
            UsageError: the file and the options do not go together.
            MissingComponentError: a package or the device is missing.
            InputError: ``pool_shape`` is an array that holds no bone lengths.
        """
        opened = open_engine(path, "refiner", EngineOptions(engine, steps, threads, device, goal, precision=precision))
        return cls(opened, hop, flip_test=flip_test, pool_shape=pool_shape, smoothing=smoothing)

    @property
    def steps(self) -> int:
        """The number of denoising steps, K. Raises UsageError for a refiner that has none (SmoothNet)."""
        steps = self._engine.steps
        if steps is None:
            raise UsageError("this refiner has no denoising steps")
        return steps

    @property
    def uncertainty(self) -> JointUncertainty | None:
        """The calibrated standard deviation of each joint for streams; None where the model was not calibrated."""
        return self._engine.uncertainty

    def refine(
        self,
        pose_2d: ArrayLike,
        pose_3d: ArrayLike,
        image_size: ImageSize | None,
        fps: float | None = None,
        joints: str = "h36m17",
        *,
        joints_3d: str | None = None,
        confidence: ArrayLike | None = None,
        least_confidence: float = 0.0,
        focal_length: FocalLength | None = None,
        camera: Camera | None = None,
    ) -> NDArray[np.float32]:
        """Refine a sequence of 3D poses.

        Args:
            pose_2d: ``(F, J, 2)`` pixels.
            pose_3d: ``(F, J, 3)`` metres in camera axes. The root (mid-hip) may lie anywhere; its position is kept. A
                frame that is NaN as a whole has no pose.
            image_size: (width, height) in pixels; may be None with a ``camera``.
            fps: the frame rate of the input; None is the model's.
            joints: the joint set of ``pose_2d``, and of ``pose_3d`` unless ``joints_3d`` names another one.
            joints_3d: the joint set of ``pose_3d``.
            confidence: see `refiner.Lifter.lift`.
            least_confidence: see `refiner.Lifter.lift`.
            focal_length: see `refiner.Lifter.lift`.
            camera: see `refiner.Lifter.lift`.

        Returns:
            The refined poses, ``(F, 17, 3)`` metres in camera axes, in Human3.6M's joints; NaN in frames without a
            pose, as `refiner.Lifter.lift`. The inputs do not change.

        Raises:
            InputError: something is wrong with the inputs; the message says what. Joints in another order than the
                stated one raise `JointOrderError`.
            UsageError: the joint set or the frame rate is unknown.

        Warns:
            InputWarning: ``pose_3d`` cannot be the 3D of ``pose_2d``; the message names the most likely mistake.
        """
        given = _Given(pose_2d, pose_3d, image_size, fps, joints, joints_3d, confidence, least_confidence)
        return self.refine_prepared([self._prepare(given, focal_length, camera)])[0].pose_3d

    def refine_report(
        self,
        pose_2d: ArrayLike,
        pose_3d: ArrayLike,
        image_size: ImageSize | None,
        fps: float | None = None,
        joints: str = "h36m17",
        *,
        joints_3d: str | None = None,
        confidence: ArrayLike | None = None,
        least_confidence: float = 0.0,
        focal_length: FocalLength | None = None,
        camera: Camera | None = None,
    ) -> RefinementReport:
        """Refine a sequence as `refine`, and report what was guessed, assumed or found on the way.

        The arguments and the errors are those of `refine`.
        """
        given = _Given(pose_2d, pose_3d, image_size, fps, joints, joints_3d, confidence, least_confidence)
        return self.refine_prepared([self._prepare(given, focal_length, camera)])[0]

    def prepare(
        self,
        pose_2d: ArrayLike,
        pose_3d: ArrayLike,
        image_size: ImageSize | None,
        fps: float | None = None,
        joints: str = "h36m17",
        *,
        joints_3d: str | None = None,
        confidence: ArrayLike | None = None,
        least_confidence: float = 0.0,
        focal_length: FocalLength | None = None,
        camera: Camera | None = None,
    ) -> PreparedSequence:
        """Check a sequence and bring it to the joints and the frame rate of the model, for `refine_prepared`.

        The arguments and the errors are those of `refine`.
        """
        given = _Given(pose_2d, pose_3d, image_size, fps, joints, joints_3d, confidence, least_confidence)
        return self._prepare(given, focal_length, camera)

    def refine_prepared(self, sequences: Sequence[PreparedSequence]) -> list[RefinementReport]:
        """Refine many sequences together: their windows share batches, which pays where sequences are short.

        Args:
            sequences: from `prepare` of this refiner.

        Returns:
            The report of each sequence, as of `refine_report` but for the rounding of batches.
        """
        runs = [
            Run((part.keypoints, part.body), (prepared.image,), part.body)
            for prepared in sequences
            for part in prepared.parts
        ]
        refined = iter(self._run(runs))
        return [self._finish(prepared, [next(refined) for _ in prepared.parts]) for prepared in sequences]

    def _run(self, runs: Sequence[Run]) -> list[Array]:
        """The refined poses ``(N, 17, 3)`` of stretches of frames, at the frame rate of the model."""
        refined = self._windows(runs)
        if not self.flip_test:
            return refined
        flipped = []
        for run in runs:
            (keypoints, body), (image,) = run.arrays, run.constants
            turned = flip_pose(body)
            flipped.append(Run((mirror_pixels(keypoints, float(image[0])), turned), (image,), turned))
        mirrored = self._windows(flipped)
        return [(one + flip_pose(two)) * np.float32(0.5) for one, two in zip(refined, mirrored, strict=True)]

    def _windows(self, runs: Sequence[Run]) -> list[Array]:
        """Run the engine over all windows of sequences."""
        if self._engine.reach is not None:
            return run_causal(self._engine, runs, self._engine.reach, self.batch)
        least = self._engine.least_batch
        return run_strided(self._engine, runs, self.frames, self.hop, self.batch, least, self.stride)

    def _finish(self, prepared: PreparedSequence, refined: Sequence[Array]) -> RefinementReport:
        """The report of a sequence from the refined poses of its parts."""
        finished = [
            self._finish_part(part, poses, prepared.rate) for part, poses in zip(prepared.parts, refined, strict=True)
        ]
        begins, frames = [part.begin for part in prepared.parts], len(prepared.missing)
        poses, spreads = zip(*finished, strict=True)
        whole = concatenated(list(zip(begins, poses, strict=True)), frames)
        posed: NDArray[np.bool_] = np.asarray(np.isfinite(whole).all(axis=(1, 2)))
        if self.pool_shape:
            whole[posed] = pool_checked(whole[posed], self._bone_lengths)
        guessed = prepared.missing & posed[:, None]
        std = None
        if self.uncertainty is not None:
            unseen_s = seconds_to_sight(prepared.missing, prepared.rate)
            std = self.uncertainty.widened(concatenated(list(zip(begins, spreads, strict=True)), frames), unseen_s)
        absolute: Array = whole + prepared.root
        notes = [*prepared.notes, *self._resampling_note(prepared.rate), *guessed_note(guessed, ~posed)]
        return RefinementReport(absolute, guessed, ~posed, without_repetition(notes), std)

    def _finish_part(self, part: _Part, refined: Array, rate: float) -> tuple[Array, Array]:
        """A stretch of F frames: the poses ``(F, 17, 3)`` with the root at 0, and their spread ``(F, 17)``."""
        spread = np.zeros(refined.shape[:2], np.float32)
        if self.uncertainty is not None:
            speed = np.linalg.norm(np.diff(refined, axis=0, prepend=refined[:1]), axis=-1)
            spread = self.uncertainty.std(np.linalg.norm(refined - part.body, axis=-1), speed)
        refined = resample_back(refined, self.fps, rate, part.frames)
        refined[:, 0] = 0.0
        if self.smoothing:
            refined = savitzky_golay(refined, rate).astype(np.float32)
        nearest = np.rint(np.arange(part.frames) * (self.fps / rate)).astype(np.intp)
        return refined, spread[np.minimum(nearest, len(spread) - 1)]

    def compare_input(
        self,
        pose_2d: ArrayLike,
        pose_3d: ArrayLike,
        image_size: ImageSize | None,
        fps: float | None = None,
        joints: str = "h36m17",
        *,
        joints_3d: str | None = None,
        confidence: ArrayLike | None = None,
        least_confidence: float = 0.0,
        focal_length: FocalLength | None = None,
        camera: Camera | None = None,
    ) -> Familiarity | None:
        """Compare poses with the poses that the refiner was trained on; this needs no ground truth.

        The arguments and the errors are those of `refine`. The warnings of `refine` are not repeated. For a model that
        sees rays, only the frames in which every joint was seen are compared, and the shaking of the poses is not.

        Returns:
            The comparison. None where the model does not describe its training inputs (an exported graph), and where
            no frame shows every joint.
        """
        inputs = self._engine.inputs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            given = _Given(pose_2d, pose_3d, image_size, fps, joints, joints_3d, confidence, least_confidence)
            prepared = self._prepare(given, focal_length, camera)
        keypoints, body = (
            np.concatenate([getattr(part, name) for part in prepared.parts]) for name in ("keypoints", "body")
        )
        image = prepared.image
        if inputs is None:
            return None
        if not self.sees_rays:
            return inputs.compare(normalise_screen(keypoints, image), body)
        complete = (keypoints[..., 2] > 0).all(axis=-1)
        if not complete.any():
            return None
        lens = np.asarray(image, np.float32)[None]
        seen, rotation = seen_by_network(np.asarray(keypoints, np.float32)[None], lens, rays=True)
        poses = turned(np.asarray(body, np.float32)[None], rotation)
        return inputs.compare(seen[0, ..., :2][complete], poses[0][complete], shaking=False)

    def _prepare(self, given: _Given, focal_length: FocalLength | None, camera: Camera | None) -> PreparedSequence:
        """Check the arguments of `refine` and bring them to the model's joints and frame rate."""
        rate = check_fps(given.fps, self.fps)
        joints, joints_3d = joint_set(given.joints), joint_set(given.joints_3d or given.joints)
        seen = self._model_input(
            given.pose_2d, given.image_size, joints.name, given.confidence, focal_length, camera, given.least_confidence
        )
        absent, filled = fill_absent(given.pose_3d)
        checked_3d = check_pose_3d(filled, joints_3d)
        check_lengths(seen.keypoints, checked_3d)
        metres = to_h36m17(checked_3d, joints_3d)
        root = metres[:, :1]
        body = metres - root
        notes = list(seen.notes)
        if self.sees_rays:
            # Models of image coordinates never exchanged swapped sides; their results must not change.
            for swapped, pairs in find_swapped_sides(body.astype(np.float64), np.zeros(body.shape[:2], dtype=bool)):
                body = exchange_sides(body, swapped, pairs)
                notes.append(swapped_sides(swapped, "pose_3d").warn(stacklevel=3))
        lens = seen.image if self.sees_rays else np.append(seen.image, default_focal_length(seen.image.tolist()))
        unseen = seen.missing | absent[:, None]
        raw = as_array(given.pose_2d, "pose_2d", "an array") if joints.name in ORDERS else None
        pixels, compared = seen.keypoints[..., :2], checked_3d if joints_3d.name in ORDERS else body
        found = disagreement(pixels, unseen, compared, lens, joints, joints_3d, raw)
        if found is not None:
            notes.append(Note(found.kind, refuse_wrong_order(found).message).warn(stacklevel=3))
        parts = []
        for begin, end in self._parts(shows_person(~unseen), rate):
            keypoints = self._resampled(seen.keypoints[begin:end], rate)
            parts.append(_Part(begin, end - begin, keypoints, resample_poses(body[begin:end], rate, self.fps)))
        return PreparedSequence(tuple(parts), root, seen.image, rate, unseen, tuple(notes))
