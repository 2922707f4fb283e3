"""docs/streaming.md: its table of reasons is the table in refiner/reasons.py."""

from __future__ import annotations

from typing import get_args

from pages import ROOT

from refiner.reasons import REASONS, Reason


def test_the_page_lists_every_reason_with_its_status_and_meaning():
    text = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in text.splitlines()]
    found = {row[0]: (row[1], row[2]) for row in rows if len(row) == 3 and row[0] in REASONS}
    expected = {
        reason: (meaning.status, meaning.text.removesuffix("`") if meaning.text.endswith("`") else meaning.text)
        for reason, meaning in REASONS.items()
    }
    assert found == expected
    assert set(REASONS) == set(get_args(Reason))
