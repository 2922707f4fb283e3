"""Draw a sequence before and after refinement as a video, .mp4 or .gif."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import LengthError, MissingComponentError, UsageError
from refiner.files import atomic_path
from refiner.viewer.bones import AFTER, BEFORE, bone_ends, upright
from refiner.viewer.mp4 import Picture, write_mp4

SUFFIXES = (".mp4", ".gif")
# A GIF counts in hundredths of a second, and players do not show more frames per second than this.
FASTEST_GIF = 25.0
INCHES, DOTS = (8.0, 4.5), 100
REACH = 1.0


def check_video_name(path: Path) -> None:
    """Raises UsageError unless the suffix of the name is .mp4 or .gif."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")


def write_video(
    path: Path,
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    fps: float,
    progress: Callable[[int], None] = lambda frame: None,
) -> None:
    """Draw a sequence before and after refinement, seen from the camera and from the side.

    Args:
        path: the file; its suffix, .mp4 or .gif, selects the format.
        before: ``(F, 17, 3)`` metres in camera axes.
        after: the same after refinement.
        fps: the frame rate of the sequence.
        progress: called with the number of frames that are drawn.

    Raises:
        UsageError: the suffix is another one.
        LengthError: the sequences have different shapes or no frames.
        MissingComponentError: matplotlib, PyAV (.mp4) or Pillow (.gif) is not installed.
    """
    check_video_name(path)
    if before.shape != after.shape or not len(before):
        raise LengthError(f"poses of shapes {before.shape} and {after.shape}; expected the same, (F, 17, 3)")
    step = 1
    if path.suffix == ".gif":
        step = max(1, round(fps / FASTEST_GIF))
    shown = range(0, len(before), step)
    painter = _Painter()
    with atomic_path(path) as temporary:
        pictures = (painter.draw(before[index], after[index], index, fps) for index in shown)

        def counted() -> Iterator[Picture]:
            for index, picture in zip(shown, pictures, strict=True):
                progress(index + 1)
                yield picture

        if path.suffix == ".gif":
            _write_gif(temporary, counted(), fps / step)
        else:
            write_mp4(temporary, zip(counted(), (index / fps for index in shown), strict=True), fps)
    painter.close()


class _Painter:
    """Draws two views of a pair of skeletons as one picture. Matplotlib's artists are made once and moved."""

    def __init__(self) -> None:
        try:
            import matplotlib
        except ModuleNotFoundError as error:
            raise MissingComponentError("a video needs matplotlib: pip install 'pose-refiner[video]'") from error
        matplotlib.use("Agg")
        from matplotlib import pyplot
        from matplotlib.collections import LineCollection

        self._pyplot = pyplot
        figure, axes = pyplot.subplots(1, 2, figsize=INCHES, dpi=DOTS, layout="constrained")
        # The Agg canvas, whose pixels can be read.
        self._figure: Any = figure
        self._lines: list[Any] = []
        for axis, title in zip(axes, ("from the camera", "from the side"), strict=True):
            axis.set(xlim=(-REACH, REACH), ylim=(-1.1, 0.9), aspect="equal", title=title)
            axis.set_axis_off()
            for colour, label in ((BEFORE, "before"), (AFTER, "after")):
                lines = LineCollection([], colors=colour, linewidths=2.5, label=label, capstyle="round")
                axis.add_collection(lines)
                self._lines.append(lines)
        axes[0].legend(loc="upper left", frameon=False)
        self._text = self._figure.text(0.5, 0.02, "", ha="center", fontsize=9)

    def draw(
        self, before: NDArray[np.float32], after: NDArray[np.float32], index: int, fps: float
    ) -> NDArray[np.uint8]:
        """The picture ``(height, width, 3)`` of frame ``index``."""
        for row, pose in enumerate((before, after)):
            ends = bone_ends(upright(pose))
            self._lines[row].set_segments([*ends[..., [0, 2]]])
            self._lines[2 + row].set_segments([*ends[..., [1, 2]]])
        moved = 1000.0 * float(np.linalg.norm((after - after[:1]) - (before - before[:1]), axis=-1).mean())
        self._text.set_text(f"{index / fps:.2f} s, joints moved by {moved:.0f} mm on average")
        self._figure.canvas.draw()
        picture: NDArray[np.uint8] = np.asarray(self._figure.canvas.buffer_rgba())[..., :3].copy()
        return picture

    def close(self) -> None:
        self._pyplot.close(self._figure)


def _write_gif(path: Path, pictures: Iterator[Picture], fps: float) -> None:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingComponentError("a .gif needs Pillow: pip install 'pose-refiner[video]'") from error
    frames = [Image.fromarray(picture).quantize(64, dither=Image.Dither.NONE) for picture in pictures]
    frames[0].save(
        path, format="GIF", save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, optimize=False
    )
