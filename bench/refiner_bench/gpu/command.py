"""``bench/gpu/quarter-hour``: build, check, measure and train on one graphics card within a few minutes."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from refiner.cli.common import EXIT_CODES, HelpFormatter, run
from refiner_bench.gpu.jobs import Result, run_jobs
from refiner_bench.gpu.parts import (
    BOXES,
    DEFAULT_PARTS,
    PARTS,
    Place,
    environment,
    jobs_of,
    operations_file,
    package_job,
    profile_file,
    profile_job,
)
from refiner_bench.gpu.summary import Summary, told

if TYPE_CHECKING:
    from refiner_bench.gpu.training import Plan, Training

# Parts with less time than this are not begun.
LEAST_SECONDS = 5.0
# Of the end: what training has written is packed and copied.
TO_BRING_BACK = 10.0


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
    parser.add_argument(
        "--parts",
        default=",".join(DEFAULT_PARTS),
        help=f"some of {','.join(PARTS)} (default: {','.join(DEFAULT_PARTS)})",
    )
    parser.add_argument("--plans", metavar="NAMES", help="what is trained, with commas (default: all there are)")
    parser.add_argument(
        "--side-by-side",
        action="store_true",
        help="train all plans at the same time; by default one after the other, with equal shares of the time",
    )
    parser.add_argument(
        "--plan-option",
        action="append",
        default=[],
        metavar="PLAN=WORDS",
        help="more words for one plan's refiner-train, like 'refiner-base=--lifter FILE'; again for more",
    )
    parser.add_argument("--state", type=Path, nargs="+", default=[], metavar="DIR", help="what earlier runs wrote")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 4 where a part failed."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> int:
    from refiner_bench.gpu.training import Training

    until = time.monotonic() + 60.0 * arguments.minutes
    parts = _checked(arguments)
    plans = _plans(arguments) if "train" in parts or "profile" in parts else []
    arguments.output.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(arguments, name) for name in ("device", "minutes", "toy", "weight", "plan_option")}
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), arguments.device, arguments.toy)
        summary = Summary(arguments.output / "summary.json", place.work / "logs", settings)
        trained = plans if "train" in parts else []
        last = until - (TO_BRING_BACK if trained else 0.0)
        # Latency is measured alone: whatever runs beside training ends with it.
        end = last - (BOXES["latency"] if trained and "latency" in parts else 0.0)
        training = Training(place, tuple(arguments.data), tuple(arguments.weight), end, words_of(arguments.plan_option))
        if "profile" in parts:
            _profile(plans, training, summary)
        if "operations" in parts:
            _measure_operations(place, end, summary)
        early = [part for part in PARTS if part in ("build", "check") and part in parts]
        train = partial(_train, states=arguments.state, training=training, summary=summary)
        work: dict[str, Callable[[], None]] = {"parts": partial(_run_parts, early, place, end, summary, bool(trained))}
        if arguments.side_by_side:
            work |= {plan.name: partial(train, plan) for plan in trained}
        else:
            work["train"] = partial(_in_turns, trained, train, training, summary)
        _side_by_side(work, summary)
        if "latency" in parts:
            _run_parts(["latency"], place, last, summary)
            _measure_packages(place, last, summary)
        _bring_back(arguments.output, trained, training, summary)
    print("\n".join(map(told, summary.results)))
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
    if {"train", "profile"} & set(parts) and not arguments.data and not os.environ.get("REFINER_DATA"):
        raise UsageError("training and its profile need --data FOLDER, or the environment variable REFINER_DATA")
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


def _plans(arguments: argparse.Namespace) -> list[Plan]:
    """The plans that are asked for, in priority order. Raises UsageError for one that is not there."""
    from refiner.errors import UsageError
    from refiner_bench.gpu.training import PLANS

    known = [plan.name for plan in PLANS]
    asked = arguments.plans.split(",") if arguments.plans else known
    unknown = sorted({*asked, *words_of(arguments.plan_option)} - set(known))
    if unknown:
        raise UsageError(f"there is no plan {', '.join(unknown)}; there are {', '.join(known)}")
    return [plan for plan in PLANS if plan.name in asked]


def words_of(options: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What ``--plan-option PLAN=WORDS`` adds to the command of each plan. Raises UsageError."""
    from refiner.errors import UsageError

    words: dict[str, tuple[str, ...]] = {}
    for option in options:
        name, _, given = option.partition("=")
        try:
            more = tuple(shlex.split(given))
        except ValueError as error:
            raise UsageError(f"--plan-option {option}: {error}") from error
        if not name or not more:
            raise UsageError(
                f"--plan-option {option}: expected PLAN=WORDS, like 'lifter-base=--set training.batch=128'"
            )
        words[name] = words.get(name, ()) + more
    return words


def _run_parts(parts: Sequence[str], place: Place, until: float, summary: Summary, beside: bool = False) -> None:
    """One part after the other, up to ``until``; ``beside``: while models train."""
    for part in parts:
        left = until - time.monotonic()
        if left < LEAST_SECONDS:
            summary.add([Result(part, "skipped", 0.0, None, "no time was left")])
        else:
            summary.add(run_jobs(jobs_of(part, place, left, beside), place.work / "logs", environment()))


def _measure_packages(place: Place, until: float, summary: Summary) -> None:
    """Each package of AOTInductor in a process of its own, one after the other: a crash costs its rows alone."""
    from refiner_bench.gpu.packages import PACKAGES

    for name in PACKAGES if place.device == "cuda" else ():
        left = until - time.monotonic()
        job = package_job(name, place, left)
        if job is None or left < LEAST_SECONDS:
            why = "no time was left" if job else "there is no package; see what became of its job"
            summary.add([Result(f"latency, {name}", "skipped", 0.0, None, why)])
        else:
            summary.add(run_jobs([job], place.work / "logs", environment()))


def _profile(plans: Sequence[Plan], training: Training, summary: Summary) -> None:
    """A step of each plan that can run, with the kernels that take its time."""
    from refiner_bench.gpu.training import refusal, words_to_profile

    place, left = training.place, training.until - time.monotonic()
    words = {plan.name: words_to_profile(plan, training) for plan in plans if not refusal(plan, training)}
    if left < LEAST_SECONDS or not words:
        why = "no time was left" if words else "there is no plan that can run"
        summary.add([Result("profile", "skipped", 0.0, None, why)])
        return
    summary.add(run_jobs([profile_job(words, place, left)], place.work / "logs", environment()))
    summary.take("profile", profile_file(place))


def _measure_operations(place: Place, until: float, summary: Summary) -> None:
    """A layer of the networks in several forms."""
    if place.device != "cuda":
        summary.add([Result("operations", "skipped", 0.0, None, "the forms are for a CUDA device")])
        return
    (place.work / "reports").mkdir(parents=True, exist_ok=True)
    _run_parts(["operations"], place, until, summary)
    summary.take("operations", operations_file(place))


def _train(plan: Plan, states: Sequence[Path], training: Training, summary: Summary, until: float = math.inf) -> None:
    """``until``: where that is before the end of all training."""
    from refiner_bench.gpu.training import progress_of, take_up, train_plan

    training = dataclasses.replace(training, until=min(until, training.until))
    summary.add(take_up(plan, states, training))
    results = train_plan(plan, training)
    found = progress_of(training.folder(plan))
    if found is not None:
        summary.train(plan.name, {"configuration": plan.configuration, **found})
    summary.add(results)


def _in_turns(plans: Sequence[Plan], train: Callable[..., None], training: Training, summary: Summary) -> None:
    """One plan after the other; each has an equal share of the time that is left when it begins."""
    for place, plan in enumerate(plans):
        now = time.monotonic()
        until = now + (training.until - now) / (len(plans) - place)
        _side_by_side({plan.name: partial(train, plan, until=until)}, summary)


def _side_by_side(work: Mapping[str, Callable[[], None]], summary: Summary) -> None:
    """Run each in a thread, to the end of all."""
    with ThreadPoolExecutor(len(work)) as pool:
        begun = {name: pool.submit(function) for name, function in work.items()}
    for name, future in begun.items():
        # What goes wrong in one is a failed part: what the others made comes back.
        error = future.exception()
        if error is not None:
            summary.add([Result(name, "failed", 0.0, None, repr(error))])


def _bring_back(output: Path, plans: Sequence[Plan], training: Training, summary: Summary) -> None:
    from refiner_bench.gpu.bring_back import bring_back

    began, work = time.monotonic(), training.place.work
    runs = [(plan.name, training.folder(plan)) for plan in plans if plan.name in summary.trained]
    room = bring_back(runs, sorted((work / "reports").glob("latency.*")), output, work)
    summary.left_out = room.left_out
    why = ", ".join(room.taken) or "nothing"
    if room.left_out:
        why += "; left out: " + "; ".join(f"{name} ({reason})" for name, reason in room.left_out.items())
    failed = bool(plans) and not any(name.endswith(".safetensors") for name in room.taken)
    summary.add([Result("bring back", "failed" if failed else "ok", round(time.monotonic() - began, 1), None, why)])


if __name__ == "__main__":
    sys.exit(main())
