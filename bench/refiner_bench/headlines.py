"""The main result of a report as one sentence, for the head of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refiner.reports import EVALUATION, report_kind

Headline = Callable[[dict[str, Any]], str | None]


def headline_of(report: Mapping[str, Any]) -> str | None:
    """The main result of a report; None for kinds that have none."""
    write = _WRITERS.get(report_kind(report))
    return None if write is None else write(dict(report))


def results_first(reports: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, Mapping[str, Any]]]:
    """The reports in the order of the page: accuracy of models, then the others with a headline, then the rest."""

    def rank(report: Mapping[str, Any]) -> int:
        kind = report_kind(report)
        return list(_WRITERS).index(kind) if kind in _WRITERS else len(_WRITERS)

    return sorted(reports, key=lambda named: rank(named[1]))


def _evaluation(report: dict[str, Any]) -> str | None:
    """The MPJPE of the first and the last column, and the gain between them."""
    mean = report["metrics"].get("mpjpe", {}).get("frame_mean", {})
    known = [name for name, value in mean.items() if value is not None]
    if not known:
        return None
    first, last = known[0], known[-1]
    words = " -> ".join(f"{name} {mean[name]:.1f} mm" for name in dict.fromkeys((first, last)))
    for gain in report["gains"]:
        if (gain["metric"], gain["from"], gain["to"]) == ("mpjpe", first, last):
            low, high = gain["gain_percent_low"], gain["gain_percent_high"]
            words += f", gain {gain['gain_percent']:.1f} %" + ("" if low is None else f" ({low:.1f} to {high:.1f})")
    return f"MPJPE: {words}"


def _real(report: dict[str, Any]) -> str:
    means = ", ".join(f"{name} {scores['mpjpe']:.1f} mm" for name, scores in report["mean"].items())
    return f"MPJPE on a real take: {means}"


def _trajectory(report: dict[str, Any]) -> str:
    rows = {row["name"]: row for row in report["rows"]}
    least, most = rows["known-all"], rows["guessed-nothing"]
    return f"place of the root: {least['mrpe']:.0f} mm off where all is known, {most['mrpe']:.0f} mm where nothing is"


def _streaming(report: dict[str, Any]) -> str | None:
    push = next((value for name, value in report["latency"].items() if name.startswith("push:")), None)
    if push is None:
        return None
    ratio = push["faster_than_rival"]["ratio"]
    return (
        f"one frame of a live stream: p50 {push['p50_ms']:.1f} ms, p99 {push['p99_ms']:.1f} ms, {ratio:.1f} times as "
        "fast as a whole window for every frame"
    )


def _archive(report: dict[str, Any]) -> str:
    local, ray = report["local"], report["ray"]
    words = f"an archive: {local['job_frames_per_s']:,.0f} frames/s, {local['share_of_all']:.0%} of the engine's rate"
    return words if ray is None else f"{words}; two actors on Ray do {ray['scaling']['ratio']:.2f} times as much as one"


def _engines(report: dict[str, Any]) -> str:
    name, best = min(report["contestants"].items(), key=lambda named: named[1]["median_ms"])
    ratio = best["faster_than_peer"]["ratio"]
    return f"a window in the fastest engine, {name}: {best['median_ms']:.1f} ms, {ratio:.2f} times as fast as {_PEER}"


_PEER = "a plain export in ONNX Runtime"
# In the order of the page.
_WRITERS: dict[str, Headline] = {
    EVALUATION: _evaluation,
    "real": _real,
    "trajectory": _trajectory,
    "archive": _archive,
    "streaming": _streaming,
    "engines": _engines,
}
