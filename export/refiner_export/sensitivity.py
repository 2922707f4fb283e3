"""Which branches of the networks stay in float32 so that bfloat16 keeps the joints where they are.

A bfloat16 has 8 significant bits, and the errors of branches add up like independent ones, by their squares. Measured
on calibration windows in PyTorch: the branches that move the joints most stay, as few as the limit asks for.
"""

from __future__ import annotations

import copy
from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray

from refiner.models.inference_form import branches, in_precision
from refiner_export.gate import reference, run_batches
from refiner_export.graph import Exportable

BATCH = 8


def sensitive_branches(
    module: Exportable, windows: tuple[NDArray[np.float32], ...], dtype: torch.dtype, limit_mm: float
) -> list[str]:
    """The names of the branches of an inference form that stay in float32, in the order of the module.

    ``windows``: its inputs. With all others in ``dtype`` the joints move by at most ``limit_mm`` on average.
    """
    every = list(branches(module))
    expected = run_batches(reference(module), windows, [BATCH])

    def change_mm(low: Collection[str]) -> float:
        kept = [name for name in every if name not in low]
        found = run_batches(reference(in_precision(copy.deepcopy(module), dtype, but=kept)), windows, [BATCH])
        return float(1000.0 * np.linalg.norm((found - expected).astype(np.float64), axis=-1).mean())

    if change_mm(every) <= limit_mm:
        return []
    alone = {name: change_mm([name]) for name in every}
    low = sorted(every, key=alone.__getitem__)
    while low and change_mm(low) > limit_mm:
        low.pop()
    return [name for name in every if name not in low]


def order_of_branches(module: Exportable, windows: tuple[NDArray[np.float32], ...]) -> list[str]:
    """The branches in the order in which a pass computes them, each as often as it is computed."""
    order: list[str] = []

    def note(name: str) -> None:
        order.append(name)

    def hook(name: str) -> object:
        return lambda branch, inputs: note(name)

    handles = [branch.register_forward_pre_hook(hook(name)) for name, branch in branches(module).items()]  # type: ignore[arg-type]
    try:
        run_batches(reference(module), tuple(array[:1] for array in windows), [1])
    finally:
        for handle in handles:
            handle.remove()
    return order
