"""``refiner-bench readme``: writes the tables of the README from reports.

A table is in a block from ``<!-- figures KIND PATTERN -->`` to ``<!-- end -->``. PATTERN is the path of a report,
relative to the README's folder. It may be a glob, so that a new report of another machine gets into the table without
a change of the README.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from refiner.errors import InputError
from refiner.evaluation.paper_tables import TITLES, format_paper_table, paper_table
from refiner.evaluation.study_rows import rows_as_reports
from refiner.evaluation.tables import markdown_table
from refiner.reports import EVALUATION_3DHP, PUBLISHED, report_kind
from refiner_bench.measures import read_measured
from refiner_bench.report import gain_text

BLOCK = re.compile(r"(?P<head><!-- figures (?P<kind>\S+) (?P<pattern>\S+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
METRICS = ("mpjpe", "p_mpjpe", "acceleration_error")
UNITS = {"mpjpe": "MPJPE, mm", "p_mpjpe": "P-MPJPE, mm", "acceleration_error": "acceleration error, mm/frame^2"}
COLUMNS = {"lifter": "lifter", "linear mean": "minus the linear conditional mean (eq. 5)", "refined": "refined"}
# Rows of the accuracy study that the README compares, with their titles.
STUDY_ROWS = {
    "lifter": "the lifter",
    "single-lifter": "control: one larger lifter",
    "lifter-recombined": "control: the lifter, taught further on recombined motion",
    "bundled": "lifter and refiner",
}
# Endings of the names of further rows, which need no training: one body shape per clip; the mirrored pass in addition;
# and one body shape per person, from all clips of that person, instead of one per clip.
BESIDES = {
    "-one-shape": "with one body shape a clip",
    "-at-its-best": "and the mirrored pass",
    "-one-person": "the mirrored pass and one body shape a person",
}
# The tables of `refiner_bench.archive.format`.
ARCHIVE_TABLES = ("local", "bytes", "memory", "ray", "estimate", "lifters")
# The group of its rows on inputs that the refiner was not trained on.
TRANSFER = "Transfer"

Reports = Sequence[tuple[str, Mapping[str, Any]]]


def with_figures(text: str, folder: Path) -> str:
    """Write every block of a page again from the reports below ``folder``.

    Args:
        text: The page.
        folder: The folder of the page.

    Returns:
        The page with new tables.

    Raises:
        InputError: The kind of a block is unknown, a pattern matches no report or a report of another kind, or the page
            has no block.
    """
    if BLOCK.search(text) is None:
        raise InputError("no '<!-- figures KIND REPORT -->' ... '<!-- end -->' in this file")
    return BLOCK.sub(lambda block: _block(block, folder), text)


def _block(block: re.Match[str], folder: Path) -> str:
    kind, pattern = block["kind"], block["pattern"]
    if kind not in _TABLES:
        raise InputError(f"no table of {kind!r}; expected one of {', '.join(_TABLES)}")
    wanted, table = _TABLES[kind]
    reports = [(_seen_from(folder, path), read_measured(path)) for path in sorted(folder.glob(pattern))]
    if not reports:
        raise InputError(f"{pattern} names no report in {folder}")
    for name, report in reports:
        if report_kind(report) != wanted:
            raise InputError(f"{name} is a report of {report_kind(report)}, not of {wanted}")
    return f"{block['head']}\n{table(reports)}\n\n{block['end']}"


def _seen_from(folder: Path, path: Path) -> str:
    """A report's path for links of a page in ``folder``. The reports need not be below this folder."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _one(reports: Reports) -> Mapping[str, Any]:
    if len(reports) > 1:
        raise InputError(f"this table takes one report, not {', '.join(name for name, _ in reports)}")
    return reports[0][1]


def _told_gains(report: Mapping[str, Any]) -> dict[str, str]:
    """The gain of the refiner over the lifter with its interval, by metric."""

    def told(gain: Mapping[str, Any]) -> str:
        return f"{gain['gain_percent']:.1f} % ({gain['gain_percent_low']:.1f} to {gain['gain_percent_high']:.1f})"

    return {
        gain["metric"]: told(gain) for gain in report["gains"] if (gain["from"], gain["to"]) == ("lifter", "refined")
    }


def _evaluation(reports: Reports) -> str:
    report = _one(reports)
    gains = _told_gains(report)
    # A refiner of rays has no linear column, because the linear mean takes image coordinates.
    titles = {name: title for name, title in COLUMNS.items() if name in report["metrics"]["mpjpe"]["frame_mean"]}
    rows = []
    for metric in METRICS:
        means = report["metrics"][metric]["frame_mean"]
        digits = 2 if metric == "acceleration_error" else 1
        rows.append([UNITS[metric], *(f"{means[column]:.{digits}f}" for column in titles), gains[metric]])
    header = ["frame-wise mean", *titles.values()]
    return markdown_table([*header, "gain over the lifter, 95 % interval over clips"], rows)


def _estimators(reports: Reports) -> str:
    """What one refiner does to several estimators: a report of `refiner-evaluate` for each."""
    if len({report["models"]["refiner"]["sha256"] for _, report in reports}) > 1:
        raise InputError("these reports are of several refiners: " + ", ".join(name for name, _ in reports))
    return _by_estimator(reports)


def _left_out(reports: Reports) -> str:
    """What refiners do to an estimator that each of them never saw: a report of `refiner-evaluate` for each pair."""
    return _by_estimator(reports, with_refiner=True)


def _by_estimator(reports: Reports, with_refiner: bool = False) -> str:
    if len({report["data"]["description"] for _, report in reports}) > 1:
        raise InputError("these reports are on several data: " + ", ".join(name for name, _ in reports))
    rows = []
    for _, report in reports:
        gains = _told_gains(report)
        means = [report["metrics"][metric]["frame_mean"] for metric in METRICS[:2]]
        cells = [f"{mean[column]:.1f}" for mean in means for column in ("lifter", "refined")]
        told = [gains[metric] for metric in METRICS]
        models = [f"`{Path(report['models'][model]['file']).stem}`" for model in ("lifter", "refiner")]
        rows.append([*models[: 1 + with_refiner], *cells[:2], told[0], *cells[2:], *told[1:]])
    header = ["estimator", *(["refiner"] if with_refiner else []), "MPJPE", "refined", "gain, 95 % interval over clips"]
    return markdown_table([*header, "P-MPJPE", "refined", "gain", "acceleration error, gain"], rows)


def _mpi_inf_3dhp(reports: Reports) -> str:
    """The scores of each sequence by pair of models: a report of `refiner-evaluate --mpi-inf-3dhp` for each pair."""
    if len({report["annotation"] for _, report in reports}) > 1:
        raise InputError("these reports have different annotations: " + ", ".join(name for name, _ in reports))
    rows = []
    for name, report in reports:
        models = [f"`{Path(report['models'][role]['file']).stem}`" for role in ("lifter", "refiner")]
        lens = " (guessed lens)" if report["settings"].get("focal_length") == "guess" else ""
        lifted, refined = ([*report["columns"][label]["sequences"]] for label in ("lifter", "refined"))
        for before, after in zip(lifted, refined, strict=True):
            scores = [f"{column[key]:.1f}" for key in ("mpjpe_mm", "pck", "auc") for column in (before, after)]
            rows.append([f"[{models[0]}]({name}){lens}", models[1], before["name"], *scores])
    metrics = [title for metric in ("MPJPE, mm", "PCK, %", "AUC, %") for title in (metric, "refined")]
    return markdown_table(["lifter", "refiner", "sequence", *metrics], rows)


def _published(reports: Reports) -> str:
    """How many comparisons with the authors' modules agree, and how closely."""
    from refiner_bench.published import summary_table

    return summary_table(_one(reports))


def _study(reports: Reports) -> str:
    metrics = {row["name"]: row["test"]["metrics"] for row in _one(reports)["rows"]}
    rows = []
    for name, title in STUDY_ROWS.items():
        if name not in metrics:
            raise InputError(f"the study has no row {name!r}")
        cells = [_mean(metrics[name], metric) for metric in METRICS]
        for ending in BESIDES:
            variant = metrics.get(name + ending)
            cells += ["", ""] if variant is None else [_mean(variant, metric) for metric in METRICS[:2]]
        rows.append([title, *cells])
    header = ["test people, frame-wise mean", "MPJPE", "P-MPJPE", "acceleration error"]
    for words in BESIDES.values():
        header += [f"{words}: MPJPE", "P-MPJPE"]
    return markdown_table(header, rows)


def _transfer(reports: Reports) -> str:
    """The effect of the study's refiner on inputs that it was not trained on."""
    rows = []
    for row in _one(reports)["rows"]:
        if row["group"] != TRANSFER or row["kind"] != "score":
            continue
        gains, input_shift = row["test"]["gains"]["lifter"], row["test"]["extra"].get("input")
        cells = [_mean(row["test"]["metrics"], "mpjpe"), *(gain_text(gains[metric]) for metric in METRICS)]
        rows.append(
            [row["title"], *cells, "" if input_shift is None else f"{100 * input_shift['unusual_share']:.0f} %"]
        )
    if not rows:
        raise InputError(f"the study has no row of {TRANSFER!r}")
    header = ["input, test people", "refined MPJPE, mm", "gain over the lifter, %: MPJPE", "P-MPJPE", "acceleration"]
    return markdown_table([*header, "unusual frames"], rows)


def _runs(reports: Reports) -> str:
    """Every row of a table of runs; for a refiner with its gain over the lifter."""
    rows = []
    for row in _one(reports)["rows"]:
        gain = row["test"]["gains"].get("lifter")
        cells = [_mean(row["test"]["metrics"], metric) for metric in METRICS]
        gained = "" if gain is None else gain_text(gain["mpjpe"], " %")
        trained = "" if row["training"] is None else f"{row['training']['steps']:,}"
        rows.append([row["group"], row["title"], trained, *cells, gained])
    header = ["data", "test people, frame-wise mean", "steps", "MPJPE", "P-MPJPE", "acceleration error"]
    return markdown_table([*header, "gain over its lifter, 95 % interval over clips"], rows)


def _mean(metrics: Mapping[str, Any], metric: str) -> str:
    return f"{metrics[metric]['frame_mean']:.{2 if metric == 'acceleration_error' else 1}f}"


def _flops(reports: Reports) -> str:
    rows = [
        [
            str(row["depth"]),
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['token_paper_reading'] / 1e6:.2f}",
            "" if row["paper_table_iv"] is None else f"{row['paper_table_iv'] / 1e6:.1f}",
            f"{row['window_with_time_path'] / 1e9:.3f}",
        ]
        for row in _one(reports)["rows"]
    ]
    header = ["depth", "parameters M", "MFLOP/token, paper's reading", "Table IV", "GFLOP/window and step"]
    return markdown_table(header, rows)


def _engines(reports: Reports) -> str:
    """One table per report, because a table must not mix machines."""
    return "\n\n".join(_engine_table(name, report) for name, report in reports)


def _engine_table(name: str, report: Mapping[str, Any]) -> str:
    settings = report["settings"]
    rows = []
    for title, entry in report["contestants"].items():
        ratio = entry["faster_than_peer"]
        faster = "1" if ratio["low"] == ratio["high"] else "{ratio:.2f} ({low:.2f} to {high:.2f})".format(**ratio)
        graph = f"{entry['nodes']}, {entry['transposes']}" if "nodes" in entry else ""
        floor = entry.get("of_floor")
        share = "" if floor is None else f"{100 * floor['ratio']:.0f} %"
        rows.append([title, f"{entry['median_ms']:.1f}", f"{entry['p99_ms']:.1f}", faster, share, graph])
    machine = report["environment"]
    threads = "1 thread" if settings["threads"] == 1 else f"{settings['threads']} threads"
    where = f"{machine.get('gpu') or machine['processor'] + ', ' + threads}, T = {settings['frames']}"
    header = ["engine", "median ms", "99 % within", "times as fast as the plain export", "of its floor"]
    header.append("graph: nodes, transposes")
    return f"{where} ([report]({_markdown_of(name)})):\n\n{markdown_table(header, rows)}"


def _profile(reports: Reports) -> str:
    from refiner_bench.profile_native import format_cases

    name, _ = reports[0]
    return f"{format_cases(_one(reports))}\n\n[The report]({_markdown_of(name)}) has the conditions."


def _steps(reports: Reports) -> str:
    from refiner_bench.steps import format_models

    name, _ = reports[0]
    return f"{format_models(_one(reports))}\n\n[The report]({_markdown_of(name)}) has the conditions."


def _sweep(reports: Reports) -> str:
    report = _one(reports)
    rows = []
    for row in report["rows"]:
        fastest = min((entry["median_ms"], title) for title, entry in row["engines"].items() if "median_ms" in entry)
        scores = row["accuracy"]
        rows.append(
            [
                str(row["depth"]),
                f"{row['parameters'] / 1e3:.0f}",
                f"{row['token_flops'] / 1e6:.2f}",
                f"{row['window_flops'] / 1e9:.2f}",
                *("" if scores is None else _by_seed(scores[metric]) for metric in METRICS),
                f"{fastest[0]:.1f} ({fastest[1]})",
            ]
        )
    header = ["depth", "parameters, thousand", "MFLOP/token", "GFLOP/window", "MPJPE, mm", "P-MPJPE, mm"]
    return markdown_table([*header, "acceleration error", "fastest engine, median ms"], rows)


def _streaming_latency(reports: Reports) -> str:
    from refiner_bench.streaming.format import latency_table

    return latency_table(_one(reports))


def _serve(reports: Reports) -> str:
    from refiner_bench.serving.format import serve_table

    return serve_table(_one(reports))


def _streaming_delay(reports: Reports) -> str:
    from refiner_bench.streaming.format import ERRORS, delay_table

    return "\n\n".join(f"{ERRORS[metric]}:\n\n{delay_table(_one(reports), metric)}" for metric in ERRORS)


def _trajectory(reports: Reports) -> str:
    from refiner_bench.trajectory.format import trajectory_table

    return trajectory_table(_one(reports))


def _archive(name: str, reports: Reports) -> str:
    from refiner_bench.archive import format as tables

    table: str = getattr(tables, f"{name}_table")(_one(reports))
    return table


def _by_seed(entry: Mapping[str, Any]) -> str:
    seeds = entry["by_seed"]
    return f"{entry['mean']:.2f}" + (f" ({min(seeds):.2f} to {max(seeds):.2f})" if len(seeds) > 1 else "")


def _markdown_of(name: str) -> str:
    return name.removesuffix(".json") + ".md"


def _paper_table(table: str, reports: Reports) -> str:
    """A table of a paper, with the rows of accuracy reports added."""
    ours = [entry for name, report in reports for entry in rows_as_reports(Path(name).stem, report)]
    return format_paper_table(paper_table(table, ours), markdown=True).rstrip()


# The tables that a block may name, each with the kind of its reports and the function that writes it.
_TABLES: dict[str, tuple[str, Callable[[Reports], str]]] = {
    "evaluation": ("evaluation", _evaluation),
    "estimators": ("evaluation", _estimators),
    "left-out": ("evaluation", _left_out),
    "mpi-inf-3dhp": (EVALUATION_3DHP, _mpi_inf_3dhp),
    "published": (PUBLISHED, _published),
    "study": ("accuracy", _study),
    "transfer": ("accuracy", _transfer),
    "runs": ("accuracy", _runs),
    "flops": ("flops", _flops),
    "engines": ("engines", _engines),
    "profile": ("profile-native", _profile),
    "steps": ("steps", _steps),
    "sweep": ("sweep", _sweep),
    "streaming-latency": ("streaming", _streaming_latency),
    "streaming-delay": ("streaming", _streaming_delay),
    "serve": ("serve", _serve),
    "trajectory": ("trajectory", _trajectory),
    **{f"archive-{name}": ("archive", partial(_archive, name)) for name in ARCHIVE_TABLES},
    **{f"paper-table-{name}": ("accuracy", partial(_paper_table, name)) for name in TITLES},
}
