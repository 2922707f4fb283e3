"""Figures of results, drawn with matplotlib (the extra ``report``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import MissingComponentError
from refiner.evaluation.metrics import mpjpe
from refiner.files import atomic_path
from refiner.skeleton import PARENTS

if TYPE_CHECKING:
    from refiner.data import CameraClip

TRUTH, BEFORE, AFTER = "#888888", "#d1602b", "#1f6fb4"


def before_after_figure(
    path: str | os.PathLike[str], clip: CameraClip, before: NDArray[Any], after: NDArray[Any]
) -> Path:
    """Draw the error over time and three skeletons of one camera clip, for the lifted and the refined poses.

    Args:
        path: The image file to write.
        clip: The camera clip with the ground truth.
        before: The lifted poses ``(F, 17, 3)``, root-relative metres.
        after: The refined poses ``(F, 17, 3)``, root-relative metres.

    Returns:
        The path of the image file.

    Raises:
        MissingComponentError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise MissingComponentError("drawing needs matplotlib: pip install 'pose-refiner[report]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(11, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=[1, 1.7])
    axes = figure.add_subplot(grid[0, :])
    seconds = np.arange(clip.frames) / clip.fps
    for pose, colour, label in ((before, BEFORE, "lifter"), (after, AFTER, "refined")):
        distance = mpjpe(pose, clip.pose_3d) * 1000
        axes.plot(seconds, distance, color=colour, linewidth=1.2, label=f"{label}: mean {distance.mean():.1f} mm")
    axes.set(xlabel="time, s", ylabel="MPJPE, mm", xlim=(0, seconds[-1]))
    axes.set_title(f"{clip.action}, camera {clip.camera}", loc="left")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False)  # above the axes
    axes.spines[["top", "right"]].set_visible(False)
    for column, frame in enumerate(np.linspace(0, clip.frames - 1, 5).astype(int)[1:4]):
        view = figure.add_subplot(grid[1, column], projection="3d")
        for pose, colour, width, label in (
            (clip.pose_3d, TRUTH, 4.0, "ground truth"),
            (before, BEFORE, 1.6, "lifter"),
            (after, AFTER, 1.6, "refined"),
        ):
            _draw_skeleton(view, pose[frame], colour, width, label)
        view.set_title(f"{frame / clip.fps:.1f} s")
        view.set(xlim=(-0.9, 0.9), ylim=(-0.9, 0.9), zlim=(-1.0, 0.9), xticks=[], yticks=[], zticks=[])
        view.set_box_aspect((1, 1, 1.06), zoom=1.25)
        view.view_init(elev=8, azim=-70)
        if column == 0:
            view.legend(loc="upper left", frameon=False, fontsize=8)
    target = Path(path)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
    return target


def _draw_skeleton(view: Any, pose: NDArray[Any], colour: str, width: float, label: str) -> None:
    # In camera axes y points down. The figure shows y upwards and the depth to the back.
    x, depth, up = pose[:, 0], pose[:, 2], -pose[:, 1]
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            bone = [joint, parent]
            view.plot(
                x[bone], depth[bone], up[bone], color=colour, linewidth=width, label=label if joint == 1 else None
            )
