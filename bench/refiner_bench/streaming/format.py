"""Streaming reports as Markdown."""

from __future__ import annotations

from refiner.evaluation.tables import markdown_table
from refiner_bench.cameras import cameras_text
from refiner_bench.report import JsonObject

METHODS = ("input", "One-Euro", "Savitzky-Golay", "window", "causal", "causal, smoothed")
ERRORS = {"mpjpe": "MPJPE, mm", "p_mpjpe": "P-MPJPE, mm", "acceleration_error": "acceleration error, mm/frame^2"}


def format_streaming(report: JsonObject) -> str:
    """Format all parts that the report has: latency, people, the long stream, errors by delay, coverage."""
    settings = report["settings"]
    parts = [
        f"# A live stream\n\n{settings['config']}, random weights, {settings['engine']}, {settings['threads']} "
        f"threads, {report['environment']['processor']}; percentiles over single calls, in turns within one run.",
        latency_table(report),
        people_table(report),
        hour_line(report),
    ]
    if "delay" in report:
        parts += [
            f"Errors of {report['delay']['frames']:,} frames of the test people of {settings['data']}"
            f"{cameras_text(settings.get('cameras'))}, simulated detections, frame-wise "
            "means; the input is the bundled lifter's, the delays are the refinement's own. One-Euro and "
            "Savitzky-Golay are tuned on the validation person for MPJPE at each delay; smoothed: by the One-Euro "
            "filter that is calmest there for half a percent of MPJPE at most. In brackets: with one body shape, "
            "learnt while the stream runs.",
            *(f"{title}:\n\n{delay_table(report, metric)}" for metric, title in ERRORS.items()),
            coverage_line(report),
        ]
    return "\n\n".join(part for part in parts if part)


def latency_table(report: JsonObject) -> str:
    """The table of the percentiles of every contestant."""
    rows = []
    for name, entry in report["latency"].items():
        ratio = entry["faster_than_rival"]
        faster = "" if "of_ms" in entry else "{ratio:.1f} ({low:.1f} to {high:.1f})".format(**ratio)
        rows.append(
            [
                name,
                *(f"{entry[column]:.2f}" for column in ("p50_ms", "p99_ms", "p99.9_ms")),
                f"{entry['p99_ms'] / entry['p50_ms']:.2f}",
                faster if ratio["low"] != ratio["high"] else "1",
                f"{entry['calls']:,}",
            ]
        )
    header = ["a frame", "p50 ms", "p99 ms", "p99.9 ms", "p99 / p50", "times as fast as the window again", "calls"]
    return markdown_table(header, rows)


def people_table(report: JsonObject) -> str:
    """The table of several people in one engine."""
    rows = [
        [str(row["people"]), f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}", f"{row['frames_per_s']:.0f}"]
        for row in report["people"]
    ]
    return markdown_table(["people at a time", "p50 ms", "p99 ms", "frames/s of all"], rows)


def hour_line(report: JsonObject) -> str:
    """A sentence about the long stream; empty if the report has none."""
    hour = report.get("hour")
    if hour is None:
        return ""
    first, last, memory = hour["first_tenth"], hour["last_tenth"], hour["memory_mb"]
    return (
        f"One stream of {hour['frames']:,} frames through the bundled causal refiner at full speed: "
        f"{hour['frames_per_s']:.0f} frames/s; p50 {first['p50_ms']:.2f} ms and p99 {first['p99_ms']:.2f} ms in the "
        f"first tenth, {last['p50_ms']:.2f} and {last['p99_ms']:.2f} in the last; resident memory {memory[1]:.0f} MB "
        f"after a twentieth, {memory[-1]:.0f} MB at the end; the last frames differ by {hour['drift_mm']:.4f} mm at "
        "most from those of a stream that began shortly before them."
    )


def delay_table(report: JsonObject, metric: str) -> str:
    """The table of methods by delay. Values in brackets are with one body shape."""
    errors = report["delay"]["errors"]
    delays = sorted({int(delay) for rows in errors.values() for delay in rows})
    rows = []
    for method in METHODS:
        if method not in errors:
            continue
        shaped = errors.get(f"{method}, one shape", {})
        cells = []
        for delay in map(str, delays):
            if delay not in errors[method]:
                cells.append("")
                continue
            cell = f"{errors[method][delay][metric]:.2f}"
            cells.append(f"{cell} ({shaped[delay][metric]:.2f})" if delay in shaped else cell)
        rows.append([method, *cells])
    return markdown_table(["delay in frames", *map(str, delays)], rows)


def coverage_line(report: JsonObject) -> str:
    """A sentence about the share of errors inside the predicted regions; empty if no model predicts any."""
    shares = [
        f"{kind}: {100 * entry['half']:.0f} % and {100 * entry['nine_tenths']:.0f} %, mean spread "
        f"{entry['std_mm']:.0f} mm"
        for kind, entry in report.get("coverage", {}).items()
        if entry is not None
    ]
    return f"Share of the errors inside the 50 % and the 90 % regions of `std`: {'; '.join(shares)}." if shares else ""
