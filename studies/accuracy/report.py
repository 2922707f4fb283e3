"""From the scores of a study's rows to one report, of JSON types alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from refiner_bench.accuracy.markdown import CONTROLS, GAIN_METRICS
from refiner_bench.accuracy.scores import Scores

from refiner.evaluation.bootstrap import bootstrap_difference
from refiner.evaluation.protocol import METRICS, EvaluationResult, SequenceScore
from refiner.evaluation.selection import acknowledgement_of
from refiner.machine import this_machine
from refiner.reports import STUDY, new_report
from studies.accuracy.earlier import clip_means, earlier_row, result_of
from studies.accuracy.study import PARTS, Runner
from studies.accuracy.table import Row, Table

# A run whose validation error still fell by more than this over the last quarter of its training is not at its
# plateau. The learning rate's decay flattens every curve, so that this names only the clearest cases.
PLATEAU_SHARE = 0.003
METHOD = "full"
RIVALS = ("linear", METHOD, *CONTROLS)


def report_settings(runner: Runner, seeds: Sequence[int], resamples: int = 10_000) -> dict[str, Any]:
    """What is scored: reports with other settings than these, seeds aside, are of something else."""
    description = runner.folder.description
    return {
        "archive": runner.spec.archive,
        "validation": list(description.validation),
        "test": list(description.test),
        "seeds": list(seeds),
        "quick": runner.spec.quick,
        "resamples": resamples,
    }


def accuracy_report(
    runner: Runner, settings: dict[str, Any], earlier: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The report of every row that is trained and scored, here or in the report ``earlier`` (`load_earlier`); the
    others are named under ``missing``, those of ``earlier`` that do not count with the reason under ``left_out``."""
    table, seeds, resamples = runner.table, settings["seeds"], settings["resamples"]
    report = new_report(STUDY, settings)
    report["title"] = table.title
    report["variants"] = {name: asdict(variant) for name, variant in table.variants.items()}
    thanks = acknowledgement_of(report["settings"]["archive"])
    if thanks is not None:
        report["acknowledgement"] = thanks
    collected = {row.name: _collect(runner, row, seeds) for row in table.rows}
    taken, left_out = ({}, {}) if earlier is None else _taken(runner, earlier, seeds)
    entries = []
    for row in table.rows:
        if collected[row.name]:
            entries.append(_row(runner, row, collected, taken, resamples))
        elif row.name in taken:
            entries.append(_with_gains_over(taken[row.name], table, row, collected, resamples))
    report["rows"] = entries
    report["missing"] = [row.name for row in table.rows if not collected[row.name] and row.name not in taken]
    report["left_out"] = {name: why for name, why in left_out.items() if not collected.get(name)}
    return report


def _taken(
    runner: Runner, earlier: Mapping[str, Any], seeds: Sequence[int]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The rows of an earlier report by name, and why others of it do not count."""
    taken: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    for entry in earlier["rows"]:
        found = earlier_row(earlier, runner, entry, seeds)
        if isinstance(found, str):
            left_out[entry["name"]] = found
        else:
            taken[entry["name"]] = found
    return taken, left_out


def _collect(runner: Runner, row: Row, seeds: Sequence[int]) -> dict[int, list[Scores]]:
    """seed -> scores, of the seeds that are there and fit the table and the checkpoints that are there."""
    return {seed: scores for seed in seeds if (scores := runner.scores(row, seed)) is not None}


def _row(
    runner: Runner,
    row: Row,
    collected: Mapping[str, dict[int, list[Scores]]],
    taken: Mapping[str, dict[str, Any]],
    resamples: int,
) -> dict[str, Any]:
    own = collected[row.name]
    training = _training(runner, row, min(own))
    entry: dict[str, Any] = asdict(row) | {
        "seeds": sorted(own),
        "training": training,
        "machine": _machine(row, training, taken),
        "recipe": runner.recipe(row),
        "checkpoints": runner.digests(row, min(own)),
    }
    for index, part in enumerate(PARTS):
        result = pooled(_results(own, own, index))
        entry[part] = {
            "metrics": {
                metric: {"frame_mean": result.frame_mean(metric), "action_mean": result.action_mean(metric)}
                for metric in METRICS
            },
            "by_seed": {seed: scores[index].result.frame_mean("mpjpe") for seed, scores in own.items()},
            "per_action": {metric: result.per_action(metric) for metric in GAIN_METRICS},
            "distributions": asdict(next(iter(own.values()))[index].distributions),
            "extra": next(iter(own.values()))[index].extra,
            "clips": len(result.clips),
            "frames": sum(score.frames for score in next(iter(own.values()))[index].sequences),
        }
        if part == "test":
            entry[part]["by_clip"] = clip_means(result, GAIN_METRICS)
        entry[part]["gains"] = _gains(runner.table, row, collected, taken, index, resamples)
    return entry


def _machine(
    row: Row, training: Mapping[str, Any] | None, taken: Mapping[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """Where the row was trained, or scored if nothing was trained for it; None for a bundled checkpoint that does not
    say. A run of this folder that does not say (of before runs did) counts as this machine's."""
    if training is None or row.trained:
        return (training or {}).get("machine") or this_machine()
    return training.get("machine") or taken.get(row.name, {}).get("machine")


def _gains(
    table: Table,
    row: Row,
    collected: Mapping[str, dict[int, list[Scores]]],
    taken: Mapping[str, dict[str, Any]],
    index: int,
    resamples: int,
) -> dict[str, Any]:
    """Against the row's lifter, and against the rows that matter where they score the same clips in the same way: the
    conditional mean alone, the published method, the controls."""
    own = collected[row.name]
    known: dict[str, Any] = {}
    pairs: dict[str, tuple[list[EvaluationResult], list[EvaluationResult]]] = {}
    if row.kind != "lifter":
        pairs["lifter"] = ([EvaluationResult(own[seed][index].before) for seed in own], _results(own, own, index))
    for rival in RIVALS:
        name = _scored_like(table, row, rival)
        if name == row.name:
            continue
        common = [seed for seed in own if seed in collected.get(name, {})]
        if common:
            pairs[rival] = (_results(collected[name], common, index), _results(own, common, index))
            continue
        if taken.get(name, {}).get("seeds") != sorted(own):
            continue
        clips = taken[name][PARTS[index]].get("by_clip")
        if clips:
            ours = clip_means(pooled(_results(own, own, index)), GAIN_METRICS)
            pairs[rival] = ([result_of(clips, GAIN_METRICS)], [result_of(ours, GAIN_METRICS)])
        elif row.name in taken and rival in taken[row.name][PARTS[index]]["gains"]:
            # The same row, scored with the same checkpoints, was held against it there.
            known[rival] = taken[row.name][PARTS[index]]["gains"][rival]
    return known | {
        label: _compared(pooled(before), pooled(after), resamples) for label, (before, after) in pairs.items()
    }


def _with_gains_over(
    entry: dict[str, Any],
    table: Table,
    row: Row,
    collected: Mapping[str, dict[int, list[Scores]]],
    resamples: int,
) -> dict[str, Any]:
    """An earlier row, its gains over rivals that are here instead of over those that were there: from the means of
    clips where it has them, else none."""
    test = dict(entry["test"])
    gains = dict(test["gains"])
    for rival in RIVALS:
        here = collected.get(_scored_like(table, row, rival))
        if not here:
            continue
        gains.pop(rival, None)
        if test.get("by_clip") and sorted(here) == entry["seeds"]:
            theirs = clip_means(pooled(_results(here, here, PARTS.index("test"))), GAIN_METRICS)
            before, after = (result_of(clips, GAIN_METRICS) for clips in (theirs, test["by_clip"]))
            gains[rival] = _compared(before, after, resamples)
    return {**entry, "test": {**test, "gains": gains}}


def _scored_like(table: Table, row: Row, rival: str) -> str:
    """The row of ``rival`` that is scored as ``row`` is: on its data, with its mirrored pass and its body shape; "" for
    none, as for a row over another lifter than the published method's."""
    names = {other.name: other for other in table.rows}
    if not {rival, METHOD} <= names.keys() or (row.lifter or row.name) not in (names[METHOD].lifter, *CONTROLS):
        return ""

    def way(scored: Row) -> tuple[Any, ...]:
        return scored.data, scored.flip_test, scored.pool_shape, scored.shape_of, scored.smooth

    alike = [other for other in table.rows if way(other) == way(row)]
    if names[rival] in alike:
        return rival
    of_it = (other.name for other in alike if other.of == rival or (other.method == "none" and other.lifter == rival))
    return next(of_it, "")


def _results(scores: Mapping[int, list[Scores]], seeds: Iterable[int], index: int) -> list[EvaluationResult]:
    return [scores[seed][index].result for seed in seeds]


def _compared(before: EvaluationResult, after: EvaluationResult, resamples: int) -> dict[str, Any]:
    return {
        metric: _interval(bootstrap_difference(before, after, metric, resamples=resamples)) for metric in GAIN_METRICS
    }


def _interval(gain: Any) -> dict[str, Any]:
    return {
        "percent": gain.gain_percent,
        "low": gain.gain_percent_low,
        "high": gain.gain_percent_high,
        "difference": gain.difference,
        "difference_low": gain.difference_low,
        "difference_high": gain.difference_high,
        "excludes_zero": gain.excludes_zero,
    }


def pooled(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """Several seeds as one: the sums of each sequence are added, so that means are means over seeds too."""
    merged: dict[tuple[str, str, str], SequenceScore] = {}
    for result in results:
        for score in result.sequences:
            before = merged.get(score.identity)
            if before is None:
                merged[score.identity] = score
                continue
            merged[score.identity] = SequenceScore(
                score.name,
                score.subject,
                score.action,
                score.camera,
                before.frames + score.frames,
                {metric: before.sums[metric] + score.sums[metric] for metric in METRICS},
                {metric: before.counts[metric] + score.counts[metric] for metric in METRICS},
            )
    return EvaluationResult(tuple(merged.values()))


def _training(runner: Runner, row: Row, seed: int) -> dict[str, Any] | None:
    """Budget and curve of the row's checkpoint; None for a row that scores another's."""
    if row.kind == "score":
        return None
    from refiner.training.checkpoints import build_model, load_checkpoint

    checkpoint = load_checkpoint(runner.checkpoint(row.name, seed))
    config, metrics = checkpoint.config, checkpoint.config["metrics"]
    curve = metrics["validation_curve"]
    return {
        "parameters": sum(value.numel() for value in build_model(config).parameters()),
        "steps": metrics["step"],
        "batch": config["training"]["batch"],
        "frames": config["frames"],
        "windows": metrics["step"] * config["training"]["batch"],
        "wall_s": metrics["wall_s"],
        "machine": metrics.get("machine"),
        "validation_curve": curve,
        "plateau": at_plateau(curve),
        "model": _model(config),
    }


def _model(config: Mapping[str, Any]) -> dict[str, Any]:
    """What says which network it is, as in the reports of refiner-evaluate."""
    kept = {name: config[name] for name in ("kind", "model", "frames", "noise", "sampling") if name in config}
    if config["kind"] == "refiner":
        kept["diffusion"] = config["diffusion"]
        kept["steps"] = config["diffusion"]["steps"]
    if "text" in config:
        kept["text"] = {"prompts": config["text"]["prompts"]}
    return kept


def at_plateau(curve: Sequence[Sequence[float]]) -> bool:
    """Whether the last quarter of the steps brought the best validation error down by 0.3 % or less."""
    if len(curve) < 4:
        return False
    last = curve[-1][0]
    before = min(error for step, error in curve if step <= 0.75 * last)
    after = min(error for step, error in curve if step > 0.75 * last)
    return after > before * (1.0 - PLATEAU_SHARE)
