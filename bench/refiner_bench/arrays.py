"""Types of arrays in the benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Poses, keypoints or errors in float32 or float64.
FloatArray = NDArray[np.floating[Any]]
