"""Choose the branches of a network that stay in float32 so that bfloat16 hardly moves the joints.

A bfloat16 has 8 significant bits. The errors of the branches are assumed to be independent, so that their squares add
up. They are measured on calibration windows in PyTorch. The branches that move the joints most stay in float32, as few
as the limit requires.
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
    """Choose the branches that stay in float32.

    Args:
        module: a model in inference form.
        windows: its inputs.
        dtype: the type of all other branches.
        limit_mm: the joints may move by this much on average.

    Returns:
        The names of the branches, in the order of the module.
    """
    names = list(branches(module))
    expected = run_batches(reference(module), windows, [BATCH])

    def change_mm(low: Collection[str]) -> float:
        high = [name for name in names if name not in low]
        actual = run_batches(reference(in_precision(copy.deepcopy(module), dtype, but=high)), windows, [BATCH])
        return float(1000.0 * np.linalg.norm((actual - expected).astype(np.float64), axis=-1).mean())

    if change_mm(names) <= limit_mm:
        return []
    alone = {name: change_mm([name]) for name in names}
    low = sorted(names, key=alone.__getitem__)
    while low and change_mm(low) > limit_mm:
        low.pop()
    return [name for name in names if name not in low]


def order_of_branches(module: Exportable, windows: tuple[NDArray[np.float32], ...]) -> list[str]:
    """The names of the branches in the order in which a pass computes them, each as often as it is computed."""
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
