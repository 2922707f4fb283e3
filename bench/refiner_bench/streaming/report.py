"""The report of ``refiner-bench streaming``: latency a frame, people at a time, an hour of stream, error by delay."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from refiner_export.build import Clock, assemble
from refiner_export.gate import parity_windows
from refiner_export.options import Batch, ExportOptions

from refiner.bundled import checkpoint
from refiner.data import MotionFolder
from refiner.engines import EngineOptions
from refiner.errors import UsageError
from refiner.reports import new_report
from refiner.runtime.loading import open_causal_engine, open_engine
from refiner.runtime.streaming import RefinedFrame, StreamingRefiner
from refiner.runtime.streaming.causal_backend import CausalBackend
from refiner_bench.cameras import of_cameras
from refiner_bench.streaming.accuracy import delay_errors, measured_coverage
from refiner_bench.streaming.latency import TURN, in_turns, percentiles, spin, summary
from refiner_bench.untrained import random_checkpoint

Tell = Callable[[str], None]
STEP, WINDOW, EMPTY, PUSH, PIPELINED = (
    "causal step",
    "window again",
    "empty loop",
    "push: the whole way of a frame",
    "causal step, pipelined",
)
# The window runs this many times a turn, of a hundred steps.
WINDOWS_A_TURN = 5
SIZE = (1000.0, 1002.0)


@dataclass(frozen=True)
class StreamingOptions:
    """``frames`` timed steps; ``people`` at a time; ``threads`` of every engine; ``hour`` frames of one long stream."""

    frames: int = 10_000
    threads: int = 1
    people: tuple[int, ...] = (1, 4, 16)
    hour: int = 0
    engine: str = "onnx"
    config: str = "refiner-paper"
    cameras: int | None = None

    def check(self) -> None:
        """Raises UsageError."""
        if min(self.frames, self.threads, self.cameras or 1, *self.people) < 1 or self.hour < 0:
            raise UsageError("frames, threads, people and cameras must be at least 1, and hour 0 or more")


def streaming_report(options: StreamingOptions, folder: MotionFolder | None, tell: Tell) -> dict[str, Any]:
    """Everything, in one run; without a folder the errors are left out. Raises UsageError and MissingComponentError."""
    options.check()
    settings = {
        "frames": options.frames,
        "threads": options.threads,
        "people": list(options.people),
        "engine": options.engine,
        "config": options.config,
        "data": None if folder is None else folder.description.name,
        "cameras": options.cameras,
    }
    report = new_report("streaming", settings)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        tell("export")
        causal = random_checkpoint(place / "causal.safetensors", options.config, ["model.causal=true"])
        windowed = random_checkpoint(place / "windowed.safetensors", options.config)
        tell("latency")
        report["latency"] = _latency(options, causal, windowed, place)
        tell("people")
        report["people"] = _people(options, causal, place)
        if options.hour:
            tell(f"{options.hour:,} frames of one stream")
            report["hour"] = _hour(options, place)
        if folder is not None:
            # The windowed refiner that the causal one started from, for 6,000 steps more.
            lifter, window, causal = map(checkpoint, ("lifter", "refiner-correlated", "refiner-causal"))
            test, validation = (of_cameras(folder.clips(part), options.cameras) for part in ("test", "validation"))
            report["delay"] = delay_errors(test, validation, lifter, window, causal, place, tell)
            report["coverage"] = {
                kind: measured_coverage(test, lifter, checkpoint, place)
                for kind, checkpoint in (("window", window), ("causal", causal))
            }
    return report


def _export_causal(
    options: StreamingOptions, checkpoint: Path, place: Path, people: int = 1, pipelined: bool = False
) -> Path:
    folder = place / f"{checkpoint.stem}-{people}-{'pipelined' if pipelined else 'plain'}"
    folder.mkdir(parents=True, exist_ok=True)
    asked = ExportOptions(options.engine, folder, checkpoint, streams=people, pipelined=pipelined)
    return Path(assemble(asked, folder, Clock()).target)


def _export_window(options: StreamingOptions, checkpoint: Path, place: Path) -> Path:
    folder = place / checkpoint.stem
    folder.mkdir()
    asked = ExportOptions(options.engine, folder, checkpoint, batch=Batch(1, 1, 1))
    return Path(assemble(asked, folder, Clock()).target)


def _open(options: StreamingOptions, file: Path) -> Any:
    return open_causal_engine(file, EngineOptions(threads=options.threads))


def _latency(options: StreamingOptions, causal: Path, windowed: Path, place: Path) -> dict[str, Any]:
    exported = _export_causal(options, causal, place)
    step = _open(options, exported)
    pipelined = _open(options, _export_causal(options, causal, place, pipelined=True))
    window = open_engine(_export_window(options, windowed, place), "refiner", EngineOptions(threads=options.threads))
    windows = parity_windows(1, window.frames)
    pixels, poses, size = windows[0][0], windows[1][0], windows[2]
    active = np.ones(1, dtype=bool)
    stream = StreamingRefiner(CausalBackend(_open(options, exported)), SIZE)
    frames = len(pixels)

    def of(engine: Any) -> Callable[[int], Any]:
        def run(frame: int) -> Any:
            at = frame % frames
            return engine.step(pixels[at : at + 1], poses[at : at + 1], size, active)

        return run

    run_step = of(step)
    for frame in range(TURN):
        run_step(frame)
    began = time.perf_counter()
    for frame in range(TURN):
        run_step(frame)
    usual = 1000.0 * (time.perf_counter() - began) / TURN
    clock = iter(np.arange(10**9) / step.fps)
    turns = in_turns(
        {
            STEP: (TURN, run_step),
            PIPELINED: (TURN, of(pipelined)),
            PUSH: (TURN, lambda frame: stream.push(pixels[frame % frames], poses[frame % frames], next(clock))),
            WINDOW: (WINDOWS_A_TURN, lambda frame: window(*windows)),
            EMPTY: (TURN, spin(usual)),
        },
        options.frames,
    )
    found = summary(turns, WINDOW)
    found[EMPTY]["of_ms"] = usual
    return found


def _people(options: StreamingOptions, causal: Path, place: Path) -> list[dict[str, Any]]:
    """Several people in one engine: milliseconds of a step of all, and frames a second over all."""
    found = []
    for people in options.people:
        engine = _open(options, _export_causal(options, causal, place / "people", people))
        windows, bodies, sizes = parity_windows(people, engine.frames)
        pixels, poses, active = windows[:, 0], bodies[:, 0], np.ones(people, dtype=bool)

        def step(frame: int, engine: Any = engine, given: Any = (pixels, poses, sizes, active)) -> Any:
            return engine.step(*given)

        taken = np.concatenate(in_turns({STEP: (TURN, step)}, 5 * TURN)[STEP])
        rate = 1000.0 * people / float(np.median(taken))
        found.append({"people": people, **percentiles(taken), "frames_per_s": rate})
    return found


def _hour(options: StreamingOptions, place: Path) -> dict[str, Any]:
    """One long stream of the bundled causal refiner at full speed: its memory and latency at both ends, and how far its
    last frames lie from a stream that began shortly before them."""
    file = _export_causal(options, checkpoint("refiner-causal"), place)
    stream, again = (StreamingRefiner.load(file, threads=options.threads, image_size=SIZE) for _ in range(2))
    windows, bodies, _ = parity_windows(8, 270)
    pixels, poses = windows.reshape(-1, 17, 2), bodies.reshape(-1, 17, 3)
    kept = len(pixels)
    begin = max(0, options.hour - kept)
    taken, memory = np.empty(options.hour), []
    last: list[RefinedFrame] = []
    for frame in range(options.hour):
        began = time.perf_counter_ns()
        ready = stream.push(pixels[frame % kept], poses[frame % kept], frame / stream.fps)
        taken[frame] = (time.perf_counter_ns() - began) / 1e6
        if frame >= begin:
            last += ready
        if frame % max(1, options.hour // 20) == 0:
            memory.append(_resident_mb())
    fresh: list[RefinedFrame] = []
    for frame in range(begin, options.hour):
        fresh += again.push(pixels[frame % kept], poses[frame % kept], frame / again.fps)
    # What came before the receptive field of a frame does not matter.
    field = len(last) // 2
    drift = max(
        float(np.abs(one.pose_3d - other.pose_3d).max()) for one, other in zip(last[field:], fresh[field:], strict=True)
    )
    tenth = max(1, options.hour // 10)
    return {
        "frames": options.hour,
        "first_tenth": percentiles(taken[:tenth]),
        "last_tenth": percentiles(taken[-tenth:]),
        "memory_mb": memory,
        "drift_mm": 1000.0 * drift,
        "frames_per_s": 1000.0 * options.hour / float(taken.sum()),
    }


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
