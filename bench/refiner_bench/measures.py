"""The numbers of a report one after another, whichever command wrote it, for `compare` and the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from refiner.errors import InputError
from refiner.reports import EVALUATION, STUDY, SUITE, Report, read_report, report_kind

# count: the same on every machine. accuracy: the same up to rounding. ratio: to a peer that ran in between, with its
# interval. time: depends on the machine and on what else it does.
Kind = Literal["count", "accuracy", "ratio", "time"]
Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Measure:
    """One number of a report; ``low`` and ``high`` its 95 % interval where there is one."""

    name: str
    value: float
    unit: str
    kind: Kind
    better: Better = "lower"
    low: float | None = None
    high: float | None = None


def read_measured(path: Path) -> Report:
    """A report whose numbers `measures` knows. Raises InputError for another file."""
    return read_report(path, _READERS)


def measures(report: Mapping[str, Any]) -> list[Measure]:
    """The numbers of a report, in its order. Raises InputError for one whose parts are missing."""
    kind = report_kind(report)
    try:
        return [_named(kind, measure) for measure in _READERS[kind](report)]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"this report of {kind} lacks {error}; make it again with this version") from error


def _named(kind: str, measure: Measure) -> Measure:
    return Measure(**{**vars(measure), "name": f"{kind}: {measure.name}"})


def _flops(report: Mapping[str, Any]) -> Iterator[Measure]:
    for row in report["rows"]:
        depth = f"depth {row['depth']}"
        yield Measure(f"{depth}, parameters", row["parameters"], "", "count")
        yield Measure(f"{depth}, a window", row["window_with_time_path"], "FLOP", "count")
        yield Measure(f"{depth}, a refinement as exported", row["refinement_exported"], "FLOP", "count")
        if row["torch"] is not None:
            yield Measure(
                f"{depth}, a window by PyTorch's counter", row["torch"]["window_with_time_path"], "FLOP", "count"
            )


def _lifters(report: Mapping[str, Any]) -> Iterator[Measure]:
    for row in report["rows"]:
        yield Measure(f"{row['name']}, parameters", row["parameters"], "", "count")
        yield Measure(f"{row['name']}, a window", row["macs"], "MAC", "count")


def _cards(report: Mapping[str, Any]) -> Iterator[Measure]:
    for row in report["rows"]:
        # A bundled model may have the name of its configuration.
        name = f"{row['name']}, bundled" if row["bundled"] else row["name"]
        yield Measure(f"{name}, parameters", row["parameters"], "", "count")
        yield Measure(f"{name}, a window", row["window_flops"], "FLOP", "count")
        if row["median_ms"] is not None:
            yield Measure(f"{name}, median", row["median_ms"], "ms", "time")


def _engines(report: Mapping[str, Any]) -> Iterator[Measure]:
    for name, entry in report["contestants"].items():
        # Rounding differs from one version of an engine to the next; the gate of the export judges it.
        yield from _contestant(name, entry, "the plain export")


def _contestant(name: str, entry: Mapping[str, Any], rival: str) -> Iterator[Measure]:
    for count in ("nodes", "transposes"):
        if count in entry:
            yield Measure(f"{name}, {count}", entry[count], "", "count")
    yield Measure(f"{name}, median", entry["median_ms"], "ms", "time")
    yield Measure(f"{name}, 99th percentile", entry["p99_ms"], "ms", "time")
    ratio = entry["faster_than_peer"]
    if ratio["low"] != ratio["high"]:  # the rival itself
        yield _ratio(f"{name}, speed over {rival}", ratio)


def _native(report: Mapping[str, Any]) -> Iterator[Measure]:
    for name, group in report["groups"].items():
        for peer, ratio in group["ratios"].items():
            if not peer.startswith("native"):
                yield _ratio(f"{name.split(',')[0]}, speed over {peer}", ratio)
        if "share_interval" in group:  # not in reports of before there was one
            yield _ratio(f"{name.split(',')[0]}, share of the floor", group["share_interval"])
        for contestant, rate in group["rates"].items():
            yield Measure(f"{name.split(',')[0]}, {contestant}", rate, "1/s", "time", "higher")
    yield Measure("one pose from Python", report["single_pose_us"], "us", "time")


def _train_step(report: Mapping[str, Any]) -> Iterator[Measure]:
    low, high = report["ratio_interval"]
    yield _ratio("fused over plain", {"ratio": report["ratio"], "low": low, "high": high})
    for backend, speed in report["windows_per_s"].items():
        yield Measure(backend, speed, "windows/s", "time", "higher")


def _evaluation(report: Mapping[str, Any]) -> Iterator[Measure]:
    for metric in report["metrics"].values():
        for column, value in metric["frame_mean"].items():
            yield Measure(f"{metric['label']}, {column}", value, metric["unit"], "accuracy")


def _accuracy(report: Mapping[str, Any]) -> Iterator[Measure]:
    for row in report["rows"]:
        for metric, unit in (("mpjpe", "mm"), ("p_mpjpe", "mm"), ("acceleration_error", "mm/frame^2")):
            yield Measure(f"{row['name']}, {metric}", row["test"]["metrics"][metric]["frame_mean"], unit, "accuracy")


def _sweep(report: Mapping[str, Any]) -> Iterator[Measure]:
    for row in report["rows"]:
        name = row["name"]
        yield Measure(f"{name}, parameters", row["parameters"], "", "count")
        yield Measure(f"{name}, a window", row["window_flops"], "FLOP", "count")
        if row["accuracy"] is not None:
            for metric, unit in (("mpjpe", "mm"), ("p_mpjpe", "mm"), ("acceleration_error", "mm/frame^2")):
                yield Measure(f"{name}, {metric}", row["accuracy"][metric]["mean"], unit, "accuracy")
        for title, engine in row["engines"].items():
            if "missing" in engine:
                continue
            where = f"{name}, {title}"
            if "bytes" in engine:
                yield Measure(f"{where}, size", engine["bytes"], "B", "count")
                yield Measure(f"{where}, build", engine["build_s"], "s", "time")
            yield Measure(f"{where}, parity", engine["largest_difference_mm"], "mm", "time")
            yield from _contestant(where, engine, "the peer")


def _streaming(report: Mapping[str, Any]) -> Iterator[Measure]:
    for name, entry in report["latency"].items():
        yield Measure(f"{name}, median", entry["p50_ms"], "ms", "time")
        yield Measure(f"{name}, 99th percentile", entry["p99_ms"], "ms", "time")
        ratio = entry["faster_than_rival"]
        if ratio["low"] != ratio["high"] and "of_ms" not in entry:
            yield _ratio(f"{name}, speed over the window again", ratio)
    for method, delays in report.get("delay", {}).get("errors", {}).items():
        for delay, errors in delays.items():
            for metric, unit in (("mpjpe", "mm"), ("p_mpjpe", "mm"), ("acceleration_error", "mm/frame^2")):
                yield Measure(f"{method}, delay {delay}, {metric}", errors[metric], unit, "accuracy")


def _real(report: Mapping[str, Any]) -> Iterator[Measure]:
    for row in report["views"]:
        for method, parts in row["methods"].items():
            for metric, unit in (("mpjpe", "mm"), ("p_mpjpe", "mm"), ("acceleration_error", "mm/frame^2")):
                yield Measure(f"{row['view']}, {method}, {metric}", parts["all"][metric], unit, "accuracy")
    for method, found in (report["clip"] or {"methods": {}})["methods"].items():
        yield Measure(f"clip, {method}, bone spread", found["bone_spread"], "mm", "accuracy")


def _suite(report: Mapping[str, Any]) -> Iterator[Measure]:
    for entry in report["benchmarks"]:
        yield Measure(f"{entry['group']}, {entry['name']}", 1e6 * entry["stats"]["median"], "us", "time")


def _ratio(name: str, ratio: Mapping[str, float]) -> Measure:
    return Measure(name, ratio["ratio"], "x", "ratio", "higher", ratio["low"], ratio["high"])


_READERS: dict[str, Callable[[Mapping[str, Any]], Iterator[Measure]]] = {
    "flops": _flops,
    "lifters": _lifters,
    "cards": _cards,
    "sweep": _sweep,
    "engines": _engines,
    "native": _native,
    "train-step": _train_step,
    STUDY: _accuracy,
    EVALUATION: _evaluation,
    "streaming": _streaming,
    "real": _real,
    SUITE: _suite,
}
