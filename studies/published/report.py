"""The report of the comparisons. `refiner_bench.published` formats it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from refiner.reports import PUBLISHED, Report, new_report, without_nan
from studies.published.comparison import TOLERANCE, Comparison


def build_report(comparisons: Iterable[Comparison], commits: Mapping[str, str], seed: int) -> Report:
    """Build the report.

    Args:
        comparisons: The results.
        commits: The commit of each checkout, by repository.
        seed: The seed of weights and inputs.
    """
    rows = without_nan([comparison.row() for comparison in comparisons])
    report = new_report(PUBLISHED, {"seed": seed, "tolerance": TOLERANCE})
    return report | {"commits": dict(commits), "rows": rows}


def unexpected(report: Mapping[str, Any]) -> list[str]:
    """The comparisons that came out otherwise than they should."""
    return [f"{row['group']}, {row['name']}" for row in report["rows"] if row["agrees"] == bool(row["finding"])]
