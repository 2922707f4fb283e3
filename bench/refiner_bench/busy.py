"""One window in every engine beside busy programs, by the number of threads: which default waits for nobody."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from refiner_export.build import export_artefact
from refiner_export.options import ExportOptions

from refiner import bundled
from refiner.arguments import check_whole
from refiner.engines import CHECKPOINT_SUFFIX, ENGINES, NATIVE, EngineOptions
from refiner.errors import MissingComponentError, UsageError
from refiner.evaluation.tables import markdown_table
from refiner.reports import Report, new_report
from refiner.runtime.loading import open_engine
from refiner_bench.inputs import refiner_inputs
from refiner_bench.report import JsonObject
from refiner_bench.timing import Contestant, Run, interleaved, ratio_interval

# torch-compile runs the same threads as torch, and compiles for a minute.
MEASURED = (NATIVE, "torch", "onnx", "openvino", "aoti")
MOST_PROGRAMS, MOST_ROUNDS = 64, 10_000
DEFAULT, ONE = "default", "1 thread"
# A program that does nothing but take a processor, as a detector does most of the time.
PROGRAM = "while True: pass"

Log = Callable[[str], None]


def busy_report(programs: int, rounds: int, without: Sequence[str] = (), log: Log = lambda line: None) -> Report:
    """Time a window of the bundled refiner in every installed engine, while other programs run.

    Every engine is opened three times: with its default, with one thread, and with a thread for each processor. All
    take turns within one run.

    Args:
        programs: The number of busy programs.
        rounds: The number of timed rounds.
        without: The names of engines to leave out.
        log: Called with lines about the progress.

    Returns:
        The report: for each engine and number of threads the median and the 95th percentile in milliseconds, and how
        many times as long as with one thread a call takes, with a 95 % interval over rounds.

    Raises:
        UsageError: A number is out of range, or an engine is unknown.
    """
    programs = check_whole(programs, "programs", 0, MOST_PROGRAMS)
    rounds = check_whole(rounds, "rounds", 2, MOST_ROUNDS)
    unknown = [name for name in without if name not in MEASURED]
    if unknown:
        raise UsageError(f"{unknown[0]} is not measured here; these are: {', '.join(MEASURED)}")
    processors = os.cpu_count() or 1
    threads = {DEFAULT: None, ONE: 1, f"{processors} threads": processors}
    missing: dict[str, str] = {}
    contestants: dict[str, Contestant] = {}
    with tempfile.TemporaryDirectory() as folder:
        for engine in MEASURED:
            if engine in without:
                continue
            try:
                file = _file_of(engine, Path(folder), log)
                for label, count in threads.items():
                    contestants[f"{engine}, {label}"] = Contestant(1, _call(file, engine, count))
            except MissingComponentError as error:
                missing[engine] = str(error)
        log(f"timing beside {programs} busy programs")
        with _busy(programs):
            rates = interleaved(contestants, rounds)
            load = os.getloadavg()[0]
    settings = {"programs": programs, "rounds": rounds, "processors": processors, "load": round(load, 1)}
    report = new_report("busy", settings | {"model": bundled.default_checkpoint("refiner").stem})
    report["contestants"] = {name: _entry(rates, name) for name in contestants}
    report["missing"] = missing
    return report


def _entry(rates: dict[str, list[float]], name: str) -> dict[str, object]:
    milliseconds = 1000.0 / np.array(rates[name])
    alone = 1000.0 / np.array(rates[f"{name.split(',')[0]}, {ONE}"])
    ratio = ratio_interval(milliseconds / alone)
    return {
        "median_ms": float(np.median(milliseconds)),
        "p95_ms": float(np.percentile(milliseconds, 95)),
        "times_as_long_as_one_thread": {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high},
    }


def _file_of(engine: str, folder: Path, log: Log) -> Path:
    """The bundled refiner as a file of the engine. Raises MissingComponentError where the engine is not installed."""
    checkpoint = bundled.default_checkpoint("refiner")
    if ENGINES[engine].suffix == CHECKPOINT_SUFFIX:
        return checkpoint
    return export_artefact(ExportOptions(engine, folder / engine, checkpoint), log).path


def _call(file: Path, engine: str, threads: int | None) -> Run:
    opened = open_engine(file, "refiner", EngineOptions(engine, threads=threads))
    inputs = refiner_inputs(opened.rays, opened.frames)
    return lambda: opened(*inputs)


@contextlib.contextmanager
def _busy(programs: int) -> Iterator[None]:
    """Run busy programs beside a block."""
    running = [subprocess.Popen([sys.executable, "-S", "-c", PROGRAM]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def format_busy(report: JsonObject) -> str:
    """The report as Markdown."""
    settings = report["settings"]
    header = ["engine, threads", "median ms", "95 % within", "times as long as one thread"]
    rows = []
    for name, entry in report["contestants"].items():
        ratio = entry["times_as_long_as_one_thread"]
        spread = "" if ratio["low"] == ratio["high"] else f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
        rows.append([name, f"{entry['median_ms']:.1f}", f"{entry['p95_ms']:.1f}", f"{ratio['ratio']:.2f}{spread}"])
    lines = [
        f"# Beside busy programs\n\nOne window of {settings['model']}, {report['environment']['processor']}, "
        f"{settings['processors']} processors, beside {settings['programs']} program(s) that do nothing but compute; "
        f"load average with everything else on the machine {settings['load']}; in turns within one run, "
        f"{settings['rounds']} rounds.\n",
        markdown_table(header, rows),
        *(f"\n{engine} was not measured: {reason}" for engine, reason in report["missing"].items()),
    ]
    return "\n".join(lines)
