"""docs/deploy.md: its table of engines is the table in refiner/engines.py."""

from __future__ import annotations

import re

from pages import ROOT

from refiner.engines import ENGINES, NATIVE, PRECISIONS, exporting_engines


def test_the_page_lists_every_engine_with_its_precisions_and_devices():
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").split("## Engines", 1)[1]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    rows = [row for row in rows if len(row) == 4]
    found = {row[0].strip("`"): (re.findall("|".join(PRECISIONS), row[2]), row[1]) for row in rows}
    specs = {spec.name: spec for spec in (ENGINES[NATIVE], *exporting_engines())}
    assert set(found) == set(specs)
    for name, (precisions, runs_on) in found.items():
        spec = specs[name]
        assert sorted(precisions) == sorted(spec.precisions), name
        assert ("CPU" in runs_on) is ("cpu" in spec.devices), name
        assert ("CUDA" in runs_on or "GPU" in runs_on) is ("cuda" in spec.devices), name
