"""Parameters and FLOPs of the real PyTorch modules. Tests compare the formulas with these counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from refiner.models import D3DP, MixSTE, PoseDenoiser, STCFormer
from refiner.models.d3dp import CleanPoseDenoiser
from refiner.models.fused import attention_by
from refiner_bench.counts import DenoiserSize
from refiner_bench.lifter_counts import LifterSize


def measure_denoiser(size: DenoiserSize) -> dict[str, int]:
    """Count parameters, and the FLOPs of one window (batch 1) and one step with PyTorch's FlopCounterMode.

    Returns:
        The keys ``parameters``, ``window_with_time_path`` and ``window_without_time_path``.
    """
    model = build_denoiser(size)
    pose_3d = torch.randn(1, size.frames, size.joints, 3)
    pose_2d = torch.randn(1, size.frames, size.joints, 2)
    timesteps = torch.tensor([24])
    with torch.no_grad():
        times = model.project_time(timesteps)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "window_with_time_path": count_flops(model, (pose_3d, pose_2d, timesteps)),
        "window_without_time_path": count_flops(model.denoise, (pose_3d, pose_2d, times)),
    }


def measure_lifter(size: LifterSize) -> dict[str, int]:
    """Count parameters, and the multiply-adds of one window with PyTorch's FlopCounterMode.

    The model lies on the meta device, so that nothing is computed.

    Returns:
        The keys ``parameters`` and ``macs``.
    """
    with torch.device("meta"):
        model = build_lifter(size)
        pose_2d = torch.randn(1, size.frames, size.joints, 2)
        inputs: tuple[torch.Tensor, ...] = (pose_2d,)
        if size.architecture == "d3dp":
            inputs = (torch.randn(1, size.frames, size.joints, 3), pose_2d, torch.tensor([999]))
        flops = count_flops(model, inputs)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": flops // 2,
    }


def build_lifter(size: LifterSize) -> torch.nn.Module:
    """A lifter of this size with random weights. D3DP has a denoiser without a noise schedule here."""
    if size.architecture == "stcformer":
        return STCFormer(size.dim, size.layers, size.heads, size.mlp_ratio, size.joints).eval()
    sizes = {name: getattr(size, name) for name in ("heads", "mlp_ratio", "frames", "joints")}
    if size.architecture == "mixste":
        return MixSTE(size.dim, size.layers, **sizes).eval()
    return D3DP(CleanPoseDenoiser(size.dim, depth=size.layers, **sizes)).eval()


def count_flops(run: Callable[..., object], inputs: Sequence[object]) -> int:
    """The FLOPs of one call ``run(*inputs)`` as FlopCounterMode counts them."""
    with torch.no_grad(), _plain_operations(), _counter() as counter:
        run(*inputs)
    return int(counter.get_total_flops())


def counted_operations() -> list[str]:
    """The operations of PoseDenoiser that FlopCounterMode counts."""
    model = build_denoiser(DenoiserSize(depth=2, dim=32, frames=3))
    with torch.no_grad(), _plain_operations(), _counter() as counter:
        model(torch.randn(1, 3, 17, 3), torch.randn(1, 3, 17, 2), torch.tensor([24]))
    return sorted(str(operation) for operation in counter.get_flop_counts()["Global"])


def build_denoiser(size: DenoiserSize) -> PoseDenoiser:
    """A PoseDenoiser of this size with random weights."""
    return PoseDenoiser(
        dim=size.dim, blocks=size.blocks, heads=size.heads, mlp_ratio=size.mlp_ratio, joints=size.joints
    ).eval()


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False)


@contextmanager
def _plain_operations() -> Iterator[None]:
    """Use plain operations: the counter can't count the native kernel and some of PyTorch's fused attentions."""
    with attention_by("plain"), sdpa_kernel(SDPBackend.MATH):
        yield
