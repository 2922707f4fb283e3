"""What a device does at best, measured in the run that it judges: a large matrix product and a large copy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from refiner_bench.timing import best_rate

# Side of the square matrices, and bytes of the copy.
SIZES = {"cuda": (8192, 2**30), "cpu": (1024, 64 * 2**20)}


def device_rates(device: str) -> dict[str, float]:
    """``float32_flops_per_s`` (no TF32), ``bfloat16_flops_per_s``, ``copy_bytes_per_s`` (read and written)."""
    side, size = SIZES[device]
    rates = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        left = torch.randn(side, side, device=device).to(dtype)
        rates[f"{name}_flops_per_s"] = best_rate(2 * side**3, ended(device, partial(torch.mm, left, left)))
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    rates["copy_bytes_per_s"] = best_rate(2 * size, ended(device, lambda: target.copy_(source)))
    return rates


def ended(device: str, function: Callable[[], Any]) -> Callable[[], Any]:
    """``function``, and its work on the device done."""
    if device == "cpu":
        return function

    def run() -> None:
        function()
        torch.cuda.synchronize()

    return run
