"""Reports of ``refiner-bench serve`` as Markdown."""

from __future__ import annotations

from refiner.evaluation.tables import markdown_table
from refiner_bench.report import JsonObject


def format_serve(report: JsonObject) -> str:
    """The report as Markdown."""
    settings, told = report["settings"], report["next_client"]
    models = settings["model"] + (f" behind {settings['lifter_model']}" if settings["lifter"] else "")
    pinned = "the server has one processor for itself" if settings["pinned"] else "nothing is tied to a processor"
    taken = f"At the limit, after {told['taken']} more that were taken" if told["taken"] else "At the limit"
    return "\n\n".join(
        [
            f"# A server and its clients\n\n{models}, {report['environment']['processor']}, {settings['processors']} "
            f"processors, of which {pinned}; each client sends {settings['rate']:g} frames/s for "
            f"{settings['seconds']:g} s. Latencies are the clients' own, from sending a frame to receiving its answer; "
            f"a frame is late after {1000 / settings['rate']:g} ms.",
            f"The server said: {report['calibration']}.",
            serve_table(report),
            f'{taken}, the next client was told: code {told["code"]}, "{told["reason"]}".',
        ]
    )


def serve_table(report: JsonObject) -> str:
    """The table of the numbers of clients."""
    alone = report["runs"][0]["latency_ms"]["p50"]
    rows = []
    for run in report["runs"]:
        name = f"{run['clients']}"
        if run["bursts"]:
            name += f" and {run['bursts']} as fast as it can ({run['burst_frames_per_s']:.0f} frames/s)"
        if run.get("no_limit"):
            name += ", no limit"
        elif run["clients"] == report["limit"]:
            name += ", the limit"
        late = (run["late"] + run["unanswered"]) / max(run["frames"], 1)
        latency = run["latency_ms"]
        rows.append(
            [
                name,
                str(run["held"]),
                *("" if latency[column] is None else f"{latency[column]:.2f}" for column in ("p50", "p95", "p99")),
                "" if latency["p99"] is None else f"{latency['p99'] / alone:.1f}",
                f"{100 * late:.2f} %",
                f"{run['load']:.2f}",
            ]
        )
    header = ["clients", "held", "p50 ms", "p95 ms", "p99 ms", "p99 / p50 of one", "late or lost", "load of the core"]
    return markdown_table(header, rows)
