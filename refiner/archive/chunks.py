"""Chunks of an archive: groups of neighbouring sequences that are refined together.

A chunk is done as a whole or not at all, so that its batches, and with them the rounding of every engine, do not depend
on where an earlier run was killed. Where a chunk ends depends on the names and sizes of few sequences around, so that
a new sequence changes the chunks around it and no others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from refiner.archive.names import stems_of
from refiner.archive.sequences import Chunk, SequenceRef


def chunks_of(refs: Sequence[SequenceRef], most_frames: int, taken: Sequence[str] = ()) -> tuple[Chunk, ...]:
    """Cut the sequences of an archive into chunks.

    Args:
        refs: in the order of the archive.
        most_frames: a chunk has no more, but for a single longer sequence; on average it has half of that.
        taken: names of sequences that are not in the archive any more, whose results stay in the output folder.
    """
    stems = stems_of([*(ref.name for ref in refs), *taken])
    chunks: list[Chunk] = []
    begin = weight = 0
    for at, ref in enumerate(refs):
        frames = max(ref.weight, 1)
        if at > begin and weight + frames > most_frames:
            chunks.append(_chunk(refs, stems, begin, at))
            begin, weight = at, 0
        weight += frames
        if _ends_after(ref, most_frames):
            chunks.append(_chunk(refs, stems, begin, at + 1))
            begin, weight = at + 1, 0
    if begin < len(refs):
        chunks.append(_chunk(refs, stems, begin, len(refs)))
    return tuple(chunks)


def _ends_after(ref: SequenceRef, most_frames: int) -> bool:
    """Whether a chunk ends after this sequence, whatever lies around it: by its hash, once in ``most_frames / 2``."""
    digest = hashlib.sha256(ref.name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < ref.weight / (most_frames / 2)


def _chunk(refs: Sequence[SequenceRef], stems: Sequence[str], begin: int, end: int) -> Chunk:
    some, names = tuple(refs[begin:end]), tuple(stems[begin:end])
    text = json.dumps([[ref.name, stem] for ref, stem in zip(some, names, strict=True)])
    return Chunk(hashlib.sha256(text.encode()).hexdigest()[:16], some, names)
