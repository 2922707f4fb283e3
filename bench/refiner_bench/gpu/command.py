"""``bench/gpu/quarter-hour``: builds, checks, measures and trains on one graphics card within a few minutes."""

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
    RunSetup,
    environment,
    fused_checks,
    fused_file,
    jobs_of,
    operations_file,
    package_job,
    profile_file,
    profile_job,
)
from refiner_bench.gpu.summary import Summary, result_line

if TYPE_CHECKING:
    from refiner_bench.gpu.training import Plan, Training

# A part is not started with less time than this.
LEAST_SECONDS = 5.0
# Seconds at the end for packing and copying the results of the training.
TO_BRING_BACK = 10.0


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command's options."""
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
        help="motion archive (default: REFINER_DATA); may be repeated for several folders",
    )
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="ARCHIVE=X",
        help="weight of an archive, an option of refiner-train; may be repeated",
    )
    parser.add_argument("--minutes", type=float, default=9.0, metavar="N", help="total time (default: 9)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: cuda")
    parser.add_argument("--toy", action="store_true", help="a rehearsal at toy size")
    parser.add_argument(
        "--parts",
        default=",".join(DEFAULT_PARTS),
        help=f"some of {','.join(PARTS)} (default: {','.join(DEFAULT_PARTS)})",
    )
    parser.add_argument("--plans", metavar="NAMES", help="plans to train, separated by commas (default: all plans)")
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
        help="further arguments of refiner-train for one plan, like 'refiner-base=--lifter FILE'; may be repeated",
    )
    parser.add_argument(
        "--state", type=Path, nargs="+", default=[], metavar="DIR", help="output folders of earlier runs"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, which is 4 if a part failed."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> int:
    from refiner_bench.gpu.training import Training

    until = time.monotonic() + 60.0 * arguments.minutes
    parts = _checked(arguments)
    plans = _plans(arguments) if "train" in parts or "profile" in parts else []
    arguments.output.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(arguments, name) for name in ("device", "minutes", "toy", "weight", "plan_option")}
    with tempfile.TemporaryDirectory() as name:
        setup = RunSetup(Path(name), arguments.device, arguments.toy, packages="latency" in parts)
        summary = Summary(arguments.output / "summary.json", setup.work / "logs", settings)
        trained = plans if "train" in parts else []
        last = until - (TO_BRING_BACK if trained else 0.0)
        # Latency is measured without other jobs. Jobs that run at the same time as the training end before it.
        end = last - (BOXES["latency"] if trained and "latency" in parts else 0.0)
        training = Training(setup, tuple(arguments.data), tuple(arguments.weight), end, words_of(arguments.plan_option))
        if "profile" in parts:
            _profile(plans, training, summary)
        if "operations" in parts:
            _measure_operations(setup, end, summary)
        early = [part for part in PARTS if part in ("build", "fused", "check") and part in parts]
        train = partial(_train, states=arguments.state, training=training, summary=summary)
        work: dict[str, Callable[[], None]] = {"parts": partial(_run_parts, early, setup, end, summary, bool(trained))}
        if arguments.side_by_side:
            work |= {plan.name: partial(train, plan) for plan in trained}
        else:
            work["train"] = partial(_in_turns, trained, train, training, summary)
        _side_by_side(work, summary)
        if "latency" in parts:
            _run_parts(["latency"], setup, last, summary)
            _measure_packages(setup, last, summary)
        _bring_back(arguments.output, trained, training, summary)
    print("\n".join(map(result_line, summary.results)))
    return 4 if any(result.status == "failed" for result in summary.results) else 0


def _checked(arguments: argparse.Namespace) -> list[str]:
    """Check the options before the first job starts, and return the parts that the user asked for.

    Raises:
        UsageError: An option is wrong.
        MissingComponentError: PyTorch, safetensors or the device is missing.
    """
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
    """The plans that the user asked for, in the order of their priority. Raises UsageError for an unknown plan."""
    from refiner.errors import UsageError
    from refiner_bench.gpu.training import PLANS

    known = [plan.name for plan in PLANS]
    names = arguments.plans.split(",") if arguments.plans else known
    unknown = sorted({*names, *words_of(arguments.plan_option)} - set(known))
    if unknown:
        raise UsageError(f"there is no plan {', '.join(unknown)}; there are {', '.join(known)}")
    return [plan for plan in PLANS if plan.name in names]


def words_of(options: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parse ``--plan-option PLAN=WORDS``.

    Args:
        options: The values of the option.

    Returns:
        By plan, further arguments of its command.

    Raises:
        UsageError: A value has another form.
    """
    from refiner.errors import UsageError

    words: dict[str, tuple[str, ...]] = {}
    for option in options:
        name, _, text = option.partition("=")
        try:
            more = tuple(shlex.split(text))
        except ValueError as error:
            raise UsageError(f"--plan-option {option}: {error}") from error
        if not name or not more:
            raise UsageError(
                f"--plan-option {option}: expected PLAN=WORDS of refiner-train, like "
                "'lifter-base=--set training.batch=128'"
            )
        words[name] = words.get(name, ()) + more
    return words


def _run_parts(parts: Sequence[str], setup: RunSetup, until: float, summary: Summary, beside: bool = False) -> None:
    """Run parts one after the other.

    Args:
        parts: The names of the parts.
        setup: The setup of the run.
        until: The time of `time.monotonic` at which the parts end.
        summary: Receives the results.
        beside: Whether models train at the same time.
    """
    for part in parts:
        left = until - time.monotonic()
        if left < LEAST_SECONDS:
            summary.add([Result(part, "skipped", 0.0, None, "no time was left")])
        elif part == "fused":
            _measure_fused(setup, until, summary)
        else:
            summary.add(run_jobs(jobs_of(part, setup, left, beside), setup.work / "logs", environment()))


def _measure_packages(setup: RunSetup, until: float, summary: Summary) -> None:
    """Measure each package of AOTInductor in its own process, so that a crash does not affect the other packages."""
    from refiner_bench.gpu.packages import PACKAGES

    for name in PACKAGES if setup.device == "cuda" else ():
        left = until - time.monotonic()
        job = package_job(name, setup, left)
        if job is None or left < LEAST_SECONDS:
            why = "no time was left" if job else "there is no package; see the result of its job"
            summary.add([Result(f"latency, {name}", "skipped", 0.0, None, why)])
        else:
            summary.add(run_jobs([job], setup.work / "logs", environment()))


def _profile(plans: Sequence[Plan], training: Training, summary: Summary) -> None:
    """Profile a training step of each plan that can run."""
    from refiner_bench.gpu.training import refusal, words_to_profile

    setup, left = training.setup, training.until - time.monotonic()
    words = {plan.name: words_to_profile(plan, training) for plan in plans if not refusal(plan, training)}
    if left < LEAST_SECONDS or not words:
        why = "no time was left" if words else "there is no plan that can run"
        summary.add([Result("profile", "skipped", 0.0, None, why)])
        return
    summary.add(run_jobs([profile_job(words, setup, left)], setup.work / "logs", environment()))
    summary.take("profile", profile_file(setup))


def _measure_operations(setup: RunSetup, until: float, summary: Summary) -> None:
    """Measure variants of a layer of the networks."""
    if setup.device != "cuda":
        summary.add([Result("operations", "skipped", 0.0, None, "the forms are for a CUDA device")])
        return
    (setup.work / "reports").mkdir(parents=True, exist_ok=True)
    _run_parts(["operations"], setup, until, summary)
    summary.take("operations", operations_file(setup))


def _measure_fused(setup: RunSetup, until: float, summary: Summary) -> None:
    """Compare and time the native engine's network on the device; its tests and a checker follow, at the same time."""
    logs = setup.work / "logs"
    summary.add(run_jobs(jobs_of("fused", setup, until - time.monotonic()), logs, environment()))
    print((logs / "fused.log").read_text(encoding="utf-8", errors="replace"), flush=True)
    summary.take("fused", fused_file(setup))
    left = until - time.monotonic()
    if left >= LEAST_SECONDS and setup.device == "cuda":
        summary.add(run_jobs(fused_checks(setup, left), logs, environment()))


def _train(plan: Plan, states: Sequence[Path], training: Training, summary: Summary, until: float = math.inf) -> None:
    """Resume and train one plan.

    Args:
        plan: The plan.
        states: The output folders of earlier runs.
        training: The setup of the training.
        summary: Receives the results.
        until: The end of this plan as a time of `time.monotonic`, if it is before the end of all training.
    """
    from refiner_bench.gpu.training import progress_of, resume, train_plan

    training = dataclasses.replace(training, until=min(until, training.until))
    summary.add(resume(plan, states, training))
    results = train_plan(plan, training)
    progress = progress_of(training.folder(plan))
    if progress is not None:
        summary.train(plan.name, {"configuration": plan.configuration, **progress})
    summary.add(results)


def _in_turns(plans: Sequence[Plan], train: Callable[..., None], training: Training, summary: Summary) -> None:
    """Train one plan after the other. Each plan gets an equal share of the time that is left when it starts."""
    for number, plan in enumerate(plans):
        now = time.monotonic()
        until = now + (training.until - now) / (len(plans) - number)
        _side_by_side({plan.name: partial(train, plan, until=until)}, summary)


def _side_by_side(work: Mapping[str, Callable[[], None]], summary: Summary) -> None:
    """Run functions in threads, and wait for all of them."""
    with ThreadPoolExecutor(len(work)) as pool:
        futures = {name: pool.submit(function) for name, function in work.items()}
    for name, future in futures.items():
        # An error in one thread is a failed part, so that the results of the other threads are kept.
        error = future.exception()
        if error is not None:
            summary.add([Result(name, "failed", 0.0, None, repr(error))])


def _bring_back(output: Path, plans: Sequence[Plan], training: Training, summary: Summary) -> None:
    """Copy results to the output folder."""
    from refiner_bench.gpu.bring_back import bring_back

    began, work = time.monotonic(), training.setup.work
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
