"""``bench/gpu/quarter-hour``: build, check and train on one graphics card within a few minutes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from refiner.cli.common import EXIT_CODES, HelpFormatter, run
from refiner_bench.gpu.jobs import Job, Result, run_jobs

ROOT = Path(__file__).parents[3]
# What is trained: name and configuration, and the ways in which a step may run, the fastest first.
NAME, CONFIGURATION, TOY = "lifter", "lifter-paper", "lifter-small"
WAYS = {"cuda": ("graph", "compile", "none"), "cpu": ("none",)}
TOY_SIZES = ("training.steps=100000", "training.batch=4", "model.blocks=1", "model.dim=32")
PARTS = ("build", "check", "sanitizer", "train")
BOXES = {"build": 120.0, "check": 60.0, "sanitizer": 60.0}
# Seconds for validation and saving after the last step, and for writing what comes back.
TO_FINISH = {"cuda": 25.0, "cpu": 15.0}


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="quarter-hour",
        description="Build the kernels, check them, and train on a graphics card within a few minutes; each part in a "
        "process and a time box of its own.",
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    default = os.environ.get("OUT") or "gpu-output"
    parser.add_argument("--output", type=Path, default=Path(default), metavar="DIR", help=f"default: {default}")
    parser.add_argument("--data", metavar="FOLDER", help="motion archive (default: REFINER_DATA)")
    parser.add_argument("--minutes", type=float, default=9.0, metavar="N", help="in all (default: 9)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: cuda")
    parser.add_argument("--toy", action="store_true", help="a rehearsal at toy size")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"default: {','.join(PARTS)}")
    parser.add_argument("--state", type=Path, nargs="+", default=[], metavar="DIR", help="what earlier runs wrote")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> int:
    from refiner.errors import UsageError
    from refiner.files import atomic_write_text
    from refiner_bench.report import environment

    parts = arguments.parts.split(",")
    unknown = sorted(set(parts) - set(PARTS))
    if unknown or not arguments.minutes > 0:
        raise UsageError(f"--parts {arguments.parts}, --minutes {arguments.minutes}: expected {', '.join(PARTS)}")
    until = time.monotonic() + 60.0 * arguments.minutes
    arguments.output.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for part in [part for part in PARTS if part in parts]:
            left = until - time.monotonic()
            if left < 5:
                results.append(Result(part, "skipped", 0.0, None, "no time was left"))
            elif part == "train":
                results += _train(arguments, work, until)
            else:
                job = Job(part, _command_of(part, arguments, work), min(BOXES[part], left))
                results += run_jobs([job], work / "logs", _environment())
            print(_line(results[-1]), flush=True)
        logs = {file.stem: file.read_text(errors="replace")[-4000:] for file in sorted((work / "logs").glob("*.log"))}
    summary = {
        "schema": "refiner-bench/quarter-hour",
        "environment": environment(),
        "settings": {"device": arguments.device, "minutes": arguments.minutes, "toy": arguments.toy},
        "parts": [dataclasses.asdict(result) for result in results],
        "logs": logs,
    }
    atomic_write_text(arguments.output / "summary.json", json.dumps(summary, indent=1) + "\n")
    print("\n".join(map(_line, results)))
    return 4 if any(result.status == "failed" for result in results) else 0


def _line(result: Result) -> str:
    return f"{result.name:16s} {result.status:8s} {result.seconds:6.1f} s  {result.why}"


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(str(ROOT / place) for place in (".", "bench", "export"))}


def _native(work: Path) -> str:
    found = sorted((work / "build").glob("_native*.so"))
    return str(found[0]) if found else "-"


def _with_native(work: Path, *command: str) -> list[str]:
    return [sys.executable, "-m", "refiner_bench.gpu.native_first", _native(work), *command]


def _command_of(part: str, arguments: argparse.Namespace, work: Path) -> list[str]:
    if part == "build":
        import torch

        headers = Path(torch.__file__).parent / "include"
        cuda = "ON -DCMAKE_CUDA_ARCHITECTURES=90" if arguments.device == "cuda" else "OFF"
        kind = "Debug" if arguments.toy else "Release"
        place = work / "build"
        configure = (
            f"cmake -S '{ROOT}' -B '{place}' -DREFINER_CUDA={cuda} -DCMAKE_BUILD_TYPE={kind} "
            f"-DREFINER_PYBIND11_HEADERS='{headers}' -DPython_EXECUTABLE='{sys.executable}' "
            f"-DPython_INCLUDE_DIR='{sysconfig.get_paths()['include']}'"
        )
        return ["bash", "-c", f"{configure} && cmake --build '{place}' -j {os.cpu_count()}"]
    check = _with_native(work, "refiner_bench.gpu.check", "300" if part == "sanitizer" else "100000")
    if part == "check":
        return check
    sanitizer = "compute-sanitizer --error-exitcode 9"
    return ["bash", "-c", f'command -v compute-sanitizer || exit 3; exec {sanitizer} "$@"', "-", *check]


def _train(arguments: argparse.Namespace, work: Path, until: float) -> list[Result]:
    """Train in the first way that works, from where an earlier run stopped, and write what comes back."""
    from refiner.errors import CheckpointError
    from refiner.training.travel import join_state, split_state

    folder, results = work / NAME, []
    if arguments.state:
        print(f"going on from step {join_state(arguments.state, NAME, folder)}")
    for way in WAYS[arguments.device]:
        left = until - time.monotonic()
        minutes = (left - TO_FINISH[arguments.device]) / 60
        if minutes <= 0:
            results.append(Result(f"train, {way}", "skipped", 0.0, None, "no time was left"))
            break
        settings = [f"training.device={arguments.device}", f"training.compile={way}"]
        settings += TOY_SIZES if arguments.toy else ["training.precision=bfloat16"]
        command = ["lifter", "--config", TOY if arguments.toy else CONFIGURATION, "--output", str(folder), "--quiet"]
        command += ["--minutes", f"{minutes:.3f}", *(["--data", arguments.data] if arguments.data else [])]
        command += [word for setting in settings for word in ("--set", setting)]
        job = Job(f"train, {way}", _with_native(work, "refiner.cli.train", *command), left - 5)
        results += run_jobs([job], work / "logs", _environment())
        if results[-1].status == "ok":
            break
    began = time.monotonic()
    try:
        files = split_state(folder, arguments.output, NAME)
    except CheckpointError as error:
        results.append(Result("bring back", "failed", round(time.monotonic() - began, 1), None, str(error)))
    else:
        names = ", ".join(path.name for path in files)
        results.append(Result("bring back", "ok", round(time.monotonic() - began, 1), 0, names))
    return results


if __name__ == "__main__":
    sys.exit(main())
