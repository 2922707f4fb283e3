"""Pictures as an .mp4 (H.264), each at its own time."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.errors import MissingComponentError

# [height, width, 3]
Picture = NDArray[np.uint8]
# Units of time-stamps per second; it divides by all usual frame rates.
TICKS = 90_000


def write_mp4(path: Path, pictures: Iterable[tuple[Picture, float]], fps: float) -> None:
    """Write pictures as a video.

    Args:
        path: the file.
        pictures: each ``(height, width, 3)`` uint8, red, green and blue, with the seconds at which it is shown.
        fps: the frame rate, which the encoder assumes for its choices.

    Raises:
        MissingComponentError: PyAV is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingComponentError("an .mp4 needs PyAV: pip install 'pose-refiner[video]'") from error
    with av.open(str(path), "w", format="mp4") as container:
        stream = None
        for picture, seconds in pictures:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                # H.264 needs an even width and height.
                stream.height, stream.width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = Fraction(1, TICKS)
                stream.options = {"preset": "veryfast"}
            even = np.ascontiguousarray(picture[: stream.height, : stream.width])
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            frame.time_base, frame.pts = Fraction(1, TICKS), round(seconds * TICKS)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())
