"""Speed of a training step with the native kernels and without them, interleaved in one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from refiner import native
from refiner.errors import UsageError
from refiner.reports import Report, new_report
from refiner_bench.native_kernels import CONDITION, ERROR, random_gaussian
from refiner_bench.report import JsonObject
from refiner_bench.timing import Contestant, Ratio, Run, interleaved, ratio_interval

if TYPE_CHECKING:
    import torch


# The number of blocks of each model; for MixSTE the number of pairs of blocks.
BLOCKS = {"refiner": 2, "lifter": 4, "mixste": 3}


@dataclass(frozen=True)
class NoiseCosts:
    """The cost of drawing the noise of a training step. The field names are the keys of the JSON report.

    Attributes:
        draw_us: Microseconds of one draw, by sampler.
        windows_per_s: The speed of the whole training step, by sampler, and without a draw ("none").
        native_over_pytorch: The speed of the step with the native sampler relative to the step with PyTorch's.
    """

    draw_us: dict[str, float]
    windows_per_s: dict[str, float]
    native_over_pytorch: Ratio


# How the step of each contestant runs.
CONTESTANTS = {
    "plain": "PyTorch alone",
    "attention": "the attention kernel, PyTorch's linear layers and MLPs",
    "fused": "all kernels, the default",
    "bfloat16": 'training.precision = "bfloat16": the attention kernel, PyTorch\'s products in bfloat16',
}


@contextmanager
def _running_as(contestant: str) -> Iterator[None]:
    """Run the steps inside a ``with`` block as a contestant does."""
    import torch

    from refiner.models import fused
    from refiner.models.fused_layers import layers_by_pytorch

    if contestant == "attention":
        with fused.attention_by("fused"), layers_by_pytorch():
            yield
        return
    low = torch.autocast("cpu", torch.bfloat16, enabled=contestant == "bfloat16")
    with fused.attention_by("plain" if contestant == "plain" else "fused"), low:
        yield


def train_step_report(dim: int, batch: int, rounds: int, steps: int, threads: int, kind: str = "refiner") -> Report:
    """Measure forward pass, backward pass and optimiser step of all `CONTESTANTS`.

    A round times ``steps`` steps of each contestant, in alternating order.

    Args:
        dim: The width C of the model.
        batch: The number of windows of a step, each with 27 frames.
        rounds: The number of timed rounds.
        steps: The number of steps of a round.
        threads: PyTorch's number of threads; 0 keeps the present number.
        kind: "refiner", "lifter" (STCFormer) or "mixste".

    Returns:
        The report: windows per second of all contestants; ``ratio``, "fused" over "plain", and ``ratios``, "fused" and
        "bfloat16" over "attention", with 95 % intervals; the share of time by group of operations from PyTorch's
        profiler; for a refiner also the cost of drawing the noise with the native sampler and with PyTorch.

    Raises:
        UsageError: A count is below its least value.
    """
    if min(dim, batch, rounds, steps) < 1 or threads < 0:
        raise UsageError(
            f"width, batch, rounds and steps must be at least 1 and threads at least 0, got {dim}, {batch}, {rounds}, "
            f"{steps} and {threads}"
        )
    import torch

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

    def step(contestant: str) -> None:
        optimiser.zero_grad(set_to_none=True)
        with _running_as(contestant):
            predicted = model(*inputs).float()
        (predicted - pose_3d).square().mean().backward()
        optimiser.step()

    def steps_of(contestant: str) -> Run:
        def run() -> None:
            for _ in range(steps):
                step(contestant)

        return run

    rates = interleaved({name: Contestant(batch * steps, steps_of(name)) for name in CONTESTANTS}, rounds)
    speeds = {name: np.array(values) for name, values in rates.items()}
    shares = {name: _shares(lambda name=name: step(name)) for name in CONTESTANTS}  # type: ignore[misc]
    noise = _noise_costs(batch, rounds, steps, lambda: step("fused")) if kind == "refiner" else None
    whole = ratio_interval(speeds["fused"] / speeds["plain"])
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
        "contestants": CONTESTANTS,
        "windows_per_s": {name: float(np.median(values)) for name, values in speeds.items()},
        "ratio": whole.ratio,
        "ratio_interval": [whole.low, whole.high],
        "ratios": {
            f"{name} over attention": asdict(ratio_interval(speeds[name] / speeds["attention"]))
            for name in ("fused", "bfloat16")
        },
        "time_shares": shares,
        "noise": None if noise is None else asdict(noise),
    }


def _model(kind: str, dim: int) -> torch.nn.Module:
    """A model with the depth of the small configurations: PoseDenoiser, STCFormer ("lifter") or MixSTE."""
    from refiner.models import MixSTE, PoseDenoiser, STCFormer

    if kind == "refiner":
        return PoseDenoiser(dim, BLOCKS[kind], joint_embedding=True)
    if kind == "mixste":
        return MixSTE(dim, BLOCKS[kind], frames=27)
    return STCFormer(dim, BLOCKS[kind], joint_embedding=True)


# The number of draws of a round that measures the draw alone.
DRAWS = 50


def _noise_costs(batch: int, rounds: int, steps: int, step: Run) -> NoiseCosts:
    """Measure the time of eq. 5, 6 and 8 in a training step.

    `native.diffuse` draws the noise in one variant. PyTorch's matrix products and normal numbers draw it in the other.
    """
    import torch

    frames, generator = 27 * batch, np.random.default_rng(0)
    clean = generator.normal(size=(frames, ERROR)).astype(np.float32)
    condition = generator.normal(size=(frames, CONDITION)).astype(np.float32)
    factors = np.full((2, frames), 0.7, np.float32)
    gaussian = random_gaussian(generator)
    mean_error, mean_condition = torch.from_numpy(gaussian["mean_error"]), torch.from_numpy(gaussian["mean_condition"])
    gain, factor = torch.from_numpy(gaussian["gain"]), torch.from_numpy(gaussian["cholesky"])
    torch_clean, torch_condition, torch_factors = (torch.from_numpy(a) for a in (clean, condition, factors[..., None]))

    def draw_natively() -> None:
        native.diffuse(condition, clean, factors[0], factors[1], **gaussian)

    def draw_by_pytorch() -> None:
        mean = mean_error + (torch_condition - mean_condition) @ gain.T
        error = mean + torch.randn(frames, ERROR) @ factor.T
        torch_factors[0] * torch_clean + torch_factors[1] * error

    def repeated(count: int, *parts: Run) -> Run:
        def run() -> None:
            for _ in range(count):
                for part in parts:
                    part()

        return run

    draws: dict[str, Run] = {"native": draw_natively, "PyTorch": draw_by_pytorch}
    alone = interleaved({name: Contestant(DRAWS, repeated(DRAWS, draw)) for name, draw in draws.items()}, rounds)
    whole = {name: Contestant(batch * steps, repeated(steps, draw, step)) for name, draw in draws.items()}
    rates = interleaved({**whole, "none": Contestant(batch * steps, repeated(steps, step))}, rounds)
    return NoiseCosts(
        draw_us={name: 1e6 / float(np.median(values)) for name, values in alone.items()},
        windows_per_s={name: float(np.median(values)) for name, values in rates.items()},
        native_over_pytorch=ratio_interval(np.array(rates["native"]) / np.array(rates["PyTorch"])),
    )


# The groups of operations of the report, with the beginnings of PyTorch's names for the operations.
GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "PyTorch's attention": ("aten::_scaled_dot_product",),
    "fused attention": ("_FusedAttention", "_FusedSelfAttention"),
    "fused layers": ("_Linear", "_Mlp"),
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


def _shares(step: Run) -> dict[str, float]:
    """The share of the time of a step by group of operations, largest first."""
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


def format_train_step(report: JsonObject) -> str:
    """The report as text."""
    low, high = report["ratio_interval"]
    settings = report["settings"]
    lines = [
        f"Training step, {settings['model']}, width {settings['dim']}, T = {settings['frames']}, "
        f"batch {settings['batch']}, {settings['threads']} threads:",
        *(f"  {name}: {speed:.0f} windows/s" for name, speed in report["windows_per_s"].items()),
        f"  fused / plain: {report['ratio']:.2f} (95 % interval {low:.2f} to {high:.2f})",
    ]
    for name, ratio in report.get("ratios", {}).items():  # older reports have one ratio
        lines.append(f"  {name}: {ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})")
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
