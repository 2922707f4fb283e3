"""Networks with random weights, with which every part counts, and the errors of half precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.runtime.native import network

Array = NDArray[np.float32]
# The largest relative error of a rounding to half precision, which has 11 bits.
HALF = 2.0**-11
# The precision of the native engine that is compared, by device.
PRECISIONS = {"cpu": "fp32", "cuda": "fp16"}


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Array]:
    """Weights for `refiner.runtime.native.network`; outputs are of size 1."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        if "norm.weight" in name or "norm_first.weight" in name:
            value = 1.0 + 0.2 * rng.normal(size=shape)
        elif len(shape) == 2:
            value = rng.normal(size=shape) / np.sqrt(shape[-1])
        else:
            value = 0.2 * rng.normal(size=shape)
        weights[name] = value.astype(np.float32)
    return weights


def random_denoiser(
    dim: int, heads: int, seed: int, band: int = 0, blocks: int = 1, ratio: int = 2, device: str = "cpu", **more: Any
) -> Any:
    """The compiled network of a denoiser of two steps, which takes 5 numbers of a joint."""
    model = {"dim": dim, "heads": heads, "blocks": blocks, "mlp_ratio": ratio, "joint_embedding": True, **more}
    return network.denoiser(
        random_weights(network.denoiser_shapes(model), seed), model, [49, 20], band, PRECISIONS[device]
    )


def random_lifter(dim: int, heads: int, seed: int, device: str = "cpu") -> Any:
    """The compiled network of a lifter, which takes 2 numbers of a joint."""
    model = {"dim": dim, "heads": heads, "blocks": 1, "mlp_ratio": 2, "joint_embedding": True}
    return network.lifter(random_weights(network.lifter_shapes(model), seed), model, range(17), PRECISIONS[device])


def errors_of(found: Array, expected: Array) -> tuple[float, float]:
    """The root mean square and the largest error, in units of `HALF` and of the root mean square of the expected."""
    scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64)))) * HALF
    error = np.abs(found.astype(np.float64) - expected) / scale
    return float(np.sqrt(np.mean(np.square(error)))), float(error.max())
