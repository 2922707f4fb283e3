"""One page of all reports: whole, self-contained, the same each time."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("markdown", reason="Markdown is not installed")

from refiner_bench.cli import main
from refiner_bench.page import page_of, reports_of

from refiner.errors import InputError

REPORTS = Path(__file__).parents[2] / "bench" / "reports"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Elements(HTMLParser):
    """The elements of a page, which must all be closed."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.counts = [], [], {}

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        values = dict(attrs)
        self.links += [values[name] for name in ("src", "href", "xlink:href", "srcset") if values.get(name)]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def read(page):
    elements = Elements()
    elements.feed(page)
    assert not elements.open
    return elements


def test_the_page_of_all_committed_reports(tmp_path, capsys):
    file = tmp_path / "report.html"
    assert main(["page", str(REPORTS), "--output", str(file)]) == 0
    page = file.read_text()
    elements = read(page)
    names = [path.stem for path in sorted(REPORTS.glob("*.json"))]
    assert elements.counts["section"] == elements.counts["h2"] == len(names)
    sections = re.findall(r'<section id="([^"]+)"', page)
    assert sorted(sections) == sorted(names)
    # The main results stand before all tables, accuracy first.
    random = json.loads((REPORTS / "accuracy-any-camera-random.json").read_text())["metrics"]["mpjpe"]["frame_mean"]
    head = page[: page.index("<section")]
    assert f"lifter {random['lifter']:.1f} mm -&gt; refined {random['refined']:.1f} mm" in head
    assert sections[0].startswith("accuracy") and sections.index("real") < sections.index("streaming")
    assert re.findall(r'<li><a href="#([^"]+)"', head) == sections[: head.count("<li>")]
    # Nothing is fetched: links lead into the page, pictures are inside it.
    assert all(link.startswith(("#", "data:")) for link in elements.links), elements.links
    assert "url(http" not in page and "@import" not in page and "<script" not in page
    assert elements.counts["table"] >= len(names) and elements.counts["figure"] >= 4
    flops = json.loads((REPORTS / "flops.json").read_text())
    assert f"{flops['rows'][-1]['parameters'] / 1e6:.2f} M" in page


def test_the_same_reports_give_the_same_page():
    reports = reports_of([REPORTS / "native-2-threads.json", REPORTS / "engines-2-threads.json"])
    assert page_of(reports) == page_of(reports)


def test_a_sweep_with_and_without_accuracy():
    ratio = {"ratio": 1.4, "low": 1.2, "high": 1.5}
    engine = {"median_ms": 9.0, "p99_ms": 11.0, "faster_than_peer": ratio, "largest_difference_mm": 0.0001}
    row = {
        "name": "depth 4", "depth": 4, "model": {"dim": 64}, "steps": 2, "frames": 27, "trained": [],
        "parameters": 1000, "window_flops": 10**9, "frame_flops": 1, "token_flops": 1, "paper_table_iv": [7.2, 40.3],
        "accuracy": None, "peak_mb": 100.0, "floor_ms": 4.5,
        "engines": {"onnx fp32": engine | {"bytes": 10, "build_s": 1.0}, "openvino fp32": {"missing": "not installed"}},
    }  # fmt: skip
    report = {
        "schema": "refiner-bench/sweep",
        "environment": {"processor": "a CPU <of> ours"},
        "settings": {"batch": 1, "threads": 2, "rounds": 3, "data": None},
        "products_per_s": 3e11,
        "rows": [row],
    }
    page = page_of([("sweep", report)])
    assert (
        "random weights, no accuracy" in page
        and ">50%<" in page
        and "a CPU &lt;of&gt; ours" in page
        and "million parameters" in page
    )
    read(page)
    figures = {metric: {"mean": 50.0} for metric in ("mpjpe", "p_mpjpe", "acceleration_error")}
    report |= {"rows": [row | {"accuracy": figures, "trained": ["abc"]}], "resolved": {"mpjpe": 0.25}}
    report["settings"]["data"] = "motion"
    page = page_of([("sweep", report)])
    assert "than 0.25 mm are within the chance" in page
    assert "random weights" not in page and "<td" in page and "MPJPE, mm against latency" in page


def test_what_is_no_report(tmp_path, capsys):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match=r"no report among .*--json FILE"):
        reports_of([tmp_path])
    assert main(["page", str(tmp_path / "other.json")]) == 5
    assert "is no report" in capsys.readouterr().err
