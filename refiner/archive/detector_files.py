"""Sequences in the files of detectors (`refiner.formats`): each person of a file is one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from refiner.archive.job import Job
from refiner.archive.npz_content import content_of
from refiner.archive.sequences import Sequence, SequenceRef, Stated
from refiner.archive.statements import complete
from refiner.data.gaps import LEAST_JOINTS, shows_person
from refiner.errors import EmptySequenceError
from refiner.files import sha256_of
from refiner.formats import follow, read_detections
from refiner.formats.reading import detections_in_npz, videos_in_npz
from refiner.skeleton import confidence_to_h36m17

# Bytes of a person in a frame of a JSON file, about.
USUAL_BYTES = 1024


def videos_of(file: Path) -> list[str]:
    """The videos in an .npz file of detections. Raises ArchiveError where it is none."""
    return videos_in_npz(content_of(file), file)


def identity(job: Job, ref: SequenceRef) -> str:
    """The hash of the file, or of all JSON files of a folder; with the name of the video where there are several.

    Raises:
        OSError: a file cannot be read.
    """
    source = job.path_of(ref)
    digest = hashlib.sha256("/".join(ref.entry).encode("utf-8", "surrogatepass"))
    for name in sorted(os.listdir(source)) if source.is_dir() else ["."]:
        file = source / name if source.is_dir() else source
        if not source.is_dir() or name.endswith(".json"):
            digest.update(f"{name} {sha256_of(file)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def load(job: Job, ref: SequenceRef, sha256: str) -> list[Sequence]:
    """Read the people of a detector's file.

    Raises:
        InputError: the file is damaged or shows nobody, or something about it is not known.
    """
    source = job.path_of(ref)
    found = detections_in_npz(content_of(source), source, ref.entry[0]) if ref.entry else read_detections(source)
    # What the file says comes before what is said about it.
    own = Stated(found.fps, found.joints.name, None, found.image_size)
    stated = own.or_else(ref.stated).or_else(job.stated)
    if stated.image_size is not None:
        found = found.in_pixels(stated.image_size)
    people = []
    for track in follow(found):
        score = confidence_to_h36m17(track.confidence, found.joints)
        if shows_person(score > 0).any():
            name = f"{ref.name}/person{track.number}"
            people.append(complete(name, sha256, stated, track.keypoints, None, track.confidence, found.first_frame))
    if not people:
        raise EmptySequenceError(f"{source} shows nobody with {LEAST_JOINTS} joints")
    return people
