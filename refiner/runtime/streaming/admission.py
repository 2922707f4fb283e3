"""Which person of a stream a frame belongs to, decided before anything in the stream changes.

Detectors' trackers renumber people and swap their numbers. A frame whose number is new, or whose person is somewhere
else, is compared with the people of the stream by the place of the body in the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refiner.errors import UsageError
from refiner.runtime.streaming.track import Track

# Mean distance of the joints from one frame to the next, divided by the size of the body in the image: below NEAR a
# frame shows the same person, above FAR somebody else.
NEAR, FAR = 0.35, 0.7
# Share of the time between two frames that must have passed since the last frame of a person.
LEAST_AWAY = 0.6
# Joints that two frames must have in common to be compared.
LEAST_COMMON = 4


@dataclass(frozen=True, eq=False)
class Claim:
    """A checked frame that asks for its person: the number, the joints ``(17, 2)`` in pixels, the time in seconds."""

    person_id: int
    pixels: NDArray[np.float64]
    timestamp: float


@dataclass(frozen=True, eq=False)
class Admission:
    """The decision for one frame.

    Attributes:
        track: the person in the stream; None for a new person.
        leaves: the person who gives way to a new one; None where there is a free place.
    """

    track: Track | None
    leaves: Track | None = None


def admit(
    claims: Sequence[Claim], tracks: Mapping[int, Track], free: int, longest_gap_s: float, forget_s: float
) -> list[Admission]:
    """Decide for all frames of one call.

    Args:
        claims: the frames.
        tracks: the people in the stream, by number.
        free: how many more people the stream holds.
        longest_gap_s: how long a person may be away and still be recognised by the place of the body.
        forget_s: a person who was not seen for this long gives way to a new one.

    Raises:
        UsageError: the frames show more people than the stream holds.
    """
    admissions: list[Admission | None] = [None] * len(claims)
    taken: set[int] = set()

    def give(index: int, admission: Admission) -> None:
        admissions[index] = admission
        for track in (admission.track, admission.leaves):
            if track is not None:
                taken.add(track.slot)

    # First those whose number is right.
    for index, claim in enumerate(claims):
        own = tracks.get(claim.person_id)
        if own is not None and not _is_somebody_else(claim, own, tracks, longest_gap_s):
            give(index, Admission(own))
    # Then those who are where somebody of the stream was, the nearest first.
    pairs = sorted(
        (distance, index, track.slot, track)
        for index, claim in enumerate(claims)
        if admissions[index] is None
        for track in tracks.values()
        if (distance := _distance(claim, track, longest_gap_s)) < NEAR
    )
    for _, index, slot, track in pairs:
        if admissions[index] is None and slot not in taken:
            give(index, Admission(track))
    for index, claim in enumerate(claims):
        if admissions[index] is not None:
            continue
        own = tracks.get(claim.person_id)
        if own is not None and own.slot not in taken:
            give(index, Admission(own))
        elif free > 0:
            free -= 1
            give(index, Admission(None))
        else:
            give(index, Admission(None, _absent(claim, tracks, taken, forget_s)))
    return [admission for admission in admissions if admission is not None]


def _is_somebody_else(claim: Claim, own: Track, tracks: Mapping[int, Track], longest_gap_s: float) -> bool:
    """Whether the body is far from where its number was, and near where another number was."""
    if len(tracks) < 2:
        return False
    distance = _distance(claim, own, longest_gap_s)
    if not FAR < distance < np.inf:
        return False
    return any(_distance(claim, track, longest_gap_s) < NEAR for track in tracks.values() if track is not own)


def _distance(claim: Claim, track: Track, longest_gap_s: float) -> float:
    """The distance of a frame from the last frame of a person, in sizes of the body; infinite after a long gap."""
    away = claim.timestamp - track.last_seen
    # Who was seen just now is somebody else, however near: two people may overlap.
    if track.last_pixels is None or not LEAST_AWAY * track.interval <= away <= longest_gap_s:
        return float("inf")
    common = np.isfinite(claim.pixels).all(axis=-1) & np.isfinite(track.last_pixels).all(axis=-1)
    if common.sum() < LEAST_COMMON:
        return float("inf")
    before, now = track.last_pixels[common], claim.pixels[common]
    size = max(float(np.linalg.norm(np.ptp(points, axis=0))) for points in (before, now))
    return float(np.linalg.norm(now - before, axis=-1).mean()) / max(size, 1e-9)


def _absent(claim: Claim, tracks: Mapping[int, Track], taken: set[int], forget_s: float) -> Track:
    """The person who is away longest. Raises UsageError where everybody was seen just now."""
    others = [track for track in tracks.values() if track.slot not in taken]
    if others:
        longest = min(others, key=lambda track: track.last_seen)
        # By the clock of the others in the stream: one wrong time-stamp must not send anybody away.
        clocks = [track.last_seen for track in tracks.values() if track is not longest]
        now = max(clocks) if clocks else claim.timestamp
        if now - longest.last_seen > forget_s:
            return longest
    raise UsageError(
        f"person {claim.person_id} is one more than the {len(tracks)} that this stream holds: load it with people=N, "
        "or flush(person_id) those who left"
    )
