"""The files of a refined sequence. Each appears whole under its own name, and holds nothing that changes from run to
run, such as the time."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from refiner.archive.job import Job
from refiner.archive.parquet_files import write_parquet
from refiner.archive.sequences import Sequence
from refiner.files import UnfinishedFile, naming_full_disk, sha256_of
from refiner.formats.bvh import write_bvh
from refiner.formats.trc import write_trc
from refiner.runtime.report import RefinementReport

# The folder in the output folder for files that are being written. It is not there when nothing runs.
TEMPORARY = ".partial"
# Threads that wait for the disk.
MOST_WAITS = 8


class Outputs:
    """Writes the files of the sequences of a chunk. Use it as a context manager.

    The files get their names together, when the block ends without an error. Before that they are on the disk: the
    waits for it overlap.

    Args:
        job: the job, for the output folder and the formats.

    Raises:
        OSError: a file cannot be written; its message names the file. At the end of the block, too.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._folder, self._temporary = Path(job.output), Path(job.output, TEMPORARY)
        self._waiting: list[UnfinishedFile] = []

    def write(self, sequence: Sequence, report: RefinementReport, stem: str) -> tuple[tuple[str, str], ...]:
        """Write the files of a sequence, under temporary names.

        Args:
            sequence: the sequence.
            report: its refined poses.
            stem: the beginning of the names of its files, below the output folder.

        Returns:
            (file below the output folder, SHA-256) of each, in the order of the job's formats.
        """
        self._temporary.mkdir(parents=True, exist_ok=True)
        written = []
        for form in self._job.formats:
            file = f"{stem}.{form}"
            unfinished = UnfinishedFile(self._folder / file, self._temporary)
            self._waiting.append(unfinished)
            with unfinished.writing() as temporary:
                _write(form, temporary, Path(file).name, sequence, report)
                written.append((file, sha256_of(temporary)))
        return tuple(written)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with ThreadPoolExecutor(MOST_WAITS) as pool:
                    list(pool.map(UnfinishedFile.finish, self._waiting))
        finally:
            for unfinished in self._waiting:
                unfinished.remove()


def _write(form: str, path: Path, name: str, sequence: Sequence, report: RefinementReport) -> None:
    if form == "npz":
        arrays = {
            **report.arrays(),
            "fps": np.float64(sequence.fps),
            "image_size": np.array(sequence.image_size),
            "first_frame": np.int64(sequence.first_frame),
            "sequence": np.array(sequence.name.encode("utf-8", "replace").decode()),
        }
        np.savez(path, **arrays)  # type: ignore[arg-type]
    elif form == "parquet":
        write_parquet(path, sequence, report)
    elif form == "trc":
        # Its header holds the name of the file.
        with naming_full_disk(path), tempfile.TemporaryDirectory(dir=path.parent) as alone:
            write_trc(Path(alone, name), report.pose_3d, sequence.fps, first_frame=sequence.first_frame)
            os.replace(Path(alone, name), path)
    else:
        begin, end = _longest_part(report.gaps)
        write_bvh(path, report.pose_3d[begin:end], sequence.fps)


def _longest_part(gaps: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[int, int]:
    """The longest stretch of frames that have poses; BVH cannot leave a frame out."""
    posed = np.concatenate([[False], ~gaps, [False]]).astype(np.int8)
    begins, ends = np.flatnonzero(np.diff(posed) == 1), np.flatnonzero(np.diff(posed) == -1)
    longest = int(np.argmax(ends - begins))
    return int(begins[longest]), int(ends[longest])
