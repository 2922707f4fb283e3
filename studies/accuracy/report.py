"""Makes one report from the scores of a study's rows. The report has only JSON types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from refiner_bench.accuracy.markdown import GAIN_METRICS
from refiner_bench.report import JsonObject

from refiner.evaluation.protocol import METRICS
from refiner.evaluation.selection import acknowledgement_of
from refiner.machine import this_machine
from refiner.reports import STUDY, Report, new_report
from studies.accuracy.earlier import clip_means, earlier_row
from studies.accuracy.gains import Entry, Gathered, ScoresBySeed, gains_of, pooled, results_of, with_gains_over
from studies.accuracy.rows import ModelRow, Row, record_of
from studies.accuracy.runner import PARTS, Runner

# A run is not at its plateau if its validation error still fell by more than this share over the last quarter of its
# training. The decay of the learning rate flattens every curve, so that this finds only the clearest cases.
PLATEAU_SHARE = 0.003


@dataclass(frozen=True)
class Training:
    """The training of a row's checkpoint. The field names are the keys of the JSON report.

    Attributes:
        parameters: The number of the network's parameters.
        steps: Training steps.
        batch: Windows of a step.
        frames: Frames of a window.
        windows: Windows of the whole training.
        wall_s: Seconds.
        machine: The machine; None for a bundled checkpoint that does not name it.
        validation_curve: Pairs of a step and the validation MPJPE in mm.
        plateau: Whether the error had stopped falling (`at_plateau`).
        model: The part of the configuration that describes the network, as in the reports of refiner-evaluate.
    """

    parameters: int
    steps: int
    batch: int
    frames: int
    windows: int
    wall_s: float
    machine: JsonObject | None
    validation_curve: list[list[float]]
    plateau: bool
    model: JsonObject


def report_settings(runner: Runner, seeds: Sequence[int], resamples: int = 10_000) -> Report:
    """The settings of a report: its data and its options.

    Reports can be joined only if they have equal settings, apart from the seeds.

    Args:
        runner: The study and its folder.
        seeds: The seeds.
        resamples: The number of bootstrap samples.
    """
    description = runner.folder.description
    return {
        "archive": runner.spec.archive,
        "validation": list(description.validation),
        "test": list(description.test),
        "seeds": list(seeds),
        "quick": runner.spec.quick,
        "resamples": resamples,
    }


def accuracy_report(runner: Runner, settings: JsonObject, earlier: JsonObject | None = None) -> Report:
    """Make the report of all rows that are trained and scored, in this folder or in an earlier report.

    Args:
        runner: The study and its folder.
        settings: `report_settings`.
        earlier: The earlier report (`load_earlier`), or None.

    Returns:
        The report. ``missing`` names the other rows of the table. ``left_out`` gives the reason for each row of
        ``earlier`` that is not used.
    """
    table, seeds = runner.table, settings["seeds"]
    report = new_report(STUDY, settings)
    report["title"] = table.title
    report["variants"] = {name: asdict(variant) for name, variant in table.variants.items()}
    acknowledgement = acknowledgement_of(report["settings"]["archive"])
    if acknowledgement is not None:
        report["acknowledgement"] = acknowledgement
    here = {row.name: _collect(runner, row, seeds) for row in table.rows}
    reused, left_out = ({}, {}) if earlier is None else _usable_rows(runner, earlier, seeds)
    gathered = Gathered(table, here, reused, settings["resamples"])
    entries = []
    for row in table.rows:
        if here[row.name]:
            entries.append(_entry(runner, row, gathered))
        elif row.name in reused:
            entries.append(with_gains_over(row, gathered))
    report["rows"] = entries
    report["missing"] = [row.name for row in table.rows if not here[row.name] and row.name not in reused]
    report["left_out"] = {name: why for name, why in left_out.items() if not here.get(name)}
    return report


def _usable_rows(runner: Runner, earlier: JsonObject, seeds: Sequence[int]) -> tuple[dict[str, Entry], dict[str, str]]:
    """The usable rows of an earlier report by name, and the reason why each other row is not usable."""
    usable: dict[str, Entry] = {}
    left_out: dict[str, str] = {}
    for entry in earlier["rows"]:
        row = earlier_row(earlier, runner, entry, seeds)
        if isinstance(row, str):
            left_out[entry["name"]] = row
        else:
            usable[entry["name"]] = row
    return usable, left_out


def _collect(runner: Runner, row: Row, seeds: Sequence[int]) -> ScoresBySeed:
    """The stored scores of each seed that were made with the present table and checkpoints."""
    return {seed: scores for seed in seeds if (scores := runner.scores(row, seed)) is not None}


def _entry(runner: Runner, row: Row, gathered: Gathered) -> Entry:
    """The report's entry of a row that was scored in this folder."""
    own = gathered.here[row.name]
    first = next(iter(own.values()))
    training = _training(runner, row, min(own))
    entry: Entry = record_of(row) | {
        "seeds": sorted(own),
        "training": None if training is None else asdict(training),
        "machine": _machine(row, training, gathered),
        "recipe": runner.recipe(row),
        "checkpoints": runner.digests(row, min(own)),
    }
    for index, part in enumerate(PARTS):
        result = pooled(results_of(own, own, index))
        entry[part] = {
            "metrics": {
                metric: {"frame_mean": result.frame_mean(metric), "action_mean": result.action_mean(metric)}
                for metric in METRICS
            },
            "by_seed": {seed: scores[index].result.frame_mean("mpjpe") for seed, scores in own.items()},
            "per_action": {metric: result.per_action(metric) for metric in GAIN_METRICS},
            "distributions": asdict(first[index].distributions),
            "extra": first[index].extra,
            "clips": len(result.clips),
            "frames": sum(score.frames for score in first[index].sequences),
        }
        if part == "test":
            entry[part]["by_clip"] = clip_means(result, GAIN_METRICS)
        entry[part]["gains"] = gains_of(row, gathered, index)
    return entry


def _machine(row: Row, training: Training | None, gathered: Gathered) -> JsonObject | None:
    """The machine on which the row was trained, or on which it was scored if nothing was trained for it.

    The result is None for a bundled checkpoint that does not name its machine. Older runs do not name their machine
    either; a run in this folder then counts as a run of this machine.
    """
    if training is None or row.trained:
        return (None if training is None else training.machine) or this_machine()
    return training.machine or gathered.reused.get(row.name, {}).get("machine")


def _training(runner: Runner, row: Row, seed: int) -> Training | None:
    """The training of the row's checkpoint; None for a row without its own checkpoint."""
    if not isinstance(row, ModelRow):
        return None
    from refiner.model_files.build import build_model
    from refiner.model_files.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(runner.checkpoint(row.name, seed))
    config, metrics = checkpoint.config, checkpoint.config["metrics"]
    curve = metrics["validation_curve"]
    return Training(
        parameters=sum(value.numel() for value in build_model(config).parameters()),
        steps=metrics["step"],
        batch=config["training"]["batch"],
        frames=config["frames"],
        windows=metrics["step"] * config["training"]["batch"],
        wall_s=metrics["wall_s"],
        machine=metrics.get("machine"),
        validation_curve=curve,
        plateau=at_plateau(curve),
        model=_model(config),
    )


def _model(config: JsonObject) -> JsonObject:
    """The part of a configuration that describes the network, as in the reports of refiner-evaluate."""
    model = {name: config[name] for name in ("kind", "model", "frames", "noise", "sampling") if name in config}
    if config["kind"] == "refiner":
        model["diffusion"] = config["diffusion"]
        model["steps"] = config["diffusion"]["steps"]
    if "text" in config:
        model["text"] = {"prompts": config["text"]["prompts"]}
    return model


def at_plateau(curve: Sequence[Sequence[float]]) -> bool:
    """Whether the last quarter of the steps reduced the best validation error by at most `PLATEAU_SHARE`.

    Args:
        curve: Pairs of a step and the validation error. With fewer than four pairs the result is False.
    """
    if len(curve) < 4:
        return False
    last = curve[-1][0]
    before = min(error for step, error in curve if step <= 0.75 * last)
    after = min(error for step, error in curve if step > 0.75 * last)
    return after > before * (1.0 - PLATEAU_SHARE)
