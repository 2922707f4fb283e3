"""One person of a stream: from camera frames to model frames, and from refined model frames back to camera frames.

Camera frames and model frames are explained in `refiner.runtime.streaming.frame_clock`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.uncertainty import JointUncertainty
from refiner.reasons import REASONS, Reason, status_of
from refiner.runtime.streaming.backend import FrameInput, FrameOutput
from refiner.runtime.streaming.evidence import AgreementWatch
from refiner.runtime.streaming.frame_clock import Arrival, FrameClock, Verdict
from refiner.runtime.streaming.frames import RefinedFrame, StreamCounters
from refiner.runtime.streaming.intake import CompleteFrame, Infilling, Observation
from refiner.runtime.streaming.shape import RunningShape
from refiner.runtime.streaming.smoothing import OneEuro, Smoothing

Array = NDArray[np.float32]

# The standard deviation of a pose of which nothing is known, metres.
UNKNOWN_STD_M = 1.0
# A longer time between two frames is a gap, seconds.
MOST_INTERVAL_S = 0.2
# Measured on motion capture: up to this time between two frames the error does not grow (0.1 s costs 5 mm); and for how
# many model frames a longer gap, and guessed joints, still show.
HARMLESS_GAP_S = 0.07
AFTER_GAP, AFTER_GUESSED = 6, 12


@dataclass(eq=False)
class _Waiting:
    """A camera frame that waits until the model frame ``last_index`` is refined.

    ``last_index`` and ``after``: see `refiner.runtime.streaming.frame_clock.Arrival`. ``unseen_s`` ``(17,)``: seconds
    since each joint was seen; 0 for those that are seen, infinite for those that never were.
    """

    timestamp: float
    frame: CompleteFrame
    last_index: int
    after: float
    reasons: tuple[Reason, ...]
    unseen_s: NDArray[np.float64]


@dataclass(eq=False)
class _Correction:
    """A model frame before (``unrefined``) and after refinement, both ``(17, 3)`` metres with the root at 0.

    ``std`` ``(17,)``: the standard deviation of each refined joint, metres.
    """

    index: int
    unrefined: Array
    refined: Array
    std: Array

    def added_to(self, body: Array) -> Array:
        """Change ``body`` as the refiner changed this model frame."""
        return body + (self.refined - self.unrefined)


class Track:
    """One person of a stream.

    Args:
        person_id: the number of the person.
        slot: the person's slot of the backend.
        fps: the model's frame rate.
        memory: the number of model frames that the model remembers.
        longest_gap_s: see `FrameClock`.
        uncertainty: gives the standard deviation of each joint.
        counters: the counters of the stream, which this person's frames increase.
        pool_shape: give the person the same bones in every frame (`RunningShape`).
        smoothing: the settings of a `OneEuro` filter after the refiner; None for no filter.
        watch: compares 2D and 3D where frames come with 3D.
        assumed: the reasons that hold for all frames of the stream.
    """

    def __init__(
        self,
        person_id: int,
        slot: int,
        fps: float,
        memory: int,
        longest_gap_s: float,
        uncertainty: JointUncertainty,
        counters: StreamCounters,
        pool_shape: bool,
        smoothing: Smoothing | None = None,
        watch: AgreementWatch | None = None,
        assumed: tuple[Reason, ...] = (),
    ) -> None:
        self.watch, self._assumed = watch, assumed
        # Whether the person had another number until now.
        self.renumbered = False
        # Whether the next frame is the first after a gap.
        self._again = False
        self.person_id, self.slot = person_id, slot
        self.last_seen = -np.inf
        # The last frame's joints ``(17, 2)`` in pixels of a lens without distortion, NaN where they were not seen.
        # Seconds from one frame to the next, as it was last.
        self.interval = 1.0 / fps
        # Frames in a row whose time-stamps jumped.
        self.jumps = 0
        self.last_pixels: NDArray[np.float64] | None = None
        self._memory, self._uncertainty, self._counters = memory, uncertainty, counters
        self._clock = FrameClock(fps, longest_gap_s)
        self._infilling = Infilling()
        self._shape = RunningShape() if pool_shape else None
        self._smoother = None if smoothing is None else OneEuro(smoothing, fps)
        self._waiting: deque[_Waiting] = deque()
        self._last_pose: Array | None = None
        self._restart()

    def _restart(self) -> None:
        self._clock.reset()
        self._infilling.reset()
        self._previous: CompleteFrame | None = None
        self._earlier: _Correction | None = None
        self._latest: _Correction | None = None
        # The model's own pose at the latest model frame, before smoothing and pooling of the shape.
        self._own: Array | None = None
        if self._smoother is not None:
            self._smoother.reset()
        # The time of the last frame that showed a joint.
        self._seen_at = np.full(17, -np.inf)
        # The model frames until which guessed joints, or a gap, still show.
        self._guessed_until, self._gap_until = -1, -1
        if self.watch is not None:
            self.watch.restart()

    def verdict(self, timestamp: float) -> Verdict:
        """Classify a camera frame by its time-stamp (`FrameClock.verdict`), and count "repeated" and "late" ones."""
        verdict = self._clock.verdict(timestamp)
        if verdict == "repeated":
            self._counters.repeated += 1
        elif verdict == "late":
            self._counters.late += 1
        return verdict

    def restart(self) -> None:
        """Begin anew after a gap. Only the bone lengths and the last pose are kept."""
        self._counters.restarts += 1
        self._restart()
        self._again = True

    def complete(self, seen: Observation) -> CompleteFrame | None:
        """Guess the missing joints of a camera frame; None where too few joints were seen."""
        completed = self._infilling.complete(seen)
        if completed is not None:
            self.last_pixels = seen.pixels
        return completed

    def invalid(self, timestamp: float) -> RefinedFrame:
        """The answer to a camera frame with too few joints: the last pose."""
        self._counters.invalid += 1
        pose = np.zeros((17, 3), np.float32) if self._last_pose is None else self._last_pose.copy()
        return RefinedFrame(
            timestamp,
            self.person_id,
            pose,
            np.full(17, UNKNOWN_STD_M, np.float32),
            np.ones(17, dtype=bool),
            "invalid",
            pose.copy(),
            ("too few joints",),
        )

    def arrive(
        self, timestamp: float, frame: CompleteFrame, lens: Array, seen: Observation, assumed: tuple[Reason, ...] = ()
    ) -> list[FrameInput]:
        """Take a camera frame, and return the model frames that it completes.

        A model frame before the camera frame is interpolated between the previous camera frame and this one.

        Args:
            timestamp: seconds.
            frame: the frame with its missing joints guessed.
            lens: ``(3,)`` width, height and focal length in pixels.
            seen: the frame as it came.
            assumed: reasons that the caller knows.
        """
        passed = timestamp - self.last_seen
        if self.watch is not None and seen.pair is not None:
            self.watch.take(seen.pair, lens.astype(np.float64))
        arrival = self._clock.arrive(timestamp)
        if 0.0 < timestamp - self.last_seen < MOST_INTERVAL_S:
            self.interval = timestamp - self.last_seen
        self.last_seen = timestamp
        before = self._previous
        inputs = []
        for model_frame in arrival.completed:
            coincides = before is None or model_frame.share >= 1.0
            keypoints = frame.keypoints
            if not coincides and before is not None:
                keypoints = _between(before.keypoints, frame.keypoints, model_frame.share)
                # A joint that was guessed in one of the two frames counts as guessed between them.
                keypoints[:, 2] *= (before.keypoints[:, 2] > 0) & (frame.keypoints[:, 2] > 0)
            body = frame.body
            if body is not None and not coincides and before is not None and before.body is not None:
                body = _between(before.body, body, model_frame.share)
            inputs.append(
                FrameInput(
                    self.slot,
                    keypoints.astype(np.float32),
                    None if body is None else body.astype(np.float32),
                    lens,
                )
            )
        self._counters.missed += arrival.missed
        self._counters.infilled_joints += int(np.count_nonzero(frame.infilled))
        self._previous = frame
        self._seen_at[~frame.infilled] = timestamp
        unseen_s = np.where(frame.infilled, timestamp - self._seen_at, 0.0)
        reasons = self._reasons(arrival, frame, seen, passed)
        self._waiting.append(
            _Waiting(timestamp, frame, arrival.last_index, arrival.after, _in_order(reasons | set(assumed)), unseen_s)
        )
        return inputs

    def _reasons(self, arrival: Arrival, frame: CompleteFrame, seen: Observation, passed: float) -> set[Reason]:
        """What is to be said of a camera frame that came ``passed`` seconds after the one before."""
        index = arrival.last_index
        reasons: set[Reason] = set(self._assumed)
        if arrival.after > 0.0 or any(entry.share < 1.0 for entry in arrival.completed):
            reasons.add("resampled")
        if arrival.uneven:
            reasons.add("uneven time-stamps")
        if arrival.missed:
            if passed > HARMLESS_GAP_S:
                reasons.add("gap")
                self._gap_until = index + min(AFTER_GAP, self._memory) - 1
            else:
                reasons.add("missed frame")
        elif index <= self._gap_until:
            reasons.add("after a gap")
        if frame.infilled.any():
            reasons.add("guessed joints")
            self._guessed_until = index + min(AFTER_GUESSED, self._memory) - 1
        elif index <= self._guessed_until:
            reasons.add("after guessed joints")
        if index + 1 < self._memory or (self.watch is not None and not self.watch.sure):
            reasons.add("warm-up")
            if self._again:
                reasons.add("began anew")
        else:
            self._again = False
        if self.watch is not None and self.watch.found is not None:
            reasons.add(self.watch.found.kind)
        if seen.outside:
            reasons.add("outside the image")
        if seen.small:
            reasons.add("small in the image")
        if self.renumbered:
            reasons.add("renumbered")
            self.renumbered = False
        return reasons

    def take(self, output: FrameOutput) -> list[RefinedFrame]:
        """Take a refined model frame, and return the camera frames that waited for it."""
        refined = output.refined
        speed = np.zeros(17) if self._own is None else _lengths(refined - self._own)
        std = self._uncertainty.std(_lengths(refined - output.unrefined), speed)
        self._own = refined
        if self._smoother is not None:
            refined = self._smoother.apply(refined)
        if self._shape is not None:
            refined = self._shape.apply(refined)
        self._earlier, self._latest = self._latest, _Correction(output.index, output.unrefined, refined, std)
        return self.due()

    def due(self) -> list[RefinedFrame]:
        """Remove and return the waiting camera frames whose model frame is refined."""
        frames = []
        while self._waiting and self._latest is not None and self._waiting[0].last_index <= self._latest.index:
            frames.append(self._answer(self._waiting.popleft()))
        return frames

    def _answer(self, waiting: _Waiting) -> RefinedFrame:
        """The refined pose at the time of a camera frame.

        ``after`` interpolates between the last two refined model frames, so the answer lags one model frame behind
        where a camera frame does not coincide with a model frame.
        """
        latest, earlier, frame = self._latest, self._earlier, waiting.frame
        assert latest is not None
        if frame.body is None or waiting.after == 0.0:
            unrefined = latest.unrefined if frame.body is None else frame.body.astype(np.float32)
            pose = latest.refined
            if waiting.after > 0.0 and earlier is not None:
                pose = earlier.refined + np.float32(waiting.after) * (latest.refined - earlier.refined)
        else:
            # The pose is the camera frame's own. Only the refiner's correction lags one model frame behind, so that it
            # does not jump where a new model frame is refined.
            unrefined = frame.body.astype(np.float32)
            pose = latest.added_to(unrefined)
            if earlier is not None:
                before = earlier.added_to(unrefined)
                pose = before + np.float32(waiting.after) * (pose - before)
        root = frame.root.astype(np.float32)
        absolute = (pose + root).astype(np.float32)
        self._last_pose = absolute
        return RefinedFrame(
            waiting.timestamp,
            self.person_id,
            absolute.copy(),
            self._uncertainty.widened(latest.std, waiting.unseen_s),
            frame.infilled,
            status_of(waiting.reasons),
            unrefined + root,
            waiting.reasons,
        )


def _in_order(reasons: set[Reason]) -> tuple[Reason, ...]:
    return tuple(reason for reason in REASONS if reason in reasons)


def _lengths(vectors: Array) -> Array:
    """The lengths ``(17,)`` of vectors ``(17, 3)``; faster than NumPy's norm."""
    return np.asarray(np.sqrt((vectors * vectors).sum(axis=-1)))


def _between(first: NDArray[np.float64], second: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Interpolate: ``share`` 0 gives ``first``, 1 gives ``second``."""
    return first + share * (second - first)
