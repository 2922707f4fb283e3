"""The file summary.json of a quarter-hour, and the lines that the command prints."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

from refiner.reports import QUARTER_HOUR, new_report, read_json, write_report
from refiner_bench.gpu.jobs import Result
from refiner_bench.report import JsonObject

# The summary contains this number of characters from the end of each log.
LOG_CHARACTERS = 8000


class Summary:
    """The results of a run, written to a file again after every part.

    If the run is stopped, the file still contains the results of earlier parts. Parts run in several threads, so that a
    lock protects the results and the file.
    """

    def __init__(self, path: Path, logs: Path, settings: JsonObject) -> None:
        self._path, self._logs, self._lock = path, logs, threading.Lock()
        self._head = new_report(QUARTER_HOUR, settings)
        self._training: dict[str, JsonObject] = {}
        self.results: list[Result] = []
        self.left_out: dict[str, str] = {}
        # The content of the files of single parts, by name.
        self._contents: dict[str, JsonObject] = {}

    @property
    def trained(self) -> list[str]:
        """The names of the plans that have reached a validation."""
        return list(self._training)

    def train(self, name: str, progress: JsonObject) -> None:
        """Set the progress of a plan. The next `add` writes it."""
        with self._lock:
            self._training[name] = dict(progress)

    def take(self, name: str, file: Path) -> None:
        """Include the JSON file of a part in the summary. Does nothing if the part wrote no file."""
        if file.is_file():
            self._contents[name] = read_json(file)
            self.add([])

    def add(self, results: Sequence[Result]) -> None:
        """Print results, include them in the summary, and write its file."""
        with self._lock:
            self.results += results
            for result in results:
                print(result_line(result), flush=True)
            files = sorted(self._logs.glob("*.log"))
            content = {
                **self._head,
                "parts": [dataclasses.asdict(result) for result in self.results],
                "training": self._training,
                **self._contents,
                "left_out": self.left_out,
                "logs": {file.stem: file.read_text(errors="replace")[-LOG_CHARACTERS:] for file in files},
            }
            write_report(self._path, content)


def result_line(result: Result) -> str:
    """A result as one line of text."""
    return f"{result.name:24s} {result.status:8s} {result.seconds:6.1f} s  {result.why}"
