"""Parameters and FLOPs of PoseDenoiser by formula. One multiply-add is 2 FLOPs.

The formulas count matrix products, attention products and depthwise convolutions. As usual, they don't count biases,
normalisations, activations and the softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

from refiner.errors import UsageError

CONVOLUTION_TAPS = 9
BODY_PARTS = 5
# Table IV of D3PRefiner (arXiv 2401.03914): depth -> (million FLOPs, MPJPE in mm), at T = 27.
PAPER_TABLE_IV = {4: (7.2, 40.3), 6: (10.5, 40.2), 8: (13.9, 40.0), 10: (17.2, 40.0)}
PAPER_FRAMES = 27


@dataclass(frozen=True)
class DenoiserSize:
    """The sizes that the cost of PoseDenoiser depends on.

    Attributes:
        depth: The number of attention modules, twice the number of blocks.
        dim: The width C.
        heads: The number of attention heads.
        mlp_ratio: The hidden width of the MLPs divided by C.
        frames: The frames T of a window.
        joints: The joints J of a pose.

    Raises:
        UsageError: The model does not support the sizes.
    """

    depth: int = 8
    dim: int = 256
    heads: int = 8
    mlp_ratio: int = 8
    frames: int = 27
    joints: int = 17

    def __post_init__(self) -> None:
        if self.depth < 2 or self.depth % 2:
            raise UsageError(f"depth counts the two STC modules of each block: expected 2, 4, 6, ..., got {self.depth}")
        if min(self.dim, self.heads, self.mlp_ratio, self.frames, self.joints) < 1:
            raise UsageError(f"sizes must be positive, got {self}")
        if self.dim % (2 * self.heads):
            raise UsageError(f"dim must be a multiple of 2 x heads, got dim {self.dim} and heads {self.heads}")

    @property
    def blocks(self) -> int:
        """The number of denoising blocks."""
        return self.depth // 2

    @property
    def tokens(self) -> int:
        """The number of tokens of a window: the joints of all its frames."""
        return self.frames * self.joints


def parameters(size: DenoiserSize) -> int:
    """The number of trainable numbers of ``PoseDenoiser`` without the joint embedding."""
    dim = size.dim
    layer_norm = 2 * dim
    attention = 3 * dim * (dim + 1) + dim * (dim + 1)  # qkv and proj with their biases
    convolutions = dim * (CONVOLUTION_TAPS + 1)
    part_embedding = BODY_PARTS * (dim // (2 * size.heads))
    module = layer_norm + attention + convolutions + part_embedding
    block = 2 * module + dim * (dim + 1) + layer_norm + 2 * size.mlp_ratio * dim * dim
    time_mlp = 2 * dim * (dim + 1) + dim * (2 * dim + 1)
    return size.blocks * block + time_mlp + (5 + 3) * dim


def _token_macs_of_block(size: DenoiserSize) -> int:
    """Multiply-adds of one token in one block."""
    dim = size.dim
    weights = (2 * 4 + 2 * size.mlp_ratio) * dim * dim
    # Two modules. In each one, half of the channels attend over the joints and the other half over the frames. Both
    # multiply queries with keys, and attention weights with values.
    attention = 2 * (size.joints + size.frames) * dim
    convolutions = 2 * CONVOLUTION_TAPS * dim
    return weights + attention + convolutions


def time_path_flops(size: DenoiserSize) -> int:
    """FLOPs of the time path: the MLP and one projection per block, once per window and step.

    An exported graph has no time path, because its results are constants for a fixed number of steps K.
    """
    return 2 * (4 + size.blocks) * size.dim**2


def window_flops(size: DenoiserSize) -> int:
    """FLOPs of one window and one denoising step without the time path. An exported graph runs this K times."""
    return 2 * size.tokens * (size.blocks * _token_macs_of_block(size) + (5 + 3) * size.dim)


def paper_token_flops(size: DenoiserSize) -> int:
    """FLOPs per token where every token includes the whole time path.

    This way of counting reproduces the figures of the paper's Table IV.
    """
    return (window_flops(size) // size.tokens) + time_path_flops(size)
