"""``refiner-bench cards``: one card for every bundled model and named configuration: cost, data, accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from refiner import bundled
from refiner.evaluation.paper_tables import LIFTERS, REFINERS
from refiner.evaluation.selection import CMU_ACKNOWLEDGEMENT
from refiner.evaluation.tables import markdown_table
from refiner.model_files.build import Runnable, build_model, module_of
from refiner.model_files.checkpoint import Checkpoint, load_checkpoint
from refiner.model_spec import ModelSpec
from refiner.models import LiftingModule
from refiner.reports import new_report
from refiner.training.config import CONFIG_FOLDER
from refiner_bench.flops_torch import count_flops
from refiner_bench.report import gain_text
from refiner_bench.timing import interleaved
from refiner_bench.untrained import untrained

NETWORKS = {"lifter": LIFTERS, "refiner": REFINERS}
WARM_UP = 1


def cards_report(
    reports: Sequence[tuple[str, Mapping[str, Any]]], threads: int, rounds: int, most_flops: float
) -> dict[str, Any]:
    """Every bundled checkpoint, then every named configuration (with random weights).

    ``reports``: names and contents of accuracy reports, whose rows say how good what was trained by a configuration
    is. ``most_flops``: larger models are counted and not timed.
    """
    report = new_report("cards", {"threads": threads, "rounds": rounds, "most_flops": most_flops})
    report["acknowledgement"] = CMU_ACKNOWLEDGEMENT
    torch.set_num_threads(threads)
    report["rows"] = [
        _card(path.stem, load_checkpoint(path), reports, rounds, most_flops, bundled=True)
        for path in sorted(bundled.FOLDER.glob("*.safetensors"))
    ]
    report["rows"] += [
        _card(path.stem, untrained(path.stem), reports, rounds, most_flops, bundled=False)
        for path in sorted(CONFIG_FOLDER.glob("*.toml"))
    ]
    return report


def _card(
    name: str,
    checkpoint: Checkpoint,
    reports: Sequence[tuple[str, Mapping[str, Any]]],
    rounds: int,
    most_flops: float,
    bundled: bool,
) -> dict[str, Any]:
    config = checkpoint.config
    flops, passes = window_flops(checkpoint)
    entry: dict[str, Any] = {
        "name": name,
        "bundled": bundled,
        "kind": config["kind"],
        "architecture": NETWORKS[config["kind"]][config["model"].get("architecture", "default")],
        "frames": int(config["frames"]),
        "parameters": sum(value.numel() for value in build_model(config).parameters()),
        "passes": passes,
        "window_flops": flops,
        "median_ms": None if flops > most_flops else _median_ms(module_of(checkpoint), rounds),
        "scores": [score for title, report in reports for score in _scores(title, report, name, bundled)],
    }
    if bundled:
        metrics, people = config["metrics"], config["data_description"]
        entry["training"] = {
            "steps": metrics["step"],
            "wall_s": metrics["wall_s"],
            "validation_mm": metrics["validation"]["mpjpe_mm"],
            "archive": people["name"],
            "people": people["train"],
            "frames": sum(people["frames"].values()),
        }
    return entry


def window_flops(checkpoint: Checkpoint) -> tuple[int, int]:
    """FLOPs of a window as PyTorch counts them, and the passes over the network that are in them: K of a refiner; of a
    diffusion lifter K x H, twice where it averages with the mirrored pass, each pass as dear as the first."""
    config = checkpoint.config
    if not ModelSpec.of_config(config).is_sampled_lifter:
        module = module_of(checkpoint)
        return count_flops(module, _inputs(module)), int(getattr(module, "steps", 1))
    sampling = config["sampling"]
    once = dataclasses.replace(checkpoint, config={**config, "sampling": {**sampling, "flip": False}})
    module = module_of(once, steps=1, hypotheses=1)
    passes = sampling["steps"] * sampling["hypotheses"] * (2 if sampling["flip"] else 1)
    return passes * count_flops(module, _inputs(module)), passes


def _inputs(module: Runnable) -> tuple[torch.Tensor, ...]:
    """One random window."""
    random = torch.Generator().manual_seed(0)
    pose_2d = 200 + 600 * torch.rand(1, module.frames, 17, 2, generator=random)
    size = torch.tensor([[1000.0, 1000.0]])
    if module.rays:
        # Keypoints and a camera: all joints are seen, by a lens of the image's size.
        pose_2d = torch.cat([pose_2d, torch.ones_like(pose_2d[..., :1])], dim=-1)
        size = torch.tensor([[1000.0, 1000.0, 1000.0]])
    if isinstance(module, LiftingModule):
        return (pose_2d, size, torch.zeros(1, 1)) if module.actions else (pose_2d, size)
    return pose_2d, torch.rand(1, module.frames, 17, 3, generator=random), size


def _median_ms(module: Runnable, rounds: int) -> float:
    inputs = _inputs(module)

    def run() -> None:
        with torch.inference_mode():
            module(*inputs)

    return float(np.median(1000.0 / np.array(interleaved({"module": (1, run)}, rounds, WARM_UP)["module"])))


def _scores(source: str, report: Mapping[str, Any], name: str, bundled: bool) -> list[dict[str, Any]]:
    """What a report's rows say of a bundled model, or of what was trained by a configuration."""
    field = "checkpoint" if bundled else "config"
    found = []
    for row in report["rows"]:
        if row[field] != name or row["kind"] == "score" or (not bundled and row["checkpoint"]):
            continue
        metrics, gain = row["test"]["metrics"], row["test"]["gains"].get("lifter")
        found.append(
            {
                "report": source,
                "row": row["name"],
                "title": f"{row['title']}, {row['group']}",
                "mpjpe": metrics["mpjpe"]["frame_mean"],
                "p_mpjpe": metrics["p_mpjpe"]["frame_mean"],
                "gain": None if gain is None else gain["mpjpe"],
            }
        )
    return found


def format_cards(report: Mapping[str, Any]) -> str:
    """The report as Markdown: one table of costs, then what each was trained on and how good it is."""
    settings = report["settings"]
    return f"""\
# Model cards

{cost_table(report)}

A window of T frames of 17 joints, all K steps and hypotheses; FLOPs by PyTorch's counter; latency in PyTorch, one
window, {settings["threads"]} thread(s), {report["environment"]["processor"]} (larger ones than
{settings["most_flops"] / 1e9:,.0f} GFLOP are not timed). Exported engines: the reports of `refiner-bench engines`.

{score_table(report)}

MPJPE in mm on the test people of each report's archive, frame-wise means; gains with their 95 % intervals over clips.
Configurations that are not in this table have not been trained by us.

{training_notes(report)}

{report["acknowledgement"]}"""


def cost_table(report: Mapping[str, Any]) -> str:
    rows = [
        [
            row["name"],
            "bundled" if row["bundled"] else "configuration",
            row["architecture"],
            str(row["frames"]),
            f"{row['parameters'] / 1e6:.2f}",
            str(row["passes"]),
            f"{row['window_flops'] / 1e9:,.2f}",
            "" if row["median_ms"] is None else f"{row['median_ms']:,.1f}",
        ]
        for row in report["rows"]
    ]
    header = ["model", "what", "network", "T", "parameters M", "passes", "GFLOP a window", "median ms"]
    return markdown_table(header, rows)


def score_table(report: Mapping[str, Any]) -> str:
    rows = [
        [
            row["name"],
            score["title"],
            f"{score['mpjpe']:.1f}",
            f"{score['p_mpjpe']:.1f}",
            gain_text(score["gain"]),
            score["report"],
        ]
        for row in report["rows"]
        for score in row["scores"]
    ]
    header = ["model", "as", "MPJPE", "P-MPJPE", "gain over its lifter, %", "report"]
    return markdown_table(header, rows) if rows else "No accuracy report was given."


def training_notes(report: Mapping[str, Any]) -> str:
    """What the bundled models were trained on, from what their files say."""
    lines = [
        f"- `{row['name']}`: {row['training']['steps']:,} steps ({row['training']['wall_s'] / 60:.0f} minutes) on "
        f"{row['training']['frames']:,} frames of {', '.join(row['training']['people'])} of "
        f"{row['training']['archive']}; {row['training']['validation_mm']:.1f} mm on the validation person."
        for row in report["rows"]
        if row["bundled"]
    ]
    return "\n".join(lines)
