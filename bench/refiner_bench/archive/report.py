"""The report of ``refiner-bench archive``: everything that is measured, and what is assumed for the estimate."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from refiner_export.gate import ray_parity_windows

from refiner import bundled
from refiner.archive.job import CHUNK_FRAMES, FORMATS, Job, ModelFile
from refiner.archive.ray_job import require_ray
from refiner.archive.run import refine_archive
from refiner.engines import NATIVE, EngineOptions
from refiner.errors import InputError, MissingComponentError
from refiner.files import sha256_of
from refiner.reports import Report, new_report
from refiner.runtime.loading import open_engine
from refiner.runtime.stitching import DEFAULT_BATCH, check_hop
from refiner_bench.archive.cluster import ray_times
from refiner_bench.archive.cost import Assumed
from refiner_bench.archive.local import local_times, peak_bytes
from refiner_bench.archive.motion import FOCAL, FPS, SIDE, STATED, bytes_of, make_archive

Log = Callable[[str], None]
# The bundled models whose rates stand beside the archive's, with their roles.
RATED = {"refiner-nano-rays": "refiner", "lifter-nano-rays": "lifter", "lifter-small-rays": "lifter"}
# Lifters at their published sizes, in the report of `refiner-bench cards`.
PUBLISHED_LIFTERS = ("lifter-paper", "mixste-paper")
# The formats are compared on this many sequences.
FORMAT_SEQUENCES = 20
MEMORY_TIMES = 10


@dataclass(frozen=True)
class ArchiveOptions:
    """What is measured. The field names are the keys of the report's settings.

    Attributes:
        sequences: of the archive.
        frames: of each sequence.
        chunk_frames: frames of a chunk, about.
        model: a bundled refiner.
        rounds: how often one actor and two run in turns.
        ray: whether they do.
        ray_sequences: how many sequences they refine.
        memory: whether the memory of a tenth of the archive is compared with that of all.
    """

    sequences: int
    frames: int
    chunk_frames: int = CHUNK_FRAMES
    model: str = "refiner-nano-rays"
    rounds: int = 3
    ray: bool = False
    ray_sequences: int = 0
    memory: bool = True


def archive_report(options: ArchiveOptions, cards: Mapping[str, Any] | None, log: Log) -> Report:
    """Make an archive of synthetic motion and measure it, on one thread for each engine.

    Args:
        options: what is measured.
        cards: the report of `refiner-bench cards`, for the time of lifters at their published sizes; None leaves them
            out.
        log: called with lines about the progress.

    Raises:
        MissingComponentError: ``options.ray``, and Ray is not installed.
        UsageError: the archive is too small for what is measured.
        InputError: a sequence failed.
    """
    if options.ray:
        require_ray()
    report = new_report("archive", {**asdict(options), "threads": 1})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        archive = folder / "archive"
        log(f"making {options.sequences} sequences")
        make_archive(archive, options.sequences, options.frames)
        job = _job(archive, folder / "local", options)
        report["local"] = local_times(job, log)
        frames = report["local"]["frames"]
        report["bytes"] = {"in": bytes_of(archive) / frames, "out": _bytes_out(job, archive, folder, log)}
        report["memory"] = _memory(options, archive, folder, log) if options.memory else None
        report["ray"] = None
        if options.ray:
            some = _first(archive, folder / "some", options.ray_sequences or options.sequences)
            report["ray"] = ray_times(replace(job, archive=str(some), output=str(folder)), options.rounds, log)
    report["models"] = {name: _rate(name, role) for name, role in RATED.items()}
    report["lifters"] = [] if cards is None else _published(cards)
    report["assumed"] = asdict(Assumed())
    return report


def _job(archive: Path, output: Path, options: ArchiveOptions) -> Job:
    refiner, lifter = bundled.checkpoint(options.model), bundled.default_checkpoint("lifter")
    files = [ModelFile(str(file), sha256_of(file), NATIVE) for file in (refiner, lifter)]
    return Job(
        archive=str(archive),
        output=str(output),
        refiner=files[0],
        lifter=files[1],
        stated=STATED,
        chunk_frames=options.chunk_frames,
        threads=1,
    )


def _first(archive: Path, target: Path, count: int) -> Path:
    """A folder with the first sequences of an archive, which share their bytes with it."""
    target.mkdir()
    for file in sorted(archive.glob("*.npz"))[:count]:
        os.link(file, target / file.name)
    return target


def _bytes_out(job: Job, archive: Path, folder: Path, log: Log) -> dict[str, float]:
    """Bytes of a frame in the results, by format; formats without their packages are left out."""
    few, sizes = _first(archive, folder / "few", FORMAT_SEQUENCES), {}
    for name in FORMATS:
        output = folder / f"as-{name}"
        try:
            summary = refine_archive(replace(job, archive=str(few), output=str(output), formats=(name,)))
        except MissingComponentError as error:
            log(f"{name} is not measured: {error}")
            continue
        if summary.failed:
            raise InputError(f"{summary.failed[0][0]} failed as {name}: {summary.failed[0][1]}")
        sizes[name] = bytes_of(output, f"*.{name}") / summary.frames
        log(f"{name}: {sizes[name]:.0f} bytes a frame")
    return sizes


def _memory(options: ArchiveOptions, archive: Path, folder: Path, log: Log) -> dict[str, Any]:
    """The largest memory of ``refiner-refine`` for a tenth of the archive, and for all of it."""
    least = max(1, options.sequences // MEMORY_TIMES)
    archives = {"tenth": _first(archive, folder / "tenth", least), "all": archive}
    peaks = {}
    for name, source in archives.items():
        output = folder / f"memory-{name}"
        words = [str(source), "--output", str(output), "--checkpoint", options.model, "--fps", f"{FPS:g}"]
        words += ["--image-size", f"{SIDE:g}", f"{SIDE:g}", "--focal-length", f"{FOCAL:g}"]
        words += ["--joints", "h36m17", "--threads", "1", "--chunk-frames", str(options.chunk_frames)]
        peaks[name] = peak_bytes(words, folder)
        log(f"{name}: {peaks[name] / 2**20:.0f} MiB")
    return {
        "sequences": {"tenth": least, "all": options.sequences},
        "peak_bytes": peaks,
        "ratio": peaks["all"] / peaks["tenth"],
    }


def _rate(name: str, role: str) -> dict[str, float]:
    """Windows/s and new frames/s of a bundled model in full batches on one thread."""
    engine = open_engine(bundled.checkpoint(name), role, EngineOptions(NATIVE, threads=1))
    keypoints, poses, lens = ray_parity_windows(DEFAULT_BATCH, engine.frames)
    inputs = (keypoints, poses, lens) if role == "refiner" else (keypoints, lens)
    engine(*inputs)
    seconds = []
    for _ in range(9):
        began = time.perf_counter()
        engine(*inputs)
        seconds.append(time.perf_counter() - began)
    rate = DEFAULT_BATCH / float(np.median(seconds))
    return {"windows_per_s": rate, "frames_per_s": rate * check_hop(None, engine.frames)}


def _published(cards: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lifters at their published sizes in PyTorch on one thread, whose windows do not overlap."""
    rows = {row["name"]: row for row in cards["rows"] if not row["bundled"]}
    return [
        {
            "name": name,
            "architecture": rows[name]["architecture"],
            "frames": rows[name]["frames"],
            "median_ms": rows[name]["median_ms"],
            "frames_per_s": 1000.0 * rows[name]["frames"] / rows[name]["median_ms"],
        }
        for name in PUBLISHED_LIFTERS
    ]
