"""The report of ``refiner-bench archive`` as Markdown, and the tables of the page about its cost."""

from __future__ import annotations

from typing import Any

from refiner.evaluation.tables import markdown_table
from refiner_bench.archive.cost import Assumed, Measured, estimate, million_frames
from refiner_bench.report import JsonObject

MIB, GB, TB = 2**20, 1e9, 1e12


def format_archive(report: JsonObject) -> str:
    """The report as Markdown."""
    settings, machine = report["settings"], report["environment"]
    parts = [
        f"# Archives\n\n{settings['sequences']:,} sequences of {settings['frames']} frames of synthetic motion with 2D "
        f"and 3D poses through `{settings['model']}`, native engine, one thread for each engine; "
        f"{machine['processor']}, {machine['logical_processors']} processors.",
        f"## One process\n\n{local_table(report)}",
        f"## Bytes of a frame\n\n{bytes_table(report)}",
    ]
    if report["memory"] is not None:
        parts.append(f"## Memory\n\n{memory_table(report)}")
    if report["ray"] is not None:
        parts += [f"## On Ray\n\n{ray_table(report)}", f"## A large archive\n\n{estimate_table(report)}"]
        parts.append(f"## Beside running a lifter\n\n{lifters_table(report)}")
    return "\n\n".join(parts)


def local_table(report: JsonObject) -> str:
    """The job beside its engine."""
    local = report["local"]
    share = "{ratio:.1%} ({low:.1%} to {high:.1%})".format(**local["share"])
    rows = [
        ["frames/s of the engine alone, in full batches", f"{local['engine_frames_per_s']:,.0f}"],
        ["windows/s of the engine alone", f"{local['engine_windows_per_s']:,.0f}"],
        ["frames/s of the job, from its start to its end", f"{local['job_frames_per_s']:,.0f}"],
        ["a chunk: what part of the engine's rate, 95 % interval over chunks", share],
        ["the whole job: what part of the engine's rate", f"{local['share_of_all']:.1%}"],
        ["seconds of listing, loading, chunks, the end", _seconds(local)],
    ]
    return markdown_table(["on one thread", ""], rows)


def _seconds(local: JsonObject) -> str:
    return ", ".join(f"{local[name]:.1f}" for name in ("list_s", "load_s", "job_s", "finish_s"))


def bytes_table(report: JsonObject) -> str:
    """The bytes of a frame in the archive and in each output format."""
    rows = [["in: .npz with 2D and 3D", f"{report['bytes']['in']:.0f}"]]
    rows += [[f"out: {name}", f"{size:.0f}"] for name, size in report["bytes"]["out"].items()]
    return markdown_table(["file", "bytes a frame"], rows)


def memory_table(report: JsonObject) -> str:
    """The largest memory of the command, for a tenth of the archive and for all of it."""
    memory = report["memory"]
    rows = [
        [f"{memory['sequences'][name]:,}", f"{peak / MIB:.0f}", f"{peak / memory['peak_bytes']['tenth']:.3f}"]
        for name, peak in memory["peak_bytes"].items()
    ]
    return markdown_table(["sequences", "largest memory, MiB", "times that of the tenth"], rows)


def ray_table(report: JsonObject) -> str:
    """One actor and two."""
    ray = report["ray"]
    rows = []
    for actors, run in ray["actors"].items():
        times = "{ratio:.2f} ({low:.2f} to {high:.2f})".format(**ray["scaling"]) if actors == "2" else "1"
        rows.append([actors, f"{run['steady_frames_per_s']:,.0f}", times, f"{run['start_s']:.1f}"])
    table = markdown_table(["actors", "frames/s at work", "times one actor", "seconds to start"], rows)
    return f"{table}\n\nA chunk without work takes {1000 * ray['chunk_overhead_s']:.1f} ms."


def measured_of(report: JsonObject) -> Measured:
    """What the estimate takes from a report."""
    ray, local = report["ray"], report["local"]
    return Measured(
        worker_rate=ray["actors"]["1"]["steady_frames_per_s"],
        scaling=ray["scaling"]["ratio"],
        chunk_frames=local["frames"] / local["chunks"],
        chunk_overhead_s=ray["chunk_overhead_s"],
        start_s=ray["actors"]["1"]["start_s"],
        bytes_in=report["bytes"]["in"],
        bytes_out=report["bytes"]["out"],
    )


def estimate_table(report: JsonObject) -> str:
    """The estimate for a large archive, each line with its arithmetic."""
    measured, assumed = measured_of(report), Assumed(**report["assumed"])
    result = estimate(measured, assumed)
    rate = measured.worker_rate * result.efficiency
    frames, million = f"{assumed.frames:.0e}".replace("e+0", "e"), assumed.frames / 1e6
    longest = f"({result.compute_hours:,.1f} + {result.repeated_hours:.4f}) / {assumed.workers}"
    if result.driver_share > 1:
        longest = f"{result.chunks:,.0f} x {1000 * measured.chunk_overhead_s:.1f} ms / 3600"
    rows: list[list[str]] = [
        ["a worker, frames/s", f"{measured.worker_rate:,.0f} x {result.efficiency:.2f}", f"{rate:,.0f}"],
        ["compute, hours of a processor", f"{frames} / {rate:,.0f} / 3600", f"{result.compute_hours:,.1f}"],
        ["workers that die", f"{result.compute_hours:,.1f} x {assumed.failures_per_hour:g}", f"{result.failures:.2f}"],
        [
            "repeated, hours of a processor",
            f"{result.failures:.2f} x ({measured.chunk_frames:,.0f} / {rate:,.0f} / 2 + {measured.start_s:.1f}) / 3600",
            f"{result.repeated_hours:.4f}",
        ],
        ["chunks", f"{frames} / {measured.chunk_frames:,.0f}", f"{result.chunks:,.0f}"],
        [
            "the driver's time for chunks, of that of the workers",
            f"{result.chunks:,.0f} x {1000 * measured.chunk_overhead_s:.1f} ms",
            f"{result.driver_share:.0%}",
        ],
        [
            "workers that one driver keeps busy",
            f"{measured.chunk_frames:,.0f} / {rate:,.0f} / {1000 * measured.chunk_overhead_s:.1f} ms",
            f"{result.most_workers:,.0f}",
        ],
        [
            "wall time, hours",
            f"{longest} + {measured.start_s:.1f} / 3600",
            f"{result.wall_hours:.2f}",
        ],
        ["archive, GB", f"{frames} x {measured.bytes_in:.0f} bytes", f"{result.bytes_in / GB:,.0f}"],
        *(
            [f"results as {name}, GB", f"{frames} x {measured.bytes_out[name]:.0f} bytes", f"{size / GB:,.0f}"]
            for name, size in result.bytes_out.items()
        ),
        [
            "read from the shared folder, MB/s",
            f"{assumed.workers} x {rate:,.0f} x {measured.bytes_in:.0f} bytes",
            f"{result.read_rate / 1e6:,.0f}",
        ],
        [
            "paid hours of a processor",
            f"{result.wall_hours:.2f} x ({assumed.workers} workers + 1 driver)",
            f"{result.core_hours:,.1f}",
        ],
        ["cost, dollars", f"{result.core_hours:,.1f} x {assumed.core_hour_price:g}", f"{result.cost:,.2f}"],
        ["cost of a million frames, dollars", f"{result.cost:,.2f} / {million:,.0f}", f"{result.cost / million:.4f}"],
    ]
    return markdown_table(["what", "arithmetic", "estimate"], rows)


def lifters_table(report: JsonObject) -> str:
    """A million frames through this job, and through lifters."""
    assumed = Assumed(**report["assumed"])
    rates: list[tuple[str, Any]] = [
        (f"refining an archive with `{report['settings']['model']}`", measured_of(report).worker_rate)
    ]
    rates += [
        (f"lifting with `{name}`, native engine", model["frames_per_s"])
        for name, model in report["models"].items()
        if name.startswith("lifter")
    ]
    rates += [
        (
            f"lifting with {lifter['architecture']} at its published size, T = {lifter['frames']}, PyTorch",
            lifter["frames_per_s"],
        )
        for lifter in report["lifters"]
    ]
    rows = []
    for what, rate in rates:
        cost = million_frames(rate, assumed)
        rows.append([what, f"{rate:,.0f}", f"{cost.core_hours:.3f}", f"{cost.cost:.4f}"])
    return markdown_table(["a million frames on one thread", "frames/s", "hours", "dollars"], rows)
