"""One person of a stream: time-stamps to beats, beats' refinements back to the frames as they came."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.uncertainty import JointUncertainty
from refiner.runtime.streaming.backend import BeatInput, BeatOutput
from refiner.runtime.streaming.beats import BeatClock, Verdict
from refiner.runtime.streaming.frames import FrameStatus, RefinedFrame, StreamCounters
from refiner.runtime.streaming.intake import CompleteFrame, Infilling, Observation
from refiner.runtime.streaming.shape import RunningShape
from refiner.runtime.streaming.smoothing import OneEuro, Smoothing

Array = NDArray[np.float32]

# The spread of a pose that nothing is known of, metres.
UNKNOWN_STD_M = 1.0


@dataclass(eq=False)
class _Waiting:
    """A frame whose beat is not refined yet."""

    timestamp: float
    frame: CompleteFrame
    beat: int
    after: float
    status: FrameStatus


@dataclass(eq=False)
class _Correction:
    """What the refiner did at a beat."""

    index: int
    given: Array
    refined: Array
    std: Array

    def added_to(self, body: Array) -> Array:
        return body + (self.refined - self.given)


class Track:
    """A person's place in a stream.

    Args:
        person_id: whose. slot: the backend's place. fps, memory: the model's rate and window.
        longest_gap_s: see `BeatClock`. uncertainty: see there. counters: the stream's. pool_shape: see `RunningShape`.
        smoothing: of `OneEuro`; None: none.
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
    ) -> None:
        self.person_id, self.slot = person_id, slot
        self.last_seen = -np.inf
        self._memory, self._uncertainty, self._counters = memory, uncertainty, counters
        self._clock = BeatClock(fps, longest_gap_s)
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
        # The model's own pose of the latest beat, before it is smoothed and gets a shape.
        self._own: Array | None = None
        if self._smoother is not None:
            self._smoother.reset()
        # Beats since which every joint was seen, and none was interpolated.
        self._guessed_until = -1

    def verdict(self, timestamp: float) -> Verdict:
        """What a frame of this time is; "repeated" and "late" ones are counted and not to be used."""
        verdict = self._clock.verdict(timestamp)
        if verdict == "repeated":
            self._counters.repeated += 1
        elif verdict == "late":
            self._counters.late += 1
        return verdict

    def restart(self) -> None:
        """Begin anew after a gap: nothing of before is used but the bones' lengths and the last pose."""
        self._counters.restarts += 1
        self._restart()

    def complete(self, seen: Observation) -> CompleteFrame | None:
        """The frame with its missing joints guessed; None where it shows too little."""
        return self._infilling.complete(seen)

    def invalid(self, timestamp: float) -> RefinedFrame:
        """The answer to a frame that shows too little: the last pose."""
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
        )

    def arrive(self, timestamp: float, frame: CompleteFrame, lens: Array) -> list[BeatInput]:
        """The beats that a frame completes, interpolated from the previous frame where it lies beyond them."""
        arrival = self._clock.arrive(timestamp)
        self.last_seen = timestamp
        before = self._previous
        inputs = []
        for beat in arrival.beats:
            whole = before is None or beat.share >= 1.0
            keypoints = frame.keypoints
            if not whole and before is not None:
                keypoints = _between(before.keypoints, frame.keypoints, beat.share)
                # A joint that was guessed in one of the two is guessed between them.
                keypoints[:, 2] *= (before.keypoints[:, 2] > 0) & (frame.keypoints[:, 2] > 0)
            body = frame.body
            if body is not None and not whole and before is not None and before.body is not None:
                body = _between(before.body, body, beat.share)
            inputs.append(
                BeatInput(
                    self.slot,
                    keypoints.astype(np.float32),
                    None if body is None else body.astype(np.float32),
                    lens,
                )
            )
        guessed = bool(frame.infilled.any())
        self._counters.missed += arrival.missed
        self._counters.infilled_joints += int(np.count_nonzero(frame.infilled))
        if guessed or arrival.missed:
            self._guessed_until = arrival.beat
        self._previous = frame
        status: FrameStatus = "ok"
        if arrival.beat + 1 < self._memory:
            status = "warm-up"
        elif self._guessed_until >= 0 and arrival.beat - self._guessed_until < self._memory:
            status = "degraded"
        if guessed:
            status = "degraded"
        self._waiting.append(_Waiting(timestamp, frame, arrival.beat, arrival.after, status))
        return inputs

    def take(self, output: BeatOutput) -> list[RefinedFrame]:
        """A refined beat -> the frames that waited for it."""
        refined = output.refined
        speed = np.zeros(17) if self._own is None else np.linalg.norm(refined - self._own, axis=-1)
        std = self._uncertainty.std(np.linalg.norm(refined - output.given, axis=-1), speed)
        self._own = refined
        if self._smoother is not None:
            refined = self._smoother.apply(refined)
        if self._shape is not None:
            refined = self._shape.apply(refined)
        self._earlier, self._latest = self._latest, _Correction(output.index, output.given, refined, std)
        return self.due()

    def due(self) -> list[RefinedFrame]:
        """The frames whose beat is refined."""
        frames = []
        while self._waiting and self._latest is not None and self._waiting[0].beat <= self._latest.index:
            frames.append(self._answer(self._waiting.popleft()))
        return frames

    def _answer(self, waiting: _Waiting) -> RefinedFrame:
        latest, earlier, frame = self._latest, self._earlier, waiting.frame
        assert latest is not None
        if frame.body is None or waiting.after == 0.0:
            given = latest.given if frame.body is None else frame.body.astype(np.float32)
            pose = latest.refined
            if waiting.after > 0.0 and earlier is not None:
                pose = earlier.refined + np.float32(waiting.after) * (latest.refined - earlier.refined)
        else:
            # The pose is the frame's own; only what the refiner adds to it comes a beat late, so that it does not jump
            # where a new beat is refined.
            given = frame.body.astype(np.float32)
            pose = latest.added_to(given)
            if earlier is not None:
                before = earlier.added_to(given)
                pose = before + np.float32(waiting.after) * (pose - before)
        root = frame.root.astype(np.float32)
        placed = (pose + root).astype(np.float32)
        self._last_pose = placed
        return RefinedFrame(
            waiting.timestamp,
            self.person_id,
            placed.copy(),
            latest.std.copy(),
            frame.infilled,
            waiting.status,
            given + root,
        )


def _between(first: NDArray[np.float64], second: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    return first + share * (second - first)
