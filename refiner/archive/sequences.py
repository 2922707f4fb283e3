"""The sequences of an archive: references, which are cheap, and loaded sequences."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Stated:
    """What is said about a sequence beside its poses; None where nobody says it.

    Attributes:
        fps: frames/s.
        joints: the joint set of the 2D poses, and of the 3D poses unless ``joints_3d`` names another one.
        joints_3d: the joint set of the 3D poses.
        image_size: (width, height) in pixels.
        focal_length: pixels, (horizontal, vertical) or one number.
    """

    fps: float | None = None
    joints: str | None = None
    joints_3d: str | None = None
    image_size: tuple[float, float] | None = None
    focal_length: tuple[float, ...] | None = None

    def or_else(self, other: Stated) -> Stated:
        """The same, with the values of ``other`` where this one has none."""
        own = {name.name: getattr(self, name.name) for name in fields(self)}
        return Stated(**{name: getattr(other, name) if value is None else value for name, value in own.items()})


UNSTATED = Stated()


@dataclass(frozen=True, slots=True)
class SequenceRef:
    """Where a sequence is. It holds no poses, and can be sent to another process.

    A detector's file is one reference, although it may show several people: who they are is known when it is read.

    Attributes:
        name: of the sequence, or of the detector's file; no other reference of the archive has it.
        kind: the reader, a key of `refiner.archive.readers.READERS`.
        file: the path below the archive's folder; "" where the archive is a file.
        entry: the place in a file that holds several sequences.
        frames: the number of frames, where the listing knows it.
        weight: the same, or an estimate from the size of the file. Chunks are cut by it.
        stated: what ``sequences.json`` says about the sequence.
    """

    name: str
    kind: str
    file: str
    entry: tuple[str, ...] = ()
    frames: int | None = None
    weight: int = 0
    stated: Stated = UNSTATED


@dataclass(frozen=True, eq=False)
class Sequence:
    """A loaded sequence of one person: the arguments of `refiner.Lifter.lift` and `refiner.Refiner.refine`.

    Attributes:
        name: the name of the reference, or that and the number of the person: ``NAME/person0``.
        sha256: the hash of the input, as in the ledger.
        pose_2d: ``(F, J, 2)`` pixels.
        pose_3d: ``(F, J, 3)`` metres in camera axes; None where the 2D is to be lifted.
        confidence: ``(F, J)`` or None.
        joints: the joint set of ``pose_2d``.
        joints_3d: the joint set of ``pose_3d``.
        fps: frames/s.
        image_size: (width, height) in pixels.
        focal_length: pixels, one number or two; None where nobody knows it.
        first_frame: the number of the first frame in the video.
    """

    name: str
    sha256: str
    pose_2d: NDArray[Any] = field(repr=False)
    pose_3d: NDArray[Any] | None = field(repr=False)
    confidence: NDArray[Any] | None = field(repr=False)
    joints: str
    joints_3d: str
    fps: float
    image_size: tuple[float, float]
    focal_length: tuple[float, ...] | None = None
    first_frame: int = 0

    @property
    def frames(self) -> int:
        """The number of frames, F."""
        return len(self.pose_2d) if self.pose_2d.ndim else 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Sequences that are refined together, in common batches: the unit of work, and of what is done again.

    Attributes:
        identity: a hash of the names of all its sequences.
        refs: the sequences in the order of the archive.
        stems: for each of them the beginning of the names of its output files (`refiner.archive.names`).
    """

    identity: str
    refs: tuple[SequenceRef, ...]
    stems: tuple[str, ...]

    @property
    def weight(self) -> int:
        """The number of frames, as far as the listing knows."""
        return sum(ref.weight for ref in self.refs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one sequence.

    Attributes:
        source: the name of its reference.
        name: of the sequence. That of the reference where this could not be read.
        input: the hash of the input; "" where it could not be read.
        frames: the number of frames; 0 where nobody could read them.
        outputs: (file in the output folder, SHA-256) of each file that was written; empty for one that failed.
        error: why it failed; "" where it is done.
        notes: what was found in the sequence, or done to it: reasons of `refiner.reasons`.
    """

    source: str
    name: str
    input: str
    frames: int
    outputs: tuple[tuple[str, str], ...] = ()
    error: str = ""
    notes: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether the sequence was refined and its files are written."""
        return not self.error
