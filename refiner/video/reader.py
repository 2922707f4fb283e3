"""Frames of a video file: upright, in square pixels, with their true time-stamps. PyAV (FFmpeg) decodes them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import InputWarning, MissingComponentError, VideoError
from refiner.video.detector import Image

# Where neither the container nor the time-stamps say it, frames/s.
USUAL_FPS = 30.0
# Time-stamps that go back, or that jump further than this, begin anew behind the last frame, seconds.
LONGEST_STEP_S = 60.0
# A video that lacks more of the frames that its header states is truncated.
LACKING_FRAMES, LACKING_SHARE = 2, 0.01
NO_ROTATION = (1, 0, 0, 1)


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """A frame of a video or a camera.

    Attributes:
        image: ``(height, width, 3)`` uint8: red, green, blue.
        seconds: the time since the first frame.
        damaged: the decoder had to guess parts of the image, or of one that it is made from.
    """

    image: Image
    seconds: float
    damaged: bool = False


class Video:
    """A video file. Rotations and mirrorings of its metadata are obeyed, and pixels that are not square are stretched.

    Args:
        path: the file.

    Attributes:
        path: the file.
        image_size: (width, height) in pixels, as the images come out.
        fps: frames/s as the container states them, on average; the time-stamps of the frames are the truth.
        expected: how many frames there should be, by the container; None where it does not say.

    Raises:
        VideoError: the file does not exist, is broken or truncated, or holds no picture.
        MissingComponentError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise VideoError(f"there is no video {self.path}")
        self._av = _av()
        with self._opened() as container:
            stream = self._stream(container)
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else USUAL_FPS
            self._counted = int(stream.frames)
            seconds = container.duration / self._av.time_base if container.duration else 0.0
            self.expected = self._counted or round(seconds * self.fps) or None
            shape = stream.sample_aspect_ratio
            self._stretch = float(shape) if shape else 1.0
        for frame in self.frames():
            self.image_size = (float(frame.image.shape[1]), float(frame.image.shape[0]))
            break

    def frames(self, scale: float = 1.0) -> Iterator[VideoFrame]:
        """Decode the video from its beginning.

        Args:
            scale: makes the images larger or smaller, with an even width and height.

        Warns:
            InputWarning: frames are damaged, the video is truncated, or its time-stamps do not run forward.

        Raises:
            VideoError: no frame can be decoded.
        """
        clock, size, number, damaged, spoilt = _Clock(self.fps), None, 0, 0, False
        decoded = self._decoded()
        for frame in decoded:
            # A stream may change its size; the images then keep that of the first one.
            size = size or _scaled(frame.width * self._stretch, frame.height, scale)
            image = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
            turned = upright(image, _display_matrix(frame))
            # The frames up to the next key frame are made from the damaged one; FFmpeg marks only that.
            spoilt = bool(frame.is_corrupt or (spoilt and not frame.key_frame))
            number += 1
            damaged += spoilt
            yield VideoFrame(turned, clock.seconds(frame), spoilt)
        if not number:
            raise VideoError(f"{self.path} is broken: no frame of it can be decoded")
        lacking = self._counted - number
        if lacking > max(LACKING_FRAMES, LACKING_SHARE * self._counted):
            self._warn(f"is truncated or broken: its header states {self._counted} frames, {number} can be decoded")
        if damaged:
            self._warn(f"is broken: {damaged} of its {number} frames are damaged")
        if clock.jumps:
            self._warn(f"has {clock.jumps} frames without a time-stamp that runs forward; the frame rate replaces it")

    def _decoded(self) -> Iterator[Any]:
        """The decoder's frames. Packets that cannot be decoded are left out."""
        with self._opened() as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets, None)
                except self._av.error.FFmpegError:
                    packet = None  # the file ends here; the decoder still holds frames
                try:
                    frames = stream.codec_context.decode(packet)
                except self._av.error.FFmpegError:
                    frames = []
                yield from frames
                if packet is None:
                    return

    def _opened(self) -> Any:
        try:
            return self._av.open(str(self.path))
        except self._av.error.FFmpegError as error:
            raise VideoError(
                f"{self.path} cannot be read as a video: it is broken, truncated or no video ({error.strerror})"
            ) from error

    def _stream(self, container: Any) -> Any:
        # The best one is never a cover picture that is attached to the file.
        stream = container.streams.best("video")
        if stream is None:
            kinds = ", ".join(stream.type for stream in container.streams) or "nothing"
            raise VideoError(f"{self.path} holds no picture, only {kinds}")
        return stream

    def _warn(self, what: str) -> None:
        warnings.warn(f"{self.path} {what}", InputWarning, stacklevel=3)


class _Clock:
    """Seconds since the first frame. Where time-stamps are missing or jump, the frame rate goes on."""

    def __init__(self, fps: float) -> None:
        self._period = 1.0 / fps
        self._last: float | None = None
        self._last_stamp = 0.0
        self.jumps = 0

    def seconds(self, frame: Any) -> float:
        stamp = None if frame.pts is None else float(frame.pts * frame.time_base)
        if self._last is None:
            self._last = 0.0
        elif stamp is not None and 0.0 < stamp - self._last_stamp <= LONGEST_STEP_S:
            self._last += stamp - self._last_stamp
        else:
            self.jumps += 1
            self._last += self._period
        self._last_stamp = self._last_stamp + self._period if stamp is None else stamp
        return self._last


def _scaled(width: float, height: float, scale: float) -> tuple[int, int]:
    if scale == 1.0:
        return round(width), round(height)
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def upright(image: Image, matrix: tuple[int, int, int, int]) -> Image:
    """Turn an image by a display matrix, to the nearest quarter turn.

    Args:
        image: ``(height, width, 3)``.
        matrix: (a, b, c, d): x' = a x + c y, y' = b x + d y, with y down (ISO 14496-12, 6.2.2).
    """
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        turned, flip_x, flip_y = image.swapaxes(0, 1), c < 0, b < 0
    else:
        turned, flip_x, flip_y = image, a < 0, d < 0
    turned = turned[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return np.ascontiguousarray(turned)


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the matrix that a frame brings; how the camera was held."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            numbers: NDArray[np.int32] = np.frombuffer(bytes(data)[:36], np.int32)
            return int(numbers[0]), int(numbers[1]), int(numbers[3]), int(numbers[4])
    return NO_ROTATION


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingComponentError("a video needs PyAV: pip install 'pose-refiner[video]'") from error
    return av
