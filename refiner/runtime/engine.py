"""The interface of every engine: windows in, windows out, NumPy float32."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class RefinerEngine(Protocol):
    """Refines windows of ``frames`` frames; ``metadata`` says what model it is."""

    frames: int
    metadata: dict[str, Any]

    def __call__(self, pose_2d: Array, pose_3d: Array, image_size: Array) -> Array:
        """``(B, T, J, 2)`` pixels, ``(B, T, J, 3)`` metres, ``(B, 2)`` -> ``(B, T, J, 3)`` metres."""
        ...


class LifterEngine(Protocol):
    """Lifts windows of ``frames`` frames."""

    frames: int
    metadata: dict[str, Any]

    def __call__(self, pose_2d: Array, image_size: Array) -> Array:
        """``(B, T, J, 2)`` pixels, ``(B, 2)`` -> ``(B, T, J, 3)`` metres, root at 0."""
        ...
