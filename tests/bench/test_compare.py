"""What counts as a regression, and what is only noise."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from refiner_bench.cli import main
from refiner_bench.compare import compare_reports, format_comparison, judge, regressions
from refiner_bench.measures import Measure, measures, read_measured
from refiner_bench.timing import Ratio, ratio_interval

from refiner.errors import InputError

REPORTS = Path(__file__).parents[2] / "bench" / "reports"


def report(name):
    return json.loads((REPORTS / f"{name}.json").read_text())


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_report_is_read_and_equals_itself(path):
    content = read_measured(path)
    found = measures(content)
    assert len({measure.name for measure in found}) == len(found) > 1
    assert all(math.isfinite(measure.value) for measure in found)
    changes = compare_reports(content, content)
    assert not regressions(changes) and {change.verdict for change in changes} <= {"same", "not judged"}


def test_one_more_layer_is_caught():
    before = report("flops")
    after = copy.deepcopy(before)
    after["rows"][2]["parameters"] += 1
    worse = regressions(compare_reports(before, after))
    assert [change.name for change in worse] == ["flops: depth 8, parameters"]
    assert [change.verdict for change in compare_reports(after, before) if change.name == worse[0].name] == ["better"]


def test_worse_weights_are_caught_and_rounding_is_not():
    before = report("accuracy-cmu-t27")
    after = copy.deepcopy(before)
    after["metrics"]["mpjpe"]["frame_mean"]["refined"] += 0.005
    assert not regressions(compare_reports(before, after))
    after["metrics"]["mpjpe"]["frame_mean"]["refined"] += 0.05
    assert [change.name for change in regressions(compare_reports(before, after))] == ["evaluation: MPJPE, refined"]


def times(rng, factor, rounds=30):
    """Ratios of two contestants whose times scatter as on a shared machine, one of them ``factor`` times slower."""
    ours, peer = (np.exp(rng.normal(0, 0.1, rounds)) for _ in range(2))
    return ratio_interval(4.0 * peer / (ours * factor))


def measure_of(ratio):
    return Measure("speed", ratio.ratio, "x", "ratio", "higher", ratio.low, ratio.high)


def test_a_kernel_that_is_slower_by_a_third_is_caught_and_noise_is_not():
    rng = np.random.default_rng(17)
    caught = flagged = 0
    for _ in range(40):
        base = measure_of(times(rng, 1.0))
        caught += judge(base, measure_of(times(rng, 1.3))) == "worse"
        flagged += judge(base, measure_of(times(rng, 1.0))) != "same"
    assert caught >= 36 and flagged == 0


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (Measure("a", 100, "B", "count"), Measure("a", 101, "B", "count"), "same"),
        (Measure("a", 100, "B", "count"), Measure("a", 102, "B", "count"), "worse"),
        (Measure("a", 100, "", "count"), Measure("a", 99, "", "count"), "better"),
        (Measure("a", 5.0, "ms", "time"), Measure("a", 50.0, "ms", "time"), "not judged"),
        (Measure("a", 5.0, "ms", "time"), Measure("a", math.nan, "ms", "time"), "worse"),
        (Measure("a", 5.0, "mm", "accuracy"), Measure("a", math.inf, "mm", "accuracy"), "worse"),
        (None, Measure("a", 1, "", "count"), "new"),
        # 10 % is not worth a word, however sure; 30 % is, unless the intervals hide it.
        (
            measure_of(Ratio(2.0, 1.99, 2.01)),
            measure_of(Ratio(1.8, 1.79, 1.81)),
            "same",
        ),
        (
            measure_of(Ratio(2.0, 1.9, 2.1)),
            measure_of(Ratio(1.5, 1.4, 1.6)),
            "worse",
        ),
        (
            measure_of(Ratio(2.0, 1.2, 3.1)),
            measure_of(Ratio(1.5, 0.9, 2.6)),
            "same",
        ),
        (
            measure_of(Ratio(1.5, 1.4, 1.6)),
            measure_of(Ratio(2.0, 1.9, 2.1)),
            "better",
        ),
    ],
)
def test_verdicts(before, after, verdict):
    assert judge(before, after) == verdict


def test_the_command(tmp_path, capsys):
    before, after = report("engines-2-threads"), report("engines-2-threads")
    del after["contestants"]["onnx fp32"]
    after["contestants"]["openvino fp32"]["nodes"] += 3
    files = [tmp_path / "before.json", tmp_path / "after.json"]
    for file, content in zip(files, (before, after), strict=True):
        file.write_text(json.dumps(content))
    assert main(["compare", str(files[0]), str(files[0])]) == 0
    assert "0 " not in capsys.readouterr().out
    assert main(["compare", *map(str, files), "--markdown", str(tmp_path / "told.md")]) == 6
    text = capsys.readouterr().out
    assert re.search(r"worse +\| +engines: openvino fp32, nodes", text)
    assert re.search(r"gone +\| +engines: onnx fp32, median", text)
    assert (tmp_path / "told.md").read_text() == text
    # What is no longer measured stops a change even where counts alone are judged.
    assert main(["compare", *map(str, files), "--kinds", "accuracy"]) == 6
    assert "openvino fp32, nodes" not in capsys.readouterr().out


def test_reports_that_cannot_be_compared(tmp_path, capsys):
    with pytest.raises(InputError, match="report of flops cannot be compared with one of engines"):
        compare_reports(report("flops"), report("engines-2-threads"))
    other = report("engines-2-threads")
    other["settings"]["threads"] = 7
    with pytest.raises(InputError, match="different settings, threads 2 and 7"):
        compare_reports(report("engines-2-threads"), other)
    with pytest.raises(InputError, match="lacks 'contestants'"):
        measures({"schema": "refiner-bench/engines"})
    file = tmp_path / "other.json"
    for content, words in (("{", "no JSON report"), ("[]", "is no report"), ('{"schema": "x"}', "is no report")):
        file.write_text(content)
        assert main(["compare", str(file), str(file)]) == 5
        assert words in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none.json"), str(file)]) == 5


def test_the_table_shows_what_changed():
    before = report("flops")
    after = copy.deepcopy(before)
    after["rows"][0]["parameters"] += 10
    changes = compare_reports(before, after)
    text = format_comparison(changes)
    assert text.count("\n| ") == 3 and "1 worse" in text and "3,560,010" in text
    assert format_comparison(changes, everything=True).count("\n| ") == len(changes) + 2
