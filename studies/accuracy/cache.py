"""The scores of a row on disk, under a key that names everything they follow from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from refiner_bench.accuracy.scores import Distributions, Scores

from refiner.evaluation.protocol import SequenceScore
from refiner.files import atomic_write_text


def write_scores(path: Path, scores: Sequence[Scores], key: str) -> None:
    """Write all scores of a row, whole or not at all; ``key`` names everything they follow from."""
    atomic_write_text(path, json.dumps({"key": key, "scores": [asdict(entry) for entry in scores]}) + "\n")


def read_scores(path: Path, key: str) -> list[Scores] | None:
    """The scores of ``path`` where they are of ``key``, else None."""
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
