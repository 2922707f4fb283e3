"""``refiner-refine ARCHIVE``: thousands of sequences by one command, which goes on where it was stopped."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from refiner.cli.common import SOME_FAILED, thread_count
from refiner.cli.progress import progress_bar
from refiner.errors import UsageError

if TYPE_CHECKING:
    from refiner.archive.job import Job
    from refiner.archive.run import ArchiveRun, Summary

# Options that belong to single sequences, and their defaults.
FOR_OTHERS = {
    "person": None,
    "detector": None,
    "no_overlay": False,
    "name": None,
    "pose_2d": None,
    "height": None,
    "key_2d": None,
    "key_3d": None,
    "confidence": None,
    "same_person": None,
    "video": None,
    "json": None,
    "trajectory": False,
    "person_height": None,
    "camera_pitch": None,
    "camera_height": None,
    "camera_roll": None,
}
# Options that belong to archives; none has a value by default.
FOR_ARCHIVES = ("formats", "engine", "lifter_engine", "device", "threads", "chunk_frames", "ray", "actors")
# Failed sequences that are printed; the ledger has all of them.
MOST_PRINTED = 100


def add_archive_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that belong to archives."""
    group = parser.add_argument_group("archives")
    group.add_argument(
        "--formats", metavar="LIST", help="of the files: npz, parquet, trc, bvh; with commas (default: npz)"
    )
    group.add_argument("--engine", metavar="NAME", help="runs the refiner (default: the one that the file is for)")
    group.add_argument(
        "--lifter-engine", metavar="NAME", help="runs the lifter (default: the one that the file is for)"
    )
    group.add_argument("--device", choices=("cpu", "cuda"), help="of both (default: the one that the file is for)")
    group.add_argument("--threads", type=thread_count, metavar="N", help="of the engines (default: theirs)")
    group.add_argument(
        "--chunk-frames",
        type=int,
        metavar="N",
        help="frames that are in memory at a time, at most, unless one sequence has more (default: 8192)",
    )
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="let a Ray cluster do the work: local starts Ray on this machine; else HOST:PORT of the cluster, or auto",
    )
    group.add_argument(
        "--actors",
        type=int,
        metavar="N",
        help="--ray: engines that work at a time (default: one for each processor, or each graphics card)",
    )


def refuse_archive_options(arguments: argparse.Namespace) -> None:
    """Raises UsageError where an option belongs to archives, and the input is none."""
    given = [f"--{name.replace('_', '-')}" for name in FOR_ARCHIVES if getattr(arguments, name) is not None]
    if given:
        raise UsageError(f"{', '.join(given)} belong to archives of many sequences; leave them out")


def refine_archive(arguments: argparse.Namespace) -> int:
    """Refine the archive ``arguments.input`` into the folder ``arguments.output``.

    Returns:
        The exit code: 0 where everything is done, `SOME_FAILED` where some sequences failed, and 5 where all did.

    Raises:
        UsageError: an option does not go with an archive, or the folder with it.
        InputError: the archive cannot be listed.
        OSError: an output cannot be written.
    """
    from refiner.archive.ray_job import RayOptions, refine_archive_on_ray
    from refiner.archive.run import refine_archive as refine

    if arguments.actors is not None and arguments.ray is None:
        raise UsageError("--actors belongs to --ray; leave it out, or name a cluster")
    job = job_of(arguments)
    began = time.perf_counter()
    with shown_progress() as (begin, advance):
        if arguments.ray is None:
            summary = refine(job, advance, begin)
        else:
            options = RayOptions(arguments.ray, arguments.actors)
            summary = refine_archive_on_ray(job, options, advance, begin, _say)
    return tell(summary, job, time.perf_counter() - began)


def job_of(arguments: argparse.Namespace) -> Job:
    """What the options ask for.

    Raises:
        UsageError: an option does not go with an archive, or has no such value.
        RefinerError: a model cannot be found.
    """
    from refiner.archive.job import CHUNK_FRAMES, FORMATS, Job
    from refiner.archive.models import model_file
    from refiner.archive.sequences import Stated
    from refiner.arguments import check_choice, check_whole
    from refiner.data.inputs import check_image_size

    unfit = [f"--{name.replace('_', '-')}" for name, usual in FOR_OTHERS.items() if getattr(arguments, name) != usual]
    if unfit:
        raise UsageError(f"{', '.join(unfit)}: not for an archive, whose sequences are refined one like the other")
    formats = tuple(dict.fromkeys((arguments.formats or "npz").split(",")))
    for form in formats:
        check_choice(form, "format", FORMATS)
    if "parquet" in formats:
        from refiner.archive.parquet_files import require_pyarrow

        require_pyarrow()
    focal = arguments.focal_length
    if focal is not None and len(focal) > 2:
        raise UsageError(f"--focal-length: got {len(focal)} numbers, expected one or two")
    precision, device = arguments.precision, arguments.device
    return Job(
        archive=str(Path(arguments.input).resolve()),
        output=str(Path(arguments.output).resolve()),
        refiner=model_file(arguments.checkpoint, "refiner", arguments.engine, precision, device, arguments.steps),
        lifter=model_file(arguments.lifter, "lifter", arguments.lifter_engine, None, device),
        pose_3d=None if arguments.pose_3d is None else str(Path(arguments.pose_3d).resolve()),
        stated=Stated(
            fps=arguments.fps,
            joints=arguments.joints,
            joints_3d=arguments.joints_3d,
            image_size=None if arguments.image_size is None else check_image_size(arguments.image_size),
            focal_length=None if focal is None else tuple(focal),
        ),
        least_confidence=arguments.least_confidence,
        pool_shape=arguments.pool_shape,
        smoothing=arguments.smooth,
        formats=formats,
        chunk_frames=check_whole(arguments.chunk_frames or CHUNK_FRAMES, "chunk_frames", 1, 2**31 - 1),
        threads=arguments.threads,
    )


@contextmanager
def shown_progress() -> Iterator[tuple[Callable[[ArchiveRun], None], Callable[[int], None]]]:
    """A bar that counts the frames of an archive, with frames/s and the time left.

    Yields a function that takes the run before it begins, and one that takes the frames of every chunk that is done.
    """
    from contextlib import ExitStack

    with ExitStack() as stack:
        total = done = 0
        bar: Callable[[int], None] = lambda count: None  # noqa: E731

        def begin(run: ArchiveRun) -> None:
            nonlocal bar, total
            todo = sum(len(chunk.refs) for chunk in run.todo)
            for change in run.changes:
                print(f"everything is done again: {change}")
            for name in run.gone[:MOST_PRINTED]:
                print(f"{_printable(name)} is not in the archive any more; its results stay")
            inputs = sum(len(chunk.refs) for chunk in run.chunks)
            print(f"{inputs} inputs in {len(run.chunks)} chunks; {inputs - todo} are done already", flush=True)
            total = sum(chunk.weight for chunk in run.todo)
            bar = stack.enter_context(progress_bar(Path(run.job.output).name, " frames", total))

        def advance(frames: int) -> None:
            nonlocal done
            done += frames
            bar(done)

        yield begin, advance


def tell(summary: Summary, job: Job, seconds: float) -> int:
    """Print what came of an archive, and return the exit code."""
    from refiner.archive.ledger import FILE

    for reason, count in sorted(summary.notes.items()):
        print(f"{reason}: {count} sequences")
    for name, error in summary.failed[:MOST_PRINTED]:
        print(f"failed: {_printable(name)}: {_printable(error)}", file=sys.stderr)
    if len(summary.failed) > MOST_PRINTED:
        rest = len(summary.failed) - MOST_PRINTED
        print(f"failed: {rest} more; {Path(job.output, FILE)} lists them", file=sys.stderr)
    fresh = summary.done - summary.earlier
    print(
        f"{summary.done} sequences of {summary.frames} frames are refined, {fresh} of them now, in {seconds:.1f} s; "
        f"{len(summary.failed)} failed; wrote {job.output}"
    )
    if not summary.failed:
        return 0
    return SOME_FAILED if summary.done else 5


def _say(line: str) -> None:
    print(_printable(line), file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    from refiner.archive.names import printable

    return printable(text)
