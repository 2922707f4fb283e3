"""The compiled kernels as PyTorch operators, which work in ``torch.compile`` and ``torch.export``.

Importing this module registers ``torch.ops.refiner.p_mpjpe``, ``procrustes_align`` and ``sample_conditional``. The
functions of this module are these operators. The two alignment operators have gradients, through the optimal rotation
and scale, so that a Procrustes-aligned loss can be trained. The sampling operator has no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from refiner import native

# Added to the diagonal of the system for the rotation, as a fraction of the trace of S. Where the rotation is not
# determined (joints on a line), the gradient is then large instead of infinite.
LEAST_STIFFNESS = 1e-12


@torch.library.custom_op("refiner::procrustes_align", mutates_args=())
def procrustes_align(pred: Tensor, target: Tensor, scale: bool = True) -> Tensor:
    """Call `refiner.native.procrustes_align` with two ``(N, J, 3)`` -> ``(N, J, 3)``; both inputs get gradients."""
    aligned: Tensor = native.procrustes_align(pred, target, scale=scale)
    return aligned


@torch.library.custom_op("refiner::p_mpjpe", mutates_args=())
def p_mpjpe(pred: Tensor, target: Tensor, scale: bool = True) -> Tensor:
    """Call `refiner.native.p_mpjpe` with two ``(N, J, 3)`` -> ``(N,)``; both inputs get gradients."""
    error: Tensor = native.p_mpjpe(pred, target, scale=scale)
    return error


@torch.library.custom_op("refiner::sample_conditional", mutates_args=())
def sample_conditional(
    condition: Tensor,
    mean_error: Tensor,
    mean_condition: Tensor,
    gain: Tensor,
    cholesky: Tensor,
    seed: int,
    first_frame: int = 0,
) -> Tensor:
    """Call `refiner.native.sample_conditional`: ``(F, C)`` -> ``(F, D)`` float32."""
    drawn: Tensor = native.sample_conditional(
        condition, mean_error, mean_condition, gain, cholesky, seed=seed, first_frame=first_frame
    )
    return drawn


@procrustes_align.register_fake
def _(pred: Tensor, target: Tensor, scale: bool = True) -> Tensor:
    return torch.empty_like(pred, dtype=_computed(pred, target), memory_format=torch.contiguous_format)


@p_mpjpe.register_fake
def _(pred: Tensor, target: Tensor, scale: bool = True) -> Tensor:
    return pred.new_empty(pred.shape[0], dtype=_computed(pred, target))


@sample_conditional.register_fake
def _(
    condition: Tensor,
    mean_error: Tensor,
    mean_condition: Tensor,
    gain: Tensor,
    cholesky: Tensor,
    seed: int,
    first_frame: int = 0,
) -> Tensor:
    return condition.new_empty((condition.shape[0], mean_error.shape[0]), dtype=torch.float32)


def _computed(pred: Tensor, target: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (pred.dtype, target.dtype) else torch.float32


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    pred, target, ctx.scale = inputs
    ctx.save_for_backward(pred, target)


def _align_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    pred, target = ctx.saved_tensors
    to_pred, to_target = _through_alignment(*_alignment(pred, target, ctx.scale), gradient, ctx.scale)
    return to_pred.to(pred.dtype), to_target.to(target.dtype), None


def _error_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    pred, target = ctx.saved_tensors
    parts = _alignment(pred, target, ctx.scale)
    p, t, rotation, factor = parts
    difference = factor[:, None, None] * p @ rotation - t
    length = torch.linalg.vector_norm(difference, dim=-1, keepdim=True)
    # Where the distance of a joint is exactly 0, it has no direction and the gradient is 0.
    direction = torch.where(length > 0, difference / length.clamp_min(torch.finfo(length.dtype).tiny), 0.0)
    to_aligned = gradient[:, None, None] * direction / pred.shape[1]
    to_pred, to_target = _through_alignment(*parts, to_aligned, ctx.scale)
    return to_pred.to(pred.dtype), (to_target - to_aligned).to(target.dtype), None


def _alignment(pred: Tensor, target: Tensor, scale: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the centred poses p and t, the rotation Q ``(N, 3, 3)`` and the scale s ``(N,)``, in float64.

    The aligned pose is s p Q + mean(target).
    """
    p, t = (pose.double() - pose.double().mean(1, keepdim=True) for pose in (pred, target))
    cross = p.transpose(1, 2) @ t
    u, singular, vt = torch.linalg.svd(cross)
    sign = torch.ones_like(singular)
    sign[:, 2] = torch.sign(torch.linalg.det(u @ vt))
    rotation = (u * sign[:, None]) @ vt
    spread = p.square().sum((1, 2))
    factor = (singular * sign).sum(1) / spread if scale else torch.ones_like(spread)
    return p, t, rotation, factor


def _through_alignment(
    p: Tensor, t: Tensor, rotation: Tensor, factor: Tensor, gradient: Tensor, scale: bool
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of pred and target from the gradient of the aligned poses.

    With S = Q^T H symmetric at the optimum (H = p^T t), a change of H turns Q by w = (tr(S) I - S)^-1 vee(Q^T dH -
    dH^T Q); s = tr(S) / |p|^2 changes by tr(Q^T dH) / |p|^2 - 2 s <p, dp> / |p|^2.
    """
    gradient = gradient.double()
    s = factor[:, None, None]
    stretch = rotation.transpose(1, 2) @ p.transpose(1, 2) @ t
    trace = stretch.diagonal(dim1=1, dim2=2).sum(1)
    identity = torch.eye(3, dtype=p.dtype, device=p.device)
    stiffness = (trace[:, None, None] * identity - stretch) + (
        LEAST_STIFFNESS * trace.abs().clamp_min(LEAST_STIFFNESS)[:, None, None] * identity
    )
    turn = rotation.transpose(1, 2) @ (s * p.transpose(1, 2) @ gradient)
    axial = torch.stack(
        [turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], dim=1
    )
    x, y, z = torch.linalg.solve(stiffness, axial).unbind(1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).reshape(-1, 3, 3)
    to_cross = rotation @ skew
    to_p = s * gradient @ rotation.transpose(1, 2)
    if scale:
        spread = p.square().sum((1, 2))[:, None, None]
        to_scale = (gradient * (p @ rotation)).sum((1, 2))[:, None, None]
        to_cross = to_cross + to_scale * rotation / spread
        to_p = to_p - 2.0 * to_scale * s * p / spread
    to_p = to_p + t @ to_cross.transpose(1, 2)
    to_t = p @ to_cross
    centred_p = to_p - to_p.mean(1, keepdim=True)
    return centred_p, to_t - to_t.mean(1, keepdim=True) + gradient.mean(1, keepdim=True)


procrustes_align.register_autograd(_align_backward, setup_context=_keep_inputs)
p_mpjpe.register_autograd(_error_backward, setup_context=_keep_inputs)
