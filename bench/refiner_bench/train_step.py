"""The training step by the fused kernel against the plainly written module, interleaved in one run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from refiner import native
from refiner.errors import UsageError
from refiner.reports import new_report
from refiner_bench.native_kernels import CONDITION, ERROR, random_gaussian
from refiner_bench.timing import Run, interleaved, ratio_interval

if TYPE_CHECKING:
    import torch


# Of a model: pairs of blocks of MixSTE.
BLOCKS = {"refiner": 2, "lifter": 4, "mixste": 3}


def train_step_report(
    dim: int, batch: int, rounds: int, steps: int, threads: int, kind: str = "refiner"
) -> dict[str, Any]:
    """Windows/s of forward, backward and optimiser for both backends, and the ratio with its 95 % interval.

    A round times ``steps`` steps of each backend, in alternating order; the interval is a bootstrap over rounds.
    Also the share of time by group of operations, from PyTorch's profiler; and for a refiner the same step with its
    noise drawn by the native sampler and by PyTorch. ``threads`` 0 keeps PyTorch's number.
    Raises UsageError for a count below its least value.
    """
    if min(dim, batch, rounds, steps) < 1 or threads < 0:
        raise UsageError(
            f"width, batch, rounds and steps must be at least 1 and threads at least 0, got {dim}, {batch}, {rounds}, "
            f"{steps} and {threads}"
        )
    import torch

    from refiner.models import fused
    from refiner.training.runs import keep_large_blocks

    keep_large_blocks()
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    pose_2d, pose_3d = torch.randn(batch, 27, 17, 2), torch.randn(batch, 27, 17, 3)
    inputs: tuple[torch.Tensor, ...] = (pose_2d,)
    if kind == "refiner":
        inputs = (pose_3d, pose_2d, torch.randint(0, 50, (batch,)))
    model = _model(kind, dim)
    optimiser = torch.optim.Adam(model.parameters(), fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        (model(*inputs) - pose_3d).square().mean().backward()
        optimiser.step()

    speeds: dict[fused.Backend, list[float]] = {"plain": [], "fused": []}
    for number in range(rounds + 1):
        order: list[fused.Backend] = ["plain", "fused"] if number % 2 else ["fused", "plain"]
        for backend in order:
            with fused.attention_by(backend):
                step()
                began = time.perf_counter()
                for _ in range(steps):
                    step()
                if number:  # the first round warms up
                    speeds[backend].append(batch * steps / (time.perf_counter() - began))
    shares = {}
    for backend in speeds:
        with fused.attention_by(backend):
            shares[backend] = _shares(step)
    with fused.attention_by("fused"):
        noise = _noise_costs(batch, rounds, steps, step) if kind == "refiner" else None
    ratios = np.array(speeds["fused"]) / np.array(speeds["plain"])
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios))).mean(axis=1)
    settings = {
        "model": kind,
        "dim": dim,
        "blocks": BLOCKS[kind],
        "frames": 27,
        "batch": batch,
        "rounds": rounds,
        "steps": steps,
        "threads": torch.get_num_threads(),
    }
    return {
        **new_report("train-step", settings),
        "windows_per_s": {backend: float(np.median(values)) for backend, values in speeds.items()},
        "ratio": float(ratios.mean()),
        "ratio_interval": [float(np.percentile(draws, 2.5)), float(np.percentile(draws, 97.5))],
        "time_shares": shares,
        "noise": noise,
    }


def _model(kind: str, dim: int) -> torch.nn.Module:
    """Of the small configurations' depth: PoseDenoiser, STCFormer ("lifter") or MixSTE."""
    from refiner.models import MixSTE, PoseDenoiser, STCFormer

    if kind == "refiner":
        return PoseDenoiser(dim, BLOCKS[kind], joint_embedding=True)
    if kind == "mixste":
        return MixSTE(dim, BLOCKS[kind], frames=27)
    return STCFormer(dim, BLOCKS[kind], joint_embedding=True)


DRAWS = 50  # of the noise alone, in a round


def _noise_costs(batch: int, rounds: int, steps: int, step: Run) -> dict[str, Any]:
    """What eq. 5, 6 and 8 take of a step: drawn by `native.diffuse`, and by products and normal numbers of PyTorch."""
    import torch

    frames, generator = 27 * batch, np.random.default_rng(0)
    clean = generator.normal(size=(frames, ERROR)).astype(np.float32)
    condition = generator.normal(size=(frames, CONDITION)).astype(np.float32)
    factors = np.full((2, frames), 0.7, np.float32)
    gaussian = random_gaussian(generator)
    tensors = {name: torch.from_numpy(value) for name, value in gaussian.items()}
    torch_clean, torch_condition, torch_factors = (torch.from_numpy(a) for a in (clean, condition, factors[..., None]))

    def draw_natively() -> None:
        native.diffuse(condition, clean, factors[0], factors[1], **gaussian)

    def draw_by_pytorch() -> None:
        mean = tensors["mean_error"] + (torch_condition - tensors["mean_condition"]) @ tensors["gain"].T
        error = mean + torch.randn(frames, ERROR) @ tensors["cholesky"].T
        torch_factors[0] * torch_clean + torch_factors[1] * error

    def repeated(count: int, *parts: Run) -> Run:
        def run() -> None:
            for _ in range(count):
                for part in parts:
                    part()

        return run

    draws: dict[str, Run] = {"native": draw_natively, "PyTorch": draw_by_pytorch}
    alone = interleaved({name: (DRAWS, repeated(DRAWS, draw)) for name, draw in draws.items()}, rounds)
    whole = {name: (batch * steps, repeated(steps, draw, step)) for name, draw in draws.items()}
    rates = interleaved({**whole, "none": (batch * steps, repeated(steps, step))}, rounds)
    return {
        "draw_us": {name: 1e6 / float(np.median(values)) for name, values in alone.items()},
        "windows_per_s": {name: float(np.median(values)) for name, values in rates.items()},
        "native_over_pytorch": ratio_interval(np.array(rates["native"]) / np.array(rates["PyTorch"])),
    }


GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "PyTorch's attention": ("aten::_scaled_dot_product",),
    "fused attention": ("_FusedAttention", "_FusedSelfAttention"),
    "GELU": ("aten::gelu",),
    "layer norm": ("aten::native_layer_norm",),
    "convolution": (
        "aten::mkldnn_convolution",
        "aten::convolution",
        "aten::_convolution",
        "aten::thnn_conv2d",
        "aten::_slow_conv2d",
    ),
    "softmax": ("aten::_softmax",),
    "copies": ("aten::copy_", "aten::clone", "aten::cat"),
    "optimiser": ("aten::_fused_adam", "Optimizer"),
}


def _shares(step: Any) -> dict[str, float]:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(3):
            step()
    total: dict[str, float] = {}
    for event in profiler.key_averages():
        group = next((name for name, starts in GROUPS.items() if event.key.startswith(starts)), "other")
        total[group] = total.get(group, 0.0) + event.self_cpu_time_total
    everything = sum(total.values())
    ordered = sorted(total.items(), key=lambda item: -item[1])
    return {name: round(value / everything, 3) for name, value in ordered}


def format_train_step(report: dict[str, Any]) -> str:
    """The report as text."""
    low, high = report["ratio_interval"]
    settings = report["settings"]
    lines = [
        f"Training step, {settings['model']}, width {settings['dim']}, T = {settings['frames']}, "
        f"batch {settings['batch']}, {settings['threads']} threads:",
        *(f"  {backend}: {speed:.0f} windows/s" for backend, speed in report["windows_per_s"].items()),
        f"  fused / plain: {report['ratio']:.2f} (95 % interval {low:.2f} to {high:.2f})",
    ]
    for backend, shares in report["time_shares"].items():
        parts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.01)
        lines.append(f"  {backend} spends: {parts}")
    noise = report.get("noise")
    if noise is not None:
        ratio = noise["native_over_pytorch"]
        lines += [
            "  drawing its noise: " + ", ".join(f"{name} {value:.0f} us" for name, value in noise["draw_us"].items()),
            "  with the noise of: "
            + ", ".join(f"{name} {value:.0f} windows/s" for name, value in noise["windows_per_s"].items()),
            f"  native / PyTorch: {ratio['ratio']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})",
        ]
    return "\n".join(lines)
