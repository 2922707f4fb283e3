"""``refiner-bench page``: all reports as one HTML page, which needs no network and no other file."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from refiner import __version__
from refiner.errors import InputError, MissingComponentError
from refiner.evaluation.tables import markdown_table
from refiner.reports import EVALUATION, EVALUATION_3DHP, PUBLISHED, STUDY, SUITE, Report, report_kind
from refiner_bench.headlines import headline_of, results_first
from refiner_bench.measures import read_measured
from refiner_bench.report import JsonObject

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --paper: #fff; --line: #d5dae2; --soft: #f3f5f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --paper: #14181f; --line: #353c48; --soft: #1d232c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
       max-width: 72rem; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid var(--line);
       padding-top: 1.5rem; } h3 { font-size: 1.05rem; }
pre { overflow-x: auto; } .table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { background: var(--soft); }
figure { margin: 1rem 0; background: #fff; border-radius: .4rem; overflow-x: auto; }
figure svg, figure img { width: 100%; min-width: 34rem; height: auto; display: block; }
body { overflow-wrap: anywhere; } .results { font-size: 1.05rem; padding-left: 1.2rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; } .facts { color: #6b7585; font-size: .85rem; }
"""


def reports_of(paths: Sequence[Path]) -> list[tuple[str, Report]]:
    """Read reports.

    Args:
        paths: Files, and folders of reports. JSON files in a folder that are no reports are ignored.

    Returns:
        The name and the content of each report.

    Raises:
        InputError: A file is no report, or there is no report at all.
    """
    reports = []
    for path in paths:
        if not path.is_dir():
            reports.append((path.stem, read_measured(path)))
            continue
        for file in sorted(path.glob("*.json")):
            try:
                reports.append((file.stem, read_measured(file)))
            except InputError:
                continue
    if not reports:
        raise InputError(f"no report among {', '.join(map(str, paths))}; refiner-bench ... --json FILE writes one")
    return reports


def page_of(reports: Sequence[tuple[str, JsonObject]]) -> str:
    """The HTML page with the text and the plots of every report. The main results come first.

    Raises:
        MissingComponentError: matplotlib or Markdown (the extra ``report``) is not installed.
    """
    from refiner_bench.page_plots import plots_of

    sections, results = [], []
    reports = results_first(reports)
    for name, report in reports:
        headline = headline_of(report)
        if headline is not None:
            results.append(
                f'<li><a href="#{html.escape(name)}">{html.escape(name)}</a>: {html.escape(headline)} '
                f'<span class="facts">{_facts(report)}</span></li>'
            )
        figures = "".join(
            f'<figure role="img" aria-label="{html.escape(title)}">{picture}</figure>'
            for title, picture in plots_of(report)
        )
        body = _html_of(_text_of(report))
        sections.append(
            f'<section id="{html.escape(name)}"><h2>{html.escape(name)}</h2><p class="facts">{_facts(report)}</p>'
            f"{figures}{body}</section>"
        )
    links = "".join(f'<a href="#{html.escape(name)}">{html.escape(name)}</a>' for name, _ in reports)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>refiner: benchmarks</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>refiner {__version__}: benchmarks</h1>\n"
        + (f'<ul class="results">{"".join(results)}</ul>\n' if results else "")
        + f"<nav>{links}</nav>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _facts(report: JsonObject) -> str:
    """The line below the title of a report: the machine and the versions, or for an evaluation its data."""
    machine = report.get("environment")
    if report_kind(report) == SUITE:
        return html.escape(f"{report['datetime']}, {report['machine_info']['cpu'].get('brand_raw', '')}")
    if machine is None:
        return html.escape(str(report.get("data", {}).get("description", "")))
    facts = [f"{name} {value}" for name, value in machine.items() if value is not None]
    return html.escape(", ".join([str(report.get("created", "")), *facts]))


def _text_of(report: JsonObject) -> str:
    """The Markdown that the report's own command prints."""
    kind = report_kind(report)
    if kind == SUITE:
        return _suite_table(report)
    module, function = _WRITERS[kind]
    # Imported here because some of these modules import PyTorch.
    text: str = getattr(import_module(module), function)(dict(report))
    # Markdown joins the lines of plain text, unless they are indented.
    return textwrap.indent(text, "    ", lambda line: True) if kind in PLAIN_TEXT else text


def _html_of(text: str) -> str:
    try:
        import markdown
    except ModuleNotFoundError as error:
        raise MissingComponentError("the page needs Markdown: pip install 'pose-refiner[report]'") from error
    # Names of machines and files may look like markup. Escaping shows them as they are.
    body: str = markdown.markdown(html.escape(text, quote=False), extensions=["tables"], output_format="html")
    # The headings of a report are two levels below those of the page. Each wide table gets its own scroll bar.
    for level in (3, 2, 1):
        body = body.replace(f"<h{level}>", f"<h{level + 2}>").replace(f"</h{level}>", f"</h{level + 2}>")
    return body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")


def _suite_table(report: JsonObject) -> str:
    rows = [
        [
            entry["group"] or "",
            entry["name"],
            *(f"{1e6 * entry['stats'][name]:,.1f}" for name in ("min", "median", "max")),
            str(entry["stats"]["rounds"]),
        ]
        for entry in report["benchmarks"]
    ]
    return markdown_table(["group", "benchmark", "least us", "median us", "most us", "rounds"], rows)


def _format_evaluation(report: JsonObject) -> str:
    from refiner.evaluation.report import format_report

    return format_report(report, markdown=True)


def _format_3dhp(report: JsonObject) -> str:
    from refiner.evaluation.mpi_inf_3dhp import format_3dhp, results_of_report

    return format_3dhp(results_of_report(report), markdown=True)


# The module and the function that format a report, by the kind of the report.
_WRITERS = {
    "flops": ("refiner_bench.flops", "format_flops"),
    "lifters": ("refiner_bench.lifters", "format_lifters"),
    "cards": ("refiner_bench.cards", "format_cards"),
    "sweep": ("refiner_bench.sweep", "format_sweep"),
    "engines": ("refiner_bench.engines", "format_engines"),
    "steps": ("refiner_bench.steps", "format_steps"),
    "profile-native": ("refiner_bench.profile_native", "format_profile"),
    "busy": ("refiner_bench.busy", "format_busy"),
    "native": ("refiner_bench.native_kernels", "format_native"),
    "train-step": ("refiner_bench.train_step", "format_train_step"),
    "distributed": ("refiner_bench.distributed", "format_distributed"),
    STUDY: ("refiner_bench.accuracy.markdown", "format_accuracy"),
    "streaming": ("refiner_bench.streaming.format", "format_streaming"),
    "serve": ("refiner_bench.serving.format", "format_serve"),
    "real": ("refiner_bench.real.report", "format_real"),
    "trajectory": ("refiner_bench.trajectory.format", "format_trajectory"),
    "archive": ("refiner_bench.archive.format", "format_archive"),
    EVALUATION: (__name__, "_format_evaluation"),
    EVALUATION_3DHP: (__name__, "_format_3dhp"),
    PUBLISHED: ("refiner_bench.published", "format_published"),
}
PLAIN_TEXT = ("train-step",)
