"""Copies results to the output folder, with limits on number and size of files: weights, then reports, then states."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from refiner.errors import CheckpointError
from refiner.training.travel import LIMIT, bytes_of_state, has_state, split_state

MOST_FILES, MOST_BYTES, MOST_IN_A_FILE = 8, 64 * 2**20, 16 * 2**20
# Room for the summary, which is written last.
SUMMARY_BYTES = 2**20
# Room for the headers of a state: names, shapes, the run's configuration and curve.
HEADERS = 2**16


@dataclass
class Room:
    """The room that is left in the output folder.

    Attributes:
        files: The number of files that still fit.
        bytes: The number of bytes that still fit.
        taken: The names of the copied files.
        left_out: By name, the reason why something was not copied.
    """

    files: int
    bytes: int
    taken: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, sources: Sequence[Path], folder: Path) -> bool:
        """Copy ``sources`` into ``folder`` if all of them fit; otherwise add the reason to ``left_out``.

        Returns:
            Whether they were copied.
        """
        sizes = [source.stat().st_size for source in sources]
        why = self.refusal(len(sizes), sum(sizes), max(sizes))
        if why:
            self.left_out[name] = why
            return False
        for source in sources:
            shutil.copyfile(source, folder / source.name)
        self.files, self.bytes = self.files - len(sizes), self.bytes - sum(sizes)
        self.taken += [source.name for source in sources]
        return True

    def refusal(self, files: int, total: int, largest: int = 0) -> str:
        """The reason why files of this size do not fit; an empty string if they fit."""
        if largest > MOST_IN_A_FILE:
            return f"a file of {largest:,} bytes; at most {MOST_IN_A_FILE:,} come back"
        if files > self.files or total > self.bytes:
            return f"{files} files and {total:,} bytes; there was room for {self.files} and {self.bytes:,}"
        return ""


def bring_back(runs: Sequence[tuple[str, Path]], reports: Sequence[Path], output: Path, work: Path) -> Room:
    """Copy weights, reports and states into the output folder, in the order of their priority.

    A state is copied completely or not at all; if it does not fit with weights in float32, they are stored in float16.
    Files of an earlier run with the same names are replaced. All other files in the folder count for the limits.

    Args:
        runs: The name and the folder of each training run.
        reports: The files of reports.
        output: The output folder.
        work: A folder for temporary files.

    Returns:
        The room that is left, with the names of copied and left-out files.
    """
    output.mkdir(parents=True, exist_ok=True)
    _remove_old([name for name, _ in runs], reports, output)
    others = [path for path in output.rglob("*") if path.is_file()]
    room = Room(MOST_FILES - 1 - len(others), MOST_BYTES - SUMMARY_BYTES - sum(path.stat().st_size for path in others))
    staged: dict[str, list[Path]] = {}
    for name, run in runs:
        try:
            staged[name] = split_state(run, work / "staged", name, limit=LIMIT)
        except CheckpointError as error:
            room.left_out[name] = str(error)
            continue
        if not room.take(name, staged[name][:1], output):
            del staged[name]
    for report in reports:
        room.take(report.name, [report], output)
    for name, run in runs:
        if name in staged:
            _take_state(name, run, staged[name], room, output, work)
    return room


def _take_state(name: str, run: Path, parts: list[Path], room: Room, output: Path, work: Path) -> None:
    size = sum(path.stat().st_size for path in parts[1:])
    if room.refusal(len(parts) - 1, size):
        size = bytes_of_state(run, "float16") + HEADERS
        why = room.refusal(-(-size // LIMIT), size)
        if why:
            room.left_out[f"{name}.state"] = f"{why}, with weights in float16 too"
            return
        # The checkpoint is copied again too, because the state contains the hash of its checkpoint.
        parts = split_state(run, work / "half", name, "float16", LIMIT)
        shutil.copyfile(parts[0], output / parts[0].name)
    room.take(f"{name}.state", parts[1:], output)


def _remove_old(names: Sequence[str], reports: Sequence[Path], output: Path) -> None:
    for name in names:
        (output / f"{name}.safetensors").unlink(missing_ok=True)
        if has_state(output, name):
            for path in output.glob(f"{name}.state-*"):
                path.unlink()
    for name in (*(report.name for report in reports), "summary.json"):
        (output / name).unlink(missing_ok=True)
