"""The attention kernels of the native extension as differentiable PyTorch operations, on the CPU.

There are two: STC attention, and the self-attention over rows of tokens that MixSTE uses.

At the widths that a CPU can train, training computes thousands of 17 x 17 and 27 x 27 attention matrices with heads of
4 to 16 channels. Batched matrix products spend most of their time on overhead there. The kernel keeps one channel of
every head in one vector register, and computes attention, convolution and bias in one pass over memory.

The kernels compute in float32. Under autocast they convert what the bfloat16 product before them gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from refiner.errors import ConfigError

Backend = Literal["auto", "fused", "plain"]
_backend: Backend = "auto"

SUPPORTED_HEADS = (2, 4, 8, 16)
# Channels of a head: in each half for STC attention.
SUPPORTED_WIDTHS = (2, 4, 6, 8, 12, 16)


def set_attention_backend(backend: Backend) -> None:
    """Choose how all models of this process compute attention.

    Args:
        backend: "plain" uses PyTorch operations: any device, traceable. "fused" uses the native CPU kernels, one pass
            forward and one backward; models raise ConfigError where the kernels do not apply. "auto" (default) uses
            the kernels where they apply, PyTorch elsewhere.

    Raises:
        ConfigError: ``backend`` has another value.
    """
    global _backend
    if backend not in ("auto", "fused", "plain"):
        raise ConfigError(f"attention backend must be 'auto', 'fused' or 'plain', got {backend!r}")
    _backend = backend


def attention_backend() -> Backend:
    """The backend that `set_attention_backend` chose."""
    return _backend


@contextmanager
def attention_by(backend: Backend) -> Iterator[None]:
    """Use an attention backend inside a ``with`` block."""
    before = _backend
    set_attention_backend(backend)
    try:
        yield
    finally:
        set_attention_backend(before)


def takes_kernel(x: Tensor, heads: int, width: int) -> bool:
    """Whether the chosen backend computes attention over ``x`` with the native kernels.

    Args:
        x: the input of the layer.
        heads: number of heads.
        width: channels of a head; for STC attention, in each half.

    Raises:
        ConfigError: the backend is "fused", but the kernels do not apply.
    """
    if _backend != "plain" and fused_supported(x, heads, width):
        return True
    if _backend == "fused":
        raise ConfigError(
            "the attention kernels take float32 CPU tensors (bfloat16 under autocast), "
            f"{_listed(SUPPORTED_HEADS)} heads and {_listed(SUPPORTED_WIDTHS)} channels per head (for STC attention: "
            f"in each half); got {x.dtype} on {x.device}, {heads} heads of {width}"
        )
    return False


def _listed(numbers: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} or {numbers[-1]}"


def fused_supported(x: Tensor, heads: int, head_dim: int) -> bool:
    """Whether the kernels take this input: eager on the CPU, supported sizes, and the extension is built.

    The type is float32, or under autocast also bfloat16.
    """
    autocast = torch.is_autocast_enabled("cpu")
    return (
        x.device.type == "cpu"
        and (x.dtype == torch.float32 or (autocast and x.dtype == torch.bfloat16))
        and heads in SUPPORTED_HEADS
        and head_dim in SUPPORTED_WIDTHS
        and not torch.compiler.is_compiling()
        and native_module("rows_attention_forward") is not None
    )


def fused_attention(qkv: Tensor, convolution: Tensor, bias: Tensor, scale: float, band: int | None = None) -> Tensor:
    """Both halves of the STC attention with their convolutions.

    Args:
        qkv: ``[B, T, J, 6 width heads]``, ordered (spatial | temporal, q | k | v, width, heads), float32 or bfloat16.
        convolution: ``[2, 9, width, heads]``, taps row by row over (frames, joints).
        bias: ``[2, J, width, heads]``.
        scale: factor of the scores.
        band: for causal attention, the number of frames that a frame sees, itself included; the rows of taps are then
            for t - 2, t - 1 and t. None: every frame of the window sees every other, and the rows of taps are for
            t - 1, t and t + 1.

    Returns:
        ``[B, T, J, 2 width heads]``, float32.
    """
    result: Tensor = _FusedAttention.apply(qkv.float(), convolution, bias, scale, band or 0)  # type: ignore[no-untyped-call]
    return result


def fused_self_attention(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """Softmax attention between the tokens of each row.

    Args:
        qkv: ``[N, L, 3 width heads]``, ordered (q | k | v, width, heads), float32 or bfloat16.
        heads: number of heads.
        scale: factor of the scores.

    Returns:
        ``[N, L, width heads]``, float32.
    """
    result: Tensor = _FusedSelfAttention.apply(qkv.float(), heads, scale)  # type: ignore[no-untyped-call]
    return result


def native_module(function: str) -> Any:
    """The native extension; None if it is not built, or so old that it lacks a function."""
    try:
        from refiner import _native
    except ImportError:
        return None
    return _native if hasattr(_native, function) else None


def _native() -> Any:
    return native_module("rows_attention_forward")


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


class _FusedSelfAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, scale: float) -> Tensor:
        qkv = qkv.contiguous()
        out = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
        _native().rows_attention_forward(*_arrays(qkv, out), heads, scale, torch.get_num_threads())
        ctx.save_for_backward(qkv)
        ctx.heads, ctx.scale = heads, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (qkv,) = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        arrays = _arrays(qkv, gradients[0].contiguous(), grad_qkv)
        _native().rows_attention_backward(*arrays, ctx.heads, ctx.scale, torch.get_num_threads())
        return grad_qkv, None, None


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]
