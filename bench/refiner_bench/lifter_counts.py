"""Parameters and multiply-adds of the lifters by formula. The rules are those of `refiner_bench.counts`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refiner.errors import UsageError
from refiner_bench.counts import BODY_PARTS, CONVOLUTION_TAPS

Architecture = Literal["stcformer", "mixste", "d3dp"]


@dataclass(frozen=True)
class LifterSize:
    """The sizes that the cost of a lifter depends on.

    Attributes:
        architecture: The network.
        dim: The width C.
        layers: The number of layers of STCFormer, or the number of pairs of blocks of MixSTE and D3DP.
        mlp_ratio: The hidden width of the MLPs divided by C.
        frames: The frames T of a window.
        heads: The number of attention heads.
        joints: The joints J of a pose.

    Raises:
        UsageError: The model does not support the sizes.
    """

    architecture: Architecture
    dim: int
    layers: int
    mlp_ratio: int
    frames: int
    heads: int = 8
    joints: int = 17

    def __post_init__(self) -> None:
        if min(self.dim, self.layers, self.mlp_ratio, self.frames, self.heads, self.joints) < 1:
            raise UsageError(f"sizes must be positive, got {self}")
        divisor = 2 * self.heads if self.architecture == "stcformer" else self.heads
        if self.dim % divisor:
            raise UsageError(f"dim must be a multiple of {divisor} for {self.heads} heads, got {self.dim}")

    @property
    def tokens(self) -> int:
        """The number of tokens of a window: the joints of all its frames."""
        return self.frames * self.joints


PUBLISHED_SIZES = {
    "STCFormer": LifterSize("stcformer", dim=256, layers=6, mlp_ratio=4, frames=243),
    "MixSTE": LifterSize("mixste", dim=512, layers=8, mlp_ratio=2, frames=243),
    "D3DP": LifterSize("d3dp", dim=512, layers=8, mlp_ratio=2, frames=243),
}
# The figures of the publications: million parameters, and giga multiply-adds of a window without attention products.
PUBLISHED_FIGURES: dict[str, tuple[float, float]] = {"STCFormer": (4.75, 19.5), "MixSTE": (33.78, 139.0)}


def lifter_parameters(size: LifterSize) -> int:
    """The number of trainable numbers, without the joint embedding of our STCFormer, which the published one lacks."""
    dim, hidden, layer_norm = size.dim, size.mlp_ratio * size.dim, 2 * size.dim
    attention = 3 * dim * (dim + 1) + dim * (dim + 1)  # qkv and proj with their biases
    if size.architecture == "stcformer":
        part_embedding = BODY_PARTS * (dim // (2 * size.heads))
        block = attention + dim * (CONVOLUTION_TAPS + 1) + part_embedding + 2 * layer_norm + 2 * dim * hidden
        return size.layers * block + (2 + 3) * dim
    block = attention + 2 * layer_norm + 2 * dim * hidden + hidden + dim
    positions = (size.joints + size.frames) * dim
    head = layer_norm + 3 * (dim + 1)
    lifter = size.layers * 2 * block + positions + 2 * layer_norm + head + (2 + 1) * dim
    if size.architecture == "mixste":
        return lifter
    time_mlp = 2 * dim * (dim + 1) + dim * (2 * dim + 1)
    return lifter + 3 * dim + time_mlp


def lifter_macs(size: LifterSize, attention: bool = True) -> int:
    """Multiply-adds of a window; for D3DP those of one hypothesis, one step and one pass.

    Args:
        size: The size of the lifter.
        attention: Whether to count the products of queries, keys and values. The published figures leave them out.
    """
    dim = size.dim
    weights = (4 + 2 * size.mlp_ratio) * dim * dim
    if size.architecture == "stcformer":
        # Half of the channels attend over the joints, the other half over the frames.
        layer = weights + CONVOLUTION_TAPS * dim + attention * (size.joints + size.frames) * dim
        return size.tokens * (size.layers * layer + (2 + 3) * dim)
    pair = 2 * weights + attention * 2 * (size.joints + size.frames) * dim
    channels = 2 if size.architecture == "mixste" else 5
    time_mlp = 0 if size.architecture == "mixste" else 4 * dim * dim
    return size.tokens * (size.layers * pair + (channels + 3) * dim) + time_mlp
