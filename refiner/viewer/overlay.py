"""A video with the 2D skeletons drawn into it, and the refined 3D poses beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import MissingComponentError
from refiner.files import atomic_path
from refiner.runtime.people import RefinedPerson
from refiner.skeleton import H36M17, JointSet, to_h36m17
from refiner.video.reader import Video, VideoFrame
from refiner.viewer.bones import BONES, rgb, standing
from refiner.viewer.mp4 import Picture, write_mp4

Array = NDArray[np.float64]
Colour = tuple[int, int, int]

# The picture is no higher than this; smaller videos are enlarged to the least height, so that text can be read.
TALLEST, LOWEST = 720, 360
# Width of the 3D part in shares of the height, and the scale of its drawing, which is reduced afterwards.
PANEL_SHARE, FINE = 0.8, 2
# One colour for each person (Okabe and Ito's, which colour-blind people tell apart); the left side is lighter.
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
LIGHTER = 0.6
BACKGROUND, LINE, FAINT, TEXT = (24, 26, 30), (70, 74, 82), (130, 135, 145), (225, 225, 225)
# Metres: what a cell of the 3D part shows, with the feet near its bottom; the floor and its squares.
SHOWN_HEIGHT, BELOW_FEET, FLOOR, SQUARE = 2.3, 0.3, 0.6, 0.2
SHOWN_WIDTH = 1.8
# The 3D poses are seen from a camera that stands to the side and a little above, degrees.
TURN, TILT = 40.0, 12.0
LEFT_JOINTS = frozenset(H36M17.left)


@dataclass(frozen=True, eq=False)
class OverlayPoses:
    """What is drawn of a person.

    Attributes:
        number: the person's number.
        pose_2d: ``(F, 17, 2)`` pixels in Human3.6M's joints, NaN where a joint is not seen.
        pose_3d: ``(F, 17, 3)`` metres in camera axes, NaN in frames without a pose.
    """

    number: int
    pose_2d: Array = field(repr=False)
    pose_3d: Array = field(repr=False)


def overlay_poses(person: RefinedPerson, joints: JointSet, instants: Array, seconds: Array) -> OverlayPoses:
    """The poses of a person at the frames of a video.

    Args:
        person: with one pose for each of the ``instants``.
        joints: the joint set of ``person.pose_2d``.
        instants: ``(G,)`` seconds.
        seconds: ``(F,)``, the time-stamps of the frames; poses are interpolated linearly where they lie in between.
    """
    pose_2d = to_h36m17(person.pose_2d, joints)
    pose_3d = person.refined.astype(np.float64)
    if np.array_equal(instants, seconds):
        return OverlayPoses(person.number, pose_2d, pose_3d)
    after = np.clip(np.searchsorted(instants, seconds), 1, len(instants) - 1)
    share = np.clip((seconds - instants[after - 1]) / (instants[after] - instants[after - 1]), 0.0, 1.0)

    def between(poses: Array) -> Array:
        weight = share[:, None, None]
        # At an instant itself, the other neighbour may be missing.
        mixed = (1 - weight) * poses[after - 1] + weight * poses[after]
        nearest = np.where(weight < 0.5, poses[after - 1], poses[after])
        return np.where(np.isfinite(mixed), mixed, nearest)

    return OverlayPoses(person.number, between(pose_2d), between(pose_3d))


def write_overlay(
    path: Path,
    video: Video,
    people: Sequence[OverlayPoses],
    progress: Callable[[int], None] = lambda frame: None,
) -> None:
    """Write a video with the 2D skeletons drawn into it and the refined 3D poses beside it, as .mp4.

    It has the frames and the time-stamps of the video; sound is left out. Frames that show none of the people say so.

    Args:
        path: the file.
        video: it is decoded once more.
        people: their poses, one for each frame.
        progress: called with the number of frames that are drawn.

    Raises:
        MissingComponentError: PyAV or Pillow is not installed.
    """

    painter = OverlayPainter(video.image_size, people)

    def pictures() -> Iterator[tuple[Picture, float]]:
        for index, frame in enumerate(video.frames(painter.scale)):
            yield painter.draw(frame, index), frame.seconds
            progress(index + 1)

    with atomic_path(path) as temporary:
        write_mp4(temporary, pictures(), video.fps)


class OverlayPainter:
    """Draws the frames of one video.

    Args:
        image_size: (width, height) of the video, pixels.
        people: who is drawn.

    Attributes:
        scale: of the images that `draw` takes, in sizes of the video.

    Raises:
        MissingComponentError: Pillow is not installed.
    """

    def __init__(self, image_size: tuple[float, float], people: Sequence[OverlayPoses]) -> None:
        try:
            from PIL import Image, ImageDraw, ImageFont
        except ModuleNotFoundError as error:
            raise MissingComponentError("drawing on a video needs Pillow: pip install 'pose-refiner[video]'") from error
        self._image, self._draw = Image, ImageDraw
        self._people = people
        self.scale = min(max(image_size[1], LOWEST), TALLEST) / image_size[1]
        height = round(image_size[1] * self.scale)
        self._panel = round(height * PANEL_SHARE)
        self._thickness = max(2, round(height / 140))
        self._font: Any = ImageFont.load_default(max(14, height // 30))
        self._small_font: Any = ImageFont.load_default(FINE * max(11, height // 40))
        self._lanes = _lanes(people)
        self._cells = _cells(len(self._lanes), FINE * self._panel, FINE * height)

    def draw(self, frame: VideoFrame, index: int) -> Picture:
        """The picture of frame ``index``: the video on the left, the 3D poses on the right.

        Args:
            frame: its image is `scale` times as large as the video.
            index: the number of the frame.
        """
        seen = self._image.fromarray(frame.image)
        pen = self._draw.Draw(seen)
        drawn = [self._draw_2d(pen, person, index) for person in self._people]
        text = f"{frame.seconds:.2f} s" if any(drawn) else f"{frame.seconds:.2f} s   no person"
        self._label(pen, (10, 8), text)
        if frame.damaged:
            self._label(pen, (10, 8 + 2 * self._font.size), "damaged frame")
        panel = self._image.new("RGB", (FINE * self._panel, FINE * seen.height), BACKGROUND)
        pen = self._draw.Draw(panel)
        for lane, cell in zip(self._lanes, self._cells, strict=True):
            present = [person for person in lane if np.isfinite(person.pose_3d[index]).all()]
            self._draw_3d(pen, present[0] if present else None, index, cell)
        below = (12, panel.height - 2 * self._small_font.size)
        pen.text(below, "the left side is lighter", fill=FAINT, font=self._small_font)
        whole = self._image.new("RGB", (seen.width + self._panel, seen.height))
        whole.paste(seen, (0, 0))
        whole.paste(panel.reduce(FINE), (seen.width, 0))
        return np.asarray(whole)

    def _draw_2d(self, pen: Any, person: OverlayPoses, index: int) -> bool:
        """Draw a person into the image; False where the person is not seen."""
        points = person.pose_2d[index] * self.scale
        known = np.isfinite(points).all(axis=-1)
        for parent, joint in BONES:
            if known[parent] and known[joint]:
                colour = _colour(person.number, joint)
                pen.line([tuple(points[parent]), tuple(points[joint])], fill=colour, width=self._thickness)
        for joint in np.flatnonzero(known).tolist():
            _disc(pen, points[joint], self._thickness * 0.8, _colour(person.number, joint))
        if known.any() and len(self._people) > 1:
            top = points[known][points[known, 1].argmin()]
            self._label(pen, (top[0], top[1] - 2 * self._font.size), str(person.number))
        return bool(known.any())

    def _draw_3d(self, pen: Any, person: OverlayPoses | None, index: int, cell: _Cell) -> None:
        """Draw the floor, and the person whose lowest joint stands on it; None for nobody."""
        for line in _floor():
            pen.line([cell.pixel(end) for end in _turned(line)], fill=LINE, width=FINE)
        title = "no pose" if person is None else f"person {person.number}"
        colour = FAINT if person is None else rgb(_name(person.number))
        pen.text((cell.left + 12, cell.top + 8), title, fill=colour, font=self._small_font)
        if person is None:
            return
        pose = person.pose_3d[index]
        seen = _turned(standing(pose.astype(np.float32)).astype(np.float64))
        # Far bones first.
        for parent, joint in sorted(BONES, key=lambda bone: -seen[bone, 1].mean()):
            colour = _colour(person.number, joint)
            ends = [cell.pixel(seen[parent]), cell.pixel(seen[joint])]
            pen.line(ends, fill=colour, width=round(cell.scale * 0.04))
            for end in ends:
                _disc(pen, np.array(end), cell.scale * 0.026, colour)

    def _label(self, pen: Any, place: tuple[float, float], text: str) -> None:
        pen.text(place, text, fill=TEXT, font=self._font, stroke_width=2, stroke_fill=(0, 0, 0))


@dataclass(frozen=True)
class _Cell:
    """A part of the 3D picture: its corner and the place of the floor's middle, pixels; and pixels per metre."""

    left: float
    top: float
    middle: float
    bottom: float
    scale: float

    def pixel(self, point: Array) -> tuple[float, float]:
        """The pixel of a point (right, away, up) in metres."""
        return self.middle + self.scale * point[0], self.bottom - self.scale * point[2]


def _lanes(people: Sequence[OverlayPoses]) -> list[list[OverlayPoses]]:
    """People who are never there at the same time share a part of the 3D picture."""
    spans = {}
    for person in people:
        frames = np.flatnonzero(np.isfinite(person.pose_3d).all(axis=(1, 2)))
        if len(frames):
            spans[person.number] = (int(frames[0]), int(frames[-1]), person)
    lanes: list[list[OverlayPoses]] = []
    ends: list[int] = []
    for first, last, person in sorted(spans.values(), key=lambda span: span[0]):
        lane = next((place for place, end in enumerate(ends) if end < first), None)
        if lane is None:
            lanes.append([person])
            ends.append(last)
        else:
            lanes[lane].append(person)
            ends[lane] = last
    return lanes


def _cells(count: int, width: int, height: int) -> list[_Cell]:
    """One cell for each person, in a grid that leaves them as large as possible."""
    if not count:
        return []

    def scale_of(columns: int) -> float:
        rows = -(-count // columns)
        return min(height / rows / SHOWN_HEIGHT, width / columns / SHOWN_WIDTH)

    columns = max(range(1, count + 1), key=scale_of)
    rows = -(-count // columns)
    wide, high, scale = width / columns, height / rows, scale_of(columns)
    cells = []
    for place in range(count):
        left, top = wide * (place % columns), high * (place // columns)
        spare = (high - scale * SHOWN_HEIGHT) / 2
        cells.append(_Cell(left, top, left + wide / 2, top + high - spare - scale * BELOW_FEET, scale))
    return cells


def _floor() -> list[Array]:
    """The lines of the floor, each two points (right, away, up) in metres."""
    places = np.arange(-FLOOR, FLOOR + 1e-9, SQUARE)
    lines = [np.array([[x, -FLOOR, 0], [x, FLOOR, 0]]) for x in places]
    return lines + [np.array([[-FLOOR, y, 0], [FLOOR, y, 0]]) for y in places]


def _turned(points: Array) -> Array:
    """Points (right, away, up) as the camera of the 3D part sees them."""
    turn, tilt = np.radians(TURN), np.radians(TILT)
    right = points[..., 0] * np.cos(turn) - points[..., 1] * np.sin(turn)
    away = points[..., 0] * np.sin(turn) + points[..., 1] * np.cos(turn)
    up = points[..., 2] * np.cos(tilt) + away * np.sin(tilt)
    return np.stack([right, away * np.cos(tilt) - points[..., 2] * np.sin(tilt), up], axis=-1)


def _name(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _colour(number: int, joint: int) -> Colour:
    """The colour of a joint of a person, and of the bone that ends in it."""
    red, green, blue = rgb(_name(number))
    white = LIGHTER if joint in LEFT_JOINTS else 0.0
    return _mixed(red, white), _mixed(green, white), _mixed(blue, white)


def _mixed(part: int, white: float) -> int:
    return round(part + white * (255 - part))


def _disc(pen: Any, place: Array, radius: float, colour: Colour) -> None:
    pen.ellipse([*(place - radius), *(place + radius)], fill=colour)
