"""The parts of STC attention as sums of products, for networks that are compiled for training on a CUDA device.

The attention matrices of a window are many and small (17 x 17 and 27 x 27 with heads of 8 or 16 channels), and the
convolutions are depthwise. The usual kernels are made for large matrices and spend most of their work on padding. A
compiler can fuse these sums with the operations around them. Without a compiler every product would be stored in
memory, so eager networks do not use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

# The usual attention kernels are better for longer sequences.
MOST_TOKENS = 32


Part = Literal["attention", "convolution"]
_parts: tuple[Part, ...] = ("attention", "convolution")


def takes_sums(part: Part, x: Tensor, training: bool) -> bool:
    """Whether a network computes ``part`` by sums: it is compiled for training, and ``x`` lies on a CUDA device."""
    compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    return part in _parts and training and x.is_cuda and compiled


@contextmanager
def sums_of(*parts: Part) -> Iterator[None]:
    """Inside a ``with`` block, compute only these parts by sums. A network compiled inside keeps this choice."""
    global _parts
    before, _parts = _parts, parts
    try:
        yield
    finally:
        _parts = before


def attend_by_sums(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Softmax attention, like `torch.nn.functional.scaled_dot_product_attention`.

    The sums are in float32 or wider. The softmax is written out, because the compiler would replace a softmax of
    products by the usual attention call.

    Args:
        query: ``(..., T, width)``.
        key: likewise.
        value: likewise.
        scale: factor of the scores.

    Returns:
        ``(..., T, width)``, in the type of ``value``.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = (query.unsqueeze(-2).to(dtype) * key.unsqueeze(-3).to(dtype)).sum(dim=-1) * scale  # [..., T, T]
    weight = (scores - scores.detach().amax(dim=-1, keepdim=True)).exp()
    weight = weight / weight.sum(dim=-1, keepdim=True)
    mixed = (weight.unsqueeze(-1) * value.unsqueeze(-3).to(dtype)).sum(dim=-2)
    return mixed.to(value.dtype)


def convolve_by_shifts(grid: Tensor, weight: Tensor, bias: Tensor, before: int, after: int) -> Tensor:
    """A depthwise 3 x 3 convolution over (T, J), padded with zeros.

    Args:
        grid: ``(B, T, J, C)``.
        weight: weight of a `torch.nn.Conv2d` with C groups, ``(C, 1, 3, 3)``.
        bias: its bias, ``(C,)``.
        before: rows of zeros before the first frame: 1 for a window, 2 for a causal layer.
        after: rows of zeros after the last frame: 1 for a window, 0 for a causal layer.

    Returns:
        ``(B, T, J, C)``.
    """
    _, frames, joints, _ = grid.shape
    dtype = torch.promote_types(grid.dtype, weight.dtype)
    padded = functional.pad(grid, (0, 0, 1, 1, before, after))
    total = bias.to(dtype)
    for row in range(3):
        for column in range(3):
            shifted = padded[:, row : row + frames, column : column + joints]
            total = total + shifted.to(dtype) * weight[:, 0, row, column]
    return total.to(grid.dtype)
