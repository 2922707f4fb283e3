"""``refiner-bench lifters``: the cost of the lifters at their published sizes, next to the published figures."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec

from refiner.evaluation.tables import markdown_table
from refiner.reports import Report, new_report
from refiner_bench.lifter_counts import PUBLISHED_FIGURES, PUBLISHED_SIZES, lifter_macs, lifter_parameters
from refiner_bench.report import JsonObject


def lifters_report(with_torch: bool = True) -> Report:
    """Count parameters and multiply-adds of every lifter by formula.

    Args:
        with_torch: Also count with PyTorch's own counter if PyTorch is installed; otherwise these counts are null.
    """
    report = new_report("lifters", {})
    report["unit"] = "multiply-add, one window; of D3DP one hypothesis, one step and one of the two passes"
    report["rows"] = []
    for name, size in PUBLISHED_SIZES.items():
        million, giga = PUBLISHED_FIGURES.get(name, (None, None))
        measured = None
        if with_torch and find_spec("torch") is not None:
            from refiner_bench.flops_torch import measure_lifter

            measured = measure_lifter(size)
        report["rows"].append(
            {
                "name": name,
                **asdict(size),
                "parameters": lifter_parameters(size),
                "published_parameters_million": million,
                "macs_without_attention": lifter_macs(size, attention=False),
                "published_giga_macs": giga,
                "macs": lifter_macs(size),
                "torch": measured,
            }
        )
    return report


def format_lifters(report: JsonObject) -> str:
    """The report as Markdown."""
    rows = [
        [
            row["name"],
            str(row["frames"]),
            f"{row['parameters'] / 1e6:.2f}",
            _fixed(row["published_parameters_million"], 2),
            f"{row['macs_without_attention'] / 1e9:.2f}",
            _fixed(row["published_giga_macs"], 1),
            f"{row['macs'] / 1e9:.2f}",
            "not run" if row["torch"] is None else f"{row['torch']['macs'] / 1e9:.2f}",
        ]
        for row in report["rows"]
    ]
    header = ["lifter", "frames", "parameters M", "reported", "GMAC, no attention products", "reported", "GMAC"]
    table = markdown_table([*header, "PyTorch counts"], rows)
    return f"""\
# The lifters at their published sizes

One multiply-add is one MAC; a window of 17 joints. D3DP: one hypothesis, one step, one of the two passes.

{table}

The reported figures leave out the products of queries, keys and values. STCFormer's 19.5 is that of its linear layers;
the depthwise convolutions, which are counted here, add 0.06."""


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
