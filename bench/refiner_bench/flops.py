"""``refiner-bench flops``: what PoseDenoiser costs, by formula and by PyTorch's own counter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from typing import Any

from refiner.evaluation.tables import markdown_table
from refiner.reports import new_report
from refiner_bench.counts import (
    PAPER_FRAMES,
    PAPER_TABLE_IV,
    DenoiserSize,
    paper_token_flops,
    parameters,
    time_path_flops,
    window_flops,
)

# The sizes of the paper's Table IV, apart from depth and frames.
PAPER_SIZE = DenoiserSize(frames=PAPER_FRAMES)


def flops_report(size: DenoiserSize, depths: Sequence[int], steps: int, with_torch: bool = True) -> dict[str, Any]:
    """Count every depth. Without PyTorch, or ``with_torch`` False, the measured counts are null.

    Raises UsageError for sizes that the model does not take.
    """
    sizes = [replace(size, depth=depth) for depth in depths]
    count_with_torch = with_torch and find_spec("torch") is not None
    settings = {**asdict(size), "steps": steps}
    del settings["depth"]
    report = new_report("flops", settings)
    report["unit"] = "FLOP; one multiply-add is 2"
    report["rows"] = [_row(size, steps) for size in sizes]
    if count_with_torch:
        from refiner_bench.flops_torch import counted_operations, measure_denoiser

        report["counted_operations"] = counted_operations()
        for row, size in zip(report["rows"], sizes, strict=True):
            row["torch"] = measure_denoiser(size)
    return report


def _row(size: DenoiserSize, steps: int) -> dict[str, Any]:
    window, time_path = window_flops(size), time_path_flops(size)
    return {
        "depth": size.depth,
        "blocks": size.blocks,
        "parameters": parameters(size),
        "token_paper_reading": paper_token_flops(size),
        "paper_table_iv": _paper_value(size),
        "token": window // size.tokens,
        "frame": window // size.frames,
        "window_with_time_path": window + time_path,
        "window_without_time_path": window,
        "time_path": time_path,
        "refinement_with_time_path": steps * (window + time_path),
        "refinement_exported": steps * window,
        "torch": None,
    }


def _paper_value(size: DenoiserSize) -> float | None:
    """Table IV's figure in FLOP where it speaks of this very size."""
    comparable = replace(size, depth=PAPER_SIZE.depth) == PAPER_SIZE
    return PAPER_TABLE_IV[size.depth][0] * 1e6 if comparable and size.depth in PAPER_TABLE_IV else None


def format_flops(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    settings = report["settings"]
    steps, rows = settings["steps"], report["rows"]
    per_token = markdown_table(
        ["depth", "parameters", "per token, paper's reading", "paper's Table IV", "per token", "per frame"],
        [
            [
                str(row["depth"]),
                f"{row['parameters'] / 1e6:.2f} M",
                _mega(row["token_paper_reading"]),
                "-" if row["paper_table_iv"] is None else _mega(row["paper_table_iv"]),
                _mega(row["token"], digits=2),
                _mega(row["frame"]),
            ]
            for row in rows
        ],
    )
    per_window = markdown_table(
        ["depth", "per window", "PyTorch counts", "without time path", f"K = {steps}", f"K = {steps}, exported"],
        [
            [
                str(row["depth"]),
                _giga(row["window_with_time_path"]),
                "not run" if row["torch"] is None else _giga(row["torch"]["window_with_time_path"]),
                _giga(row["window_without_time_path"]),
                _giga(row["refinement_with_time_path"]),
                _giga(row["refinement_exported"]),
            ]
            for row in rows
        ],
    )
    operations = report.get("counted_operations")
    counted = (
        "PyTorch's counter: not run (PyTorch is not installed, or --no-torch was given)."
        if operations is None
        else f"PyTorch's counter (torch.utils.flop_counter.FlopCounterMode) on the plainly written module, batch 1, "
        f"saw these operations: {', '.join(operations)}."
    )
    return f"""\
# PoseDenoiser: parameters and FLOPs

dim {settings["dim"]}, {settings["heads"]} heads, MLP ratio {settings["mlp_ratio"]}, \
T = {settings["frames"]} frames, {settings["joints"]} joints. Depth = 2 x blocks. One multiply-add = 2 FLOPs.
Counted: matrix products, attention products, depthwise convolutions; not biases, normalisations, GELU and softmax.

{per_token}

A token is one joint of one frame. The paper's reading adds the time MLP and its projections to every token; the
model runs them once a window, so the columns to its right leave them out.

{per_window}

Per window: one denoising step of T frames, the time path once. Exported: for a fixed K the time path is a constant of
the graph. {counted}"""


def _mega(value: float, digits: int = 1) -> str:
    return f"{value / 1e6:.{digits}f} M"


def _giga(value: float) -> str:
    return f"{value / 1e9:.4f} G"
