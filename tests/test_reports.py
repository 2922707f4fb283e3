"""The schema of the reports: the committed ones are read, and would be written as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refiner.errors import ArchiveError
from refiner.reports import KINDS, VERSION, Header, header_of, new_report, read_report, report_kind, write_report

REPORTS = Path(__file__).parents[1] / "bench" / "reports"
COMMITTED = sorted(REPORTS.rglob("*.json"))


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: str(file.relative_to(REPORTS)))
def test_a_committed_report_is_read_and_written_back_to_the_byte(file, tmp_path):
    report = read_report(file)
    assert header_of(report) == Header(report_kind(report))
    write_report(tmp_path / "again.json", report)
    assert (tmp_path / "again.json").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "suite"])
def test_a_new_report_of_every_kind_is_read_back(kind, tmp_path):
    report = new_report(kind, {"threads": 1, "error": float("nan")})
    write_report(tmp_path / "new.json", report)
    found = read_report(tmp_path / "new.json", (kind,))
    assert found == report | {"settings": {"threads": 1, "error": None}} and header_of(found) == Header(kind)


def test_the_json_of_pytest_benchmark_is_known_by_its_parts():
    assert report_kind({"benchmarks": [], "machine_info": {}}) == "suite"
    assert report_kind({"machine_info": {}}) == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is no JSON report"),
        ("{", "is no JSON report"),
        ("[]", "is no report"),
        ('{"schema": "refiner-bench/salad"}', "is no report"),
        (json.dumps(Header("engines").entries()), "is a report of engines; expected one of flops"),
        (json.dumps(Header("flops", VERSION + 1).entries()), "unknown version, 2"),
        (json.dumps({"schema": "refiner-bench/flops", "schema_version": "new"}), "unknown version, None"),
    ],
)
def test_other_files_are_refused_by_name(content, words, tmp_path):
    file = tmp_path / "other.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ArchiveError, match=words) as caught:
        read_report(file, ("flops",))
    assert "other.json" in str(caught.value)
