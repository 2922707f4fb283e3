"""Speed of the compiled kernels, compared with usual NumPy, PyTorch and SciPy code and with the machine's limits."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from refiner import native
from refiner.errors import UsageError
from refiner.evaluation.tables import markdown_table
from refiner.reports import Report, new_report
from refiner_bench.report import JsonObject
from refiner_bench.timing import Contestant, Ratio, best_rate, interleaved, large_copy, large_product, ratio_interval

if TYPE_CHECKING:
    import torch

# The size of an error is 17 x 3, that of a condition 17 x (3 + 2).
JOINTS, ERROR, CONDITION = 17, 51, 85
# SciPy aligns one pose per call, so this number of poses is enough to measure its rate.
SCIPY_POSES = 1000
# The least duration of a contestant's turn in a round.
TURN_S = 0.1
# The name of the contestant that shows the machine's own limit.
AT_BEST = "what the machine does at best"
# Operations per pose: centring, the 3x3 products, the eigenvector, the rotation and the error. They are counted in the
# source code for J = 17.
ALIGN_FLOPS = 17 * (6 + 18 + 6 + 21) + 600
SAMPLE_FLOPS = 2 * (ERROR * CONDITION + ERROR * (ERROR + 1) // 2) + 3 * ERROR


@dataclass(frozen=True)
class Work:
    """The least work of a kernel for one item: the bytes that it must move, and its floating-point operations."""

    bytes: int
    flops: int


WORK = {
    "P-MPJPE, poses/s": Work(JOINTS * 3 * 4 * 2 + 4, ALIGN_FLOPS),
    "conditional sampling, frames/s": Work((CONDITION + ERROR) * 4, SAMPLE_FLOPS),
}


@dataclass(frozen=True)
class MachineFloors:
    """The best rates of the machine. The field names are the keys of the JSON report.

    Attributes:
        copy_bytes_per_s: Bytes per second that a large copy reads and writes.
        flops_per_s: Operations per second of a large float32 matrix product.
        threads: The number of threads of both.
    """

    copy_bytes_per_s: float
    flops_per_s: float
    threads: int


@dataclass(frozen=True)
class KernelResult:
    """The measurement of one kernel. The field names are the keys of the JSON report.

    Attributes:
        rates: The median items per second of each contestant.
        ratios: How many times as fast as each peer the kernel is.
        bytes: The bytes that one item must move.
        flops: The operations of one item.
        floor: The items per second that the machine allows.
        bound_by: The limit of the machine: "memory" or "arithmetic".
        share_of_floor: The rate of the kernel divided by ``floor``.
        share_interval: The same with its interval.
    """

    rates: dict[str, float]
    ratios: dict[str, Ratio]
    bytes: int
    flops: int
    floor: float
    bound_by: str
    share_of_floor: float
    share_interval: Ratio


class GaussianArrays(TypedDict):
    """A noise model, float32, as keyword arguments of `native.sample_conditional` and `native.diffuse`.

    The shapes are ``(51,)``, ``(85,)``, ``(51, 85)`` and ``(51, 51)``.
    """

    mean_error: NDArray[np.float32]
    mean_condition: NDArray[np.float32]
    gain: NDArray[np.float32]
    cholesky: NDArray[np.float32]


def native_report(items: int, rounds: int, threads: int) -> Report:
    """Measure the kernels and their peers in interleaved rounds.

    A round gives every contestant one turn. The order rotates by one position from round to round.

    Args:
        items: The number of poses and frames of a call, float32.
        rounds: The number of timed rounds.
        threads: The number of threads of every contestant.

    Returns:
        The report: rates, ratios with 95 % bootstrap intervals over rounds, and the limits of the machine.

    Raises:
        UsageError: A count is below 1.
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
    report |= {"features": native.features(), "floors": asdict(floors), "groups": {}}
    report["single_pose_us"] = _single_pose()
    for name, contestants in groups.items():
        report["groups"][name] = asdict(_measure(contestants, WORK[name], floors, rounds))
    return report


def _measure(contestants: dict[str, Contestant], work: Work, floors: MachineFloors, rounds: int) -> KernelResult:
    """Time one kernel, its peers and the operation that limits it on this machine."""
    import torch

    by_memory = floors.copy_bytes_per_s / work.bytes < floors.flops_per_s / work.flops
    # The limiting operation is a contestant too, so the share of it does not depend on changes of the clock frequency.
    amount, run = large_copy() if by_memory else large_product(torch.float32)
    limit = Contestant(amount // (work.bytes if by_memory else work.flops), run)
    rates = interleaved(contestants | {AT_BEST: limit}, rounds, turn_s=TURN_S)
    ours, best = np.array(rates["native"]), np.array(rates.pop(AT_BEST))
    share = ratio_interval(ours / best)
    return KernelResult(
        rates={peer: float(np.median(values)) for peer, values in rates.items()},
        ratios={peer: ratio_interval(ours / np.array(values)) for peer, values in rates.items() if peer != "native"},
        bytes=work.bytes,
        flops=work.flops,
        floor=float(np.median(best)),
        bound_by="memory" if by_memory else "arithmetic",
        share_of_floor=share.ratio,
        share_interval=share,
    )


def machine_floors(threads: int) -> MachineFloors:
    """Measure the best rates of this machine with PyTorch's present number of threads, which ``threads`` records."""
    import torch

    return MachineFloors(best_rate(*large_copy()), best_rate(*large_product(torch.float32)), threads)


def _alignments(rng: np.random.Generator, items: int, threads: int) -> dict[str, Contestant]:
    """The contestants of the Procrustes alignment."""
    import torch
    from scipy.spatial.transform import Rotation

    target = rng.normal(scale=0.3, size=(items, JOINTS, 3)).astype(np.float32)
    pred = (target + rng.normal(scale=0.05, size=target.shape)).astype(np.float32)
    torch_pred, torch_target = torch.from_numpy(pred), torch.from_numpy(target)
    centred = [(p - p.mean(0), t - t.mean(0)) for p, t in zip(pred[:SCIPY_POSES], target[:SCIPY_POSES], strict=True)]

    def scipy_alignment() -> None:
        for p, t in centred:
            rotation, _ = Rotation.align_vectors(t, p)
            moved = rotation.apply(p)
            np.linalg.norm((moved * t).sum() / (p * p).sum() * moved - t, axis=-1).mean()

    return {
        "native": Contestant(items, lambda: native.p_mpjpe(pred, target, threads=threads)),
        "NumPy SVD": Contestant(items, lambda: numpy_p_mpjpe(pred, target)),
        "PyTorch SVD": Contestant(items, lambda: torch_p_mpjpe(torch_pred, torch_target)),
        "SciPy align_vectors": Contestant(len(centred), scipy_alignment),
    }


def numpy_p_mpjpe(pred: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """P-MPJPE as published evaluation code computes it, with one batched SVD.

    Args:
        pred: Poses, ``(N, J, 3)``.
        target: The true poses, ``(N, J, 3)``.

    Returns:
        The error of each pose, ``(N,)``, in the unit of the poses.
    """
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
    error: NDArray[np.floating[Any]] = np.linalg.norm(moved - target, axis=-1).mean(-1)
    return error


def torch_p_mpjpe(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Like `numpy_p_mpjpe`, in PyTorch."""
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
    error: torch.Tensor = torch.linalg.vector_norm(moved - target, dim=-1).mean(-1)
    return error


def random_gaussian(rng: np.random.Generator) -> GaussianArrays:
    """A random noise model for `native.sample_conditional`."""
    gaussian = GaussianArrays(
        mean_error=rng.normal(size=ERROR).astype(np.float32) * np.float32(0.01),
        mean_condition=rng.normal(size=CONDITION).astype(np.float32) * np.float32(0.1),
        gain=rng.normal(size=(ERROR, CONDITION)).astype(np.float32) * np.float32(0.01),
        cholesky=np.tril(rng.normal(size=(ERROR, ERROR))).astype(np.float32) * np.float32(0.01),
    )
    # The root does not vary, as in every noise model that is fitted on root-relative poses.
    gaussian["mean_error"][:3] = gaussian["gain"][:3] = gaussian["cholesky"][:3] = gaussian["cholesky"][:, :3] = 0.0
    return gaussian


def _samplings(rng: np.random.Generator, items: int, threads: int) -> dict[str, Contestant]:
    """The contestants of the conditional sampling."""
    import torch

    condition = rng.normal(size=(items, CONDITION)).astype(np.float32)
    gaussian = random_gaussian(rng)
    mean_error, mean_condition = torch.from_numpy(gaussian["mean_error"]), torch.from_numpy(gaussian["mean_condition"])
    gain, factor = torch.from_numpy(gaussian["gain"]), torch.from_numpy(gaussian["cholesky"])
    torch_condition = torch.from_numpy(condition)
    output = np.empty((items, ERROR), np.float32)

    def torch_sampling() -> torch.Tensor:
        noise = torch.randn(items, ERROR) @ factor.T
        return mean_error + (torch_condition - mean_condition) @ gain.T + noise

    def numpy_sampling() -> NDArray[np.float32]:
        noise = rng.standard_normal((items, ERROR), dtype=np.float32) @ gaussian["cholesky"].T
        sample: NDArray[np.float32] = (
            gaussian["mean_error"] + (condition - gaussian["mean_condition"]) @ gaussian["gain"].T + noise
        )
        return sample

    return {
        "native": Contestant(items, lambda: native.sample_conditional(condition, **gaussian, seed=1, threads=threads)),
        "native, out=": Contestant(
            items,
            lambda: native.sample_conditional(condition, **gaussian, seed=1, threads=threads, out=output),
        ),
        "PyTorch": Contestant(items, torch_sampling),
        "NumPy": Contestant(items, numpy_sampling),
        "torch.randn of the noise alone": Contestant(items, lambda: torch.randn(items, ERROR)),
    }


def _single_pose(calls: int = 5000) -> float:
    """Microseconds of one call with one pose, from Python: the median of ten runs of ``calls`` calls each."""
    pred, target = np.random.default_rng(1).normal(size=(2, 1, JOINTS, 3)).astype(np.float32)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(calls):
            native.p_mpjpe(pred, target)
        times.append((time.perf_counter() - began) / calls)
    return 1e6 * float(np.median(times))


def format_native(report: JsonObject) -> str:
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
            faster = "" if ratio is None else f"{ratio['ratio']:.1f} ({ratio['low']:.1f} to {ratio['high']:.1f})"
            rows.append([peer, f"{rate / 1e6:.2f} M", faster])
        lines += ["", markdown_table([name, "rate", "native is faster by"], rows), ""]
        lines.append(
            f"Floor {group['floor'] / 1e6:.1f} M/s by {group['bound_by']} ({group['bytes']} bytes and {group['flops']} "
            f"operations each); native reaches {group['share_of_floor']:.0%} of it."
        )
    lines += ["", f"One pose from Python: {report['single_pose_us']:.2f} microseconds."]
    return "\n".join(lines)
