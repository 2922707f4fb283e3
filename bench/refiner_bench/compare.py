"""Two reports of the same command, number by number: what got worse, and what the noise cannot tell.

Counts must be equal (sizes of files: within 1 %). Accuracies must agree within what a change of the weights shows
and rounding does not. Ratios to a peer are judged against their intervals: both the smallest change worth a word and
3.5 standard errors must be passed. Times alone are never judged: they are another machine's or another hour's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from refiner.errors import InputError
from refiner.evaluation.tables import markdown_table
from refiner.reports import report_kind
from refiner_bench.measures import Kind, Measure, measures

Verdict = Literal["same", "better", "worse", "not judged", "new", "gone"]

# Engines name the tensors of their files anew.
SIZE_TOLERANCE = 0.01
# In the unit of the metric, mm above all: float32 engines differ by 0.001.
ACCURACY_TOLERANCE = 0.02
RATIO_TOLERANCE = 0.15
STANDARD_ERRORS = 3.5
JUDGED: tuple[Kind, ...] = ("count", "accuracy", "ratio")
# Settings that change how well a thing is measured, not what is.
NOT_DECISIVE = ("rounds", "resamples")
# A 95 % interval reaches this many standard errors to either side.
HALF_INTERVAL = 1.96


@dataclass(frozen=True)
class Change:
    """A measure in two reports; ``before`` or ``after`` is None where one lacks it."""

    name: str
    before: Measure | None
    after: Measure | None
    verdict: Verdict


def compare_reports(
    before: Mapping[str, Any], after: Mapping[str, Any], kinds: Collection[Kind] = JUDGED
) -> list[Change]:
    """The verdict on every measure, in the order of ``after``; those of other ``kinds`` are not judged.

    Raises InputError for reports of two commands, or of different settings.
    """
    commands = report_kind(before), report_kind(after)
    if commands[0] != commands[1]:
        raise InputError(f"a report of {commands[0]} cannot be compared with one of {commands[1]}")
    for name, value in before.get("settings", {}).items():
        other = after.get("settings", {}).get(name)
        if name not in NOT_DECISIVE and other != value:
            raise InputError(f"the reports have different settings, {name} {value} and {other}; measure both alike")
    old = {measure.name: measure for measure in measures(before)}
    new = {measure.name: measure for measure in measures(after)}
    changes = [
        Change(name, old.get(name), measure, judge(old.get(name), measure) if measure.kind in kinds else "not judged")
        for name, measure in new.items()
    ]
    return changes + [Change(name, measure, None, "gone") for name, measure in old.items() if name not in new]


def judge(before: Measure | None, after: Measure) -> Verdict:
    """One measure. A number that is not finite is worse than any other."""
    if before is None:
        return "new"
    if not math.isfinite(after.value):
        return "worse"
    if after.kind == "time":
        return "not judged"
    grown = after.value - before.value
    if after.kind == "count":
        changed = abs(grown) > (SIZE_TOLERANCE * before.value if after.unit == "B" else 0.0)
    elif after.kind == "accuracy":
        changed = abs(grown) > ACCURACY_TOLERANCE
    else:
        changed = _ratio_changed(before, after)
    if not changed:
        return "same"
    return "better" if (grown < 0) == (after.better == "lower") else "worse"


def _ratio_changed(before: Measure, after: Measure) -> bool:
    change = abs(math.log(after.value / before.value))
    error = math.hypot(_log_error(before), _log_error(after))
    return change > math.log1p(RATIO_TOLERANCE) and change > STANDARD_ERRORS * error


def _log_error(measure: Measure) -> float:
    """The standard error of the logarithm, from the interval."""
    assert measure.low is not None and measure.high is not None
    return math.log(measure.high / measure.low) / (2 * HALF_INTERVAL)


def regressions(changes: Sequence[Change]) -> list[Change]:
    """What must stop a change: what got worse, and what is no longer measured."""
    return [change for change in changes if change.verdict in ("worse", "gone")]


def format_comparison(changes: Sequence[Change], everything: bool = False) -> str:
    """Markdown: what changed (or every measure), and how many did not."""
    shown = [change for change in changes if everything or change.verdict not in ("same", "not judged")]
    counts = {verdict: sum(change.verdict == verdict for change in changes) for verdict in dict.fromkeys(VERDICTS)}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    lines = [f"{len(changes)} measures: {told}."]
    if shown:
        rows = [[change.verdict, change.name, _number(change.before), _number(change.after)] for change in shown]
        lines += ["", markdown_table(["verdict", "measure", "before", "after"], rows)]
    return "\n".join(lines)


VERDICTS: tuple[Verdict, ...] = ("worse", "gone", "better", "new", "same", "not judged")


def _number(measure: Measure | None) -> str:
    if measure is None:
        return ""
    text = f"{measure.value:,}" if isinstance(measure.value, int) else f"{measure.value:.4g}"
    if measure.low is not None:
        text += f" ({measure.low:.3g} to {measure.high:.3g})"
    return f"{text} {measure.unit}".strip()
