"""``refiner-bench flops``: parameters and FLOPs of PoseDenoiser, by formula and by PyTorch's own counter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec

from refiner.evaluation.tables import markdown_table
from refiner.reports import Report, new_report
from refiner_bench.counts import (
    PAPER_FRAMES,
    PAPER_TABLE_IV,
    DenoiserSize,
    paper_token_flops,
    parameters,
    time_path_flops,
    window_flops,
)
from refiner_bench.report import JsonObject

# The size of the models in the paper's Table IV, which gives figures for several depths.
PAPER_SIZE = DenoiserSize(frames=PAPER_FRAMES)


@dataclass(frozen=True)
class FlopsRow:
    """The counts of one depth; FLOPs unless named otherwise. The field names are the keys of the JSON report.

    Attributes:
        depth: The number of attention modules, twice the number of blocks.
        blocks: The number of blocks.
        parameters: The number of trainable numbers.
        token_paper_reading: FLOPs of a token as the paper seems to count them: with the time path for every token.
        paper_table_iv: The figure of the paper's Table IV; None for a size that the table doesn't have.
        token: FLOPs of one joint of one frame, without the time path.
        frame: FLOPs of one frame, without the time path.
        window_with_time_path: FLOPs of one window and one denoising step.
        window_without_time_path: The same without the time path.
        time_path: FLOPs of the time path of one step.
        refinement_with_time_path: FLOPs of one window, all K steps.
        refinement_exported: The same for an exported graph, which has no time path.
        torch: The counts of PyTorch's counter; None where it did not run.
    """

    depth: int
    blocks: int
    parameters: int
    token_paper_reading: int
    paper_table_iv: float | None
    token: int
    frame: int
    window_with_time_path: int
    window_without_time_path: int
    time_path: int
    refinement_with_time_path: int
    refinement_exported: int
    torch: dict[str, int] | None = None


def flops_report(size: DenoiserSize, depths: Sequence[int], steps: int, with_torch: bool = True) -> Report:
    """Count parameters and FLOPs for several depths.

    Args:
        size: The size of the model; its depth is ignored.
        depths: The depths to count.
        steps: The denoising steps K.
        with_torch: Also count with PyTorch's counter if PyTorch is installed; otherwise these counts are null.

    Raises:
        UsageError: The model does not support the size.
    """
    sizes = [replace(size, depth=depth) for depth in depths]
    settings = {**asdict(size), "steps": steps}
    del settings["depth"]
    report = new_report("flops", settings)
    report["unit"] = "FLOP; one multiply-add is 2"
    rows = [_row(size, steps) for size in sizes]
    if with_torch and find_spec("torch") is not None:
        from refiner_bench.flops_torch import counted_operations, measure_denoiser

        rows = [replace(row, torch=measure_denoiser(size)) for row, size in zip(rows, sizes, strict=True)]
        report["rows"] = [asdict(row) for row in rows]
        report["counted_operations"] = counted_operations()
    else:
        report["rows"] = [asdict(row) for row in rows]
    return report


def _row(size: DenoiserSize, steps: int) -> FlopsRow:
    window, time_path = window_flops(size), time_path_flops(size)
    return FlopsRow(
        depth=size.depth,
        blocks=size.blocks,
        parameters=parameters(size),
        token_paper_reading=paper_token_flops(size),
        paper_table_iv=_paper_value(size),
        token=window // size.tokens,
        frame=window // size.frames,
        window_with_time_path=window + time_path,
        window_without_time_path=window,
        time_path=time_path,
        refinement_with_time_path=steps * (window + time_path),
        refinement_exported=steps * window,
    )


def _paper_value(size: DenoiserSize) -> float | None:
    """The figure of the paper's Table IV in FLOP; None for a size that the table does not have."""
    comparable = replace(size, depth=PAPER_SIZE.depth) == PAPER_SIZE
    return PAPER_TABLE_IV[size.depth][0] * 1e6 if comparable and size.depth in PAPER_TABLE_IV else None


def format_flops(report: JsonObject) -> str:
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
