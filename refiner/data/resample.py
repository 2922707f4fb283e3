"""Other frame rates to the model's and back.

Frame i of a sequence at ``fps`` frames/s is the pose at the time ``i / fps``; frame 0 is at 0 at every rate.
A sequence of F frames therefore lasts ``(F - 1) / fps`` seconds from its first frame to its last.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline
from scipy.signal import butter, sosfiltfilt

from refiner.errors import DTypeError, EmptySequenceError, LengthError, NonFiniteError, ShapeError, UsageError

# Frame counts that should come out whole differ from it by rounding, as in 3 * (50 / 30) * (30 / 50).
_WHOLE = 1e-6
# Run forwards and backwards, order 8 changes nothing below half its cutoff (1.5e-5) and takes 31 dB off what
# lies at the new Nyquist frequency when the cutoff is 0.8 of that.
_ORDER = 8
_CUTOFF = 0.8
# Frames on either side, at the new rate, after which the filter's response has died away.
_SETTLING = 30


def frame_times(frames: int, fps: float) -> NDArray[np.float64]:
    """The times of the frames in seconds: ``i / fps``."""
    return np.arange(frames, dtype=np.float64) / _rate(fps)


def resampled_frames(frames: int, fps_in: float, fps_out: float) -> int:
    """How many frames at ``fps_out`` lie within the sequence: ``floor((frames - 1) fps_out / fps_in) + 1``.

    The last one is less than ``1 / fps_out`` before the last frame of the sequence, and never after it.
    """
    if frames < 1:
        raise EmptySequenceError(f"a sequence of {frames} frames cannot be resampled; expected at least one")
    return math.floor((frames - 1) * (_rate(fps_out) / _rate(fps_in)) + _WHOLE) + 1


def resample_poses(pose: ArrayLike, fps_in: float, fps_out: float, frames_out: int | None = None) -> NDArray[Any]:
    """``(F, ...)`` at ``fps_in`` -> ``(frames_out, ...)`` at ``fps_out``, by a cubic spline over time.

    ``frames_out`` None gives `resampled_frames`, all within the sequence. More may be asked for as long as
    the last one is not later than one frame of ``fps_in`` after the end; those go on with the velocity of
    the last two frames. Two frames give a line, three a parabola, one stands still. Going down, what the new
    rate cannot hold is first taken out by a zero-phase low-pass at 0.4 of the new rate. Equal rates return
    the same numbers, to the bit. The float type is kept (integers become float64), the arithmetic is
    float64.

    Raises EmptySequenceError, NonFiniteError (resample before masking, or fill the gaps first), DTypeError,
    UsageError for a rate that is not positive, LengthError for ``frames_out`` below 1 or beyond the end.
    """
    values, dtype = _checked(pose)
    frames = len(values)
    available = resampled_frames(frames, fps_in, fps_out)
    count = available if frames_out is None else frames_out
    if count < 1:
        raise LengthError(f"{count} frames were asked for; expected at least one")
    times = np.arange(count) * (fps_in / fps_out)  # in frames of the input
    # Within rounding the last time is the last frame's own.
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
    """A result at ``fps`` -> the ``frames_original`` frames of the sequence it was resampled from.

    Undoes ``resample_poses(original, fps_original, fps)``: frame i is at ``i / fps_original`` again. Where
    the original went on after the last resampled frame (by less than ``1 / fps``) its velocity is kept.
    Raises LengthError where ``pose`` does not have the frames of such a sequence.
    """
    frames = len(_checked(pose)[0])
    expected = resampled_frames(frames_original, fps_original, fps)
    if frames != expected:
        raise LengthError(
            f"the result has {frames} frames at {fps:g}/s; expected {expected}, which is what "
            f"{frames_original} frames at {fps_original:g}/s give"
        )
    return resample_poses(pose, fps, fps_original, frames_original)


def _band_limited(values: NDArray[np.float64], ratio: float) -> NDArray[np.float64]:
    sections = butter(_ORDER, _CUTOFF / ratio, output="sos")
    padding = min(len(values) - 1, math.ceil(_SETTLING * ratio))
    # The line from the first frame to the last needs no filter; without it the ends ring less.
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
