"""Rates of the compiled kernels on a device and on the CPU, compared with the rate of a copy of the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from refiner import native
from refiner.errors import MissingComponentError
from refiner_bench.gpu.rates import synchronised
from refiner_bench.native_kernels import CONDITION, ERROR, JOINTS, random_gaussian
from refiner_bench.timing import Contestant, Ratio, Run, interleaved, ratio_interval

# Bytes of the inputs and outputs of one pose or frame, float32.
BYTES = {
    "p_mpjpe": 4 * (2 * 3 * JOINTS + 1),
    "procrustes_align": 4 * 3 * 3 * JOINTS,
    "sample_conditional": 4 * (CONDITION + ERROR),
}
CPU, DEVICE = "cpu", "cuda"


@dataclass(frozen=True)
class KernelRow:
    """The measurement of one kernel at one size. The field names are the keys of the JSON report.

    Attributes:
        kernel: The name of the kernel.
        items: The number of poses or frames of a call.
        rates: Items per second on "cpu" and, with a CUDA device, on "cuda".
        faster_than_cpu: How many times as fast as the CPU the device is; None without a device.
        floor_items_per_s: Items per second if the time were that of a copy of the inputs and outputs.
    """

    kernel: str
    items: int
    rates: dict[str, float]
    faster_than_cpu: Ratio | None
    floor_items_per_s: float

    def to_json(self) -> dict[str, object]:
        """The row of the JSON report; without a device the ratio is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def kernel_rows(
    device: str, counts: Sequence[int], rounds: int, rates: Mapping[str, float]
) -> Iterator[dict[str, object]]:
    """Measure each kernel. The data is on the device that computes.

    Args:
        device: "cpu", or "cuda" for both the CPU and the device.
        counts: The numbers of poses of a call to measure.
        rounds: The number of timed rounds.
        rates: The result of `device_rates`.

    Yields:
        A row of the JSON report for each number of poses and kernel, see `KernelRow`.

    Raises:
        MissingComponentError: There is no compiled module, or for "cuda" the module has no CUDA kernels.
    """
    if device == "cuda" and not native.features().get("cuda_devices"):
        raise MissingComponentError(f"the compiled module has no CUDA kernels for this device: {native.features()}")
    for count in counts:
        for kernel, runs in _contestants(device, count).items():
            contestants = {name: Contestant(count, run) for name, run in runs.items()}
            times = interleaved(contestants, rounds, turn_s=0.02)
            yield KernelRow(
                kernel=kernel,
                items=count,
                rates={name: float(np.median(values)) for name, values in times.items()},
                faster_than_cpu=(
                    ratio_interval(np.array(times[DEVICE]) / np.array(times[CPU])) if DEVICE in times else None
                ),
                floor_items_per_s=rates["copy_bytes_per_s"] / BYTES[kernel],
            ).to_json()


def _contestants(device: str, count: int) -> dict[str, dict[str, Run]]:
    """By kernel, a call on "cpu" and, for device "cuda", a call on "cuda"."""
    rng = np.random.default_rng(7)
    target = rng.normal(0, 0.4, (count, JOINTS, 3)).astype(np.float32)
    pred = (target + rng.normal(0, 0.05, target.shape)).astype(np.float32)
    condition = rng.normal(size=(count, CONDITION)).astype(np.float32)
    gaussian = random_gaussian(rng)
    rows: dict[str, dict[str, Run]] = {kernel: {} for kernel in BYTES}
    for name in (CPU, DEVICE)[: 2 if device == "cuda" else 1]:
        # NumPy arrays on the CPU, tensors on the device.
        inputs: list[Any] = [pred, target, condition]
        if name == DEVICE:
            inputs = [torch.from_numpy(array).cuda() for array in inputs]
        poses, truth, conditions = inputs
        rows["p_mpjpe"][name] = synchronised(name, partial(native.p_mpjpe, poses, truth))
        rows["procrustes_align"][name] = synchronised(name, partial(native.procrustes_align, poses, truth))
        rows["sample_conditional"][name] = synchronised(
            name, partial(native.sample_conditional, conditions, **gaussian, seed=1)
        )
    return rows
