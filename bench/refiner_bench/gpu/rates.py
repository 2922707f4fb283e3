"""The best rates of a device, by a large matrix product and a large copy. The latency report compares with them."""

from __future__ import annotations

from functools import partial

import torch

from refiner_bench.timing import Run, best_rate

# The side of the square matrices, and the bytes of the copy.
SIZES = {"cuda": (8192, 2**30), "cpu": (1024, 64 * 2**20)}


def device_rates(device: str) -> dict[str, float]:
    """Measure the rates of a device.

    Returns:
        The keys ``float32_flops_per_s`` (without TF32), ``bfloat16_flops_per_s`` and ``copy_bytes_per_s`` (bytes that
        are read and written).
    """
    side, size = SIZES[device]
    rates = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        left = torch.randn(side, side, device=device).to(dtype)
        rates[f"{name}_flops_per_s"] = best_rate(2 * side**3, synchronised(device, partial(torch.mm, left, left)))
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    rates["copy_bytes_per_s"] = best_rate(2 * size, synchronised(device, lambda: target.copy_(source)))
    return rates


def synchronised(device: str, function: Run) -> Run:
    """``function``, but each call waits until the device has finished the work."""
    if device == "cpu":
        return function

    def run() -> None:
        function()
        torch.cuda.synchronize()

    return run
