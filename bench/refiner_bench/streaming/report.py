"""The report of ``refiner-bench streaming``: latency per frame, several people, a long stream, error by delay."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from refiner_export.build import Clock, assemble
from refiner_export.gate import parity_windows
from refiner_export.options import Batch, ExportOptions

from refiner.bundled import checkpoint
from refiner.data import MotionFolder
from refiner.engines import NATIVE, EngineOptions
from refiner.errors import UsageError
from refiner.reports import Report, new_report
from refiner.runtime.causal import StreamEngine
from refiner.runtime.engine import RefinerEngine
from refiner.runtime.loading import open_causal_engine, open_engine
from refiner.runtime.streaming import RefinedFrame, StreamingRefiner
from refiner.runtime.streaming.causal_backend import CausalBackend
from refiner_bench.arrays import FloatArray
from refiner_bench.cameras import of_cameras
from refiner_bench.streaming.accuracy import delay_errors, measured_coverage
from refiner_bench.streaming.latency import TURN, FrameRun, StreamTimes, in_turns, percentiles, spin, summary
from refiner_bench.untrained import random_checkpoint

Tell = Callable[[str], None]
STEP, WINDOW, EMPTY, PUSH, PIPELINED = (
    "causal step",
    "window again",
    "empty loop",
    "push: the whole way of a frame",
    "causal step, pipelined",
)
# The calls of the window in a turn in which the causal step has a hundred calls.
WINDOWS_A_TURN = 5
SIZE = (1000.0, 1002.0)


@dataclass(frozen=True)
class StreamingOptions:
    """The options of the command.

    Attributes:
        frames: The number of timed causal steps.
        threads: The number of threads of every engine.
        people: The numbers of people in one engine to measure.
        hour: The frames of one long stream; 0 for none.
        engine: "native", "onnx" or "openvino".
        config: The configuration that gives the size of the model.
        cameras: The number of cameras of each clip that are scored; None for all.
    """

    frames: int = 10_000
    threads: int = 1
    people: tuple[int, ...] = (1, 4, 16)
    hour: int = 0
    engine: str = NATIVE
    config: str = "refiner-paper"
    cameras: int | None = None

    def check(self) -> None:
        """Raise UsageError for values out of range."""
        if min(self.frames, self.threads, self.cameras or 1, *self.people) < 1 or self.hour < 0:
            raise UsageError("frames, threads, people and cameras must be at least 1, and hour 0 or more")


def streaming_report(options: StreamingOptions, folder: MotionFolder | None, tell: Tell) -> Report:
    """Measure everything in one run.

    Args:
        options: The options.
        folder: The motion archive for the errors by delay; None leaves them out.
        tell: Receives lines of progress.

    Raises:
        UsageError: An option is out of range.
        MissingComponentError: The engine is not installed.
    """
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
        work = Path(name)
        tell("export")
        causal = random_checkpoint(work / "causal.safetensors", options.config, ["model.causal=true"])
        windowed = random_checkpoint(work / "windowed.safetensors", options.config)
        tell("latency")
        latency = _latency(options, causal, windowed, work)
        report["latency"] = {title: times.to_json() for title, times in latency.items()}
        tell("people")
        report["people"] = _people(options, causal, work)
        if options.hour:
            tell(f"{options.hour:,} frames of one stream")
            report["hour"] = _hour(options, work)
        if folder is not None:
            # The causal refiner continued from the weights of this windowed refiner for 6,000 more steps.
            lifter, window, causal = map(checkpoint, ("lifter", "refiner-correlated", "refiner-causal"))
            test, validation = (of_cameras(folder.clips(part), options.cameras) for part in ("test", "validation"))
            report["delay"] = asdict(delay_errors(test, validation, lifter, window, causal, work, tell))
            report["coverage"] = {}
            for kind, refiner in (("window", window), ("causal", causal)):
                coverage = measured_coverage(test, lifter, refiner, work)
                report["coverage"][kind] = None if coverage is None else coverage.to_json()
    return report


def _causal_engine(
    options: StreamingOptions, checkpoint: Path, work: Path, people: int = 1, pipelined: bool = False
) -> StreamEngine:
    """A causal refiner in the engine of the options: the native engine runs the checkpoint, others an export of it."""
    if options.engine == NATIVE:
        chosen = EngineOptions(NATIVE, threads=options.threads, streams=people, pipelined=pipelined)
        return open_causal_engine(checkpoint, chosen)
    folder = work / f"{checkpoint.stem}-{people}-{'pipelined' if pipelined else 'plain'}"
    folder.mkdir(parents=True, exist_ok=True)
    export = ExportOptions(options.engine, folder, checkpoint, streams=people, pipelined=pipelined)
    target = Path(assemble(export, folder, Clock()).target)
    return open_causal_engine(target, EngineOptions(threads=options.threads))


def _window_engine(options: StreamingOptions, checkpoint: Path, work: Path) -> RefinerEngine:
    if options.engine == NATIVE:
        return open_engine(checkpoint, "refiner", EngineOptions(NATIVE, threads=options.threads))
    folder = work / checkpoint.stem
    folder.mkdir()
    export = ExportOptions(options.engine, folder, checkpoint, batch=Batch(1, 1, 1))
    target = Path(assemble(export, folder, Clock()).target)
    return open_engine(target, "refiner", EngineOptions(threads=options.threads))


def _latency(options: StreamingOptions, causal: Path, windowed: Path, work: Path) -> dict[str, StreamTimes]:
    """Time a causal step, the same with a pipelined export, a whole push of the stream, and a window."""
    step, pushed = (_causal_engine(options, causal, work / name) for name in ("step", "push"))
    pipelined = _causal_engine(options, causal, work, pipelined=True)
    window = _window_engine(options, windowed, work)
    windows = parity_windows(1, window.frames)
    pixels, poses, size = windows[0][0], windows[1][0], windows[2]
    active = np.ones(1, dtype=bool)
    stream = StreamingRefiner(CausalBackend(pushed), SIZE)
    frames = len(pixels)

    def steps_of(engine: StreamEngine) -> FrameRun:
        def run(frame: int) -> object:
            index = frame % frames
            return engine.step(pixels[index : index + 1], poses[index : index + 1], size, active)

        return run

    run_step = steps_of(step)
    for frame in range(TURN):
        run_step(frame)
    began = time.perf_counter()
    for frame in range(TURN):
        run_step(frame)
    step_ms = 1000.0 * (time.perf_counter() - began) / TURN
    clock = iter(np.arange(10**9) / step.fps)
    turns = in_turns(
        {
            STEP: (TURN, run_step),
            PIPELINED: (TURN, steps_of(pipelined)),
            PUSH: (TURN, lambda frame: stream.push(pixels[frame % frames], poses[frame % frames], next(clock))),
            WINDOW: (WINDOWS_A_TURN, lambda frame: window(*windows)),
            EMPTY: (TURN, spin(step_ms)),
        },
        options.frames,
    )
    times = summary(turns, WINDOW)
    # The empty loop is as long as a causal step; what it takes longer is the jitter of the machine.
    return times | {EMPTY: replace(times[EMPTY], of_ms=step_ms)}


def _people(options: StreamingOptions, causal: Path, work: Path) -> list[dict[str, float]]:
    """Several people in one engine: the milliseconds of a step for all, and the frames per second of all together."""
    rows = []
    for people in options.people:
        engine = _causal_engine(options, causal, work / "people", people)
        windows, bodies, sizes = parity_windows(people, engine.frames)
        pixels, poses, active = windows[:, 0], bodies[:, 0], np.ones(people, dtype=bool)

        step = partial(_step_again, engine, pixels, poses, sizes, active)
        milliseconds = np.concatenate(in_turns({STEP: (TURN, step)}, 5 * TURN)[STEP])
        rate = 1000.0 * people / float(np.median(milliseconds))
        rows.append({"people": people, **percentiles(milliseconds), "frames_per_s": rate})
    return rows


def _step_again(
    engine: StreamEngine,
    pixels: FloatArray,
    poses: FloatArray,
    sizes: FloatArray,
    active: NDArray[np.bool_],
    frame: int,
) -> object:
    """A step with the same input for every frame."""
    return engine.step(pixels, poses, sizes, active)


def _hour(options: StreamingOptions, work: Path) -> dict[str, object]:
    """One long stream of the bundled causal refiner at full speed.

    Measures memory and latency at both ends of the stream, and the difference of its last frames to the frames of a
    stream that began shortly before them.
    """
    file = checkpoint("refiner-causal")
    engines = [_causal_engine(options, file, work / name) for name in ("hour", "again")]
    stream, again = (StreamingRefiner(CausalBackend(engine), SIZE) for engine in engines)
    windows, bodies, _ = parity_windows(8, 270)
    pixels, poses = windows.reshape(-1, 17, 2), bodies.reshape(-1, 17, 3)
    motion_frames = len(pixels)
    begin = max(0, options.hour - motion_frames)
    milliseconds, memory = np.empty(options.hour), []
    last: list[RefinedFrame] = []
    for frame in range(options.hour):
        began = time.perf_counter_ns()
        ready = stream.push(pixels[frame % motion_frames], poses[frame % motion_frames], frame / stream.fps)
        milliseconds[frame] = (time.perf_counter_ns() - began) / 1e6
        if frame >= begin:
            last += ready
        if frame % max(1, options.hour // 20) == 0:
            memory.append(_resident_mb())
    fresh: list[RefinedFrame] = []
    for frame in range(begin, options.hour):
        fresh += again.push(pixels[frame % motion_frames], poses[frame % motion_frames], frame / again.fps)
    # Input before the receptive field of a frame has no effect on it. The field is shorter than half of these frames.
    field = len(last) // 2
    drift = max(
        float(np.abs(one.pose_3d - other.pose_3d).max()) for one, other in zip(last[field:], fresh[field:], strict=True)
    )
    tenth = max(1, options.hour // 10)
    return {
        "frames": options.hour,
        "first_tenth": percentiles(milliseconds[:tenth]),
        "last_tenth": percentiles(milliseconds[-tenth:]),
        "memory_mb": memory,
        "drift_mm": 1000.0 * drift,
        "frames_per_s": 1000.0 * options.hour / float(milliseconds.sum()),
    }


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
