"""`StreamingRefiner`: it refines the frames of a live stream as they come."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, Unpack

from numpy.typing import ArrayLike

from refiner import bundled
from refiner.arguments import check_choice, check_flag, check_number, check_whole, shown
from refiner.camera import Camera
from refiner.data.gaps import LONGEST_GAP_S
from refiner.diffusion.uncertainty import JointUncertainty
from refiner.engines import MOST_STREAMS, EngineOptions
from refiner.errors import InputError, InputWarning, UsageError
from refiner.lens import Lens, check_lens
from refiner.reasons import Reason
from refiner.runtime.loading import open_causal_engine, open_engine
from refiner.runtime.streaming.admission import Admission, Claim, admit
from refiner.runtime.streaming.backend import FrameInput, StreamBackend
from refiner.runtime.streaming.causal_backend import CausalBackend
from refiner.runtime.streaming.evidence import AgreementWatch
from refiner.runtime.streaming.frames import RefinedFrame, StreamCounters
from refiner.runtime.streaming.intake import Observation, observe
from refiner.runtime.streaming.smoothing import Smoothing
from refiner.runtime.streaming.track import Track
from refiner.runtime.streaming.window_backend import WindowBackend
from refiner.runtime.window_model import FocalLength, ImageSize
from refiner.skeleton import joint_set

Mode = Literal["causal", "window"]
MODES = ("causal", "window")
SHORTEST_TIME_S = 1e-6
# Ten frames of a slow camera: enough for an order of pushes in which somebody comes a little later.
FORGET_S = 0.2
# Numbers of people fit into 64 bits, also after others got new numbers.
HIGHEST_NUMBER = 2**62
# Differences of time-stamps up to this are finite.
LATEST_S = 1e300
# Jumps in a row after which the unit of the time-stamps is in doubt.
MOST_JUMPS = 5


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of one person for `StreamingRefiner.push_many`. `StreamingRefiner.push` explains the fields."""

    pose_2d: ArrayLike
    pose_3d: ArrayLike | None
    timestamp: float
    image_size: ImageSize | None = None
    person_id: int = 0
    confidence: ArrayLike | None = None
    focal_length: FocalLength | None = None


class StreamOptions(TypedDict, total=False):
    """The arguments of `StreamingRefiner` besides its backend."""

    image_size: ImageSize | None
    joints: str
    joints_3d: str | None
    least_confidence: float
    longest_gap_s: float
    forget_s: float
    pool_shape: bool
    smoothing: Smoothing | bool
    focal_length: FocalLength | None
    camera: Camera | None


class StreamingRefiner:
    """Refines the frames of a live stream as they come. Make one with `load`.

    Only one thread at a time may use a `StreamingRefiner`; `StreamWorker` takes frames from other threads.

    Args:
        backend: refines the frames at the model's frame rate.
        image_size: (width, height) in pixels, for frames that do not bring their own.
        joints: the joint set of the 2D, and of the 3D unless ``joints_3d`` names another one.
        joints_3d: the joint set of the 3D.
        least_confidence: a joint whose confidence is not above this counts as missing.
        longest_gap_s: a person who is away longer than this, or whose time-stamps jump further, begins anew. Shorter
            gaps are interpolated.
        forget_s: a person who was not seen for this long, by the time-stamps of the others, gives way to a new person
            where the stream is full.
        pool_shape: give a person the same bones in every frame, learnt from the frames so far.
        smoothing: run a One-Euro filter after the refiner (`refiner.runtime.streaming.smoothing.OneEuro`). It makes the
            motion look calmer and is not meant for measurements. True takes the defaults of `Smoothing`.
        focal_length: pixels, one number or (horizontal, vertical), for frames that do not bring their own. By default
            `refiner.camera.default_focal_length`, with a `DefaultLensWarning` where a model sees rays.
        camera: a calibrated camera (`refiner.camera.Camera`) instead of image size and focal length.

    Raises:
        InputError: the lens cannot be right.
        UsageError: the joint set is unknown, or the options do not go together.
    """

    def __init__(
        self,
        backend: StreamBackend,
        image_size: ImageSize | None = None,
        joints: str = "h36m17",
        least_confidence: float = 0.0,
        longest_gap_s: float = LONGEST_GAP_S,
        forget_s: float = FORGET_S,
        pool_shape: bool = False,
        smoothing: Smoothing | bool = False,
        focal_length: FocalLength | None = None,
        camera: Camera | None = None,
        joints_3d: str | None = None,
    ) -> None:
        longest_gap_s = check_number(longest_gap_s, "longest_gap_s", SHORTEST_TIME_S, unit="seconds")
        forget_s = check_number(forget_s, "forget_s", SHORTEST_TIME_S, unit="seconds")
        least_confidence = check_number(least_confidence, "least_confidence", 0.0, 1.0)
        if not isinstance(smoothing, Smoothing):
            smoothing = check_flag(smoothing, "smoothing")
        self._backend = backend
        self._focal_length, self._camera = focal_length, camera
        # Models of image coordinates use no focal length, so there is no warning about its default.
        self._quiet = not backend.rays
        lens_known = image_size is not None or camera is not None
        self._lens = check_lens(image_size, focal_length, camera, self._quiet) if lens_known else None
        self._joints = joint_set(joints)
        self._joints_3d = joint_set(joints if joints_3d is None else joints_3d)
        if joints_3d is not None and backend.lifts:
            raise UsageError("joints_3d is for frames that come with 3D; this stream has a lifter")
        # What was warned of already.
        self._told: set[str] = set()
        self._least_confidence, self._gap_s, self._forget_s = least_confidence, longest_gap_s, forget_s
        self._pool_shape = check_flag(pool_shape, "pool_shape")
        self._smoothing = (Smoothing() if smoothing else None) if isinstance(smoothing, bool) else smoothing
        self._uncertainty = JointUncertainty.from_config(None) if backend.uncertainty is None else backend.uncertainty
        self._tracks: dict[int, Track] = {}
        self._free = list(range(backend.slots))[::-1]
        # The last frames of forgotten people; the next call returns them.
        self._forgotten_frames: list[RefinedFrame] = []
        self.counters = StreamCounters()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        mode: Mode = "causal",
        *,
        engine: str | None = None,
        steps: int | None = None,
        threads: int | None = 1,
        device: str | None = None,
        hop: int = 1,
        look_ahead: int = 0,
        people: int | None = None,
        pipelined: bool | None = None,
        lifter: str | os.PathLike[str] | bool | None = None,
        precision: str | None = None,
        **options: Unpack[StreamOptions],
    ) -> StreamingRefiner:
        """Load a checkpoint or an artefact that refiner-export wrote.

        Args:
            path: the file; a bare name is a bundled checkpoint; None is the bundled refiner of the mode.
            mode: "causal" runs a causal refiner: every frame costs one step of the model and comes out without delay.
                "window" runs any other refiner: the last window is refined every ``hop`` frames.
            engine: see `refiner.Refiner.load`.
            steps: see `refiner.Refiner.load`.
            threads: the engine's threads, also the lifter's. One thread is the default: a frame is little work, and
                several threads wait long for each other where other programs use the processor. None is the
                engine's own default.
            device: see `refiner.Refiner.load`; also for the lifter.
            hop: only for mode "window": frames from the start of one window to the start of the next.
            look_ahead: only for mode "window": how many later frames a frame waits for.
            people: the largest number of people in the stream at a time, by default 1. An artefact fixes it.
            pipelined: only for mode "causal": neighbouring frames share one pass over the weights, for K - 1 frames of
                delay. By default False. An artefact fixes it.
            lifter: a checkpoint or an artefact that lifts the frames, which then come without 3D; True is the bundled
                one.
            precision: see `refiner.Refiner.load`; the lifter stays in its own.
            options: the other arguments of `StreamingRefiner`.

        Raises:
            CheckpointError, ArtefactError: a file cannot be used.
            UsageError: the options do not go together.
            MissingComponentError: a package or the device is missing.
        """
        check_choice(mode, "mode", MODES)
        if people is not None:
            people = check_whole(people, "people", 1, MOST_STREAMS)
        opened_lifter = None
        if lifter is not None and lifter is not False:
            chosen = bundled.default_checkpoint("live-lifter") if lifter is True else lifter
            opened_lifter = open_engine(chosen, "lifter", EngineOptions(threads=threads, device=device))
        if mode == "window":
            if pipelined:
                raise UsageError("pipelined is for causal refiners; a window runs all its steps at once")
            model = bundled.default_checkpoint("window-refiner") if path is None else path
            opened = open_engine(model, "refiner", EngineOptions(engine, steps, threads, device, precision=precision))
            return cls(WindowBackend(opened, hop, look_ahead, people or 1, opened_lifter), **options)
        if hop != 1 or look_ahead != 0:
            raise UsageError("hop and look_ahead are for mode='window'; a causal refiner has neither")
        causal_options = EngineOptions(
            engine, steps, threads, device, streams=people, pipelined=pipelined, precision=precision
        )
        causal = open_causal_engine(path, causal_options)
        return cls(CausalBackend(causal, opened_lifter), **options)

    @property
    def fps(self) -> float:
        """The model's frame rate. Streams of other rates are resampled to it."""
        return self._backend.fps

    @property
    def frames(self) -> int:
        """T, the number of frames that the model remembers."""
        return self._backend.frames

    @property
    def delay_frames(self) -> int:
        """The largest delay between an input and its output, in frames at the model's rate."""
        return self._backend.delay

    @property
    def delay_ms(self) -> float:
        """`delay_frames` in milliseconds, without the time of the computation."""
        return 1000.0 * self._backend.delay / self._backend.fps

    @property
    def people(self) -> tuple[int, ...]:
        """The numbers of the people in the stream."""
        return tuple(self._tracks)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The checkpoint's configuration or the artefact's manifest, and ``engine``, as JSON for records."""
        return self._backend.metadata

    def push(
        self,
        pose_2d: ArrayLike,
        pose_3d: ArrayLike | None,
        timestamp: float,
        image_size: ImageSize | None = None,
        person_id: int = 0,
        confidence: ArrayLike | None = None,
        focal_length: FocalLength | None = None,
    ) -> list[RefinedFrame]:
        """Take one frame of one person, and return the frames that are ready, oldest first.

        With regular time-stamps at the model's frame rate, each frame is one step of the model. Other streams are
        resampled to that rate. The correction of the refiner is then resampled back and added to the poses of the
        input; it lags one frame behind. A frame that repeats a time-stamp, or comes late, gives no result and is
        counted.

        Args:
            pose_2d: ``(J, 2)`` pixels; NaN where a joint is missing.
            pose_3d: ``(J, 3)`` metres in camera axes, the root anywhere; None where a lifter was loaded.
            timestamp: seconds, by any clock that runs forward; 10 to 120 frames a second.
            image_size: (width, height) in pixels, where `load` did not set it.
            person_id: the number of the person. Where a number is new, or its body is suddenly somewhere else, the
                place of the body decides who it is: a person whose number changes goes on under the new one.
            confidence: ``(J,)``, 0 to 1; 0 where a joint is missing.
            focal_length: pixels, where it is known and `load` did not set it.

        Raises:
            InputError: an array has a wrong shape, type, unit or joint order. The stream then goes on as if the frame
                had not come.
            UsageError: there are more people than the stream holds, or an argument is missing or not allowed.
        """
        return self.push_many([Frame(pose_2d, pose_3d, timestamp, image_size, person_id, confidence, focal_length)])

    def push_many(self, frames: Sequence[Frame]) -> list[RefinedFrame]:
        """Take frames of several people at one moment, at most one each, and refine them together where possible.

        The result and the errors are those of `push`.
        """
        frames = [_with_number(frame) for frame in frames]
        checked = [self._checked(frame) for frame in frames]
        if len({frame.person_id for frame in frames}) < len(frames):
            raise InputError("two frames of one person in one call; push one after the other")
        claims = [
            Claim(frame.person_id, seen.pixels, timestamp)
            for frame, (seen, _, timestamp) in zip(frames, checked, strict=True)
        ]
        # The last refusal of a call: from here on the stream changes.
        admissions = admit(claims, self._tracks, len(self._free), self._gap_s, self._forget_s)
        people = self._settle(claims, admissions)
        ready: list[RefinedFrame] = []
        model_frames: list[list[FrameInput]] = []
        for track, (seen, lens, timestamp) in zip(people, checked, strict=True):
            self.counters.frames += 1
            verdict = track.verdict(timestamp)
            if verdict in ("repeated", "late"):
                continue
            if verdict == "restart":
                self._warn_of_jumps(track, timestamp)
                ready += self._end(track)
                track.restart()
            else:
                track.jumps = 0
            complete = track.complete(seen)
            if complete is None:
                ready.append(track.invalid(timestamp))
                continue
            assumed: tuple[Reason, ...] = ("lens assumed",) if lens.source == "default" and self._backend.rays else ()
            model_frames.append(track.arrive(timestamp, complete, lens.row(), seen, assumed))
            ready += track.due()
            self._warn_of_disagreement(track)
        ready, self._forgotten_frames = self._forgotten_frames + ready, []
        return ready + self._run(model_frames)

    def flush(self, person_id: int | None = None) -> list[RefinedFrame]:
        """End the stream of one person, or of all people, and return the frames that still waited.

        A person who comes again begins anew.

        Raises:
            UsageError: the person is not in the stream.
        """
        if person_id is not None and person_id not in self._tracks:
            raise UsageError(f"person {person_id} is not in this stream; {sorted(self._tracks)} are")
        chosen = list(self._tracks.values()) if person_id is None else [self._tracks[person_id]]
        ready: list[RefinedFrame] = []
        for track in chosen:
            ready += self._end(track)
            self._leave(track)
        return ready

    def _checked(self, frame: Frame) -> tuple[Observation, Lens, float]:
        """Check a frame. Returns its poses, its lens and its time-stamp."""
        timestamp = _timestamp(frame.timestamp)
        lens = self._lens
        if frame.image_size is not None or frame.focal_length is not None:
            lens = self._own_lens(frame)
        if lens is None:
            raise UsageError("the image's size is not known: give image_size=(width, height) at load or with the frame")
        if frame.pose_3d is None and not self._lifts:
            raise UsageError(
                "a frame came without pose_3d, and no lifter was loaded: StreamingRefiner.load(lifter=True)"
            )
        if frame.pose_3d is not None and self._lifts:
            raise UsageError("a frame came with pose_3d to a stream with a lifter; leave one of the two out")
        seen = observe(
            frame.pose_2d,
            frame.pose_3d,
            frame.confidence,
            lens,
            self._joints,
            self._least_confidence,
            self._joints_3d,
        )
        return seen, lens, timestamp

    def _own_lens(self, frame: Frame) -> Lens:
        """The lens of a frame that brings its own image size or focal length."""
        size = frame.image_size if self._lens is None or frame.image_size is not None else self._lens.image_size
        if frame.focal_length is not None and self._camera is None:
            return check_lens(size, frame.focal_length)
        return check_lens(size, self._focal_length if self._camera is None else None, self._camera, self._quiet)

    @property
    def _lifts(self) -> bool:
        return self._backend.lifts

    def _run(self, model_frames: list[list[FrameInput]]) -> list[RefinedFrame]:
        """Refine the new model frames of several people; each list holds those of one person, in order."""
        by_slot = {track.slot: track for track in self._tracks.values()}
        ready: list[RefinedFrame] = []
        for turn in range(max(map(len, model_frames), default=0)):
            inputs = [entries[turn] for entries in model_frames if turn < len(entries)]
            self.counters.steps += len(inputs)
            for output in self._backend.feed(inputs):
                ready += by_slot[output.slot].take(output)
        return ready

    def _end(self, track: Track) -> list[RefinedFrame]:
        """Refine the model frames that a person still waits for, and free the memory of the model."""
        ready = [frame for output in self._backend.finish(track.slot) for frame in track.take(output)]
        self._backend.reset(track.slot)
        return ready

    def _warn_of_jumps(self, track: Track, timestamp: float) -> None:
        """Warn once where every frame of a person begins anew: the time-stamps are hardly seconds."""
        track.jumps += 1
        if track.jumps == MOST_JUMPS:
            step = abs(timestamp - track.last_seen)
            unit = "milliseconds or the numbers of frames" if step < 5000 else "microseconds"
            warnings.warn(
                f"the last {MOST_JUMPS} time-stamps of person {track.person_id} lie {step:g} apart, and each frame "
                f"begins anew; expected seconds: are they {unit}?",
                InputWarning,
                stacklevel=4,
            )

    def _warn_of_disagreement(self, track: Track) -> None:
        """Warn, once for each kind of mistake, where the 3D of a person cannot be that of the 2D."""
        found = None if track.watch is None else track.watch.found
        if found is not None and found.kind not in self._told:
            self._told.add(found.kind)
            warnings.warn(f"person {track.person_id}: {found.message}", InputWarning, stacklevel=4)

    def _settle(self, claims: Sequence[Claim], admissions: Sequence[Admission]) -> list[Track]:
        """The track of each frame: numbers are moved, people who give way leave, new people begin."""
        for admission in admissions:
            if admission.leaves is not None:
                self._forgotten_frames += self._end(admission.leaves)
                self._leave(admission.leaves)
                self.counters.forgotten += 1
        self._renumber(claims, admissions)
        people = []
        for claim, admission in zip(claims, admissions, strict=True):
            people.append(admission.track if admission.track is not None else self._begin(claim))
        return people

    def _renumber(self, claims: Sequence[Claim], admissions: Sequence[Admission]) -> None:
        """Give the people of this call the numbers of their frames, all at once.

        Somebody else who has one of these numbers takes a number that became free, or a new one.
        """
        pairs = zip(claims, admissions, strict=True)
        wanted = {admission.track.slot: claim.person_id for claim, admission in pairs if admission.track is not None}
        claimed = {claim.person_id for claim in claims}
        tracks = list(self._tracks.values())
        spare = [track.person_id for track in tracks if track.slot in wanted and track.person_id not in claimed]
        highest = max([*claimed, *self._tracks])
        for track in tracks:
            number = track.person_id
            if track.slot in wanted:
                number = wanted[track.slot]
                self.counters.renumbered += number != track.person_id
                track.renumbered |= number != track.person_id
            elif number in claimed:
                if not spare:
                    highest += 1
                    spare.append(highest)
                number = spare.pop(0)
            track.person_id = number
        self._tracks = {track.person_id: track for track in tracks}

    def _begin(self, claim: Claim) -> Track:
        """A new person."""
        track = Track(
            claim.person_id,
            self._free.pop(),
            self._backend.fps,
            self._backend.frames,
            self._gap_s,
            self._uncertainty,
            self.counters,
            self._pool_shape,
            self._smoothing,
            None if self._lifts else AgreementWatch(self._joints, self._joints_3d),
            () if self._backend.uncertainty is not None else ("spread assumed",),
        )
        track.last_seen = claim.timestamp
        self._tracks[claim.person_id] = track
        return track

    def _leave(self, track: Track) -> None:
        del self._tracks[track.person_id]
        self._free.append(track.slot)


def _with_number(frame: Frame) -> Frame:
    """The frame with its person's number as a plain integer. Raises UsageError for any other number."""
    if type(frame.person_id) is int and abs(frame.person_id) <= HIGHEST_NUMBER:
        return frame
    return replace(frame, person_id=check_whole(frame.person_id, "person_id", -HIGHEST_NUMBER, HIGHEST_NUMBER))


def _timestamp(value: Any) -> float:
    try:
        return check_number(value, "timestamp", -LATEST_S, LATEST_S)
    except UsageError as error:
        raise InputError(f"timestamp is {shown(value)}; expected seconds, a finite number") from error
