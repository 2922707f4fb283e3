"""Plots of an accuracy report, drawn with matplotlib (the extra ``report``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refiner.errors import MissingComponentError
from refiner.files import atomic_path
from refiner.skeleton import JOINT_NAMES
from refiner_bench.accuracy.scores import HISTOGRAM_EDGES
from refiner_bench.report import JsonObject

BEFORE, AFTER, UNCLEAR = "#d1602b", "#1f6fb4", "#888888"


def draw_study(report: JsonObject, folder: Path) -> list[Path]:
    """Draw every plot for which the report has the numbers.

    Args:
        report: A report of the accuracy study.
        folder: The folder for the PNG files.

    Returns:
        The files.

    Raises:
        MissingComponentError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise MissingComponentError("drawing needs matplotlib: pip install 'pose-refiner[report]'") from error
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    rows = {row["name"]: row for row in report["rows"]}
    files = [_gains(rows, folder), _curves(rows, folder)]
    refined = [row for row in rows.values() if row["detail"]]
    if refined:
        series = _before_and_after(refined, rows)
        files += [_histograms(series, folder), _by_joint(series, folder), _by_camera(series, folder)]
    files += [_by_frame(refined, folder)] if any("by_place" in row["test"]["extra"] for row in refined) else []
    files += [_premise(row, folder) for row in refined if "premise" in row["test"]["extra"]]
    return files


@dataclass(frozen=True)
class _Series:
    """A row of the report in a plot that compares rows.

    Attributes:
        row: The row of the report.
        colour: The colour of matplotlib.
        before: True for a lifter, drawn pale and dashed; False for a refiner, drawn in the full colour.
    """

    row: JsonObject
    colour: str
    before: bool


def _before_and_after(refined: Sequence[JsonObject], rows: Mapping[str, JsonObject]) -> list[_Series]:
    """Every lifter, followed by its refiners. A lifter has the colour of its first refiner."""
    series: list[_Series] = []
    for index, row in enumerate(refined):
        colour = f"C{index}"
        if row["lifter"] in rows and row["lifter"] not in [known.row["name"] for known in series]:
            series.append(_Series(rows[row["lifter"]], colour, before=True))
        series.append(_Series(row, colour, before=False))
    return series


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
    return path


def _axes(width: float, height: float, columns: int = 1, **options: Any) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(width, height), layout="constrained", **options)
    for axis in np.atleast_1d(axes):
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _gains(rows: Mapping[str, JsonObject], folder: Path) -> Path:
    """The gain in MPJPE over the row's lifter, with its interval. The colour is grey if the interval contains 0."""
    chosen = [row for row in rows.values() if "lifter" in row["test"]["gains"]]
    figure, axis = _axes(9, 1.2 + 0.3 * len(chosen))
    for index, row in enumerate(chosen):
        gain = row["test"]["gains"]["lifter"]["mpjpe"]
        error = [[gain["percent"] - gain["low"]], [gain["high"] - gain["percent"]]]
        colour = AFTER if gain["low"] > 0 else BEFORE if gain["high"] < 0 else UNCLEAR
        axis.errorbar(gain["percent"], index, xerr=error, fmt="o", color=colour, capsize=3)
    axis.axvline(0, color="#888888", linewidth=0.8)
    axis.set_yticks(range(len(chosen)), [row["name"] for row in chosen])
    axis.invert_yaxis()
    axis.set(xlabel="MPJPE below the row's own lifter, %, test people, 95 % interval over clips")
    return _save(figure, folder / "gains.png")


def _curves(rows: Mapping[str, JsonObject], folder: Path) -> Path:
    """Validation MPJPE over training. Lifters, refiners and rows of other data have separate panels.

    The scales of the panels differ.
    """
    panels: dict[str, list[JsonObject]] = {"lifters": [], "refiners": []}
    for row in rows.values():
        if row["training"]:
            panels.setdefault(f"{row['kind']}s" if row["data"] == "default" else row["data"], []).append(row)
    figure, axes = _axes(5.5 * len(panels), 6, columns=len(panels))
    for axis, (title, shown) in zip(axes, panels.items(), strict=True):
        for index, row in enumerate(shown):
            steps, errors = zip(*row["training"]["validation_curve"], strict=True)
            # Matplotlib repeats its ten colours, so every further ten curves get other dashes.
            dashes = ("-", "--", ":")[index // 10 % 3]
            axis.plot(steps, errors, dashes, linewidth=1.2, marker=".", label=row["name"])
        axis.set(xlabel="training step", ylabel="validation MPJPE, mm", title=title)
        axis.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    return _save(figure, folder / "learning-curves.png")


def _histograms(series: Sequence[_Series], folder: Path) -> Path:
    """The distribution of the frames' errors before and after the refinement, as in Fig. 4 of the paper."""
    figure, axis = _axes(9, 4.5)
    for entry in series:
        name, distributions = entry.row["name"], entry.row["test"]["distributions"]
        share = np.array(distributions["histogram"]) / sum(distributions["histogram"])
        below, above = 100 * distributions["below_30"], 100 * distributions["above_35"]
        label = f"{name}: {below:.1f} % below 30 mm, {above:.1f} % above 35"
        style = "--" if entry.before else "-"
        axis.stairs(100 * share[:-1], HISTOGRAM_EDGES, linewidth=1.6, color=entry.colour, linestyle=style, label=label)
    axis.set(xlabel="MPJPE of a frame, mm", ylabel="% of the frames", xlim=(0, 200))
    axis.legend(frameon=False)
    return _save(figure, folder / "error-histogram.png")


def _by_joint(series: Sequence[_Series], folder: Path) -> Path:
    figure, axis = _axes(11, 4.6)
    errors = [entry.row["test"]["distributions"]["by_joint"] for entry in series]
    _bars(axis, series, list(JOINT_NAMES), errors)
    axis.tick_params("x", rotation=45)
    axis.set(ylabel="error, mm")
    return _save(figure, folder / "error-by-joint.png")


def _by_camera(series: Sequence[_Series], folder: Path) -> Path:
    figure, axis = _axes(8, 4.4)
    by_camera = [entry.row["test"]["distributions"]["by_camera"] for entry in series]
    cameras = list(by_camera[0])
    _bars(axis, series, cameras, [[errors.get(camera, np.nan) for camera in cameras] for errors in by_camera])
    axis.set(ylabel="MPJPE, mm", xlabel="camera")
    return _save(figure, folder / "error-by-camera.png")


def _bars(axis: Any, series: Sequence[_Series], names: Sequence[str], values: Sequence[Sequence[float]]) -> None:
    """Draw a group of bars for each name. The legend is above the bars, so that it hides none."""
    width = 0.8 / len(series)
    for index, (entry, heights) in enumerate(zip(series, values, strict=True)):
        positions = np.arange(len(names)) + (index - (len(series) - 1) / 2) * width
        alpha = 0.4 if entry.before else 1.0
        axis.bar(positions, heights, width, color=entry.colour, alpha=alpha, label=entry.row["name"])
    axis.set_xticks(range(len(names)), names)
    axis.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _by_frame(rows: Sequence[JsonObject], folder: Path) -> Path:
    figure, axis = _axes(8, 4)
    for row in rows:
        if "by_place" in row["test"]["extra"]:
            errors = row["test"]["extra"]["by_place"]
            axis.plot(np.linspace(0, 1, len(errors)), errors, marker=".", label=f"{row['name']}, T = {len(errors)}")
    axis.set(xlabel="place in the window, first frame to last", ylabel="MPJPE, mm, windows side by side")
    axis.legend(frameon=False)
    return _save(figure, folder / "error-by-place.png")


def _premise(row: JsonObject, folder: Path) -> Path:
    """The residuals of the test people, compared with the fitted Gaussian, and their correlation over time."""
    premise = row["test"]["extra"]["premise"]
    figure, (left, right) = _axes(12, 4.2, columns=2)
    edges = np.array(premise["edges"])
    middle = (edges[1:] + edges[:-1]) / 2
    left.stairs(premise["density"], edges, color=BEFORE, linewidth=1.6, label="test people, all coordinates")
    left.plot(middle, np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi), color=AFTER, label="the fitted Gaussian")
    left.set(xlabel="(e - conditional mean) / fitted deviation", ylabel="density", yscale="log", ylim=(1e-5, 1))
    left.legend(frameon=False)
    lags = [int(lag) for lag in premise["time_correlation"]]
    right.plot(lags, list(premise["time_correlation"].values()), marker="o", color=BEFORE, label="test people")
    right.axhline(0, color=AFTER, label="drawn frame by frame (the paper)")
    right.set(xlabel="frames apart", ylabel="correlation of the residuals", ylim=(-0.1, 1.05))
    right.legend(frameon=False)
    return _save(figure, folder / f"premise-{row['name']}.png")
