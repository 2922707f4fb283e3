"""The tables of README and docs are those of the reports that they name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from refiner_bench.cli import main
from refiner_bench.readme import BLOCK, with_figures

from refiner.errors import InputError

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "bench" / "reports"


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_TABLES = [page for page in PAGES if BLOCK.search(page.read_text())]
WITH_TABLES += [REPORTS / "tables.md", REPORTS / "mpi-inf-3dhp.md"]


@pytest.mark.parametrize("file", WITH_TABLES, ids=lambda file: file.name)
def test_tables_are_those_of_the_committed_reports(file, capsys):
    assert main(["readme", "--check", str(file)]) == 0, capsys.readouterr().out


def test_readme_has_one_table_of_accuracy_and_one_of_speed():
    blocks = [(found["kind"], found["pattern"]) for found in BLOCK.finditer((ROOT / "README.md").read_text())]
    assert blocks == [
        ("evaluation", "bench/reports/accuracy-any-camera-random.json"),
        ("steps", "bench/reports/steps.json"),
    ]


def test_a_table_in_a_page_has_its_markers():
    for page in PAGES:
        text = page.read_text()
        marks = [len(re.findall(start, text, re.MULTILINE)) for start in ("^<!-- figures ", "^<!-- end -->$")]
        assert marks == [len(BLOCK.findall(text))] * 2, page


def numbers_in(report):
    """All numbers of a JSON report, as they are and in the thousands that tables divide by."""
    if isinstance(report, dict):
        return {number for value in report.values() for number in numbers_in(value)}
    if isinstance(report, list):
        return {number for value in report for number in numbers_in(value)}
    return {float(report)} if isinstance(report, int | float) and not isinstance(report, bool) else set()


# Numbers in prose that no report has: of the paper, of how something was measured, or a limit in the code.
OTHER_NUMBERS = {
    "README.md": [],
    "accuracy.md": ["10 to 12 %"],
    "cost.md": ["40.3,\n40.2, 40.0 and 40.0 mm", "within 1 %", "0.02 mm", "15 %", "3.5 standard errors"],
}


@pytest.mark.parametrize("name", OTHER_NUMBERS)
def test_measured_numbers_in_prose_are_those_of_the_report_that_the_paragraph_links(name):
    """Every "N mm", "N %", "N times" and "N ms" outside of tables rounds from a number of a linked report."""
    page = next(page for page in PAGES if page.name == name)
    # A table stands for the reports that it is written from.
    text = BLOCK.sub(
        lambda block: "".join(f"]({file})" for file in page.parent.glob(block["pattern"])), page.read_text()
    )
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for known in OTHER_NUMBERS[name]:
        assert known in text, known
        text = text.replace(known, "")
    number = r"(?<![\d.,:-])\d+(?:\.\d+)?"
    found = 0
    for section in re.split(r"^#+ .*$", text, flags=re.MULTILINE):
        files = [page.parent / link for link in re.findall(r"\]\(([^)#\s]+reports[^)#\s]+\.(?:md|json))\)", section)]
        reports = [file.with_suffix(".json") for file in files if file.with_suffix(".json").is_file()]
        written = "".join(file.read_text() for file in files if file.suffix == ".md")
        numbers = {value for report in reports for value in numbers_in(json.loads(report.read_text()))}
        for measured in re.finditer(
            rf"{number}(?: (?:to|and|from) {number})*(?= (?:mm|%|times|ms|microseconds)\b| %)", section
        ):
            for digits in re.findall(r"\d+(?:\.\d+)?", measured[0]):
                decimals = len(digits.partition(".")[2])
                fits = any(f"{value * factor:.{decimals}f}" == digits for value in numbers for factor in (1, 1000))
                assert fits or re.search(rf"(?<![\d.]){re.escape(digits)}(?![\d.])", written), (digits, section)
                found += 1
    assert found >= {"README.md": 0, "accuracy.md": 6, "cost.md": 6}[name]


def test_a_changed_report_changes_its_table_and_nothing_else(tmp_path, capsys):
    shutil.copytree(REPORTS, tmp_path / "bench" / "reports")
    (tmp_path / "docs").mkdir()
    readme = shutil.copy(ROOT / "docs" / "cost.md", tmp_path / "docs")
    file = tmp_path / "bench" / "reports" / "flops.json"
    report = json.loads(file.read_text())
    report["rows"][0]["parameters"] = 12_345_678
    file.write_text(json.dumps(report))
    assert main(["readme", "--check", str(readme)]) == 6
    assert "12.35" in capsys.readouterr().out
    before = Path(readme).read_text()
    assert main(["readme", str(readme)]) == 0
    after = Path(readme).read_text()
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(changed) == 1 and "12.35" in changed[0][1]
    # Several pages at a time: one that differs is enough.
    assert main(["readme", "--check", str(readme)]) == 0
    (tmp_path / "old.md").write_text("<!-- figures flops bench/reports/flops.json -->\n<!-- end -->\n")
    assert main(["readme", "--check", str(readme), str(tmp_path / "old.md")]) == 6
    assert main(["readme", str(readme), str(tmp_path / "old.md")]) == 0
    assert main(["readme", "--check", str(tmp_path / "old.md"), str(readme)]) == 0


def test_the_report_of_another_machine_has_a_table_as_soon_as_it_is_there(tmp_path):
    text = "# x\n<!-- figures engines bench/engines-*.json -->\nold\n<!-- end -->\ny\n"
    (tmp_path / "bench").mkdir()
    shutil.copy(REPORTS / "engines-2-threads.json", tmp_path / "bench" / "engines-here.json")
    one = with_figures(text, tmp_path)
    report = json.loads((REPORTS / "engines-2-threads.json").read_text())
    report["environment"]["gpu"] = "A card"
    report["contestants"]["onnx fp32"]["median_ms"] = 0.5
    (tmp_path / "bench" / "engines-there.json").write_text(json.dumps(report))
    two = with_figures(text, tmp_path)
    assert one.startswith("# x\n<!-- figures") and one.endswith("<!-- end -->\ny\n") and "old" not in one
    assert one.count("| engine") == 1 and two.count("| engine") == 2
    assert "A card, T = 27 ([report](bench/engines-there.md))" in two and "A card" not in one
    assert with_figures(two, tmp_path) == two


def test_gains_and_means_are_those_of_the_evaluation():
    report = json.loads((REPORTS / "accuracy-cmu-t27.json").read_text())
    text = (ROOT / "docs" / "screen-models.md").read_text()
    block = next(found for found in BLOCK.finditer(text) if found["kind"] == "evaluation")
    table = cells(block[0].split("-->\n", 1)[1].rsplit("<!--", 1)[0])
    before, after = (report["metrics"]["mpjpe"]["frame_mean"][column] for column in ("lifter", "refined"))
    row = next(row for row in table if row[0] == "MPJPE, mm")
    assert row[1] == f"{before:.1f}" and row[3] == f"{after:.1f}"
    assert float(row[4].split()[0]) == pytest.approx(100 * (1 - after / before), abs=0.05)


def test_inputs_of_another_kind_stand_with_their_gains():
    report = json.loads((REPORTS / "accuracy-study.json").read_text())
    (row,) = (row for row in report["rows"] if row["name"] == "new-cameras")
    text = with_figures("<!-- figures transfer bench/reports/accuracy-study.json -->\n<!-- end -->", ROOT)
    (line,) = (line for line in cells(text) if line[0] == row["title"])
    gain = row["test"]["gains"]["lifter"]["p_mpjpe"]
    assert line[1] == f"{row['test']['metrics']['mpjpe']['frame_mean']:.1f}"
    assert line[3] == f"{gain['percent']:.1f} ({gain['low']:.1f} to {gain['high']:.1f})"


def test_one_refiner_on_several_estimators(tmp_path):
    """A row for each report; reports of other refiners or other data do not stand beside them."""
    given = json.loads((REPORTS / "accuracy-any-camera-random.json").read_text())
    block = "<!-- figures estimators *.json -->\n<!-- end -->"
    for name in ("b", "a"):
        given["models"]["lifter"]["file"] = f"{name}.safetensors"
        (tmp_path / f"{name}.json").write_text(json.dumps(given))
    header, _, *rows = cells(with_figures(block, tmp_path).split("-->\n", 1)[1].rsplit("<!--", 1)[0])
    assert [row[0] for row in rows] == ["`a`", "`b`"] and len(header) == len(rows[0])
    means = given["metrics"]["p_mpjpe"]["frame_mean"]
    assert rows[0][4:6] == [f"{means['lifter']:.1f}", f"{means['refined']:.1f}"]
    gain = next(gain for gain in given["gains"] if (gain["metric"], gain["to"]) == ("acceleration_error", "refined"))
    assert rows[0][7].startswith(f"{gain['gain_percent']:.1f} % ({gain['gain_percent_low']:.1f} to")
    given["models"]["refiner"]["sha256"] = "another"
    given["models"]["refiner"]["file"] = "other.safetensors"
    (tmp_path / "c.json").write_text(json.dumps(given))
    with pytest.raises(InputError, match="of several refiners"):
        with_figures(block, tmp_path)
    # Where each estimator was left out of another refiner's pool, the table names them.
    block = block.replace("estimators", "left-out")
    header, _, *rows = cells(with_figures(block, tmp_path).split("-->\n", 1)[1].rsplit("<!--", 1)[0])
    assert header[:2] == ["estimator", "refiner"] and rows[2][1] == "`other`" and len(header) == len(rows[2])
    given["data"]["description"] = "other data"
    (tmp_path / "d.json").write_text(json.dumps(given))
    with pytest.raises(InputError, match="on several data"):
        with_figures(block, tmp_path)


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("", "no '<!-- figures"),
        ("<!-- figures flops nothing.json -->\n<!-- end -->", "names no report"),
        ("<!-- figures salad bench/reports/flops.json -->\n<!-- end -->", "no table of 'salad'"),
        ("<!-- figures study bench/reports/flops.json -->\n<!-- end -->", "is a report of flops, not of accuracy"),
        ("<!-- figures transfer bench/reports/accuracy-lifters.json -->\n<!-- end -->", "no row of 'Transfer'"),
        ("<!-- figures flops bench/reports/fl*.json -->\n<!-- end -->", None),
        ("<!-- figures evaluation bench/reports/accuracy-cmu-*.json -->\n<!-- end -->", "takes one report"),
    ],
)
def test_blocks_that_name_something_else(block, told):
    if told is None:
        assert "| depth" in with_figures(block, ROOT)
        return
    with pytest.raises(InputError, match=told):
        with_figures(block, ROOT)
