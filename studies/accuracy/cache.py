"""Stores the scores of a row on disk, together with a key."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from refiner_bench.accuracy.scores import Distributions, Scores

from refiner.evaluation.protocol import SequenceScore
from refiner.files import atomic_write_text


def write_scores(path: Path, scores: Sequence[Scores], key: str) -> None:
    """Write all scores of a row, completely or not at all.

    Args:
        path: The file.
        scores: The scores.
        key: Identifies everything that the scores depend on.
    """
    atomic_write_text(path, json.dumps({"key": key, "scores": [asdict(entry) for entry in scores]}) + "\n")


def read_scores(path: Path, key: str) -> list[Scores] | None:
    """Read the scores of a file; None if there is no file, or if its key is another one."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["key"] != key:
        return None
    return [
        Scores(
            entry["part"],
            entry["data"],
            tuple(SequenceScore(**score) for score in entry["sequences"]),
            tuple(SequenceScore(**score) for score in entry["before"]),
            Distributions(**entry["distributions"]),
            entry["extra"],
        )
        for entry in content["scores"]
    ]
