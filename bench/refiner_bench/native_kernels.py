"""The compiled kernels against what users would write instead, and against what the machine can do, in one run."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner import native
from refiner.errors import UsageError
from refiner.evaluation.tables import markdown_table
from refiner.reports import new_report
from refiner_bench.timing import Run, best_rate, interleaved, large_copy, large_product, ratio_interval

JOINTS, ERROR, CONDITION = 17, 51, 85
# SciPy aligns one pose a call: so many of them tell its rate.
SCIPY_POSES = 1000
# A contestant's turn in a round.
TURN_S = 0.1
AT_BEST = "what the machine does at best"
# Per pose: centring, the 3x3 products, the eigenvector, turning and measuring (counted in the source, J = 17).
ALIGN_FLOPS = 17 * (6 + 18 + 6 + 21) + 600
SAMPLE_FLOPS = 2 * (ERROR * CONDITION + ERROR * (ERROR + 1) // 2) + 3 * ERROR


def native_report(items: int, rounds: int, threads: int) -> dict[str, Any]:
    """Rates of the kernels and of their peers in interleaved rounds, ratios with 95 % intervals, and the floors.

    ``items``: poses and frames of a call, float32. A round times every contestant once, in an order that turns by one
    each round. Intervals are bootstraps over rounds. Raises UsageError for counts below 1.
    """
    if min(items, rounds, threads) < 1:
        raise UsageError(f"items, rounds and threads must be at least 1, got {items}, {rounds} and {threads}")
    import torch

    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    groups = {
        "P-MPJPE, poses/s": _alignments(rng, items, threads),
        "conditional sampling, frames/s": _samplings(rng, items, threads),
    }
    floors = machine_floors(threads)
    report = new_report("native", {"items": items, "rounds": rounds, "threads": threads, "dtype": "float32"})
    report |= {"features": native.features(), "floors": floors, "groups": {}, "single_pose_us": _single_pose()}
    traffic = {
        "P-MPJPE, poses/s": (JOINTS * 3 * 4 * 2 + 4, ALIGN_FLOPS),
        "conditional sampling, frames/s": ((CONDITION + ERROR) * 4, SAMPLE_FLOPS),
    }
    for name, contestants in groups.items():
        size, flops = traffic[name]
        by_memory = floors["copy_bytes_per_s"] / size < floors["flops_per_s"] / flops
        # What the machine does at best takes its turn too: a share of it holds whatever the machine's clock did.
        amount, run = large_copy() if by_memory else large_product(torch.float32)
        at_best = {AT_BEST: (amount // (size if by_memory else flops), run)}
        rates = interleaved(contestants | at_best, rounds, turn_s=TURN_S)
        ours, best = np.array(rates["native"]), np.array(rates.pop(AT_BEST))
        share = ratio_interval(ours / best)
        report["groups"][name] = {
            "rates": {peer: float(np.median(values)) for peer, values in rates.items()},
            "ratios": {peer: ratio_interval(ours / np.array(v)) for peer, v in rates.items() if peer != "native"},
            "bytes": size,
            "flops": flops,
            "floor": float(np.median(best)),
            "bound_by": "memory" if by_memory else "arithmetic",
            "share_of_floor": share["ratio"],
            "share_interval": share,
        }
    return report


def machine_floors(threads: int) -> dict[str, float]:
    """What the machine does at best: bytes copied per second (read and written) and float32 operations of a product."""
    import torch

    return {
        "copy_bytes_per_s": best_rate(*large_copy()),
        "flops_per_s": best_rate(*large_product(torch.float32)),
        "threads": threads,
    }


def _alignments(rng: np.random.Generator, items: int, threads: int) -> dict[str, tuple[int, Run]]:
    import torch
    from scipy.spatial.transform import Rotation

    target = rng.normal(scale=0.3, size=(items, JOINTS, 3)).astype(np.float32)
    pred = (target + rng.normal(scale=0.05, size=target.shape)).astype(np.float32)
    torch_pred, torch_target = torch.from_numpy(pred), torch.from_numpy(target)
    few = [(p - p.mean(0), t - t.mean(0)) for p, t in zip(pred[:SCIPY_POSES], target[:SCIPY_POSES], strict=True)]

    def scipy_alignment() -> None:
        for p, t in few:
            rotation, _ = Rotation.align_vectors(t, p)
            moved = rotation.apply(p)
            np.linalg.norm((moved * t).sum() / (p * p).sum() * moved - t, axis=-1).mean()

    return {
        "native": (items, lambda: native.p_mpjpe(pred, target, threads=threads)),
        "NumPy SVD": (items, lambda: numpy_p_mpjpe(pred, target)),
        "PyTorch SVD": (items, lambda: torch_p_mpjpe(torch_pred, torch_target)),
        "SciPy align_vectors": (len(few), scipy_alignment),
    }


def numpy_p_mpjpe(pred: NDArray[Any], target: NDArray[Any]) -> NDArray[Any]:
    """P-MPJPE as the field computes it: one batched SVD."""
    pred_mean, target_mean = pred.mean(1, keepdims=True), target.mean(1, keepdims=True)
    p, t = pred - pred_mean, target - target_mean
    p_norm = np.sqrt((p**2).sum((1, 2), keepdims=True))
    t_norm = np.sqrt((t**2).sum((1, 2), keepdims=True))
    p, t = p / p_norm, t / t_norm
    u, s, vt = np.linalg.svd(t.transpose(0, 2, 1) @ p)
    v = vt.transpose(0, 2, 1)
    rotation = v @ u.transpose(0, 2, 1)
    sign = np.sign(np.linalg.det(rotation))[:, None]
    v[:, :, -1] *= sign
    s[:, -1] *= sign.ravel()
    rotation = v @ u.transpose(0, 2, 1)
    scale = s.sum(1)[:, None, None] * t_norm / p_norm
    moved = scale * (pred - pred_mean) @ rotation + target_mean
    error: NDArray[Any] = np.linalg.norm(moved - target, axis=-1).mean(-1)
    return error


def torch_p_mpjpe(pred: Any, target: Any) -> Any:
    """The same in PyTorch."""
    import torch

    pred_mean, target_mean = pred.mean(1, keepdim=True), target.mean(1, keepdim=True)
    p, t = pred - pred_mean, target - target_mean
    u, s, vt = torch.linalg.svd(p.transpose(1, 2) @ t)
    sign = torch.sign(torch.linalg.det(u @ vt))
    flip = torch.ones_like(s)
    flip[:, 2] = sign
    rotation = (u * flip[:, None]) @ vt
    scale = (s * flip).sum(1) / p.square().sum((1, 2))
    moved = scale[:, None, None] * p @ rotation + target_mean
    return torch.linalg.vector_norm(moved - target, dim=-1).mean(-1)


def random_gaussian(rng: np.random.Generator) -> dict[str, Any]:
    """A noise model as `native.sample_conditional` takes it."""
    gaussian = {
        "mean_error": rng.normal(size=ERROR).astype(np.float32) * 0.01,
        "mean_condition": rng.normal(size=CONDITION).astype(np.float32) * 0.1,
        "gain": rng.normal(size=(ERROR, CONDITION)).astype(np.float32) * 0.01,
        "cholesky": np.tril(rng.normal(size=(ERROR, ERROR))).astype(np.float32) * 0.01,
    }
    # The root does not vary, as in every noise model that is fitted on root-relative poses.
    gaussian["mean_error"][:3] = gaussian["gain"][:3] = gaussian["cholesky"][:3] = gaussian["cholesky"][:, :3] = 0.0
    return gaussian


def _samplings(rng: np.random.Generator, items: int, threads: int) -> dict[str, tuple[int, Run]]:
    import torch

    condition = rng.normal(size=(items, CONDITION)).astype(np.float32)
    gaussian = random_gaussian(rng)
    mean_error, mean_condition, gain, factor = (torch.from_numpy(value) for value in gaussian.values())
    torch_condition = torch.from_numpy(condition)
    drawn = np.empty((items, ERROR), np.float32)

    def torch_sampling() -> Any:
        noise = torch.randn(items, ERROR) @ factor.T
        return mean_error + (torch_condition - mean_condition) @ gain.T + noise

    def numpy_sampling() -> Any:
        noise = rng.standard_normal((items, ERROR), dtype=np.float32) @ gaussian["cholesky"].T
        return gaussian["mean_error"] + (condition - gaussian["mean_condition"]) @ gaussian["gain"].T + noise

    return {
        "native": (items, lambda: native.sample_conditional(condition, **gaussian, seed=1, threads=threads)),
        "native, out=": (
            items,
            lambda: native.sample_conditional(condition, **gaussian, seed=1, threads=threads, out=drawn),
        ),
        "PyTorch": (items, torch_sampling),
        "NumPy": (items, numpy_sampling),
        "torch.randn of the noise alone": (items, lambda: torch.randn(items, ERROR)),
    }


def _single_pose(calls: int = 5000) -> float:
    """Microseconds of one call with one pose, from Python: the median of ten runs of ``calls``."""
    pred, target = np.random.default_rng(1).normal(size=(2, 1, JOINTS, 3)).astype(np.float32)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(calls):
            native.p_mpjpe(pred, target)
        times.append((time.perf_counter() - began) / calls)
    return 1e6 * float(np.median(times))


def format_native(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    settings, floors, features = report["settings"], report["floors"], report["features"]
    lines = [
        f"Compiled kernels, {settings['items']:,} items of {settings['dtype']}, {settings['threads']} threads, "
        f"instruction set {features['isa']}, {report['environment']['processor']}.",
        f"Measured in the same run: copy {floors['copy_bytes_per_s'] / 1e9:.1f} GB/s (read and written), matrix "
        f"product {floors['flops_per_s'] / 1e9:.0f} GFLOP/s.",
    ]
    for name, group in report["groups"].items():
        rows = []
        for peer, rate in group["rates"].items():
            ratio = group["ratios"].get(peer)
            told = "" if ratio is None else f"{ratio['ratio']:.1f} ({ratio['low']:.1f} to {ratio['high']:.1f})"
            rows.append([peer, f"{rate / 1e6:.2f} M", told])
        lines += ["", markdown_table([name, "rate", "native is faster by"], rows), ""]
        lines.append(
            f"Floor {group['floor'] / 1e6:.1f} M/s by {group['bound_by']} ({group['bytes']} bytes and {group['flops']} "
            f"operations each); native reaches {group['share_of_floor']:.0%} of it."
        )
    lines += ["", f"One pose from Python: {report['single_pose_us']:.2f} microseconds."]
    return "\n".join(lines)
