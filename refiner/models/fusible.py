"""STC attention's parts as sums of products, for a network that is compiled for training on a CUDA device.

The attention matrices of a window are many and small, 17 x 17 and 27 x 27 with heads of 8 or 16 channels, and its
convolutions are depthwise: kernels made for large ones mostly work on padding. A compiler fuses these sums with what
stands before and after them. Operation by operation they would hold every product in memory, and are not taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

# Longer sequences are what the usual kernels are made for.
MOST_TOKENS = 32


Part = Literal["attention", "convolution"]
_parts: tuple[Part, ...] = ("attention", "convolution")


def takes_sums(part: Part, x: Tensor, training: bool) -> bool:
    """Whether a network takes a part from here: compiled, for training, on a CUDA device."""
    compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    return part in _parts and training and x.is_cuda and compiled


@contextmanager
def sums_of(*parts: Part) -> Iterator[None]:
    """Take these parts alone as sums for a while; what is compiled meanwhile keeps them."""
    global _parts
    before, _parts = _parts, parts
    try:
        yield
    finally:
        _parts = before


def attend_by_sums(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Softmax attention of ``(..., T, width)``, as `torch.nn.functional.scaled_dot_product_attention`.

    Sums are in float32 at least; the softmax is written out, since the compiler would make the usual call of one.
    """
    kind = torch.promote_types(query.dtype, torch.float32)
    scores = (query.unsqueeze(-2).to(kind) * key.unsqueeze(-3).to(kind)).sum(dim=-1) * scale  # [..., T, T]
    weight = (scores - scores.detach().amax(dim=-1, keepdim=True)).exp()
    weight = weight / weight.sum(dim=-1, keepdim=True)
    mixed = (weight.unsqueeze(-1) * value.unsqueeze(-3).to(kind)).sum(dim=-2)
    return mixed.to(value.dtype)


def convolve_by_shifts(grid: Tensor, weight: Tensor, bias: Tensor, before: int, after: int) -> Tensor:
    """A depthwise 3 x 3 convolution of ``(B, T, J, C)`` over (T, J), zeros around it.

    Args:
        weight, bias: of a `torch.nn.Conv2d` with C groups, ``(C, 1, 3, 3)`` and ``(C,)``.
        before, after: rows of zeros before the first frame and after the last, together 2: one each for a window, two
            before for a causal layer.
    """
    _, frames, joints, _ = grid.shape
    kind = torch.promote_types(grid.dtype, weight.dtype)
    padded = functional.pad(grid, (0, 0, 1, 1, before, after))
    total = bias.to(kind)
    for row in range(3):
        for column in range(3):
            shifted = padded[:, row : row + frames, column : column + joints]
            total = total + shifted.to(kind) * weight[:, 0, row, column]
    return total.to(grid.dtype)
