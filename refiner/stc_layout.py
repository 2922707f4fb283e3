"""Constants and channel orders of STC attention, shared by the PyTorch layer and the native kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The body part of each Human3.6M joint: torso, right leg, left leg, left arm, right arm (STCFormer's table).
PARTS = (0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 3, 3, 3, 4, 4, 4)
PART_SCALE_SPATIAL = 1e-4
PART_SCALE_TEMPORAL = 1e-9


def kernel_order(dim: int, heads: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The channel order of the native kernels, as indices into the published layout.

    The kernels need the heads innermost, so that one vector register holds one channel of every head: their input has
    the order (half, q|k|v, width, heads), their output (half, width, heads).

    Args:
        dim: C.
        heads: H.

    Returns:
        The rows of ``qkv`` in the kernels' order ``(3 C,)``, and the columns of ``proj`` ``(C,)``, whose published
        input order is (heads, half, width).
    """
    width = dim // (2 * heads)
    channel = np.arange(dim).reshape(2, heads, width).transpose(0, 2, 1)  # [half, width, heads]
    rows = np.stack([3 * channel + part for part in range(3)], axis=1).reshape(-1)
    columns = np.arange(dim).reshape(heads, 2, width).transpose(1, 2, 0).reshape(-1)
    assert len(rows) == 3 * dim and len(columns) == dim
    return rows, columns
