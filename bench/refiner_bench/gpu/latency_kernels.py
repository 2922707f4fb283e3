"""Rates of the compiled kernels on a device beside the CPU's, with what a copy of the same bytes would take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from refiner import native
from refiner.errors import MissingComponentError
from refiner_bench.gpu.rates import ended
from refiner_bench.native_kernels import CONDITION, ERROR, JOINTS, random_gaussian
from refiner_bench.timing import Contestant, Run, interleaved, ratio_interval

# Bytes that a pose or a frame must move: what comes in and what goes out, float32.
BYTES = {
    "p_mpjpe": 4 * (2 * 3 * JOINTS + 1),
    "procrustes_align": 4 * 3 * 3 * JOINTS,
    "sample_conditional": 4 * (CONDITION + ERROR),
}
CPU, DEVICE = "cpu", "cuda"


def kernel_rows(device: str, counts: Sequence[int], rounds: int, rates: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Items/s of each kernel for ``counts`` poses, the data where it is computed. Raises MissingComponentError without
    the compiled module, or on "cuda" without its CUDA kernels."""
    if device == "cuda" and not native.features().get("cuda_devices"):
        raise MissingComponentError(f"the compiled module has no CUDA kernels for this device: {native.features()}")
    for count in counts:
        for kernel, contestants in _contestants(device, count).items():
            found = interleaved(
                {name: Contestant(count, run) for name, run in contestants.items()}, rounds, turn_s=0.02
            )
            row: dict[str, Any] = {"kernel": kernel, "items": count}
            row["rates"] = {name: float(np.median(values)) for name, values in found.items()}
            if DEVICE in found:
                row["faster_than_cpu"] = ratio_interval(np.array(found[DEVICE]) / np.array(found[CPU]))
            row["floor_items_per_s"] = rates["copy_bytes_per_s"] / BYTES[kernel]
            yield row


def _contestants(device: str, count: int) -> dict[str, dict[str, Run]]:
    rng = np.random.default_rng(7)
    target = rng.normal(0, 0.4, (count, JOINTS, 3)).astype(np.float32)
    pred = (target + rng.normal(0, 0.05, target.shape)).astype(np.float32)
    condition = rng.normal(size=(count, CONDITION)).astype(np.float32)
    gaussian = random_gaussian(rng)
    rows: dict[str, dict[str, Run]] = {kernel: {} for kernel in BYTES}
    for name in (CPU, DEVICE)[: 2 if device == "cuda" else 1]:
        here: list[Any] = [pred, target, condition]
        if name == DEVICE:
            here = [torch.from_numpy(array).cuda() for array in here]
        there, truth, seen = here
        rows["p_mpjpe"][name] = ended(name, partial(native.p_mpjpe, there, truth))
        rows["procrustes_align"][name] = ended(name, partial(native.procrustes_align, there, truth))
        rows["sample_conditional"][name] = ended(name, partial(native.sample_conditional, seen, **gaussian, seed=1))
    return rows
