"""``bench/gpu/quarter-hour``: build, check, measure and train on one graphics card within a few minutes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refiner.cli.common import EXIT_CODES, HelpFormatter, run
from refiner_bench.gpu.jobs import Result, run_jobs
from refiner_bench.gpu.parts import PARTS, Place, environment, jobs_of

# Parts with less time than this are not begun.
LEAST_SECONDS = 5.0
# The end of each log that the summary keeps.
LOG_CHARACTERS = 4000


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="quarter-hour",
        description="Build the kernels, check them, measure latencies, and train on a graphics card within a few "
        "minutes; each job in a process and a time box of its own.",
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    default = os.environ.get("OUT") or "gpu-output"
    parser.add_argument("--output", type=Path, default=Path(default), metavar="DIR", help=f"default: {default}")
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="FOLDER",
        help="motion archive (default: REFINER_DATA); again for each further folder to train on",
    )
    parser.add_argument(
        "--weight", action="append", default=[], metavar="ARCHIVE=X", help="as refiner-train takes it; again for more"
    )
    parser.add_argument("--minutes", type=float, default=9.0, metavar="N", help="in all (default: 9)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: cuda")
    parser.add_argument("--toy", action="store_true", help="a rehearsal at toy size")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"default: {','.join(PARTS)}")
    parser.add_argument("--state", type=Path, nargs="+", default=[], metavar="DIR", help="what earlier runs wrote")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 4 where a part failed."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> int:
    until = time.monotonic() + 60.0 * arguments.minutes
    parts = _checked(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), arguments.device, arguments.toy)
        summary = _Summary(arguments, place)
        for part in [part for part in PARTS if part in parts and part != "train"]:
            left = until - time.monotonic()
            if left < LEAST_SECONDS:
                summary.add([Result(part, "skipped", 0.0, None, "no time was left")])
            else:
                summary.add(run_jobs(jobs_of(part, place, left), place.work / "logs", environment()))
        _train(arguments, place, until, summary, "train" in parts)
    print("\n".join(map(_line, summary.results)))
    return 4 if any(result.status == "failed" for result in summary.results) else 0


def _checked(arguments: argparse.Namespace) -> list[str]:
    """The parts that are asked for. Raises UsageError and MissingComponentError before any time is spent."""
    from refiner.errors import MissingComponentError, UsageError

    parts: list[str] = arguments.parts.split(",")
    unknown = sorted(set(parts) - set(PARTS))
    if unknown or not 0 < arguments.minutes < float("inf"):
        raise UsageError(
            f"--parts {arguments.parts}, --minutes {arguments.minutes:g}: expected some of {', '.join(PARTS)}, and a "
            "time above 0"
        )
    absent = [str(folder) for folder in arguments.state if not folder.is_dir()]
    if absent:
        raise UsageError(f"--state {' '.join(absent)}: there is no such folder; name those that earlier runs wrote")
    if "train" in parts and not arguments.data and not os.environ.get("REFINER_DATA"):
        raise UsageError("training needs --data FOLDER, or the environment variable REFINER_DATA")
    try:
        import safetensors  # noqa: F401
        import torch
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"{sys.executable} has no {error.name}; name a Python that has it: PYTHON=... bench/gpu/quarter-hour"
        ) from error
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError("PyTorch sees no CUDA device here; --device cpu --toy rehearses")
    return parts


def _train(arguments: argparse.Namespace, place: Place, until: float, summary: _Summary, train: bool) -> None:
    """Train, and write what comes back."""
    from refiner_bench.gpu.bring_back import bring_back
    from refiner_bench.gpu.training import PLANS, Training, progress_of, take_up, train_plan

    training = Training(place, tuple(arguments.data), tuple(arguments.weight), until)
    if train:
        for plan in PLANS:
            summary.add(take_up(plan, arguments.state, training))
        for plan in PLANS:
            summary.add(train_plan(plan, training))
            found = progress_of(training.folder(plan))
            if found is not None:
                summary.training[plan.name] = {"configuration": plan.configuration, **found}
    began = time.monotonic()
    runs = [(plan.name, training.folder(plan)) for plan in PLANS if plan.name in summary.training]
    reports = sorted((place.work / "reports").glob("latency.*"))
    room = bring_back(runs, reports, arguments.output, place.work)
    summary.left_out = room.left_out
    why = ", ".join(room.taken) or "nothing"
    if room.left_out:
        why += "; left out: " + "; ".join(f"{name} ({reason})" for name, reason in room.left_out.items())
    failed = train and not any(name.endswith(".safetensors") for name in room.taken)
    summary.add([Result("bring back", "failed" if failed else "ok", round(time.monotonic() - began, 1), None, why)])


class _Summary:
    """summary.json, written anew after every part, so that whatever ends the run leaves what was done before."""

    def __init__(self, arguments: argparse.Namespace, place: Place) -> None:
        from refiner_bench.report import environment as machine

        self._path, self._logs = arguments.output / "summary.json", place.work / "logs"
        self._head: dict[str, Any] = {
            "schema": "refiner-bench/quarter-hour",
            "environment": machine(),
            "settings": {name: getattr(arguments, name) for name in ("device", "minutes", "toy", "weight")},
        }
        self.results: list[Result] = []
        self.training: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}

    def add(self, results: list[Result]) -> None:
        """Print, keep and write."""
        from refiner.files import atomic_write_text

        self.results += results
        for result in results:
            print(_line(result), flush=True)
        files = sorted(self._logs.glob("*.log"))
        content = {
            **self._head,
            "parts": [dataclasses.asdict(result) for result in self.results],
            "training": self.training,
            "left_out": self.left_out,
            "logs": {file.stem: file.read_text(errors="replace")[-LOG_CHARACTERS:] for file in files},
        }
        atomic_write_text(self._path, json.dumps(content, indent=1) + "\n")


def _line(result: Result) -> str:
    return f"{result.name:24s} {result.status:8s} {result.seconds:6.1f} s  {result.why}"


if __name__ == "__main__":
    sys.exit(main())
