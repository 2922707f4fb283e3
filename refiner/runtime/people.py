"""All people of a detector's file, lifted and refined, one after the other."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.data.gaps import LEAST_JOINTS, parts_between_gaps
from refiner.errors import InputError, InputWarning, UnitError, UsageError
from refiner.files import atomic_path
from refiner.formats.bvh import write_bvh
from refiner.formats.detections import Detections
from refiner.formats.tracking import Track, follow
from refiner.formats.trc import write_trc
from refiner.runtime.lifter import Lifter
from refiner.runtime.placing import trajectory_arrays, trajectory_of
from refiner.runtime.refiner import Refiner
from refiner.skeleton import JointSet, confidence_to_h36m17, to_h36m17
from refiner.trajectory import Placement, Trajectory

Array = NDArray[np.float32]

# `LEAST_JOINTS` of Human3.6M's limbs and hips must be seen: a face alone is no sight of a person.
LIMBS = [1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16]


@dataclass(frozen=True, eq=False)
class RefinedPerson:
    """One person over the F frames of a file.

    Attributes:
        number: the person's place in the order of `refiner.formats.follow`, the one who is seen longest first.
        pose_2d: ``(F, J, 2)`` pixels in the detector's joints, NaN where a joint is not seen.
        lifted: ``(F, 17, 3)`` metres in camera axes, root at 0; NaN in frames that do not show the person.
        refined: the same, refined; with a trajectory in its place, relative to the camera.
        seen: ``(F,)``: the frames that show the person.
        guessed: ``(F, 17)``: the joints that the detector did not find, in frames that have a pose.
        parts: the stretches ``(begin, end)`` of frames that have poses.
        trajectory: where the person is; None where nobody asked for it. Frames without poses have a root all the same.
    """

    number: int
    pose_2d: NDArray[np.float64] = field(repr=False)
    lifted: Array = field(repr=False)
    refined: Array = field(repr=False)
    seen: NDArray[np.bool_] = field(repr=False)
    guessed: NDArray[np.bool_] = field(repr=False)
    parts: tuple[tuple[int, int], ...] = ()
    trajectory: Trajectory | None = None

    @property
    def in_the_room(self) -> Array:
        """The refined poses ``(F, 17, 3)``: level with the floor where it is known, otherwise in camera axes."""
        if self.trajectory is None or self.trajectory.ground is None:
            return self.refined
        return self.trajectory.level(self.refined)


def refine_people(
    detections: Detections,
    lifter: Lifter,
    refiner: Refiner,
    fps: float | None = None,
    image_size: tuple[float, float] | None = None,
    focal_length: Any = None,
    people: Sequence[int] | None = None,
    placement: Placement | None = None,
    least_confidence: float = 0.0,
) -> Iterator[RefinedPerson]:
    """Tell the people apart, then lift and refine each of them.

    Args:
        detections: of one video.
        lifter: makes 3D poses.
        refiner: refines them.
        fps: frames/s; None takes those of the file, or the model's.
        image_size: (width, height) in pixels; None takes that of the file.
        focal_length: in pixels, as for `Lifter.lift`.
        people: the numbers of those who are wanted; None takes everybody.
        placement: also find where the people are, with what the user knows (`refiner.trajectory`).
        least_confidence: a joint whose confidence is not above this is missing.

    Yields:
        The people, the one who is seen longest first. People who never show 6 joints are left out, with a warning, and
        so are those whose place cannot be found.

    Raises:
        UnitError: nobody states the size of the image, or it is not that of the keypoints.
        UsageError: a number that nobody has, or another frame rate than the file states.
        InputError: as `Lifter.lift`.
    """
    detections = detections.in_pixels(image_size).above(least_confidence)
    size = detections.image_size
    if size is None:
        raise UnitError(f"{detections.source} does not write the size of the image: give it in pixels")
    rate = detections.rate(fps)
    tracks = follow(detections)
    unknown = sorted(set(people or ()) - set(range(len(tracks))))
    if unknown:
        raise UsageError(f"there is no person {unknown[0]}; the file shows {len(tracks)}: 0 to {len(tracks) - 1}")
    for track in tracks:
        if people is not None and track.number not in people:
            continue
        parts = _parts(track, detections.joints, rate if rate is not None else lifter.fps)
        if not parts:
            warnings.warn(f"person {track.number} never shows {LEAST_JOINTS} joints, and is left out", InputWarning, 2)
            continue
        options = {"fps": rate, "image_size": size}
        person = _refined(track, parts, detections.joints, lifter, refiner, options, focal_length)
        if person is not None and placement is not None:
            person = _placed(person, track, detections.joints, rate or lifter.fps, size, focal_length, placement)
        if person is not None:
            yield person


def _placed(
    person: RefinedPerson,
    track: Track,
    joints: JointSet,
    fps: float,
    image_size: tuple[float, float],
    focal_length: Any,
    placement: Placement,
) -> RefinedPerson | None:
    """The person in its place; None where the place cannot be found, with a warning."""
    try:
        found = trajectory_of(track, joints, person.refined, fps, image_size, focal_length, placement)
    except InputError as error:
        warnings.warn(f"person {track.number} has no place and is left out: {error}", InputWarning, 3)
        return None
    return replace(person, refined=found.place(person.refined), trajectory=found)


def _refined(
    track: Track,
    parts: tuple[tuple[int, int], ...],
    joints: JointSet,
    lifter: Lifter,
    refiner: Refiner,
    options: dict[str, Any],
    focal_length: Any,
) -> RefinedPerson | None:
    """The parts of a person that can be refined; None where there is none. What cannot is left out, with a warning."""
    frames = len(track.keypoints)
    lifted, refined = (np.full((frames, 17, 3), np.nan, np.float32) for _ in range(2))
    guessed = np.zeros((frames, 17), dtype=bool)
    refinable = []
    for begin, end in parts:
        part = slice(begin, end)
        # Human3.6M's joints, which the lifter's poses have.
        pose_2d = to_h36m17(track.keypoints[part], joints)
        confidence = confidence_to_h36m17(track.confidence[part], joints)
        given = {**options, "confidence": confidence, "focal_length": focal_length}
        try:
            poses = lifter.lift(pose_2d, **given)
            refined[part] = refiner.refine(pose_2d, poses, **given)
        except InputError as error:
            warnings.warn(
                f"frames {begin} to {end - 1} of person {track.number} are left out: {error}",
                InputWarning,
                stacklevel=3,
            )
            continue
        lifted[part], guessed[part] = poses, confidence <= 0
        refinable.append((begin, end))
    if not refinable:
        return None
    return RefinedPerson(track.number, track.keypoints, lifted, refined, track.seen, guessed, tuple(refinable))


def _parts(track: Track, joints: JointSet, rate: float) -> tuple[tuple[int, int], ...]:
    """The stretches of frames between long gaps."""
    confidence = confidence_to_h36m17(track.confidence, joints)
    return parts_between_gaps(np.count_nonzero(confidence[:, LIMBS] > 0, axis=1) >= LEAST_JOINTS, rate)


def save_person(
    person: RefinedPerson,
    folder: Path,
    fps: float,
    image_size: tuple[float, float],
    joints: str,
    first_frame: int = 0,
) -> list[Path]:
    """Write a person as npz, TRC and BVH; returns the files. ``first_frame`` is the number of the first frame.

    The npz and the TRC have all frames; the BVH, which cannot leave a frame out, has the longest part.
    """
    stem = folder / f"person{person.number}"
    files = [stem.with_suffix(suffix) for suffix in (".npz", ".trc", ".bvh")]
    with atomic_path(files[0]) as temporary, open(temporary, "wb") as opened:
        np.savez(
            opened,
            pose_2d=person.pose_2d,
            lifted_pose_3d=person.lifted,
            refined_pose_3d=person.refined,
            seen=person.seen,
            guessed=person.guessed,
            parts=np.array(person.parts),
            fps=fps,
            image_size=image_size,
            joints=joints,
            first_frame=first_frame,
            **({} if person.trajectory is None else trajectory_arrays(person.trajectory, person.refined)),
        )
    poses = person.in_the_room
    write_trc(files[1], poses, fps, first_frame=first_frame)
    begin, end = max(person.parts, key=lambda part: part[1] - part[0])
    write_bvh(files[2], poses[begin:end], fps)
    return files


def check_folder(path: str | os.PathLike[str]) -> Path:
    """The folder for results, made where it is missing. Raises UsageError for a file, and where people lie in it."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder}: is a file, expected a folder")
    if any(folder.glob("person*.npz")):
        raise UsageError(f"--output {folder}: holds the people of another run; choose another folder, or empty it")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
