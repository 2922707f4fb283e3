"""Training by one process and by two on the same global batch: the validation errors, seed by seed, and the speeds."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refiner.arguments import check_whole
from refiner.cli.common import HelpFormatter
from refiner.errors import RefinerError
from refiner.evaluation.tables import markdown_table
from refiner.reports import Report, new_report
from refiner_bench.report import JsonObject

CONFIGURATION = "lifter-small"
PEOPLE, ARCHIVE_SEED = 8, 7
MOST_SEEDS, MOST_STEPS = 100, 100_000

DESCRIPTION = f"""\
Trains the lifter {CONFIGURATION} on built-in synthetic motion for some hundred steps: by one process on whole batches,
by one process on batches of two parts, and by two processes that share the parts (torchrun). All see the same number
of windows a step. Every process has one thread. The report takes minutes."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class Contestant:
    """A way to compute a training: the number of processes, and of parts of a batch."""

    processes: int
    parts: int


CONTESTANTS = {
    "one process": Contestant(1, 1),
    "one process, two parts": Contestant(1, 2),
    "two processes": Contestant(2, 2),
}
ONE, TWO = "one process", "two processes"


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        mpjpe_mm: the error on the validation person after the last step.
        windows_per_s: the speed of all processes together, the median over the intervals after the first.
    """

    mpjpe_mm: float
    windows_per_s: float


def add_distributed(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "distributed",
        help="training by two processes against one: validation error and windows/s",
        description=DESCRIPTION,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--steps", type=int, default=400, help="steps of a run (default: 400)")
    parser.add_argument("--batch", type=int, default=24, help="windows of a step (default: 24)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write what is printed")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from refiner_bench.report import publish

    report = distributed_report(
        arguments.seeds,
        arguments.steps,
        arguments.batch,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    text = format_distributed(report)
    publish(report, text, arguments.json, arguments.markdown)
    print(text)


def distributed_report(seeds: int, steps: int, batch: int, log: Log = lambda line: None) -> Report:
    """Train with every seed as each of `CONTESTANTS`, one run after another.

    Args:
        seeds: The number of seeds.
        steps: The steps of a run.
        batch: The windows of a step, an even number.
        log: Called with lines about the progress.

    Returns:
        The report: for each contestant and seed the validation MPJPE and windows/s; their means and standard
        deviations; and the difference of two processes and one in the mean MPJPE, with its standard error.

    Raises:
        UsageError: A number is out of range.
        RefinerError: A training fails; the message is its own.
    """
    seeds = check_whole(seeds, "seeds", 2, MOST_SEEDS)
    steps = check_whole(steps, "steps", 4, MOST_STEPS)
    half = check_whole(batch, "batch", 2, 10_000) // 2
    runs: dict[str, list[Trained]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        data = _write_motion(Path(folder) / "motion")
        for seed in range(seeds):
            for name, contestant in CONTESTANTS.items():
                trained = _train(contestant, data, Path(folder) / f"{name} {seed}", seed, steps, 2 * half)
                log(f"seed {seed}, {name}: {trained.mpjpe_mm:.2f} mm, {trained.windows_per_s:.0f} windows/s")
                runs[name].append(trained)
    settings = {
        "configuration": CONFIGURATION,
        "people": PEOPLE,
        "seeds": seeds,
        "steps": steps,
        "batch": 2 * half,
        "processors": os.cpu_count() or 1,
    }
    contestants = {name: _summary(CONTESTANTS[name], trained) for name, trained in runs.items()}
    one, two = contestants[ONE], contestants[TWO]
    difference = two["mpjpe_mm"] - one["mpjpe_mm"]
    error = math.sqrt((one["sd_mm"] ** 2 + two["sd_mm"] ** 2) / seeds)
    return new_report("distributed", settings) | {
        "contestants": contestants,
        "difference_mm": difference,
        "standard_error_mm": error,
        "speed_ratio": two["windows_per_s"] / one["windows_per_s"],
    }


def _summary(contestant: Contestant, trained: list[Trained]) -> dict[str, Any]:
    errors = [run.mpjpe_mm for run in trained]
    return {
        **asdict(contestant),
        "runs": [asdict(run) for run in trained],
        "mpjpe_mm": statistics.mean(errors),
        "sd_mm": statistics.stdev(errors),
        "windows_per_s": statistics.median(run.windows_per_s for run in trained),
    }


def _write_motion(folder: Path) -> Path:
    """Write synthetic motion as a motion archive."""
    import numpy as np

    from refiner.data.synthetic import synthetic_archive, synthetic_description

    positions = synthetic_archive(ARCHIVE_SEED, PEOPLE)
    description = synthetic_description(positions)
    split = {part: list(getattr(description, part)) for part in ("train", "validation", "test")}
    folder.mkdir()
    np.savez(folder / "data_3d_synthetic.npz", positions_3d=np.array(positions, dtype=object))
    (folder / "clips.json").write_text(json.dumps({"fps": description.fps, "split": split}), encoding="utf-8")
    return folder


def _train(contestant: Contestant, data: Path, output: Path, seed: int, steps: int, batch: int) -> Trained:
    """Run the training command in processes of its own."""
    values = {
        "seed": seed,
        "steps": steps,
        "batch": batch,
        "parts": contestant.parts,
        "validate_every": max(1, steps // 4),
        # The moving average must reach what so short a run has learned.
        "ema": 0.99,
        "threads": 1,
    }
    changes = [f"training.{name}={value}" for name, value in values.items()] + [f"optimiser.warmup={steps // 8}"]
    command = [sys.executable, "-m"]
    if contestant.processes > 1:
        count = str(contestant.processes)
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", count, "-m"]
    command += ["refiner.cli.train", "lifter", "--config", CONFIGURATION, "--data", str(data), "--output", str(output)]
    command += ["--quiet", *(part for change in changes for part in ("--set", change))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RefinerError(f"a training of {contestant.processes} processes failed:\n{done.stderr.strip()}")
    history = json.loads((output / "history.json").read_text(encoding="utf-8"))
    speed = statistics.median(point["windows_per_s"] for point in history[1:])
    return Trained(history[-1]["mpjpe_mm"], speed)


def format_distributed(report: JsonObject) -> str:
    """The report as Markdown."""
    settings, contestants = report["settings"], report["contestants"]
    seeds = [f"seed {seed}, mm" for seed in range(settings["seeds"])]
    rows = [
        [
            name,
            *(f"{run['mpjpe_mm']:.2f}" for run in entry["runs"]),
            f"{entry['mpjpe_mm']:.2f} ± {entry['sd_mm']:.2f}",
            f"{entry['windows_per_s']:.0f}",
            f"{entry['windows_per_s'] / entry['processes']:.0f}",
        ]
        for name, entry in contestants.items()
    ]
    header = ["trained by", *seeds, "mean ± sd, mm", "windows/s", "of each process"]
    return (
        f"# Training by two processes\n\n{settings['configuration']} on synthetic motion, {settings['steps']} steps of "
        f"{settings['batch']} windows, {report['environment']['processor']}, {settings['processors']} processors, one "
        f"thread a process. The error is the MPJPE on the validation person.\n\n{markdown_table(header, rows)}\n\n"
        f"Two processes differ from one by {report['difference_mm']:+.2f} mm; the standard error of this difference, "
        f"from the spread of the seeds, is {report['standard_error_mm']:.2f} mm. Two processes train "
        f"{report['speed_ratio']:.2f} times as many windows a second as one."
    )
