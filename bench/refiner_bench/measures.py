"""The numbers of a report as a flat list, for every kind of report. `compare` and the HTML page use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refiner.errors import InputError
from refiner.reports import EVALUATION, EVALUATION_3DHP, PUBLISHED, STUDY, SUITE, Report, read_report, report_kind
from refiner_bench.report import JsonObject

# count: equal on every machine. accuracy: equal up to rounding. ratio: the speed relative to a peer timed in the same
# run, with an interval. time: depends on the machine and on its other load.
Kind = Literal["count", "accuracy", "ratio", "time"]
Better = Literal["lower", "higher"]
METRIC_UNITS = {"mpjpe": "mm", "p_mpjpe": "mm", "acceleration_error": "mm/frame^2"}


@dataclass(frozen=True)
class Measure:
    """One number of a report; ``low`` and ``high`` are the ends of its 95 % interval, or None without an interval."""

    name: str
    value: float
    unit: str
    kind: Kind
    better: Better = "lower"
    low: float | None = None
    high: float | None = None


def read_measured(path: Path) -> Report:
    """Read a report of a kind that `measures` supports. Raises InputError for another file."""
    return read_report(path, _READERS)


def measures(report: JsonObject) -> list[Measure]:
    """All numbers of a report, in the order of the report.

    Args:
        report: The content of a report file.

    Returns:
        The numbers; each name begins with the kind of the report.

    Raises:
        InputError: Parts of the report are missing.
    """
    kind = report_kind(report)
    try:
        return [_named(kind, measure) for measure in _READERS[kind](report)]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"this report of {kind} lacks {error}; make it again with this version") from error


def _named(kind: str, measure: Measure) -> Measure:
    return Measure(**{**vars(measure), "name": f"{kind}: {measure.name}"})


def _flops(report: JsonObject) -> Iterator[Measure]:
    for row in report["rows"]:
        depth = f"depth {row['depth']}"
        yield Measure(f"{depth}, parameters", row["parameters"], "", "count")
        yield Measure(f"{depth}, a window", row["window_with_time_path"], "FLOP", "count")
        yield Measure(f"{depth}, a refinement as exported", row["refinement_exported"], "FLOP", "count")
        if row["torch"] is not None:
            yield Measure(
                f"{depth}, a window by PyTorch's counter", row["torch"]["window_with_time_path"], "FLOP", "count"
            )


def _lifters(report: JsonObject) -> Iterator[Measure]:
    for row in report["rows"]:
        yield Measure(f"{row['name']}, parameters", row["parameters"], "", "count")
        yield Measure(f"{row['name']}, a window", row["macs"], "MAC", "count")


def _cards(report: JsonObject) -> Iterator[Measure]:
    for row in report["rows"]:
        # A bundled model may have the name of its configuration.
        name = f"{row['name']}, bundled" if row["bundled"] else row["name"]
        yield Measure(f"{name}, parameters", row["parameters"], "", "count")
        yield Measure(f"{name}, a window", row["window_flops"], "FLOP", "count")
        if row["median_ms"] is not None:
            yield Measure(f"{name}, median", row["median_ms"], "ms", "time")


def _engines(report: JsonObject) -> Iterator[Measure]:
    for name, entry in report["contestants"].items():
        # The largest difference to PyTorch is left out: it is rounding, which differs between versions of an engine.
        # The export checks it against its own limit.
        yield from _contestant(name, entry, "the plain export")


def _contestant(name: str, entry: JsonObject, rival: str) -> Iterator[Measure]:
    for count in ("nodes", "transposes"):
        if count in entry:
            yield Measure(f"{name}, {count}", entry[count], "", "count")
    yield Measure(f"{name}, median", entry["median_ms"], "ms", "time")
    yield Measure(f"{name}, 99th percentile", entry["p99_ms"], "ms", "time")
    ratio = entry["faster_than_peer"]
    if ratio["low"] != ratio["high"]:  # equal only for the rival itself
        yield _ratio(f"{name}, speed over {rival}", ratio)


def _steps(report: JsonObject) -> Iterator[Measure]:
    for model, measured in report["models"].items():
        for engine, entry in measured["engines"].items():
            name = f"{model}, {engine}"
            yield Measure(f"{name}, median", entry["p50_ms"], "ms", "time")
            yield Measure(f"{name}, 99th percentile", entry["p99_ms"], "ms", "time")
            if "cheaper_than_window" in entry:
                yield _ratio(f"{name}, steps in the time of a window", entry["cheaper_than_window"])


def _profile(report: JsonObject) -> Iterator[Measure]:
    for case, measured in report["cases"].items():
        for engine, phases in measured["engines"].items():
            for name, phase in phases.items():
                yield Measure(f"{case}, {engine}, {name}", phase["ms"], "ms", "time")


def _busy(report: JsonObject) -> Iterator[Measure]:
    for name, entry in report["contestants"].items():
        yield Measure(f"{name}, median", entry["median_ms"], "ms", "time")
        yield Measure(f"{name}, 95th percentile", entry["p95_ms"], "ms", "time")


def _distributed(report: JsonObject) -> Iterator[Measure]:
    for name, entry in report["contestants"].items():
        yield Measure(f"{name}, validation MPJPE", entry["mpjpe_mm"], "mm", "accuracy")
        yield Measure(f"{name}, speed", entry["windows_per_s"], "windows/s", "time", "higher")


def _native(report: JsonObject) -> Iterator[Measure]:
    for name, group in report["groups"].items():
        for peer, ratio in group["ratios"].items():
            if not peer.startswith("native"):
                yield _ratio(f"{name.split(',')[0]}, speed over {peer}", ratio)
        if "share_interval" in group:  # older reports lack it
            yield _ratio(f"{name.split(',')[0]}, share of the floor", group["share_interval"])
        for contestant, rate in group["rates"].items():
            yield Measure(f"{name.split(',')[0]}, {contestant}", rate, "1/s", "time", "higher")
    yield Measure("one pose from Python", report["single_pose_us"], "us", "time")


def _train_step(report: JsonObject) -> Iterator[Measure]:
    low, high = report["ratio_interval"]
    yield _ratio("fused over plain", {"ratio": report["ratio"], "low": low, "high": high})
    for name, ratio in report.get("ratios", {}).items():  # older reports have one ratio
        yield _ratio(name, ratio)
    for backend, speed in report["windows_per_s"].items():
        yield Measure(backend, speed, "windows/s", "time", "higher")


def _evaluation(report: JsonObject) -> Iterator[Measure]:
    for metric in report["metrics"].values():
        for column, value in metric["frame_mean"].items():
            yield Measure(f"{metric['label']}, {column}", value, metric["unit"], "accuracy")


def _accuracy(report: JsonObject) -> Iterator[Measure]:
    for row in report["rows"]:
        for metric, unit in METRIC_UNITS.items():
            yield Measure(f"{row['name']}, {metric}", row["test"]["metrics"][metric]["frame_mean"], unit, "accuracy")


def _sweep(report: JsonObject) -> Iterator[Measure]:
    for row in report["rows"]:
        name = row["name"]
        yield Measure(f"{name}, parameters", row["parameters"], "", "count")
        yield Measure(f"{name}, a window", row["window_flops"], "FLOP", "count")
        if row["accuracy"] is not None:
            for metric, unit in METRIC_UNITS.items():
                yield Measure(f"{name}, {metric}", row["accuracy"][metric]["mean"], unit, "accuracy")
        for title, engine in row["engines"].items():
            if "missing" in engine:
                continue
            label = f"{name}, {title}"
            if "bytes" in engine:
                yield Measure(f"{label}, size", engine["bytes"], "B", "count")
                yield Measure(f"{label}, build", engine["build_s"], "s", "time")
            yield Measure(f"{label}, parity", engine["largest_difference_mm"], "mm", "time")
            yield from _contestant(label, engine, "the peer")


def _streaming(report: JsonObject) -> Iterator[Measure]:
    for name, entry in report["latency"].items():
        yield Measure(f"{name}, median", entry["p50_ms"], "ms", "time")
        yield Measure(f"{name}, 99th percentile", entry["p99_ms"], "ms", "time")
        ratio = entry["faster_than_rival"]
        if ratio["low"] != ratio["high"] and "of_ms" not in entry:
            yield _ratio(f"{name}, speed over the window again", ratio)
    for method, delays in report.get("delay", {}).get("errors", {}).items():
        for delay, errors in delays.items():
            for metric, unit in METRIC_UNITS.items():
                yield Measure(f"{method}, delay {delay}, {metric}", errors[metric], unit, "accuracy")


def _serve(report: JsonObject) -> Iterator[Measure]:
    yield Measure("limit of clients", report["limit"], "", "time", "higher")
    for run in report["runs"]:
        name = f"{run['clients']} clients" + (f" and {run['bursts']} faster" if run["bursts"] else "")
        for percentile, value in run["latency_ms"].items():
            if value is not None and not run.get("no_limit"):
                yield Measure(f"{name}, {percentile}", value, "ms", "time")


def _real(report: JsonObject) -> Iterator[Measure]:
    for row in report["views"]:
        for method, errors in row["methods"].items():
            for metric, unit in METRIC_UNITS.items():
                yield Measure(f"{row['view']}, {method}, {metric}", errors["all"][metric], unit, "accuracy")
    for method, scores in (report["clip"] or {"methods": {}})["methods"].items():
        yield Measure(f"clip, {method}, bone spread", scores["bone_spread"], "mm", "accuracy")


def _trajectory(report: JsonObject) -> Iterator[Measure]:
    for group in ("rows", "real"):
        for row in report[group]:
            label = f"{group}, {row['name']}"
            yield Measure(f"{label}, MRPE", row["mrpe"], "mm", "accuracy")
            yield Measure(f"{label}, absolute MPJPE", row["absolute_mpjpe"], "mm", "accuracy")
            yield Measure(f"{label}, root acceleration error", row["root_acceleration"], "mm/frame^2", "accuracy")
    for what, cost in report["ms_per_frame"].items():
        yield Measure(f"a frame, {what}", cost, "ms", "time")


def _archive(report: JsonObject) -> Iterator[Measure]:
    local, ray, memory = report["local"], report["ray"], report["memory"]
    yield _ratio("a chunk, part of the engine's rate", local["share"])
    yield Measure("the job", local["job_frames_per_s"], "frames/s", "time", "higher")
    yield Measure("the engine", local["engine_frames_per_s"], "frames/s", "time", "higher")
    yield Measure("a frame in", report["bytes"]["in"], "B", "count")
    for name, size in report["bytes"]["out"].items():
        yield Measure(f"a frame as {name}", size, "B", "count")
    if memory is not None:
        yield Measure("memory, ten times the input", memory["ratio"], "x", "time")
    if ray is not None:
        yield _ratio("two actors over one", ray["scaling"])
        yield Measure("a chunk without work", 1000 * ray["chunk_overhead_s"], "ms", "time")


def _suite(report: JsonObject) -> Iterator[Measure]:
    for entry in report["benchmarks"]:
        yield Measure(f"{entry['group']}, {entry['name']}", 1e6 * entry["stats"]["median"], "us", "time")


def _ratio(name: str, ratio: JsonObject) -> Measure:
    return Measure(name, ratio["ratio"], "x", "ratio", "higher", ratio["low"], ratio["high"])


def _evaluation_3dhp(report: JsonObject) -> Iterator[Measure]:
    for label, column in report["columns"].items():
        for name, mean in [(score["name"], score) for score in column["sequences"]] + [("mean", column["mean"])]:
            yield Measure(f"{label}, {name}, PCK", mean["pck"], "%", "accuracy", "higher")
            yield Measure(f"{label}, {name}, AUC", mean["auc"], "%", "accuracy", "higher")
            yield Measure(f"{label}, {name}, MPJPE", mean["mpjpe_mm"], "mm", "accuracy")


def _published(report: JsonObject) -> Iterator[Measure]:
    yield Measure("comparisons", len(report["rows"]), "", "count", "higher")
    yield Measure("comparisons that agree", sum(row["agrees"] for row in report["rows"]), "", "count", "higher")


_READERS: dict[str, Callable[[JsonObject], Iterator[Measure]]] = {
    "flops": _flops,
    "lifters": _lifters,
    "cards": _cards,
    "sweep": _sweep,
    "engines": _engines,
    "steps": _steps,
    "profile-native": _profile,
    "busy": _busy,
    "native": _native,
    "train-step": _train_step,
    "distributed": _distributed,
    STUDY: _accuracy,
    EVALUATION: _evaluation,
    EVALUATION_3DHP: _evaluation_3dhp,
    PUBLISHED: _published,
    "streaming": _streaming,
    "serve": _serve,
    "real": _real,
    "trajectory": _trajectory,
    "archive": _archive,
    SUITE: _suite,
}
