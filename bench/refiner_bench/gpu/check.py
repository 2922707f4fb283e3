"""Compares the kernels of a CUDA device with those of the CPU on new random inputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from refiner import native
from refiner_bench.native_kernels import CONDITION, ERROR, GaussianArrays, random_gaussian

# The largest difference of an aligned pose or error, by type.
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-12}


def main(argv: Sequence[str]) -> int:
    """Run the check.

    Args:
        argv: The number of poses.

    Returns:
        The exit code: 0, 3 without a CUDA device, or 4 if a result is wrong.
    """
    if not native.features().get("cuda_devices"):
        print(f"no CUDA kernels or no CUDA device here: {native.features()}")
        return 3
    seed = time.time_ns() % 2**32
    rng, count = np.random.default_rng(seed), int(argv[0])
    print(f"seed {seed}, {count:,} poses")
    wrong = []
    for kind, tolerance in TOLERANCE.items():
        target = rng.normal(0, 0.4, (count, 17, 3)).astype(kind)
        pred = (target + rng.normal(0, 0.05, target.shape)).astype(kind)
        for name in ("p_mpjpe", "procrustes_align"):
            for scale in (True, False):
                function = getattr(native, name)
                on_device = function(*(torch.from_numpy(pose).cuda() for pose in (pred, target)), scale=scale)
                difference = float(np.abs(on_device.cpu().numpy() - function(pred, target, scale=scale)).max())
                print(f"{name}, {kind.__name__}, scale {scale}: {difference:.2g} apart")
                if not difference <= tolerance:
                    wrong.append(name)
    gaussian = random_gaussian(rng)
    condition = rng.normal(size=(count, CONDITION)).astype(np.float32)
    clean = rng.normal(size=(count, ERROR)).astype(np.float32)
    factors = [rng.uniform(0, 1.4, count).astype(np.float32) for _ in range(2)]
    clean_factor, noise_factor = factors
    expected = _diffuse(condition, clean, clean_factor, noise_factor, gaussian)
    on_cuda = [torch.from_numpy(value).cuda() for value in (condition, clean, clean_factor, noise_factor)]
    results = _diffuse(on_cuda[0], on_cuda[1], on_cuda[2], on_cuda[3], gaussian)
    for name, on_device, on_cpu in zip(("noisy poses", "drawn errors"), results, expected, strict=True):
        difference = float(np.abs(on_device.cpu().numpy() - on_cpu).max())
        print(f"{name}: {difference:.2g} apart")
        if not difference <= 2e-5:
            wrong.append(name)
    print(f"wrong: {', '.join(wrong)}" if wrong else "all results agree")
    return 4 if wrong else 0


def _diffuse(condition: Any, clean: Any, clean_factor: Any, noise_factor: Any, gaussian: GaussianArrays) -> Any:
    """`native.diffuse` with a fixed seed. The first frame is above 32 bits, so that the whole counter is checked."""
    return native.diffuse(condition, clean, clean_factor, noise_factor, **gaussian, seed=5, first_frame=2**33)
