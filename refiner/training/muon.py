"""Muon for groups of matrices at once. It never waits for the device, so that a CUDA graph can hold its step."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

# Coefficients of Keller Jordan's quintic iteration, as in `torch.optim.Muon`.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.95
LEAST_NORM = 1e-7


class BatchedMuon(torch.optim.Optimizer):
    """`torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"``: the same update and the same state.

    Matrices of one shape go through the iteration together, as one batched product, and the rate is a tensor. PyTorch's
    own class takes one matrix after another and copies a rate in a tensor to the host, which a captured step must not
    do.

    Args:
        params: matrices, or groups of matrices.
        lr: the rate as a tensor without dimensions; the caller fills it before each step.
        weight_decay: decoupled weight decay.
    """

    def __init__(self, params: Any, lr: Tensor, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step. Parameters without a gradient stay unchanged."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for value in group["params"]:
                if value.grad is not None:
                    shapes[value.shape].append(value)
            for shape, matrices in shapes.items():
                self._move(matrices, group["lr"], group["weight_decay"], 0.2 * math.sqrt(max(shape)))

    def _move(self, matrices: list[Tensor], rate: Tensor, weight_decay: float, scale: float) -> None:
        gradients = [value.grad for value in matrices if value.grad is not None]
        for value, gradient in zip(matrices, gradients, strict=True):
            if "momentum_buffer" not in self.state[value]:
                self.state[value]["momentum_buffer"] = torch.zeros_like(gradient)
        buffers = [self.state[value]["momentum_buffer"] for value in matrices]
        torch._foreach_lerp_(buffers, gradients, 1 - MOMENTUM)
        # Nesterov momentum.
        ahead = torch.stack(torch._foreach_lerp(gradients, buffers, MOMENTUM))
        updates = (orthogonal(ahead) * (scale * rate)).unbind()
        torch._foreach_mul_(matrices, 1 - rate * weight_decay)
        torch._foreach_sub_(matrices, updates)


def orthogonal(matrices: Tensor) -> Tensor:
    """Approximate the nearest orthogonal matrix of each of ``[N, R, C]`` by five steps of the quintic iteration.

    The iteration runs in bfloat16, as published; the result is float32.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16()
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=LEAST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()
