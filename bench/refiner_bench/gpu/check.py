"""The kernels of a device against those of the CPU, on fresh random inputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from refiner import native
from refiner_bench.native_kernels import CONDITION, ERROR, random_gaussian

TOLERANCE = {np.float32: 2e-6, np.float64: 1e-12}


def main(argv: Sequence[str]) -> int:
    """Arguments: the number of poses. Exit codes: 0, 3 without CUDA, 4 where a result is wrong."""
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
                found = function(*(torch.from_numpy(pose).cuda() for pose in (pred, target)), scale=scale)
                apart = float(np.abs(found.cpu().numpy() - function(pred, target, scale=scale)).max())
                print(f"{name}, {kind.__name__}, scale {scale}: {apart:.2g} apart")
                if not apart <= tolerance:
                    wrong.append(name)
    options: dict[str, Any] = random_gaussian(rng) | {"seed": 5, "first_frame": 2**33}
    condition = rng.normal(size=(count, CONDITION)).astype(np.float32)
    clean: Any = rng.normal(size=(count, ERROR)).astype(np.float32)
    factors: list[Any] = [rng.uniform(0, 1.4, count).astype(np.float32) for _ in range(2)]
    inputs: list[Any] = [condition, clean, *factors]
    expected = native.diffuse(*inputs, **options)
    given: list[Any] = [torch.from_numpy(value).cuda() for value in inputs]
    found = native.diffuse(*given, **options)
    for name, there, here in zip(("noisy poses", "drawn errors"), found, expected, strict=True):
        apart = float(np.abs(there.cpu().numpy() - here).max())
        print(f"{name}: {apart:.2g} apart")
        if not apart <= 2e-5:
            wrong.append(name)
    print(f"wrong: {', '.join(wrong)}" if wrong else "all alike")
    return 4 if wrong else 0
