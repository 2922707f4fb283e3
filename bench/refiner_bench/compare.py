"""Compare two reports of the same command, number by number, to find regressions.

Counts must be equal, and sizes of files must agree within 1 %. Accuracies may differ by a tolerance that is above
rounding and below the effect of other weights. A ratio to a peer has changed if the change is both above a tolerance
and above 3.5 standard errors. Times are not judged, because they depend on the machine and on its other load.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from refiner.errors import InputError
from refiner.evaluation.tables import markdown_table
from refiner.reports import report_kind
from refiner_bench.measures import Kind, Measure, measures
from refiner_bench.report import JsonObject

Verdict = Literal["same", "better", "worse", "not judged", "new", "gone"]

# The size of an exported file changes a little with each export, because engines rename its tensors.
SIZE_TOLERANCE = 0.01
# In the unit of the metric, mostly mm. Float32 engines differ by 0.001 mm.
ACCURACY_TOLERANCE = 0.02
RATIO_TOLERANCE = 0.15
STANDARD_ERRORS = 3.5
JUDGED: tuple[Kind, ...] = ("count", "accuracy", "ratio")
# Settings that change the precision of a measurement and not its subject. They may differ.
NOT_DECISIVE = ("rounds", "resamples")
# A 95 % interval reaches this many standard errors to either side.
HALF_INTERVAL = 1.96


@dataclass(frozen=True)
class Change:
    """A measure in two reports; ``before`` or ``after`` is None if that report lacks it."""

    name: str
    before: Measure | None
    after: Measure | None
    verdict: Verdict


def compare_reports(before: JsonObject, after: JsonObject, kinds: Collection[Kind] = JUDGED) -> list[Change]:
    """Compare all measures of two reports.

    Args:
        before: The older report.
        after: The newer report.
        kinds: The kinds of measures to judge; the others get the verdict "not judged".

    Returns:
        The changes in the order of ``after``, then the measures that ``after`` lacks.

    Raises:
        InputError: The reports are of different commands or have different settings.
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
    """The verdict on one measure. A number that is not finite is worse than any other."""
    if before is None:
        return "new"
    if not math.isfinite(after.value):
        return "worse"
    if after.kind == "time":
        return "not judged"
    difference = after.value - before.value
    if after.kind == "count":
        changed = abs(difference) > (SIZE_TOLERANCE * before.value if after.unit == "B" else 0.0)
    elif after.kind == "accuracy":
        changed = abs(difference) > ACCURACY_TOLERANCE
    else:
        changed = _ratio_changed(before, after)
    if not changed:
        return "same"
    return "better" if (difference < 0) == (after.better == "lower") else "worse"


def _ratio_changed(before: Measure, after: Measure) -> bool:
    change = abs(math.log(after.value / before.value))
    error = math.hypot(_log_error(before), _log_error(after))
    return change > math.log1p(RATIO_TOLERANCE) and change > STANDARD_ERRORS * error


def _log_error(measure: Measure) -> float:
    """The standard error of the logarithm of a ratio, computed from its interval."""
    assert measure.low is not None and measure.high is not None
    return math.log(measure.high / measure.low) / (2 * HALF_INTERVAL)


def regressions(changes: Sequence[Change]) -> list[Change]:
    """The regressions: measures that got worse, and measures that the newer report lacks."""
    return [change for change in changes if change.verdict in ("worse", "gone")]


def format_comparison(changes: Sequence[Change], everything: bool = False) -> str:
    """The changes as Markdown: the number of each verdict, and a table.

    Args:
        changes: The result of `compare_reports`.
        everything: Show every measure; otherwise only measures that changed.
    """
    shown = [change for change in changes if everything or change.verdict not in ("same", "not judged")]
    counts = {verdict: sum(change.verdict == verdict for change in changes) for verdict in dict.fromkeys(VERDICTS)}
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    lines = [f"{len(changes)} measures: {summary}."]
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
