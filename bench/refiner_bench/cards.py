"""``refiner-bench cards``: cost, training data and accuracy of every bundled model and named configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

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
from refiner.reports import Report, new_report
from refiner.training.config import CONFIG_FOLDER
from refiner_bench.flops_torch import count_flops
from refiner_bench.report import JsonObject, gain_text
from refiner_bench.timing import Contestant, interleaved
from refiner_bench.untrained import untrained

NETWORKS = {"lifter": LIFTERS, "refiner": REFINERS}
WARM_UP = 1


@dataclass(frozen=True)
class Score:
    """The accuracy of a model in one row of an accuracy report. The field names are the keys of the JSON report.

    Attributes:
        report: The name of the accuracy report.
        row: The name of its row.
        title: The title and the group of the row.
        mpjpe: MPJPE on the test people in mm.
        p_mpjpe: P-MPJPE on the test people in mm.
        gain: The gain in MPJPE over the lifter as the report has it, or None.
    """

    report: str
    row: str
    title: str
    mpjpe: float
    p_mpjpe: float
    gain: JsonObject | None


@dataclass(frozen=True)
class TrainingFacts:
    """The training of a bundled model, from its checkpoint. The field names are the keys of the JSON report.

    Attributes:
        steps: The number of training steps.
        wall_s: The duration of the training in seconds.
        validation_mm: MPJPE on the validation person in mm.
        archive: The name of the motion archive.
        people: The names of the training people.
        frames: The number of frames of all people.
    """

    steps: int
    wall_s: float
    validation_mm: float
    archive: str
    people: list[str]
    frames: int


@dataclass(frozen=True)
class Card:
    """One model of the report. The field names are the keys of the JSON report.

    Attributes:
        name: The name of the checkpoint or of the configuration.
        bundled: True for a bundled checkpoint, False for a configuration.
        kind: "lifter" or "refiner".
        architecture: The name of the network.
        frames: The frames T of a window.
        parameters: The number of trainable numbers.
        passes: How often the network runs for a window.
        window_flops: The FLOPs of a window, all passes.
        median_ms: The median latency of a window; None for a model that is too large to be timed.
        scores: The accuracy of the model in each accuracy report.
        training: The training of a bundled model; None for a configuration.
    """

    name: str
    bundled: bool
    kind: str
    architecture: str
    frames: int
    parameters: int
    passes: int
    window_flops: int
    median_ms: float | None
    scores: list[Score]
    training: TrainingFacts | None

    def to_json(self) -> dict[str, object]:
        """The row of a JSON report; the row of a configuration has no training."""
        row = dataclasses.asdict(self)
        if self.training is None:
            del row["training"]
        return row


def cards_report(reports: Sequence[tuple[str, JsonObject]], threads: int, rounds: int, most_flops: float) -> Report:
    """Describe every bundled checkpoint, then every named configuration with random weights.

    Args:
        reports: The names and the contents of accuracy reports. Their rows give the accuracy of the models.
        threads: PyTorch's number of threads.
        rounds: The number of timed calls of each model.
        most_flops: A model with more FLOPs a window is counted and not timed.
    """
    report = new_report("cards", {"threads": threads, "rounds": rounds, "most_flops": most_flops})
    report["acknowledgement"] = CMU_ACKNOWLEDGEMENT
    torch.set_num_threads(threads)
    cards = [
        _card(path.stem, load_checkpoint(path), reports, rounds, most_flops, bundled=True)
        for path in sorted(bundled.FOLDER.glob("*.safetensors"))
    ]
    cards += [
        _card(path.stem, untrained(path.stem), reports, rounds, most_flops, bundled=False)
        for path in sorted(CONFIG_FOLDER.glob("*.toml"))
    ]
    report["rows"] = [card.to_json() for card in cards]
    return report


def _card(
    name: str,
    checkpoint: Checkpoint,
    reports: Sequence[tuple[str, JsonObject]],
    rounds: int,
    most_flops: float,
    bundled: bool,
) -> Card:
    config = checkpoint.config
    flops, passes = window_flops(checkpoint)
    return Card(
        name=name,
        bundled=bundled,
        kind=config["kind"],
        architecture=NETWORKS[config["kind"]][config["model"].get("architecture", "default")],
        frames=int(config["frames"]),
        parameters=sum(value.numel() for value in build_model(config).parameters()),
        passes=passes,
        window_flops=flops,
        median_ms=None if flops > most_flops else _median_ms(module_of(checkpoint), rounds),
        scores=[score for title, report in reports for score in _scores(title, report, name, bundled)],
        training=_training(config) if bundled else None,
    )


def _training(config: JsonObject) -> TrainingFacts:
    """The facts about the training from the configuration of a checkpoint."""
    metrics, people = config["metrics"], config["data_description"]
    return TrainingFacts(
        steps=metrics["step"],
        wall_s=metrics["wall_s"],
        validation_mm=metrics["validation"]["mpjpe_mm"],
        archive=people["name"],
        people=people["train"],
        frames=sum(people["frames"].values()),
    )


def window_flops(checkpoint: Checkpoint) -> tuple[int, int]:
    """Count the FLOPs of a window with PyTorch's counter.

    A refiner runs its network K times for a window. A diffusion lifter runs it K x H times for H hypotheses, and twice
    as often if it averages with the mirrored pass. All passes of a diffusion lifter cost the same, so that one of them
    is counted.

    Returns:
        The FLOPs of all passes, and the number of passes.
    """
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
    """One random window as input of ``module``."""
    random = torch.Generator().manual_seed(0)
    pose_2d = 200 + 600 * torch.rand(1, module.frames, 17, 2, generator=random)
    size = torch.tensor([[1000.0, 1000.0]])
    if module.rays:
        # A model of rays takes keypoints with confidences, and a camera (width, height, focal length).
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

    rates = np.array(interleaved({"module": Contestant(1, run)}, rounds, WARM_UP)["module"])
    return float(np.median(1000.0 / rates))


def _scores(source: str, report: JsonObject, name: str, bundled: bool) -> list[Score]:
    """The scores of a bundled model, or of the models that were trained with a configuration, in one report."""
    field = "checkpoint" if bundled else "config"
    scores = []
    for row in report["rows"]:
        if row[field] != name or row["kind"] == "score" or (not bundled and row["checkpoint"]):
            continue
        metrics, gain = row["test"]["metrics"], row["test"]["gains"].get("lifter")
        scores.append(
            Score(
                report=source,
                row=row["name"],
                title=f"{row['title']}, {row['group']}",
                mpjpe=metrics["mpjpe"]["frame_mean"],
                p_mpjpe=metrics["p_mpjpe"]["frame_mean"],
                gain=None if gain is None else gain["mpjpe"],
            )
        )
    return scores


def format_cards(report: JsonObject) -> str:
    """The report as Markdown: a table of costs, a table of accuracies, and the training of the bundled models."""
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


def cost_table(report: JsonObject) -> str:
    """The table of sizes and costs."""
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


def score_table(report: JsonObject) -> str:
    """The table of accuracies."""
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


def training_notes(report: JsonObject) -> str:
    """A list with the training of each bundled model, as its checkpoint describes it."""
    lines = [
        f"- `{row['name']}`: {row['training']['steps']:,} steps ({row['training']['wall_s'] / 60:.0f} minutes) on "
        f"{row['training']['frames']:,} frames of {', '.join(row['training']['people'])} of "
        f"{row['training']['archive']}; {row['training']['validation_mm']:.1f} mm on the validation person."
        for row in report["rows"]
        if row["bundled"]
    ]
    return "\n".join(lines)
