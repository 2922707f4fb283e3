"""From the scores of a study's rows to one report: JSON types first, Markdown from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from refiner.evaluation.bootstrap import bootstrap_difference
from refiner.evaluation.protocol import METRICS, EvaluationResult, SequenceScore
from refiner.evaluation.selection import acknowledgement_of, describe_archive
from refiner.evaluation.tables import markdown_table
from refiner_bench.accuracy.scores import Scores
from refiner_bench.accuracy.study import PARTS, Runner
from refiner_bench.accuracy.table import Row, Table
from refiner_bench.report import gain_text, new_report

# A run whose validation error still fell by more than this over the last quarter of its training is not at its
# plateau. The learning rate's decay flattens every curve, so that this names only the clearest cases.
PLATEAU_SHARE = 0.003
GAIN_METRICS = ("mpjpe", "p_mpjpe", "acceleration_error")
# Lifters that took what a refiner costs: as many parameters, as much training, the same motion.
CONTROLS = ("single-lifter", "lifter-recombined")
METHOD = "full"
RIVALS = ("linear", METHOD, *CONTROLS)


def accuracy_report(runner: Runner, seeds: Sequence[int], resamples: int = 10_000) -> dict[str, Any]:
    """The report of every row that is trained and scored; the others are named under ``missing``."""
    table = runner.table
    collected = {row.name: _collect(runner, row, seeds) for row in table.rows}
    present = [row for row in table.rows if collected[row.name]]
    description = runner.folder.description
    report = new_report(
        "accuracy",
        {
            "archive": runner.spec.archive,
            "validation": list(description.validation),
            "test": list(description.test),
            "seeds": list(seeds),
            "quick": runner.spec.quick,
            "resamples": resamples,
        },
    )
    report["title"] = table.title
    report["variants"] = {name: asdict(variant) for name, variant in table.variants.items()}
    thanks = acknowledgement_of(report["settings"]["archive"])
    if thanks is not None:
        report["acknowledgement"] = thanks
    report["rows"] = [_row(runner, row, collected, resamples) for row in present]
    report["missing"] = [row.name for row in table.rows if row not in present]
    return report


def _collect(runner: Runner, row: Row, seeds: Sequence[int]) -> dict[int, list[Scores]]:
    """seed -> scores, of the seeds that are there and fit the table and the checkpoints that are there."""
    return {seed: scores for seed in seeds if (scores := runner.scores(row, seed)) is not None}


def _row(runner: Runner, row: Row, collected: Mapping[str, dict[int, list[Scores]]], resamples: int) -> dict[str, Any]:
    own = collected[row.name]
    entry: dict[str, Any] = asdict(row) | {"seeds": sorted(own), "training": _training(runner, row, min(own))}
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
        entry[part]["gains"] = _gains(runner.table, row, collected, index, resamples)
    return entry


def _gains(
    table: Table, row: Row, collected: Mapping[str, dict[int, list[Scores]]], index: int, resamples: int
) -> dict[str, Any]:
    """Against the row's lifter, and against the rows that matter where they score the same clips in the same way: the
    conditional mean alone, the published method, the controls."""
    own = collected[row.name]
    pairs: dict[str, tuple[list[EvaluationResult], list[EvaluationResult]]] = {}
    if row.kind != "lifter":
        pairs["lifter"] = ([EvaluationResult(own[seed][index].before) for seed in own], _results(own, own, index))
    for rival in RIVALS:
        name = _scored_like(table, row, rival)
        common = [seed for seed in own if seed in collected.get(name, {})]
        if name in ("", row.name) or not common or collected[name][common[0]][index].data != row.data:
            continue
        pairs[rival] = (_results(collected[name], common, index), _results(own, common, index))
    return {
        label: {
            metric: _interval(bootstrap_difference(pooled(before), pooled(after), metric, resamples=resamples))
            for metric in GAIN_METRICS
        }
        for label, (before, after) in pairs.items()
    }


def _scored_like(table: Table, row: Row, rival: str) -> str:
    """The row of ``rival`` with the mirrored pass and the body shape that ``row`` has; "" for none, as for a row over
    another lifter than the published method's."""
    names = {other.name: other for other in table.rows}
    if not {rival, METHOD} <= names.keys() or (row.lifter or row.name) not in (names[METHOD].lifter, *CONTROLS):
        return ""
    if not row.pool_shape and not row.flip_test:
        return rival
    wanted = row.flip_test, row.pool_shape
    for other in table.rows:
        alone = other.method == "none" and other.lifter == rival
        if (alone or other.of == rival) and (other.flip_test, other.pool_shape) == wanted and other.data == row.data:
            return other.name
    return ""


def _results(scores: Mapping[int, list[Scores]], seeds: Iterable[int], index: int) -> list[EvaluationResult]:
    return [scores[seed][index].result for seed in seeds]


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


def format_accuracy(report: Mapping[str, Any]) -> str:
    """The report as Markdown: one table per group of rows, then the tables by action."""
    settings = report["settings"]
    machine = report["environment"]
    head = [
        f"# {report.get('title', 'Accuracy study')}",
        "",
        f"Data: {describe_archive(settings['archive'])}; validation person {', '.join(settings['validation'])}, test "
        f"people {', '.join(settings['test'])}; seeds {', '.join(map(str, settings['seeds']))}; machine: "
        f"{machine['processor']}, {machine['logical_processors']} processors.",
        "",
        "Frame-wise means in mm (acceleration: mm/frame^2). Gains are of the test people against the row's own lifter "
        "on the same input, as it is, in percent, with the 95 % interval of a bootstrap over clips; gains over other "
        "rows are over those with the same mirrored pass and body shape. Unusual frames are further out than 99 % of "
        "the frames that the refiner was trained on; jitter is that of its input over that of its training. A row "
        "marked * was still getting better when its training ended.",
    ]
    if settings["quick"]:
        head += ["", "**Toy models, trained for 4 steps on built-in motion: this shows that every row runs, no more.**"]
    groups = dict.fromkeys(row["group"] for row in report["rows"])
    for group in groups:
        rows = [row for row in report["rows"] if row["group"] == group]
        head += ["", f"## {group}", "", _filled_columns([HEADINGS, *(_cells(row) for row in rows)])]
    head += ["", "## MPJPE by action, test people", "", _by_action(report)]
    if report["missing"]:
        head += ["", f"Not run: {', '.join(report['missing'])}."]
    if report.get("acknowledgement"):
        head += ["", f"Acknowledgement: {report['acknowledgement']}"]
    return "\n".join(head)


HEADINGS = [
    "row",
    "what",
    "parameters",
    "windows",
    "minutes",
    "validation MPJPE",
    "test MPJPE",
    "P-MPJPE",
    "acceleration",
    "MPJPE gain",
    "P-MPJPE gain",
    "acceleration gain",
    "MPJPE gain over linear",
    "MPJPE gain over single-lifter",
    "MPJPE gain over lifter-recombined",
    "unusual frames",
    "jitter",
]


def _filled_columns(table: Sequence[Sequence[str]]) -> str:
    """Without the columns that have nothing to say about any row."""
    columns = [column for column in zip(*table, strict=True) if any(column[1:])]
    header, *rows = ([column[place] for column in columns] for place in range(len(table)))
    return markdown_table(header, rows)


def _cells(row: Mapping[str, Any]) -> list[str]:
    training, test = row["training"], row["test"]
    star = "" if training is None or training["plateau"] or row["checkpoint"] else "*"
    metrics = {metric: test["metrics"][metric]["frame_mean"] for metric in GAIN_METRICS}
    told = test["extra"].get("input")
    gains = [gain_text(test["gains"].get("lifter", {}).get(metric)) for metric in GAIN_METRICS]
    return [
        row["name"] + star,
        row["title"],
        "" if training is None else f"{training['parameters'] / 1e6:.2f} M",
        "" if training is None else f"{training['windows']:,}",
        "" if training is None else f"{training['wall_s'] / 60:.0f}",
        f"{row['validation']['metrics']['mpjpe']['frame_mean']:.1f}",
        f"{metrics['mpjpe']:.1f}",
        f"{metrics['p_mpjpe']:.1f}",
        f"{metrics['acceleration_error']:.2f}",
        *gains,
        *(gain_text(test["gains"].get(rival, {}).get("mpjpe")) for rival in ("linear", *CONTROLS)),
        "" if not told else f"{100 * told['unusual_share']:.1f} %",
        "" if not told else f"x {told['jitter_ratio']:.2f}",
    ]


def _by_action(report: Mapping[str, Any]) -> str:
    rows = [row for row in report["rows"] if row["data"] == "default"]
    actions = list(rows[0]["test"]["per_action"]["mpjpe"]) if rows else []
    body = [[row["name"], *(f"{row['test']['per_action']['mpjpe'][action]:.1f}" for action in actions)] for row in rows]
    return markdown_table(["row", *actions], body)
