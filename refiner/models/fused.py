"""The fused STC attention of the native extension as a differentiable PyTorch operation (CPU, float32).

Training at the widths that a CPU can train is bound by thousands of 17 x 17 and 27 x 27 attention matrices with
heads of 4 to 16 channels, for which batched matrix products are mostly overhead. The kernel keeps one channel of
every head in one vector register and does attention, convolution and bias in one pass over memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SUPPORTED_HEADS = (2, 4, 8, 16)
SUPPORTED_WIDTHS = (2, 4, 6, 8, 12, 16)  # of a head's half


def fused_supported(x: Tensor, heads: int, head_dim: int) -> bool:
    """Whether `fused_attention` takes this input: eager float32 on the CPU, with the native extension built."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and heads in SUPPORTED_HEADS
        and head_dim in SUPPORTED_WIDTHS
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and _native() is not None
    )


def fused_attention(qkv: Tensor, convolution: Tensor, bias: Tensor, scale: float, band: int | None = None) -> Tensor:
    """Both halves of the STC attention with their convolutions.

    Args:
        qkv: ``[B, T, J, 6 width heads]``, ordered (spatial | temporal, q | k | v, width, heads).
        convolution: ``[2, 9, width, heads]``, taps row by row over (frames, joints).
        bias: ``[2, J, width, heads]``.
        scale: factor of the scores.
        band: frames that a frame sees, itself the last, with the taps' rows on t - 2, t - 1 and t; None: every frame of
            the window sees every other, and the rows lie around t.

    Returns ``[B, T, J, 2 width heads]``.
    """
    result: Tensor = _FusedAttention.apply(qkv, convolution, bias, scale, band or 0)  # type: ignore[no-untyped-call]
    return result


def _native() -> Any:
    try:
        from refiner import _native
    except ImportError:
        return None
    return _native if hasattr(_native, "stc_attention_forward") else None


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, convolution: Tensor, bias: Tensor, scale: float, band: int) -> Tensor:
        qkv = qkv.contiguous()
        batch, frames, joints, channels = qkv.shape
        out = qkv.new_empty(batch, frames, joints, channels // 3)
        _native().stc_attention_forward(*_arrays(qkv, convolution, bias, out), scale, torch.get_num_threads(), band)
        ctx.save_for_backward(qkv, convolution)
        ctx.scale, ctx.band = scale, band
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        qkv, convolution = ctx.saved_tensors
        grad_out = gradients[0].contiguous()
        joints, (_, _, width, heads) = qkv.shape[2], convolution.shape
        grad_qkv = torch.empty_like(qkv)
        grad_convolution = torch.empty_like(convolution)
        grad_bias = qkv.new_empty(2, joints, width, heads)
        _native().stc_attention_backward(
            *_arrays(qkv, convolution, grad_out, grad_qkv, grad_convolution, grad_bias),
            ctx.scale,
            torch.get_num_threads(),
            ctx.band,
        )
        return grad_qkv, grad_convolution, grad_bias, None, None


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]
