"""Latency reports as Markdown."""

from __future__ import annotations

from refiner.evaluation.tables import markdown_table
from refiner_bench.report import JsonObject

RATIO = "{ratio:.2f} ({low:.2f} to {high:.2f})"


def format_latency(report: JsonObject) -> str:
    """The report as Markdown: tables of models and kernels, and the contestants that were missing or failed."""
    rates, machine = report["rates"], report["environment"].get("gpu") or report["environment"]["processor"]
    kind = "A rehearsal at toy size" if report["settings"]["toy"] else "One run"
    parts = [
        f"# Latency on {machine}",
        f"{kind} with PyTorch {report['environment']['torch']}, on {report['settings']['device']}.",
        f"A large product runs at {rates['float32_flops_per_s'] / 1e12:.3g} TFLOP/s in float32 and "
        f"{rates['bfloat16_flops_per_s'] / 1e12:.3g} in bfloat16, a large copy at "
        f"{rates['copy_bytes_per_s'] / 1e9:.3g} GB/s, read and written.",
        "A call brings its input to the device and its result back. The floor is the larger of the model's operations "
        "at the rate of the float32 product and its weights read once at the rate of the copy.",
        _models(report),
        _kernels(report),
    ]
    for title in ("missing", "failed"):
        parts += [f"{title}: {name}: {reason}" for name, reason in report[title].items()]
    return "\n\n".join(part for part in parts if part)


def _models(report: JsonObject) -> str:
    rows = [
        [
            row["model"],
            row["kind"],
            str(row["batch"]),
            title,
            f"{entry['median_ms']:.3f}",
            f"{entry['p99_ms']:.3f}",
            RATIO.format(**entry["faster_than_first"]),
            f"{1000 * row['batch'] / entry['median_ms']:,.0f}",
            f"{row['floor_ms'] / entry['median_ms']:.0%}",
            f"{entry['largest_difference_mm']:.4f}",
        ]
        for row in report["models"]
        for title, entry in row["contestants"].items()
    ]
    head = ["model", "kind", "batch", "contestant", "median ms", "p99 ms", "times as fast as the first", "items/s"]
    return markdown_table([*head, "of the floor", "largest mm"], rows) if rows else ""


def _kernels(report: JsonObject) -> str:
    rows = [
        [
            row["kernel"],
            f"{row['items']:,}",
            *(f"{row['rates'][name] / 1e6:.3g}" if name in row["rates"] else "" for name in ("cpu", "cuda")),
            RATIO.format(**row["faster_than_cpu"]) if "faster_than_cpu" in row else "",
            f"{row['rates'].get('cuda', row['rates']['cpu']) / row['floor_items_per_s']:.1%}",
        ]
        for row in report["kernels"]
    ]
    head = ["kernel", "poses", "CPU, M/s", "CUDA, M/s", "times as fast as the CPU", "of the copy"]
    return markdown_table(head, rows) if rows else ""
