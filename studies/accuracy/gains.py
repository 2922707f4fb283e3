"""Gains of a row, each with its interval: over its lifter, and over other rows that are scored in the same way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from refiner_bench.accuracy.markdown import CONTROLS, GAIN_METRICS
from refiner_bench.accuracy.scores import Scores

from refiner.evaluation.bootstrap import GainInterval, bootstrap_difference
from refiner.evaluation.protocol import METRICS, EvaluationResult, SequenceScore
from refiner.reports import Report
from studies.accuracy.earlier import clip_means, result_of
from studies.accuracy.rows import LifterRow, Row, ScoreRow
from studies.accuracy.runner import PARTS
from studies.accuracy.table import Table

# The row of the published method, and the rows that other rows are compared with.
METHOD = "full"
RIVALS = ("linear", METHOD, *CONTROLS)

# By seed, the scores of every part.
ScoresBySeed = dict[int, list[Scores]]
# A row of a report, and the gains of a row by rival and metric. Both have only JSON types.
Entry = Report
Gains = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Gathered:
    """The content of a report.

    Attributes:
        table: The study.
        here: By row, the scores of this folder's runs.
        reused: By row, the usable entries of an earlier report.
        resamples: The number of bootstrap samples.
    """

    table: Table
    here: Mapping[str, ScoresBySeed]
    reused: Mapping[str, Entry]
    resamples: int


def gains_of(row: Row, gathered: Gathered, index: int) -> Gains:
    """The gains of a row over its lifter and over the rivals that score the same clips in the same way.

    The rivals are the conditional mean alone, the published method, and the controls.

    Args:
        row: The row.
        gathered: The content of the report.
        index: The part of the split, as an index of `PARTS`.
    """
    collected, reused = gathered.here, gathered.reused
    own = collected[row.name]
    known: Gains = {}
    pairs: dict[str, tuple[list[EvaluationResult], list[EvaluationResult]]] = {}
    if not isinstance(row, LifterRow):
        pairs["lifter"] = ([EvaluationResult(own[seed][index].before) for seed in own], results_of(own, own, index))
    for rival in RIVALS:
        name = _scored_like(gathered.table, row, rival)
        if name == row.name:
            continue
        common = [seed for seed in own if seed in collected.get(name, {})]
        if common:
            pairs[rival] = (results_of(collected[name], common, index), results_of(own, common, index))
            continue
        if reused.get(name, {}).get("seeds") != sorted(own):
            continue
        clips = reused[name][PARTS[index]].get("by_clip")
        if clips:
            ours = clip_means(pooled(results_of(own, own, index)), GAIN_METRICS)
            pairs[rival] = ([result_of(clips, GAIN_METRICS)], [result_of(ours, GAIN_METRICS)])
        elif row.name in reused and rival in reused[row.name][PARTS[index]]["gains"]:
            # The earlier report compares the same row, scored with the same checkpoints, with this rival.
            known[rival] = reused[row.name][PARTS[index]]["gains"][rival]
    return known | {
        label: _compared(pooled(before), pooled(after), gathered.resamples) for label, (before, after) in pairs.items()
    }


def with_gains_over(row: Row, gathered: Gathered) -> Entry:
    """The earlier entry of a row, with new gains over the rivals that were scored in this folder.

    The new gains use the means of clips. An entry without these means gets no gains over these rivals.
    """
    entry = gathered.reused[row.name]
    test = dict(entry["test"])
    gains = dict(test["gains"])
    for rival in RIVALS:
        here = gathered.here.get(_scored_like(gathered.table, row, rival))
        if not here:
            continue
        gains.pop(rival, None)
        if test.get("by_clip") and sorted(here) == entry["seeds"]:
            rival_clips = clip_means(pooled(results_of(here, here, PARTS.index("test"))), GAIN_METRICS)
            before, after = (result_of(clips, GAIN_METRICS) for clips in (rival_clips, test["by_clip"]))
            gains[rival] = _compared(before, after, gathered.resamples)
    return {**entry, "test": {**test, "gains": gains}}


def _scored_like(table: Table, row: Row, rival: str) -> str:
    """The name of the row that scores the model of ``rival`` under the conditions of ``row``.

    The conditions are the data, the mirrored pass and the body shape. The result is "" if there is no such row, and if
    the lifter of ``row`` is not the one of the published method.
    """
    names = {other.name: other for other in table.rows}
    if not {rival, METHOD} <= names.keys() or row.lifted_by not in (names[METHOD].lifted_by, *CONTROLS):
        return ""
    alike = [other for other in table.rows if other.conditions == row.conditions]
    if names[rival] in alike:
        return rival
    return next((other.name for other in alike if isinstance(other, ScoreRow) and _scores(other, rival)), "")


def _scores(row: ScoreRow, name: str) -> bool:
    """Whether a row scores the model of another row: its refiner, or the plain poses of its lifter."""
    return row.of == name or (row.method == "none" and row.lifter == name)


def results_of(scores: ScoresBySeed, seeds: Iterable[int], index: int) -> list[EvaluationResult]:
    """The results of seeds on one part of the split; ``index`` is an index of `PARTS`."""
    return [scores[seed][index].result for seed in seeds]


def _compared(before: EvaluationResult, after: EvaluationResult, resamples: int) -> dict[str, dict[str, float]]:
    return {
        metric: _interval(bootstrap_difference(before, after, metric, resamples=resamples)) for metric in GAIN_METRICS
    }


def _interval(gain: GainInterval) -> dict[str, float]:
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
    """Join the results of several seeds: the sums of each sequence are added, so that means are also over seeds."""
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
