"""Archives in Parquet: one row for each frame, and the rows of a sequence one after the other.

| column | type | what |
| --- | --- | --- |
| ``sequence`` | string | the name of the sequence |
| ``frame`` | integer | the number of the frame; it rises, and a number that is left out is a frame without a person |
| ``pose_2d`` | list of 2 J numbers | x, y of each joint in pixels; null or NaN for a joint that was not seen |
| ``pose_3d`` | list of 3 J numbers | optional: x, y, z of each joint in metres; null for a frame without a pose |
| ``confidence`` | list of J numbers | optional: 0 to 1 |
| ``fps``, ``image_size``, ``focal_length``, ``joints``, ``joints_3d`` | see `Stated` | optional, one value a sequence |
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.archive.job import Job
from refiner.archive.sequences import Sequence, SequenceRef
from refiner.archive.statements import NAMES, complete, stated_by
from refiner.errors import ArchiveError, MissingComponentError
from refiner.runtime.report import RefinementReport

# Rows that are decoded at a time, and rows of a group in the files that we advise.
BATCH_ROWS = 8192
# More frames that are left out are more likely a mistake.
LONGEST_GAP = 100_000
_POSES = {"pose_2d": 2, "pose_3d": 3, "confidence": 1}


def require_pyarrow() -> Any:
    """The module pyarrow.parquet. Raises MissingComponentError where it is not installed."""
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as error:
        raise MissingComponentError("Parquet needs pyarrow: pip install 'pose-refiner[parquet]'") from error
    return parquet


def entries_of(file: Path) -> list[tuple[tuple[str, str, str], int]]:
    """The sequences of a file, in its order: (name, first row, end), and how many rows each has.

    Raises:
        ArchiveError: the file is damaged, has no such columns, or has rows of a sequence in two places.
    """
    names: list[str] = []
    begins: list[int] = []
    rows = 0
    for row, batch in _batches(file, 0, ["sequence"]):
        column = batch.column(0)
        if column.null_count:
            raise ArchiveError(f"{file} has rows without a sequence")
        values = np.asarray(column.to_pylist(), dtype=object)
        changes = np.flatnonzero(values[1:] != values[:-1]) + 1
        for at in [0, *changes.tolist()] if len(values) else []:
            if not names or values[at] != names[-1]:
                names.append(str(values[at]))
                begins.append(row + at)
        rows += len(values)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ArchiveError(f"{file} has rows of {twice!r} in several places: sort it by sequence and frame")
    ends = [*begins[1:], rows]
    return [((name, str(begin), str(end)), end - begin) for name, begin, end in zip(names, begins, ends, strict=True)]


def identity(job: Job, ref: SequenceRef) -> str:
    """The hash of the rows of one sequence.

    Raises:
        ArchiveError: the file is damaged.
    """
    digest = hashlib.sha256()
    for name, values in sorted(_rows(job, ref).items()):
        digest.update(f"{name} {values.dtype.str if values.dtype != object else ''} {values.shape}".encode())
        digest.update(repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).data)
    return digest.hexdigest()


def load(job: Job, ref: SequenceRef, sha256: str) -> list[Sequence]:
    """Read a sequence.

    Raises:
        InputError: its rows are damaged, or something about it is not known.
    """
    where = f"{job.path_of(ref)}, {ref.entry[0]}"
    rows = _rows(job, ref)
    stated = stated_by({name: _constant(rows[name], name, where) for name in NAMES if name in rows}, where)
    frames = _frame_numbers(rows["frame"], where)
    poses = {name: _poses(rows[name], size, frames, name, where) for name, size in _POSES.items() if name in rows}
    pose_3d, confidence = poses.get("pose_3d"), poses.get("confidence")
    if pose_3d is not None and np.isnan(pose_3d).all():
        pose_3d = None  # 2D alone, in a file where other sequences have 3D
    if confidence is not None:
        confidence = None if np.isnan(confidence).all() else confidence[..., 0]
    stated = stated.or_else(ref.stated).or_else(job.stated)
    return [complete(ref.name, sha256, stated, poses["pose_2d"], pose_3d, confidence, int(frames[0]))]


def _frame_numbers(values: NDArray[Any], where: str) -> NDArray[np.int64]:
    if values.dtype.kind not in "iu":
        raise ArchiveError(f"{where}: the column frame holds {values.dtype}, expected whole numbers")
    frames = values.astype(np.int64)
    if (np.diff(frames) <= 0).any() or frames[-1] - frames[0] - len(frames) > LONGEST_GAP:
        raise ArchiveError(f"{where}: the numbers of the frames do not rise one by one: sort it by sequence and frame")
    return frames


def _poses(values: NDArray[Any], size: int, frames: NDArray[np.int64], name: str, where: str) -> NDArray[Any]:
    """Rows of numbers as ``(F, J, size)``, NaN in frames that are left out."""
    if values.dtype == object:
        lengths = {len(row) for row in values if row is not None}
        if len(lengths) > 1:
            raise ArchiveError(f"{where}: {name} has lists of {sorted(lengths)} numbers; expected one length")
        count = lengths.pop() if lengths else size
        try:
            values = np.array([np.full(count, np.nan) if row is None else row for row in values], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ArchiveError(f"{where}: {name} holds something else than numbers ({error})") from error
    if values.ndim != 2 or values.shape[1] % size or values.dtype.kind not in "fiu":
        raise ArchiveError(f"{where}: {name} has lists of {values.shape[1:]} numbers, expected {size} for each joint")
    poses = values.reshape(len(values), -1, size)
    place = frames - frames[0]
    if len(frames) == place[-1] + 1:
        return poses
    whole = np.full((int(place[-1]) + 1, *poses.shape[1:]), np.nan, poses.dtype if poses.dtype.kind == "f" else None)
    whole[place] = poses
    return whole


def _constant(values: NDArray[Any], name: str, where: str) -> Any:
    """The one value of a column within a sequence; None where all rows are null."""
    found = [None if row is None else tuple(np.atleast_1d(row).tolist()) for row in values]
    if any(row != found[0] for row in found):
        raise ArchiveError(f"{where}: {name} is not the same in all rows")
    first = found[0]
    if first is None or any(isinstance(value, float) and np.isnan(value) for value in first):
        return None
    return first[0] if len(first) == 1 else first


def _rows(job: Job, ref: SequenceRef) -> dict[str, NDArray[Any]]:
    """The columns of a sequence by name: numbers ``(F,)`` or ``(F, n)``, and objects where they are no such arrays."""
    file, (name, begin, end) = job.path_of(ref), ref.entry
    state = os.stat(file)
    rows = _cursor(file, state.st_mtime_ns, state.st_size).take(int(begin), int(end))
    if not len(rows["sequence"]) or any(value != name for value in rows["sequence"]):
        raise ArchiveError(f"{file} changed while it was read: the rows of {name!r} are others")
    return rows


@lru_cache(maxsize=1)
def _cursor(file: Path, changed: int, size: int) -> _Cursor:
    return _Cursor(file)


class _Cursor:
    """Reads rows of a file. Rows that follow the last ones are read without going back."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._batches: Iterator[tuple[int, Any]] = iter(())
        # The first row of the batch, and the batch.
        self._now: tuple[int, Any] | None = None
        self._last: tuple[int, int, dict[str, NDArray[Any]]] | None = None

    def take(self, begin: int, end: int) -> dict[str, NDArray[Any]]:
        """The rows from ``begin`` to ``end``, by column."""
        if self._last is not None and self._last[:2] == (begin, end):
            return self._last[2]
        import pyarrow

        if self._now is None or begin < self._now[0]:
            self._batches = _batches(self._file, begin, ["sequence", "frame", *_POSES, *NAMES])
            self._now = None
        pieces, at = [], begin
        while at < end:
            if self._now is None or at >= self._now[0] + len(self._now[1]):
                self._now = next(self._batches, None)
                if self._now is None:
                    raise ArchiveError(f"{self._file} has fewer rows than when it was listed")
                continue
            first, batch = self._now
            pieces.append(batch.slice(at - first, end - at))
            at += len(pieces[-1])
        table = pyarrow.Table.from_batches(pieces)
        rows = {name: _array(table.column(name)) for name in table.column_names}
        self._last = (begin, end, rows)
        return rows


def _batches(file: Path, row: int, columns: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """Batches of rows with the number of their first row, from the group on that holds ``row``.

    Raises:
        ArchiveError: the file is damaged, or lacks a column.
    """
    parquet = require_pyarrow()
    import pyarrow

    failures = (pyarrow.ArrowException, OSError)
    try:
        # Pages are decoded as they come: memory does not grow with the groups of the file.
        opened = parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        missing = {"sequence", "frame", "pose_2d"} - set(opened.schema_arrow.names)
        if missing:
            names = ", ".join(opened.schema_arrow.names)
            raise ArchiveError(f"{file} has no column {', '.join(sorted(missing))}; it has {names[:200]}")
        sizes = [opened.metadata.row_group(group).num_rows for group in range(opened.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        group = int(np.searchsorted(ends, row, side="right"))
        at = int(ends[group - 1]) if group else 0
        chosen = [name for name in columns if name in opened.schema_arrow.names]
        for batch in opened.iter_batches(BATCH_ROWS, row_groups=list(range(group, len(sizes))), columns=chosen):
            yield at, batch
            at += len(batch)
    except failures as error:
        raise ArchiveError(f"{file} is no whole Parquet file: {error}") from error


def _array(column: Any) -> NDArray[Any]:
    """A chunked column of Arrow: numbers ``(F,)`` or ``(F, n)``; objects where it is no such array."""
    import pyarrow
    from pyarrow import compute, types

    kind = column.type
    if not column.null_count and (types.is_integer(kind) or types.is_floating(kind)):
        return np.asarray(column.to_numpy())
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if is_list and not column.null_count and types.is_primitive(kind.value_type):
        lengths = compute.unique(compute.list_value_length(column))
        if len(lengths) == 1:
            flat = compute.list_flatten(column)
            values = flat.combine_chunks() if isinstance(flat, pyarrow.ChunkedArray) else flat
            return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(column), -1)
    result = np.empty(len(column), dtype=object)
    result[:] = column.to_pylist()
    return result


def write_parquet(path: Path, sequence: Sequence, report: RefinementReport) -> None:
    """Write the refined poses of a sequence, one row for each frame.

    The columns are ``sequence``, ``frame`` (counted as in the input), ``refined_pose_3d`` (list of 51 numbers, metres;
    null in frames without a pose), ``std`` (list of 17, metres; where the refiner was calibrated), ``guessed`` (list of
    17), ``status``, ``reasons`` and ``fps``.
    """
    parquet = require_pyarrow()
    import pyarrow

    arrays, frames = report.arrays(), len(report.pose_3d)
    absent = pyarrow.array(report.gaps)
    lists: dict[str, Any] = {}
    for name in ("refined_pose_3d", "std", "guessed"):
        if name in arrays:
            rows = np.ascontiguousarray(arrays[name].reshape(frames, -1))
            mask = absent if name != "guessed" else None
            lists[name] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), rows.shape[1], mask=mask)
    name = sequence.name.encode("utf-8", "replace").decode()
    columns = {
        "sequence": pyarrow.array([name] * frames).dictionary_encode(),
        "frame": pyarrow.array(np.arange(frames, dtype=np.int64) + sequence.first_frame),
        **lists,
        "status": pyarrow.array(arrays["status"].tolist()),
        "reasons": pyarrow.array(arrays["reasons"].tolist()),
        "fps": pyarrow.array(np.full(frames, sequence.fps)),
    }
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2 * BATCH_ROWS)
