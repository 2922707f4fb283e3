"""The plots of the HTML page. They are embedded in the page as SVG or PNG."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from refiner.errors import MissingComponentError
from refiner.files import atomic_write_text
from refiner.reports import report_kind
from refiner_bench.report import JsonObject

BEFORE, AFTER, QUIET = "#d1602b", "#1f6fb4", "#888888"


def draw_plots(report: JsonObject, folder: Path) -> list[Path]:
    """Write the plots of a report to ``folder`` as files ``KIND-N.svg``.

    Returns:
        The files.

    Raises:
        MissingComponentError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, (_, markup) in enumerate(plots_of(report), start=1):
        files.append(folder / f"{report_kind(report)}-{number}.svg")
        atomic_write_text(files[-1], markup + "\n")
    return files


def plots_of(report: JsonObject) -> list[tuple[str, str]]:
    """Draw every plot for which a report has the numbers.

    Returns:
        The title and the markup (``<svg>`` or ``<img>``) of each plot.

    Raises:
        MissingComponentError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise MissingComponentError("the page needs matplotlib: pip install 'pose-refiner[report]'") from error
    matplotlib.use("Agg")
    # A fixed salt, so that the same report always gives the same page.
    matplotlib.rcParams["svg.hashsalt"] = "refiner"
    drawers = _DRAWERS.get(report_kind(report), ())
    return [plot for drawer in drawers for plot in drawer(report)]


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(width, height), layout="constrained")
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _svg(figure: Any) -> str:
    from matplotlib import pyplot

    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = written.getvalue()
    return text[text.index("<svg") :]


def _sweep(report: JsonObject) -> list[tuple[str, str]]:
    """Accuracy against latency and against FLOPs. If no depth is trained, the size replaces the accuracy."""
    rows = report["rows"]
    engines = [
        title for title in rows[0]["engines"] if all("median_ms" in row["engines"].get(title, {}) for row in rows)
    ]
    scored = [row for row in rows if row["accuracy"] is not None]
    chosen = scored or rows
    quantity = "MPJPE, mm" if scored else "million parameters"
    heights = [row["accuracy"]["mpjpe"]["mean"] if scored else row["parameters"] / 1e6 for row in chosen]
    figure, axis = _figure(8, 4)
    for title in engines:
        axis.plot([row["engines"][title]["median_ms"] for row in chosen], heights, marker="o", linewidth=1, label=title)
    axis.legend(frameon=False, fontsize=8)
    axis.set(xlabel="median latency, ms", ylabel=quantity)
    against_time = _svg(figure)
    figure, axis = _figure(8, 4)
    flops = [row["window_flops"] / 1e9 for row in chosen]
    axis.plot(flops, heights, marker="o", color=AFTER)
    for row, x, y in zip(chosen, flops, heights, strict=True):
        axis.annotate(row["name"], (x, y), textcoords="offset points", xytext=(6, 4), fontsize=8)
    axis.set(xlabel="GFLOP a window", ylabel=quantity)
    return [(f"{quantity} against latency", against_time), (f"{quantity} against FLOPs", _svg(figure))]


def _engines(report: JsonObject) -> list[tuple[str, str]]:
    entries = report["contestants"]
    figure, axis = _figure(9, 1 + 0.4 * len(entries))
    for bar, entry in enumerate(entries.values()):
        ratio = entry["faster_than_peer"]
        axis.barh(bar, ratio["ratio"], color=AFTER if ratio["low"] > 1 else QUIET)
        axis.plot([ratio["low"], ratio["high"]], [bar, bar], color="black", linewidth=1.5)
        axis.annotate(
            f" {entry['median_ms']:.1f} ms", (max(ratio["high"], ratio["ratio"]), bar), va="center", fontsize=9
        )
    axis.set_yticks(range(len(entries)), list(entries))
    axis.invert_yaxis()
    axis.axvline(1, color=BEFORE, linewidth=1)
    axis.margins(x=0.12)
    axis.set(xlabel="times as fast as the plain export, with 95 % interval")
    return [("Speed of the engines", _svg(figure))]


def _native(report: JsonObject) -> list[tuple[str, str]]:
    """The roofline: the speed that the machine allows by operations per byte, and the speed of each contestant."""
    floors = report["floors"]
    figure, axis = _figure(8, 4)
    intensity = np.logspace(-1, 3, 200)
    roof = np.minimum(intensity * floors["copy_bytes_per_s"], floors["flops_per_s"]) / 1e9
    axis.plot(intensity, roof, color="black", linewidth=1.5, label="the machine: copies, then products")
    for name, group in report["groups"].items():
        kernel_intensity = group["flops"] / group["bytes"]
        for contestant, rate in group["rates"].items():
            native = contestant == "native"
            reached = rate * group["flops"] / 1e9
            axis.plot(kernel_intensity, reached, "o", color=AFTER if native else QUIET, markersize=8 if native else 4)
            if native:
                label = f"{name.split(',')[0]}\n{group['share_of_floor']:.0%} of the roof"
                axis.annotate(
                    label, (kernel_intensity, reached), textcoords="offset points", xytext=(10, -4), fontsize=8
                )
    axis.plot([], [], "o", color=AFTER, label="native")
    axis.plot([], [], "o", color=QUIET, markersize=4, label="peers")
    axis.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s")
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    return [("Roofline of the compiled kernels", _svg(figure))]


def _evaluation(report: JsonObject) -> list[tuple[str, str]]:
    """MPJPE by action, before and after the refinement."""
    by_action = report["metrics"]["mpjpe"]["per_action"]
    columns = [column for column in ("lifter", "refined") if column in by_action]
    actions = list(by_action[columns[0]])
    figure, axis = _figure(9, 4)
    positions, width = np.arange(len(actions)), 0.8 / len(columns)
    for index, (column, colour) in enumerate(zip(columns, (BEFORE, AFTER), strict=False)):
        heights = [by_action[column][action] for action in actions]
        axis.bar(positions + (index - (len(columns) - 1) / 2) * width, heights, width, label=column, color=colour)
    axis.set_xticks(positions, actions, rotation=35, ha="right")
    axis.legend(frameon=False)
    axis.set(ylabel="MPJPE, mm")
    return [("MPJPE by action", _svg(figure))]


def _example(report: JsonObject) -> list[tuple[str, str]]:
    """The errors of one sequence, frame by frame."""
    example = report.get("example")
    if example is None:
        return []
    figure, axis = _figure(9, 3.2)
    for column, colour in (("lifter", BEFORE), ("refined", AFTER)):
        errors = example["mpjpe_mm"].get(column)
        if errors is not None:
            axis.plot(np.arange(len(errors)) / example["fps"], errors, color=colour, linewidth=1.2, label=column)
    title = f"{example['subject']}, {example['clip']}, camera {example['camera']}"
    axis.set(xlabel="seconds", ylabel="MPJPE, mm", title=title, ylim=(0, None))
    axis.legend(frameon=False)
    return [("One sequence, frame by frame", _svg(figure))]


def _accuracy(report: JsonObject) -> list[tuple[str, str]]:
    from refiner_bench.accuracy.plots import draw_study

    with tempfile.TemporaryDirectory() as folder:
        files = draw_study(report, Path(folder))
        return [(path.stem.replace("-", " "), _png(path.read_bytes())) for path in files]


def _streaming(report: JsonObject) -> list[tuple[str, str]]:
    """Error against delay, without and with one body shape per clip."""
    if "delay" not in report:
        return []
    errors, plots = report["delay"]["errors"], []
    for metric, label in (("mpjpe", "MPJPE, mm"), ("acceleration_error", "acceleration error, mm/frame^2")):
        figure, axis = _figure(9, 4)
        for method, colour in STREAMED.items():
            for name, style in ((method, "-"), (f"{method}, one shape", "--")):
                points = sorted((int(delay), entry[metric]) for delay, entry in errors.get(name, {}).items())
                if points:
                    shape = "s" if len(points) == 1 else "o"
                    fill = colour if style == "-" else "white"
                    looks = {"marker": shape, "color": colour, "markersize": 5, "markerfacecolor": fill}
                    axis.plot(*zip(*points, strict=True), style, label=name, **looks)
        # The legend is beside the plot, because there is no room between the curves.
        figure.legend(frameon=False, fontsize=7, loc="outside right center")
        axis.set(xlabel="delay, frames at 50 a second", ylabel=label, ylim=(0, None) if metric != "mpjpe" else None)
        plots.append((f"{label} against delay", _svg(figure)))
    return plots


STREAMED = {
    "input": QUIET,
    "One-Euro": "#b8860b",
    "Savitzky-Golay": "#6a8f3c",
    "window": AFTER,
    "causal": BEFORE,
    "causal, smoothed": "#8a4fb5",
}


def _png(content: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


_DRAWERS: dict[str, tuple[Callable[[JsonObject], list[tuple[str, str]]], ...]] = {
    "sweep": (_sweep,),
    "engines": (_engines,),
    "native": (_native,),
    "accuracy": (_accuracy,),
    "evaluation": (_evaluation, _example),
    "streaming": (_streaming,),
}
