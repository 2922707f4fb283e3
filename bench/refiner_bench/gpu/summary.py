"""summary.json of a quarter-hour, and what it prints."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refiner.reports import QUARTER_HOUR, new_report, read_json, write_report
from refiner_bench.gpu.jobs import Result

# The end of each log that the summary keeps.
LOG_CHARACTERS = 8000


class Summary:
    """Written anew after every part, so that whatever ends the run leaves what was done before.

    Parts run side by side and report from threads of their own: a lock lets one write at a time.
    """

    def __init__(self, path: Path, logs: Path, settings: Mapping[str, Any]) -> None:
        self._path, self._logs, self._lock = path, logs, threading.Lock()
        self._head = new_report(QUARTER_HOUR, settings)
        self._training: dict[str, Any] = {}
        self.results: list[Result] = []
        self.left_out: dict[str, str] = {}
        self._found: dict[str, Any] = {}

    @property
    def trained(self) -> list[str]:
        """The names of the plans that have come to a validation."""
        return list(self._training)

    def train(self, name: str, progress: Mapping[str, Any]) -> None:
        """Keep how far a plan has come; the next `add` writes it."""
        with self._lock:
            self._training[name] = dict(progress)

    def take(self, name: str, file: Path) -> None:
        """Keep what a part has written, and write the summary; does nothing where it wrote nothing."""
        if file.is_file():
            self._found[name] = read_json(file)
            self.add([])

    def add(self, results: Sequence[Result]) -> None:
        """Print, keep and write."""
        with self._lock:
            self.results += results
            for result in results:
                print(told(result), flush=True)
            files = sorted(self._logs.glob("*.log"))
            content = {
                **self._head,
                "parts": [dataclasses.asdict(result) for result in self.results],
                "training": self._training,
                **self._found,
                "left_out": self.left_out,
                "logs": {file.stem: file.read_text(errors="replace")[-LOG_CHARACTERS:] for file in files},
            }
            write_report(self._path, content)


def told(result: Result) -> str:
    """A result as a line."""
    return f"{result.name:24s} {result.status:8s} {result.seconds:6.1f} s  {result.why}"
