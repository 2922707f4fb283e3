"""Resampling of sequences to the model's frame rate and back.

Frame i of a sequence at ``fps`` frames/s is the pose at the time ``i / fps``; frame 0 is at time 0 for every rate. The
duration of a sequence of F frames, from its first to its last frame, is therefore ``(F - 1) / fps`` seconds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline
from scipy.signal import butter, sosfiltfilt

from refiner.errors import DTypeError, EmptySequenceError, LengthError, NonFiniteError, ShapeError, UsageError

# The tolerance for frame counts that should be whole numbers but have a rounding error: 3 * (50 / 30) * (30 / 50).
_WHOLE = 1e-6
# A filter of order 8, applied forwards and backwards, changes almost nothing below half its cutoff (1.5e-5). With a
# cutoff of 0.8 of the new Nyquist frequency, it attenuates the Nyquist frequency by 31 dB.
_ORDER = 8
_CUTOFF = 0.8
# The number of frames on either side, at the new rate, after which the response of the filter is negligible.
_SETTLING = 30


def frame_times(frames: int, fps: float) -> NDArray[np.float64]:
    """Return the times of the frames in seconds: ``i / fps``."""
    return np.arange(frames, dtype=np.float64) / _rate(fps)


def resampled_frames(frames: int, fps_in: float, fps_out: float) -> int:
    """Return the number of frames at ``fps_out`` within a sequence: ``floor((frames - 1) fps_out / fps_in) + 1``.

    The last of these frames is less than ``1 / fps_out`` before the last frame of the sequence, and never after it.
    """
    if frames < 1:
        raise EmptySequenceError(f"a sequence of {frames} frames cannot be resampled; expected at least one")
    return math.floor((frames - 1) * (_rate(fps_out) / _rate(fps_in)) + _WHOLE) + 1


def resample_poses(pose: ArrayLike, fps_in: float, fps_out: float, frames_out: int | None = None) -> NDArray[Any]:
    """Resample a sequence to another frame rate, with a cubic spline over time.

    Two frames give a line, three frames give a parabola, and one frame gives a constant. Before the frame rate is
    reduced, a zero-phase low-pass filter at 0.4 of the new rate removes the frequencies that the new rate cannot
    represent. Equal rates return the same numbers, to the bit.

    Args:
        pose: ``(F, ...)`` at ``fps_in``.
        fps_in: The frame rate of ``pose``, frames/s.
        fps_out: The new frame rate, frames/s.
        frames_out: The number of frames of the result. None: `resampled_frames`, all of which lie within the sequence.
            More frames are possible up to one frame of ``fps_in`` after the end; they continue with the velocity of the
            last two frames.

    Returns:
        ``(frames_out, ...)`` at ``fps_out``, of the same float type; integers become float64. The arithmetic is
        float64.

    Raises:
        EmptySequenceError: The sequence has no frames.
        NonFiniteError: The sequence holds NaN or infinite values. Resample before masking, or fill the gaps first.
        DTypeError: The array does not hold real numbers.
        UsageError: A frame rate is not positive.
        LengthError: ``frames_out`` is below 1 or goes beyond the end.
    """
    values, dtype = _checked(pose)
    frames = len(values)
    available = resampled_frames(frames, fps_in, fps_out)
    count = available if frames_out is None else frames_out
    if count < 1:
        raise LengthError(f"{count} frames were asked for; expected at least one")
    times = np.arange(count) * (fps_in / fps_out)  # in frames of the input
    # A time that differs from the last frame by a rounding error becomes the last frame.
    times[np.abs(times - (frames - 1)) < _WHOLE] = frames - 1
    if times[-1] > frames + _WHOLE:
        raise LengthError(
            f"{count} frames at {fps_out:g}/s end {(times[-1] - frames + 1) / fps_in:.3g} s after the "
            f"{frames} frames at {fps_in:g}/s; expected at most {available}, or one frame's time more"
        )
    if fps_in == fps_out and count <= frames:
        return np.array(values[:count], dtype)
    if frames == 1:
        return np.repeat(values, count, axis=0).astype(dtype)
    if fps_out < fps_in:
        values = _band_limited(values, fps_in / fps_out)
    resampled = CubicSpline(np.arange(frames), values, axis=0)(np.minimum(times, frames - 1))
    beyond = np.maximum(times - (frames - 1), 0.0).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(resampled + beyond * (values[-1] - values[-2]), dtype)


def resample_back(pose: ArrayLike, fps: float, fps_original: float, frames_original: int) -> NDArray[Any]:
    """Resample a result to the frames of the original sequence.

    This is the inverse of ``resample_poses(original, fps_original, fps)``: frame i is at time ``i / fps_original``
    again. The original may have continued after the last resampled frame, for less than ``1 / fps``. These frames
    continue with the last velocity.

    Args:
        pose: ``(F, ...)`` at ``fps``.
        fps: The frame rate of ``pose``, frames/s.
        fps_original: The frame rate of the original sequence, frames/s.
        frames_original: The number of frames of the original sequence.

    Returns:
        ``(frames_original, ...)`` at ``fps_original``.

    Raises:
        LengthError: ``pose`` does not have the number of frames of such a sequence.
    """
    frames = len(_checked(pose)[0])
    expected = resampled_frames(frames_original, fps_original, fps)
    if frames != expected:
        raise LengthError(
            f"the result has {frames} frames at {fps:g}/s; expected {expected}, the number that "
            f"{frames_original} frames at {fps_original:g}/s give"
        )
    return resample_poses(pose, fps, fps_original, frames_original)


def _band_limited(values: NDArray[np.float64], ratio: float) -> NDArray[np.float64]:
    sections = butter(_ORDER, _CUTOFF / ratio, output="sos")
    padding = min(len(values) - 1, math.ceil(_SETTLING * ratio))
    # The line from the first to the last frame needs no filter. Subtracting it reduces ringing at the ends.
    share = np.linspace(0.0, 1.0, len(values)).reshape(-1, *[1] * (values.ndim - 1))
    line = values[0] + share * (values[-1] - values[0])
    return np.asarray(line + sosfiltfilt(sections, values - line, axis=0, padtype="odd", padlen=padding))


def _rate(fps: float) -> float:
    if isinstance(fps, bool) or not (math.isfinite(fps) and fps > 0):
        raise UsageError(f"the frame rate is {fps}; expected frames per second, above 0")
    return float(fps)


def _checked(pose: ArrayLike) -> tuple[NDArray[np.float64], np.dtype[Any]]:
    array = np.asarray(pose)
    if array.dtype.kind not in "fiu":
        raise DTypeError(f"the sequence is of type {array.dtype}, expected real numbers")
    if array.ndim == 0:
        raise ShapeError("the sequence is a single number, expected (frames, ...)")
    if len(array) == 0:
        raise EmptySequenceError("the sequence has no frames; expected at least one")
    finite = np.isfinite(array)
    if not finite.all():
        first = int(np.argwhere(~finite)[0, 0])
        raise NonFiniteError(
            f"the sequence holds NaN or infinite values, first in frame {first}; a spline would spread them, "
            "so fill the gaps before resampling"
        )
    return array.astype(np.float64), array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)
