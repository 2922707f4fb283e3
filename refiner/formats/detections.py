"""2D poses of the people in every frame of a video, as a detector wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.inputs import marked_missing
from refiner.errors import ArchiveError, UnitError, UsageError
from refiner.json_text import other_than_number
from refiner.skeleton import JointSet

Array = NDArray[np.float64]

# No image is larger; what lies further away was not detected.
FARTHEST_PIXEL = 1e6
# Frame rates are rounded: 29.97 is 30.
SAME_RATE = 0.01
# Joints may lie outside of the image, but only this share of them by more than this share of its size.
MOST_OUTSIDE, MARGIN = 0.5, 0.1
# More missing frames than this are more likely a second video.
LONGEST_GAP = 100_000


@dataclass(frozen=True, eq=False)
class Person:
    """One person in one frame.

    Attributes:
        keypoints: ``(J, 2)`` pixels, NaN where the detector found no joint.
        confidence: ``(J,)`` from 0 (missing) to 1.
        track: the number that the detector or its tracker gave to the person; None where it gave none.
    """

    keypoints: Array
    confidence: Array
    track: int | None = None


@dataclass(frozen=True, eq=False)
class Detections:
    """The people in every frame.

    Attributes:
        frames: for each frame of the video in order, its people; empty where the detector saw nobody.
        joints: the joint set of the keypoints.
        image_size: (width, height) in pixels, None where the file does not say.
        fps: frames/s, None where the file does not say.
        shares: the keypoints are shares of the image from 0 to 1, not pixels; `in_pixels` makes pixels of them.
        source: the program whose layout the file has.
        first_frame: the number of the first frame in the video, where the file numbers its frames.
    """

    frames: tuple[tuple[Person, ...], ...]
    joints: JointSet
    source: str
    image_size: tuple[float, float] | None = None
    fps: float | None = None
    shares: bool = False
    first_frame: int = 0

    def in_pixels(self, image_size: tuple[float, float] | None = None) -> Detections:
        """The same with keypoints in pixels.

        Args:
            image_size: (width, height) in pixels; None takes the size that the file states.

        Raises:
            UnitError: the keypoints are shares of the image and nobody states its size, or the file states another one.
                Also where most of the keypoints lie outside of an image of this size.
        """
        size = self.image_size if image_size is None else image_size
        if self.image_size is not None and image_size is not None and tuple(image_size) != tuple(self.image_size):
            raise UnitError(
                f"the file says that its images have {_size_text(self.image_size)} pixels, not {_size_text(image_size)}"
            )
        if not self.shares:
            _check_inside(self, size)
            return replace(self, image_size=size)
        _check_inside(self, (1.0, 1.0))
        if size is None:
            raise UnitError(f"{self.source} writes shares of the image: give the image's size in pixels")
        frames = tuple(
            tuple(replace(person, keypoints=person.keypoints * np.asarray(size)) for person in people)
            for people in self.frames
        )
        return replace(self, frames=frames, image_size=size, shares=False)

    def rate(self, fps: float | None = None) -> float | None:
        """The frame rate, frames/s: the one that the user or the file states; None where neither does.

        Raises:
            UsageError: the user states another one than the file.
        """
        if fps is None or self.fps is None:
            return self.fps if fps is None else fps
        if abs(fps / self.fps - 1.0) > SAME_RATE:
            raise UsageError(f"the file says that it has {self.fps:g} frames a second, not {fps:g}")
        return fps

    def above(self, least_confidence: float) -> Detections:
        """The same without the joints whose confidence is not above ``least_confidence``."""
        if least_confidence <= 0.0:
            return self
        frames = tuple(tuple(_above(person, least_confidence) for person in people) for people in self.frames)
        return replace(self, frames=frames)


def _check_inside(detections: Detections, size: tuple[float, float] | None) -> None:
    """Raises UnitError where most of the keypoints lie outside of the image."""
    people = [person.keypoints[person.confidence > 0] for frame in detections.frames for person in frame]
    if size is None or not sum(map(len, people)):
        return
    points = np.concatenate(people) / np.asarray(size)
    outside = float(((points < -MARGIN) | (points > 1.0 + MARGIN)).any(axis=-1).mean())
    if outside > MOST_OUTSIDE:
        largest = " x ".join(f"{value:g}" for value in np.concatenate(people).max(axis=0))
        image = "shares of the image from 0 to 1" if detections.shares else f"pixels of an image of {_size_text(size)}"
        raise UnitError(
            f"{100 * outside:.0f} % of the keypoints lie outside of the image, up to {largest}; expected {image}: is "
            "its size right?"
        )


def _above(person: Person, least_confidence: float) -> Person:
    lost = ~(person.confidence > least_confidence)
    keypoints = np.where(lost[:, None], np.nan, person.keypoints)
    return replace(person, keypoints=keypoints, confidence=np.where(lost, 0.0, person.confidence))


def _size_text(size: tuple[float, float]) -> str:
    return f"{size[0]:g} x {size[1]:g}"


def person_of(
    keypoints: ArrayLike,
    scores: ArrayLike,
    joints: JointSet,
    where: str,
    track: int | None = None,
) -> Person:
    """A person from lists of numbers.

    Args:
        keypoints: ``J`` pairs x, y. A pair of exact zeros, or of minus ones, is a joint that was not found.
        scores: ``J`` confidences; above 1 they are cut to 1.
        joints: the joint set.
        where: the place in the file, for messages.
        track: the person's number.

    Raises:
        ArchiveError: the numbers do not fit the joint set.
    """
    points, confidence = _numbers(keypoints, (joints.joints, 2), where), _numbers(scores, (joints.joints,), where)
    with np.errstate(invalid="ignore"):
        points[~(np.abs(points) <= FARTHEST_PIXEL)] = np.nan
    lost = ~np.isfinite(points).all(axis=-1) | marked_missing(points)
    lost |= ~(confidence > 0)
    points[lost] = np.nan
    return Person(points, np.where(lost, 0.0, np.minimum(confidence, 1.0)), track)


def joints_of(count: int, sets: Mapping[int, JointSet], before: JointSet | None, names: str, where: str) -> JointSet:
    """The joint set of a person with ``count`` joints.

    Args:
        count: how many joints the file has.
        sets: the joint sets that the layout can have, by their number of joints.
        before: the joint set of the people before; None for the first.
        names: the sets in words, for messages.
        where: the place in the file, for messages.

    Raises:
        ArchiveError: there is no such set, or it is not that of the people before.
    """
    joints = sets.get(count)
    if joints is None or before not in (None, joints):
        expected = names if before is None else f"{before.joints}, as before"
        raise ArchiveError(f"{where}: {count} joints, expected {expected}")
    return joints


# Keypoints of the whole body: those of the body come first (COCO-WholeBody: 17, Halpe: 26).
WHOLE_BODIES = {133: 17, 136: 26}


def body_part(points: Sequence[Any], scores: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """The keypoints of the body, without those of the face and the hands, where a file has the whole body's."""
    count = WHOLE_BODIES.get(len(points), len(points))
    return points[:count], scores[:count] if len(scores) == len(points) else scores


def check_span(first: int, last: int, frames: int, where: str) -> None:
    """Raises ArchiveError where the numbers of a file's frames lie too far apart for one video."""
    if last - first - frames > LONGEST_GAP:
        raise ArchiveError(f"{where} has {frames} frames with numbers from {first} to {last}")


def _numbers(values: object, shape: tuple[int, ...], where: str) -> Array:
    if isinstance(values, np.ndarray):
        wrong = None if values.dtype.kind in "fiu" else values.dtype.name
    else:
        wrong = other_than_number(values)
    if wrong is not None:
        raise ArchiveError(f"{where}: expected numbers, got {str(wrong)[:40]!r}")
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArchiveError(f"{where}: expected numbers, {error}") from error
    if array.shape != shape:
        raise ArchiveError(f"{where}: numbers of shape {array.shape}, expected {shape}")
    return array
