"""A model of the errors of a 2D pose detector, for archives without detections.

The model applies four errors in this order: episodes in which left and right limbs are swapped, a slow AR(1) drift,
white jitter, and outlier episodes with a constant offset each. The bundled parameters reproduce the mean error and the
mean acceleration error that SmoothNet (ECCV 2022) reports for CPN on Human3.6M. The file detector_noise.json states
which parameters are measured and which are assumed.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.arguments import shown
from refiner.errors import ConfigError, EmptySequenceError, ShapeError
from refiner.json_text import other_than_number, parse_json
from refiner.ranges import SEED, Between

_BUNDLED = Path(__file__).parent / "detector_noise.json"
DEFAULT_SEED = 20240101

Array = NDArray[Any]
SwapGroup = tuple[tuple[int, ...], tuple[int, ...]]


def detector_rng(seed: int, subject: str, action_key: str, camera_index: int) -> np.random.Generator:
    """Make the random generator of one clip and camera: ``default_rng([seed, subject number, crc32(key), camera])``.

    The subject number consists of the digits of the name (S14 -> 14); for a name without digits it is the crc32.
    """
    digits = "".join(re.findall(r"[0-9]+", subject))
    number = int(digits) if digits else zlib.crc32(subject.encode())
    return np.random.default_rng([seed, number, zlib.crc32(action_key.encode()), camera_index])


# The spread of an error in pixels, and the length of an episode in frames.
SIGMAS = Between(0.0, 10_000.0)
LENGTHS = Between(2.0, 1e6)


@dataclass(frozen=True, eq=False)
class DetectorModel:
    """The parameters of the model.

    Standard deviations are in pixels of a 1000 x 1000 image, lengths are in frames at 50 frames/s.

    Attributes:
        rho: The correlation of the drift from frame to frame.
        slow_sigma: The standard deviation of the drift per joint, ``(J,)``.
        jitter_sigma: The standard deviation of the white jitter per joint, ``(J,)``.
        outlier_probability: The stationary probability of an outlier per joint, ``(J,)``.
        outlier_length: The mean length of an outlier episode.
        outlier_sigma: The standard deviation of an outlier's offset.
        swap_probability: The probability per frame that a left/right swap starts.
        swap_length: The mean length of a swap episode.
        swap_groups: Pairs (left joints, right joints) that swap together.
        seed: The default seed for `detector_rng`.

    Raises:
        ConfigError: A value is out of range.
    """

    rho: float
    slow_sigma: Array = field(repr=False)
    jitter_sigma: Array = field(repr=False)
    outlier_probability: Array = field(repr=False)
    outlier_length: float
    outlier_sigma: float
    swap_probability: float
    swap_length: float
    swap_groups: tuple[SwapGroup, ...] = field(repr=False)
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        for name in ("slow_sigma", "jitter_sigma", "outlier_probability"):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        shapes = {self.slow_sigma.shape, self.jitter_sigma.shape, self.outlier_probability.shape}
        if len(shapes) > 1 or self.slow_sigma.ndim != 1:
            raise ConfigError(f"the detector model has per-joint lists of different shapes: {sorted(shapes)}")
        joints = {joint for group in self.swap_groups for side in group for joint in side}
        checks = {
            "rho in [0, 1)": 0 <= self.rho < 1,
            f"sigmas of {SIGMAS} pixels": all(
                map(SIGMAS.holds, [*self.slow_sigma.tolist(), *self.jitter_sigma.tolist(), self.outlier_sigma])
            ),
            "outlier probabilities in [0, 0.5]": bool(
                ((self.outlier_probability >= 0) & (self.outlier_probability <= 0.5)).all()
            ),
            "swap start probability in [0, 0.1]": 0 <= self.swap_probability <= 0.1,
            f"mean episode lengths of {LENGTHS} frames": LENGTHS.holds(self.outlier_length)
            and LENGTHS.holds(self.swap_length),
            f"a seed of {SEED}": SEED.holds(self.seed),
            "swap groups of joints that exist": all(0 <= joint < self.joints for joint in joints)
            and all(len(left) == len(right) for left, right in self.swap_groups),
        }
        wrong = [name for name, holds in checks.items() if not holds]
        if wrong:
            raise ConfigError(f"the detector model is out of range: expected {'; '.join(wrong)}")

    @property
    def joints(self) -> int:
        """J, the number of joints."""
        return len(self.slow_sigma)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> DetectorModel:
        """Read a model with the layout of the bundled ``detector_noise.json``. Raises ConfigError for another file."""
        try:
            content = parse_json(Path(path).read_bytes())
            model = content["model"]
            slow, jitter, outlier, swap = (model[k] for k in ("slow", "jitter", "outlier", "left_right_swap"))
            numbers = [slow["rho"], slow["sigma_px"], jitter["sigma_px"], outlier["stationary_probability"]]
            numbers += [outlier["mean_length_frames"], outlier["sigma_px"], swap["groups"], content.get("seed", 0)]
            wrong = other_than_number([*numbers, swap["start_probability"], swap["mean_length_frames"]])
            if wrong is not None:
                raise ConfigError(f"{path} is no detector model: it holds {shown(wrong)}, expected numbers")
            return cls(
                rho=float(slow["rho"]),
                slow_sigma=slow["sigma_px"],
                jitter_sigma=jitter["sigma_px"],
                outlier_probability=outlier["stationary_probability"],
                outlier_length=float(outlier["mean_length_frames"]),
                outlier_sigma=float(outlier["sigma_px"]),
                swap_probability=float(swap["start_probability"]),
                swap_length=float(swap["mean_length_frames"]),
                swap_groups=tuple((tuple(left), tuple(right)) for left, right in swap["groups"]),
                seed=int(content.get("seed", DEFAULT_SEED)),
            )
        except OSError as error:
            raise ConfigError(f"cannot read the detector model {path}: {error.strerror}") from error
        except KeyError as error:
            raise ConfigError(f"{path} is no detector model: {error.args[0]!r} is missing") from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ConfigError(f"{path} is no detector model: {error}") from error

    @classmethod
    def default(cls) -> DetectorModel:
        """Return the bundled model: mean error 6.67 px, mean acceleration error 2.91 px/frame^2."""
        return _default_model()

    def detect(self, clean_2d: ArrayLike, rng: np.random.Generator, *, scale: ArrayLike = 1.0) -> Array:
        """Simulate the detections of projected poses.

        Args:
            clean_2d: The projected poses ``(..., F, J, 2)`` in pixels. The last three axes are one clip; the leading
                axes are independent clips.
            rng: The random generator.
            scale: A factor for every standard deviation and for the rate of the swaps, one number or one per clip. With
                0 the result is the input.

        Returns:
            The simulated detections, of the same shape and float type.

        Raises:
            ShapeError: The array has another shape.
            EmptySequenceError: The clips have no frames.
            ConfigError: ``scale`` is negative or not finite.
        """
        clean = np.asarray(clean_2d)
        if clean.ndim < 3 or clean.shape[-2:] != (self.joints, 2):
            raise ShapeError(f"found 2D poses of shape {clean.shape}, expected (..., frames, {self.joints}, 2)")
        if clean.shape[-3] == 0:
            raise EmptySequenceError("the clip to simulate detections for has no frames")
        dtype = clean.dtype if np.issubdtype(clean.dtype, np.floating) else np.dtype(np.float64)
        factor = np.asarray(scale, dtype=np.float32)
        if not (np.isfinite(factor) & (factor >= 0)).all():
            raise ConfigError(f"scale is {scale!r}, expected numbers >= 0")
        try:
            factor = np.broadcast_to(factor, clean.shape[:-3])[..., None, None, None]
        except ValueError as error:
            raise ShapeError(f"scale has shape {factor.shape}, expected one per clip: {clean.shape[:-3]}") from error
        swapped = self._swap(clean.astype(dtype), rng, factor[..., 0])
        noise = self._drift_and_jitter(clean.shape, rng) + self._outliers(clean.shape, rng)
        return np.asarray(swapped + (factor * noise).astype(dtype))

    def detect_many(self, clean: Iterable[ArrayLike], rngs: Iterable[np.random.Generator]) -> list[Array]:
        """Call `detect` for clips of different lengths, each with its own generator."""
        return [self.detect(clip, rng) for clip, rng in zip(clean, rngs, strict=True)]

    def _drift_and_jitter(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
        # Imported here, because scipy.signal takes longer to import than the rest of this package.
        from scipy.signal import lfilter

        drive = rng.standard_normal(shape, dtype=np.float32)
        # The first frame keeps unit variance, so that the drift is stationary from the start.
        drive[..., 1:, :, :] *= np.float32(np.sqrt(1 - self.rho**2))
        one, poles = np.ones(1, np.float32), np.array([1.0, -self.rho], np.float32)
        drift = lfilter(one, poles, drive, axis=-3)
        drift *= self.slow_sigma.astype(np.float32)[:, None]
        white = rng.standard_normal(shape, dtype=np.float32)
        white *= self.jitter_sigma.astype(np.float32)[:, None]
        return np.asarray(drift + white)

    def _outliers(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
        probability = self.outlier_probability[:, None]
        start = probability / (self.outlier_length * (1 - probability))
        active = _episodes((*shape[:-3], shape[-2], shape[-3]), start, self.outlier_length, rng)  # frames last
        begins = active.copy()
        begins[..., 1:] &= ~active[..., :-1]
        offsets = self.outlier_sigma * rng.standard_normal((int(begins.sum()) + 1, 2), dtype=np.float32)
        offsets[0] = 0.0
        # Frames outside episodes get row 0; the frames of the n-th episode get row n.
        episode = np.cumsum(begins.ravel()).reshape(begins.shape) * active
        return np.asarray(np.moveaxis(offsets[episode], -2, -3))

    def _swap(self, clean: Array, rng: np.random.Generator, factor: NDArray[np.float32]) -> Array:
        start = np.minimum(self.swap_probability * factor, 0.1)
        groups = len(self.swap_groups)
        active = _episodes((*clean.shape[:-3], groups, clean.shape[-3]), start, self.swap_length, rng)
        result = clean.copy()
        for index, (left, right) in enumerate(self.swap_groups):
            order = np.arange(self.joints)
            order[list(left)], order[list(right)] = right, left
            frames = np.nonzero(active[..., index, :])
            result[frames] = result[frames][:, order]
        return result


def _episodes(
    shape: tuple[int, ...], start: ArrayLike, mean_length: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw stationary two-state Markov chains along the last axis, without a loop over frames.

    A uniform number u per frame decides: u < start sets the state, u >= 1 - 1/length clears it, and any other u keeps
    it. Since start < 1 - 1/length, this is exactly the chain that enters the state with probability ``start`` and
    leaves it with probability ``1 / length``. The state of a frame is the last decision before or in this frame.
    """
    start = np.asarray(start)
    uniform = rng.random(shape, dtype=np.float32)
    setting, clearing = uniform < start, uniform >= 1 - 1 / mean_length
    stationary = np.broadcast_to(start / (start + 1 / mean_length), (*shape[:-1], 1))[..., 0]
    setting[..., 0] = uniform[..., 0] < stationary
    clearing[..., 0] = ~setting[..., 0]
    frames = np.arange(shape[-1], dtype=np.int32)
    decided = np.maximum.accumulate(np.where(setting | clearing, frames, 0), axis=-1)
    return np.asarray(np.take_along_axis(setting, decided, axis=-1))


@lru_cache(maxsize=1)
def _default_model() -> DetectorModel:
    return DetectorModel.from_json(_BUNDLED)
