"""The pictures of a study, by matplotlib (the extra ``report``), from the report alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refiner.errors import MissingComponentError
from refiner.files import atomic_path
from refiner.skeleton import JOINT_NAMES
from refiner_bench.accuracy.scores import HISTOGRAM_EDGES

BEFORE, AFTER, UNCLEAR = "#d1602b", "#1f6fb4", "#888888"


def draw_study(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Every picture that the report has the numbers for. Raises MissingComponentError without matplotlib."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise MissingComponentError("drawing needs matplotlib: pip install 'refiner[report]'") from error
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    rows = {row["name"]: row for row in report["rows"]}
    drawn = [_gains(rows, folder), _curves(rows, folder)]
    compared = [rows[name] for name in ("lifter", *[n for n, r in rows.items() if r["detail"]]) if name in rows]
    if len(compared) > 1:
        drawn += [_histograms(compared, folder), _by_joint(compared, folder), _by_camera(compared, folder)]
    drawn += [_by_place(compared, folder)] if any("by_place" in row["test"]["extra"] for row in compared) else []
    drawn += [_premise(row, folder) for row in compared if "premise" in row["test"]["extra"]][:1]
    return drawn


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


def _gains(rows: Mapping[str, Any], folder: Path) -> Path:
    """Gain over the row's lifter in MPJPE, with its interval: better, worse, or the interval holds 0."""
    chosen = [row for row in rows.values() if "lifter" in row["test"]["gains"]]
    figure, axis = _axes(9, 1.2 + 0.3 * len(chosen))
    for place, row in enumerate(chosen):
        gain = row["test"]["gains"]["lifter"]["mpjpe"]
        error = [[gain["percent"] - gain["low"]], [gain["high"] - gain["percent"]]]
        colour = AFTER if gain["low"] > 0 else BEFORE if gain["high"] < 0 else UNCLEAR
        axis.errorbar(gain["percent"], place, xerr=error, fmt="o", color=colour, capsize=3)
    axis.axvline(0, color="#888888", linewidth=0.8)
    axis.set_yticks(range(len(chosen)), [row["name"] for row in chosen])
    axis.invert_yaxis()
    axis.set(xlabel="MPJPE below the row's own lifter, %, test people, 95 % interval over clips")
    return _save(figure, folder / "gains.png")


def _curves(rows: Mapping[str, Any], folder: Path) -> Path:
    """Validation MPJPE over training, lifters and refiners apart: their scales differ."""
    figure, axes = _axes(12, 5, columns=2)
    for axis, kind in zip(axes, ("lifter", "refiner"), strict=True):
        for row in rows.values():
            if row["kind"] == kind and row["training"]:
                steps, errors = zip(*row["training"]["validation_curve"], strict=True)
                axis.plot(steps, errors, linewidth=1.2, marker=".", label=row["name"])
        axis.set(xlabel="training step", ylabel="validation MPJPE, mm", title=f"{kind}s")
        axis.legend(frameon=False, fontsize=7)
    return _save(figure, folder / "learning-curves.png")


def _histograms(rows: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """The paper's Fig. 4: how many frames have which error, before and after."""
    figure, axis = _axes(9, 4.5)
    for row in rows:
        found = row["test"]["distributions"]
        share = np.array(found["histogram"]) / sum(found["histogram"])
        label = f"{row['name']}: {100 * found['below_30']:.1f} % below 30 mm, {100 * found['above_35']:.1f} % above 35"
        axis.stairs(100 * share[:-1], HISTOGRAM_EDGES, linewidth=1.6, label=label)
    axis.set(xlabel="MPJPE of a frame, mm", ylabel="% of the frames", xlim=(0, 200))
    axis.legend(frameon=False)
    return _save(figure, folder / "error-histogram.png")


def _by_joint(rows: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    figure, axis = _axes(11, 4.2)
    width = 0.8 / len(rows)
    for index, row in enumerate(rows):
        places = np.arange(len(JOINT_NAMES)) + (index - (len(rows) - 1) / 2) * width
        axis.bar(places, row["test"]["distributions"]["by_joint"], width, label=row["name"])
    axis.set_xticks(range(len(JOINT_NAMES)), JOINT_NAMES, rotation=45, ha="right")
    axis.set(ylabel="error, mm")
    axis.legend(frameon=False)
    return _save(figure, folder / "error-by-joint.png")


def _by_camera(rows: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    figure, axis = _axes(8, 4)
    cameras = list(rows[0]["test"]["distributions"]["by_camera"])
    width = 0.8 / len(rows)
    for index, row in enumerate(rows):
        found = row["test"]["distributions"]["by_camera"]
        places = np.arange(len(cameras)) + (index - (len(rows) - 1) / 2) * width
        axis.bar(places, [found.get(camera, np.nan) for camera in cameras], width, label=row["name"])
    axis.set_xticks(range(len(cameras)), cameras)
    axis.set(ylabel="MPJPE, mm", xlabel="camera")
    axis.legend(frameon=False)
    return _save(figure, folder / "error-by-camera.png")


def _by_place(rows: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    figure, axis = _axes(8, 4)
    for row in rows:
        if "by_place" in row["test"]["extra"]:
            errors = row["test"]["extra"]["by_place"]
            axis.plot(np.linspace(0, 1, len(errors)), errors, marker=".", label=f"{row['name']}, T = {len(errors)}")
    axis.set(xlabel="place in the window, first frame to last", ylabel="MPJPE, mm, windows side by side")
    axis.legend(frameon=False)
    return _save(figure, folder / "error-by-place.png")


def _premise(row: Mapping[str, Any], folder: Path) -> Path:
    """The residuals of unseen people against the Gaussian that was fitted, and how long they last."""
    found = row["test"]["extra"]["premise"]
    figure, (left, right) = _axes(12, 4.2, columns=2)
    edges = np.array(found["edges"])
    middle = (edges[1:] + edges[:-1]) / 2
    left.stairs(found["density"], edges, color=BEFORE, linewidth=1.6, label="test people, all coordinates")
    left.plot(middle, np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi), color=AFTER, label="the fitted Gaussian")
    left.set(xlabel="(e - conditional mean) / fitted deviation", ylabel="density", yscale="log", ylim=(1e-5, 1))
    left.legend(frameon=False)
    lags = [int(lag) for lag in found["time_correlation"]]
    right.plot(lags, list(found["time_correlation"].values()), marker="o", color=BEFORE, label="test people")
    right.axhline(0, color=AFTER, label="drawn frame by frame (the paper)")
    right.set(xlabel="frames apart", ylabel="correlation of the residuals", ylim=(-0.1, 1.05))
    right.legend(frameon=False)
    return _save(figure, folder / "premise.png")
