"""How close a graph is to the PyTorch model, in millimetres."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refiner.errors import ParityError
from refiner.models import LiftingModule, UnrolledRefiner
from refiner.runtime.onnx_engine import OnnxEngine

SEED = 20240607
BATCHES = (1, 2, 7, 15)


def check_parity(
    module: UnrolledRefiner | LiftingModule,
    graph: str | os.PathLike[str],
    kind: str,
    windows: int,
    gate_mm: float,
) -> dict[str, Any]:
    """Compare on fresh windows, in batches of 1, 2, 7 and then 15. Raises ParityError at ``gate_mm`` or above.

    Returns the largest, mean and 99th percentile of the joint distances in millimetres.
    """
    engine = OnnxEngine(graph, kind)
    inputs = parity_windows(windows, module.frames)
    chosen = inputs if kind == "refiner" else (inputs[0], inputs[2])
    distances: list[NDArray[np.float64]] = []
    first = 0
    while first < windows:
        size = BATCHES[min(len(distances), len(BATCHES) - 1)]
        batch = [array[first : first + size] for array in chosen]
        with torch.inference_mode():
            expected = module(*(torch.from_numpy(array) for array in batch)).numpy()
        distances.append(np.linalg.norm((engine(*batch) - expected).astype(np.float64), axis=-1).ravel() * 1000)
        first += size
    every = np.concatenate(distances)
    largest = float(every.max())
    result = {
        "reference": "PyTorch float32",
        "windows": windows,
        "largest_mm": largest,
        "mean_mm": float(every.mean()),
        "p99_mm": float(np.percentile(every, 99)),
        "gate_mm": gate_mm,
    }
    if not np.isfinite(every).all() or largest >= gate_mm:
        raise ParityError(
            f"the graph differs from PyTorch by {largest:.4f} mm on {windows} fresh windows, "
            f"allowed: less than {gate_mm} mm; nothing was written"
        )
    return result


def parity_windows(windows: int, frames: int, seed: int = SEED) -> tuple[NDArray[np.float32], ...]:
    """Random smooth body-like poses: ``(N, T, 17, 2)`` pixels, ``(N, T, 17, 3)`` metres, ``(N, 2)`` image sizes."""
    rng = np.random.default_rng(seed)
    pose_3d = rng.normal(0, 0.4, (windows, 1, 17, 3)) + np.cumsum(rng.normal(0, 0.02, (windows, frames, 17, 3)), axis=1)
    size = rng.choice([[1000.0, 1002.0], [1920.0, 1080.0], [640.0, 480.0]], windows)
    pixels = size[:, None, None] * (0.5 + 0.2 * pose_3d[..., :2]) + rng.normal(0, 5, (*pose_3d.shape[:-1], 2))
    root = rng.normal(0, 2, (windows, frames, 1, 3))
    return pixels.astype(np.float32), (pose_3d + root).astype(np.float32), size.astype(np.float32)
