"""Layers of the native extension as differentiable PyTorch operations, for training on a CPU in float32.

There are two: a linear layer with the layer norm before it and the residual around it, and a whole MLP. Networks take
them where gradients are recorded on a processor with AVX-512; the results equal PyTorch's to rounding.

PyTorch multiplies float32 matrices on a CPU by a library that uses half of the vector width of AMD's processors, and
writes every intermediate result to memory. These kernels use the whole width, and keep what lies between two products
in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from refiner.models import fused
from refiner.models.fused import native_module

# The kernels take layers whose sizes are multiples of this number.
MULTIPLE = 16
_switched_on = True


@contextmanager
def layers_by_pytorch() -> Iterator[None]:
    """Leave linear layers and MLPs to PyTorch inside a ``with`` block; the attention kernels stay."""
    global _switched_on
    before, _switched_on = _switched_on, False
    try:
        yield
    finally:
        _switched_on = before


def takes_layers(x: Tensor, *sizes: int) -> bool:
    """Whether layers of these sizes run in the native kernels.

    They do where a gradient is recorded for eager float32 tensors on a CPU with AVX-512, unless the attention backend
    is "plain" (`refiner.models.fused.set_attention_backend`). With AVX2 they are as fast as PyTorch's products, and
    with less they are slower.

    Args:
        x: the input of the layer.
        sizes: its widths.
    """
    return (
        _switched_on
        and fused.attention_backend() != "plain"
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and all(size % MULTIPLE == 0 for size in sizes)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and _faster()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x weight^T + bias``, by the native kernel where it applies: ``[..., inputs]`` -> ``[..., outputs]``."""
    if takes_layers(x, *weight.shape):
        return fused_linear(x, weight, bias)
    return functional.linear(x, weight, bias)


def fused_linear(
    x: Tensor, weight: Tensor, bias: Tensor, norm: nn.LayerNorm | None = None, residual: Tensor | None = None
) -> Tensor:
    """``residual + norm(x) weight^T + bias``.

    Args:
        x: ``[..., inputs]``.
        weight: ``[outputs, inputs]``.
        bias: ``[outputs]``.
        norm: a layer norm over the inputs, if there is one.
        residual: ``[..., outputs]``, if there is one.

    Returns:
        ``[..., outputs]``.
    """
    gain, shift, epsilon = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
    result: Tensor = _Linear.apply(x, gain, shift, weight, bias, residual, epsilon)  # type: ignore[no-untyped-call]
    return result


def fused_mlp(x: Tensor, norm: nn.LayerNorm, first: Tensor, second: Tensor) -> Tensor:
    """``x + second gelu(first norm(x))``.

    Args:
        x: ``[..., dim]``.
        norm: a layer norm over the last axis.
        first: ``[hidden, dim]``.
        second: ``[dim, hidden]``.

    Returns:
        ``[..., dim]``.
    """
    result: Tensor = _Mlp.apply(x, norm.weight, norm.bias, first, second, norm.eps)  # type: ignore[no-untyped-call]
    return result


def _faster() -> bool:
    native = _native()
    return native is not None and native.isa() == "x86-64-v4"


def _native() -> Any:
    return native_module("mlp_backward")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor | None,
        shift: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        epsilon: float,
    ) -> Tensor:
        out = x.new_empty(*x.shape[:-1], len(weight))
        inputs = [_array(tensor) for tensor in (_rows(x), gain, shift, weight, bias, residual)]
        _native().linear_forward(*inputs, _array(out), epsilon, torch.get_num_threads())
        ctx.save_for_backward(x, gain, shift, weight)
        ctx.epsilon, ctx.has_residual = epsilon, residual is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        x, gain, shift, weight = saved
        results = [None if tensor is None else torch.empty_like(_contiguous(tensor)) for tensor in saved]
        grad_bias = weight.new_empty(len(weight))
        inputs = [_array(tensor) for tensor in (_rows(x), gain, shift, weight, gradient)]
        outputs = [_array(tensor) for tensor in (*results, grad_bias)]
        _native().linear_backward(*inputs, *outputs, ctx.epsilon, torch.get_num_threads())
        return *results, grad_bias, gradient if ctx.has_residual else None, None


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, first: Tensor, second: Tensor, epsilon: float
    ) -> Tensor:
        native = _native()
        out = torch.empty_like(_contiguous(x))
        kept = x.new_empty(native.mlp_kept(x[..., 0].numel(), len(first))) if any(ctx.needs_input_grad) else None
        inputs = [_array(tensor) for tensor in (_rows(x), gain, shift, first, second)]
        native.mlp_forward(*inputs, _array(kept), _array(out), epsilon, torch.get_num_threads())
        ctx.save_for_backward(x, gain, shift, first, second, kept)
        ctx.epsilon = epsilon
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *saved, kept = ctx.saved_tensors
        results = [torch.empty_like(_contiguous(tensor)) for tensor in saved]
        inputs = [_array(tensor) for tensor in (_rows(saved[0]), *saved[1:], kept, gradient)]
        _native().mlp_backward(*inputs, *map(_array, results), ctx.epsilon, torch.get_num_threads())
        return *results, None


def _contiguous(tensor: Tensor) -> Tensor:
    return tensor.contiguous()


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _array(tensor: Tensor | None) -> Any:
    """The tensor as an array; a copy if its elements are not in order."""
    return None if tensor is None else tensor.detach().contiguous().numpy()
