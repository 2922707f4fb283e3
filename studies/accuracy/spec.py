"""The data and the output folder of a study, in a form that is passed to worker processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from refiner.data import MotionFolder, open_motion_folder
from refiner.data.synthetic import synthetic_folder
from refiner.errors import UsageError
from refiner.files import atomic_write_text
from studies.accuracy.table import Table, load_table

FOLDER_FILE = "study.json"
QUICK_SYNTHETIC_SEED = 11


@dataclass(frozen=True)
class Spec:
    """The description of a study for a worker process.

    Attributes:
        table: The file of the table.
        data: The folder of the motion archive; None for a small built-in motion.
        output: The folder of the runs.
        quick: Whether the models are toys.
        threads: The threads of each run.
    """

    table: Path
    data: Path | None
    output: Path
    quick: bool
    threads: int

    @property
    def archive(self) -> str:
        """The name of the data in reports."""
        if self.data is None:
            return "built-in synthetic motion"
        return next((path.name for path in self.data.glob("data_3d_*.npz")), self.data.name)

    def load(self) -> tuple[Table, MotionFolder]:
        """Read the table and open the data."""
        table = load_table(self.table, self.quick)
        if self.data is None:
            actions = ("Walking", "Waving")
            return table, synthetic_folder(QUICK_SYNTHETIC_SEED, subjects=6, frames=250, actions=actions)
        return table, open_motion_folder(self.data)


@dataclass(frozen=True)
class Claim:
    """The content of the file `FOLDER_FILE`, which names the data of all runs in a folder."""

    archive: str
    quick: bool


def claim_folder(spec: Spec) -> None:
    """Write the name of the data into the output folder, or check the name that is already there.

    Raises:
        UsageError: The folder has runs on other data. Their checkpoints, poses and scores must not be mixed with those
            of this study.
    """
    claim = Claim(spec.archive, spec.quick)
    file = spec.output / FOLDER_FILE
    if not file.is_file():
        spec.output.mkdir(parents=True, exist_ok=True)
        atomic_write_text(file, json.dumps(asdict(claim)) + "\n")
        return
    existing = Claim(**json.loads(file.read_text(encoding="utf-8")))
    if existing != claim:
        data = f"{existing.archive}{', toys (--quick)' if existing.quick else ''}"
        raise UsageError(f"{spec.output} holds runs on {data}; choose another --output, or remove it")
