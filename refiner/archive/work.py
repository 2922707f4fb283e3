"""One chunk of an archive: read, lift, refine, write. Any process can do it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from refiner.archive import sequences as archive
from refiner.archive.job import Job
from refiner.archive.models import Models
from refiner.archive.outputs import Outputs
from refiner.archive.readers import read
from refiner.archive.sequences import Chunk, Outcome
from refiner.errors import InputWarning, RefinerError
from refiner.formats.estimates import to_camera_metres
from refiner.reasons import DISAGREEMENTS, Note
from refiner.runtime.refiner import PreparedSequence
from refiner.runtime.report import RefinementReport, without_repetition
from refiner.skeleton import H36M17, confidence_to_h36m17, to_h36m17

Item = TypeVar("Item")


@dataclass(eq=False)
class _Task:
    """One sequence on its way; the steps fill it in."""

    source: str
    stem: str
    input: str
    name: str
    sequence: archive.Sequence | None = None
    error: str = ""
    notes: list[Note] = field(default_factory=list)

    @property
    def going(self) -> bool:
        return not self.error

    def outcome(self, outputs: tuple[tuple[str, str], ...] = ()) -> Outcome:
        frames = 0 if self.sequence is None else self.sequence.frames
        reasons = tuple(dict.fromkeys(note.reason for note in self.notes))
        return Outcome(self.source, self.name, self.input, frames, outputs, self.error, reasons)


def refine_chunk(job: Job, models: Models, chunk: Chunk) -> list[Outcome]:
    """Read, lift, refine and write the sequences of a chunk.

    Every output file appears whole, under its own name, before the function returns. A chunk that is done twice, also
    by two processes at a time, gives the same files. A sequence that cannot be read or refined becomes an `Outcome`
    with an error, and the others are done.

    Returns:
        One outcome for each sequence, in the order of the chunk; several of one reference where a detector's file shows
        several people.

    Raises:
        OSError: an output cannot be written, such as on a full disk. The chunk is then not done.
        MissingComponentError: a package that reads or writes the files is not installed.
    """
    with warnings.catch_warnings():
        # What is to be said of a sequence is in its notes.
        warnings.simplefilter("ignore", InputWarning)
        tasks = list(_read(job, chunk))
        _lift(job, models, tasks)
        reports = iter(_refined(job, models, tasks))
        outcomes = []
        with Outputs(job) as outputs:
            for task in tasks:
                if not task.going or task.sequence is None:
                    outcomes.append(task.outcome())
                    continue
                report = next(reports)
                notes = without_repetition([*task.notes, *report.notes])
                task.notes = list(notes)
                written = outputs.write(task.sequence, replace(report, notes=notes), task.stem)
                outcomes.append(task.outcome(written))
        return outcomes


def _read(job: Job, chunk: Chunk) -> Iterator[_Task]:
    for ref, stem in zip(chunk.refs, chunk.stems, strict=True):
        found = read(job, ref)
        if found.error:
            yield _Task(ref.name, stem, found.input, ref.name, error=found.error)
        for sequence in found.sequences:
            # The people of a detector's file are in a folder of their own, as refiner-refine INPUT writes them.
            person = sequence.name.removeprefix(ref.name)
            yield _Task(ref.name, stem + person, found.input, sequence.name, sequence)


def _try(task: _Task, step: Callable[[archive.Sequence], Item]) -> Item | None:
    """The result of a step; None where the sequence fails in it, or has failed before."""
    if not task.going or task.sequence is None:
        return None
    try:
        return step(task.sequence)
    except RefinerError as error:
        task.error = str(error)
    return None


def _camera_metres(sequence: archive.Sequence) -> archive.Sequence | None:
    """The sequence with poses in camera axes, as ``refiner-refine --pose-3d`` makes them; None where it has them.

    Raises:
        InputError: the poses are those of the image, and nobody states the height of the person.
    """
    pose_3d = sequence.pose_3d
    if pose_3d is None or pose_3d.ndim != 3 or not np.isfinite(pose_3d).all():
        return None  # the refiner says what is wrong, or fills frames without a pose
    found = to_camera_metres(
        pose_3d,
        sequence.pose_2d,
        sequence.image_size,
        joints=sequence.joints,
        joints_3d=sequence.joints_3d,
        confidence=sequence.confidence,
        focal_length=_focal(sequence),
    )
    if found.kind == "camera":
        return None
    confidence = sequence.confidence
    return replace(
        sequence,
        pose_2d=to_h36m17(sequence.pose_2d, sequence.joints),
        pose_3d=found.pose_3d,
        confidence=None if confidence is None else confidence_to_h36m17(confidence, sequence.joints),
        joints=H36M17.name,
        joints_3d=H36M17.name,
    )


def _lift(job: Job, models: Models, tasks: Sequence[_Task]) -> None:
    """Lift the sequences that have no 3D poses, together."""
    some, prepared = [], []
    for task in tasks:
        if task.sequence is None or task.sequence.pose_3d is not None:
            continue
        ready = _try(
            task,
            lambda sequence: models.lifter.prepare(sequence.pose_2d, **_options(job, sequence)),
        )
        if ready is not None:
            some.append(task)
            prepared.append(ready)
    for task, report in zip(some, models.lifter.lift_prepared(prepared), strict=True):
        assert task.sequence is not None
        task.sequence = replace(task.sequence, pose_3d=report.pose_3d, joints_3d=H36M17.name)
        task.notes += report.notes


def _refined(job: Job, models: Models, tasks: Sequence[_Task]) -> list[RefinementReport]:
    """The reports of the sequences that are not failed, in their order."""

    prepared = [ready for task in tasks for ready in [_try(task, prepare_of(job, models, task))] if ready is not None]
    return models.refiner.refine_prepared(prepared)


def prepare_of(job: Job, models: Models, task: _Task) -> Callable[[archive.Sequence], PreparedSequence]:
    """The step that prepares a sequence for the refiner. Where 3D does not fit 2D, it tries other axes for the 3D."""

    def prepare(sequence: archive.Sequence) -> PreparedSequence:
        assert sequence.pose_3d is not None
        options = _options(job, sequence)
        return models.refiner.prepare(sequence.pose_2d, sequence.pose_3d, joints_3d=sequence.joints_3d, **options)

    def prepare_in_any_axes(sequence: archive.Sequence) -> PreparedSequence:
        failure: RefinerError | None = None
        try:
            ready = prepare(sequence)
            if not any(note.reason in DISAGREEMENTS for note in ready.notes):
                return ready
        except RefinerError as error:
            failure = error
        changed = _camera_metres(sequence)
        if changed is not None:
            task.sequence = changed
            return prepare(changed)
        if failure is not None:
            raise failure
        return ready

    return prepare_in_any_axes


def _options(job: Job, sequence: archive.Sequence) -> dict[str, Any]:
    """The arguments that `Lifter.prepare` and `Refiner.prepare` share."""
    return {
        "image_size": sequence.image_size,
        "fps": sequence.fps,
        "joints": sequence.joints,
        "confidence": sequence.confidence,
        "least_confidence": job.least_confidence,
        "focal_length": _focal(sequence),
    }


def _focal(sequence: archive.Sequence) -> Any:
    focal = sequence.focal_length
    return focal if focal is None or len(focal) > 1 else focal[0]
