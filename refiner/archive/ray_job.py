"""An archive on Ray: chunks go through Ray Data to actors that hold one engine each; this process keeps the ledger."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from refiner import __version__
from refiner.archive.job import Job
from refiner.archive.outputs import TEMPORARY
from refiner.archive.ray_worker import REPLY, TASK, ChunkWorker, Reply, Setup
from refiner.archive.run import ArchiveRun, Summary, open_run
from refiner.archive.sequences import Chunk
from refiner.arguments import check_whole
from refiner.errors import ArchiveError, MissingComponentError, UsageError

LOCAL = "local"
MOST_ACTORS = 10_000
# An actor works on one chunk while the next one waits beside it: no actor waits for the driver, and a process that dies
# takes little with it.
CHUNKS_PER_ACTOR = 2
# Chunks and replies are a few kilobytes: the least memory for objects that Ray takes is plenty.
OBJECT_BYTES = 100 * 2**20
CONNECT_S = 10.0


@dataclass(frozen=True)
class RayOptions:
    """Where an archive is refined.

    Attributes:
        address: "local" starts Ray on this machine, and ends it afterwards. HOST:PORT is the head of a cluster, and
            "auto" the cluster that runs on this machine; it must belong to the cluster. A process that is connected to
            Ray already stays with that cluster.
        actors: how many engines work at a time; None is one for each processor, or one for each graphics card where
            the job names one.
    """

    address: str
    actors: int | None = None


def refine_archive_on_ray(
    job: Job,
    options: RayOptions,
    advance: Callable[[int], None] = lambda frames: None,
    begin: Callable[[ArchiveRun], None] = lambda run: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Refine an archive by actors of a Ray cluster; the result is that of `refiner.archive.run.refine_archive`.

    Every machine of the cluster needs this version of the package, and the archive, the models and the output folder
    under the same paths. Where a process or a machine dies, Ray starts another one, and its chunk is done again: it
    writes the same files. Each chunk enters the ledger once.

    Args:
        job: what is to be done. Each actor runs its engines with `Job.threads`, by default one.
        options: the cluster.
        advance: takes the number of frames (`Chunk.weight`) of every chunk that is done.
        begin: takes the run before the first chunk.
        tell: takes lines about processes that died, and about a cluster that is busy.

    Raises:
        MissingComponentError: Ray is not installed.
        UsageError: a number is out of range, or a machine of the cluster cannot do the job.
        ArchiveError: the archive cannot be listed, there is no cluster at the address, or the cluster failed.
        OSError: an output cannot be written.
    """
    require_ray()
    actors = None if options.actors is None else check_whole(options.actors, "actors", 1, MOST_ACTORS)
    if job.threads is None:
        job = replace(job, threads=1)
    with open_run(job) as run:
        begin(run)
        if run.todo:
            with connected(options.address, actors, job):
                count = min(actors or _places(job), len(run.todo))
                if options.address != LOCAL:
                    _tell_of_waiting(job, tell)
                setup = Setup(job, job.recipe_id, __version__, str(_new_marks(job)))
                replies = replies_of(run.todo, setup, count)
                _record(run, replies, advance, tell)
        return run.finish()


def require_ray() -> None:
    """Prepare the import of Ray. Raises MissingComponentError where Ray Data is not installed."""
    # pyarrow and pandas are in ray[data], and not in ray.
    missing = [name for name in ("ray", "pyarrow", "pandas") if find_spec(name) is None]
    if missing:
        raise MissingComponentError(f"--ray needs {', '.join(missing)}; run: pip install 'pose-refiner[ray]'")
    # These are read when Ray is imported: nothing is sent to its makers, and the lines about its own parts are no news.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


@contextlib.contextmanager
def connected(address: str, actors: int | None, job: Job) -> Iterator[None]:
    """Be connected to a cluster within a block; a local one is started for it, and ended after it."""
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"address": address}
    if address != LOCAL:
        _check_address(address)
    else:
        processors = None if actors is None else actors * _threads(job)
        options |= {"num_cpus": processors, "include_dashboard": False, "object_store_memory": OBJECT_BYTES}
    try:
        with _same_end():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        what = "Ray did not start on this machine" if address == LOCAL else f"there is no way to the cluster {address}"
        raise ArchiveError(f"{what}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _same_end() -> Iterator[None]:
    """Let SIGTERM end the process after the block as it did before: Ray takes the signal when it starts."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _check_address(address: str) -> None:
    """Raise an error where nobody listens: Ray would try for a minute and then end the process."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise UsageError(
            f"--ray {address}: expected local, auto, or HOST:PORT of the head of a Ray cluster, to which this machine "
            "belongs"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ArchiveError(f"no Ray cluster answers at {address}: {error}") from error


def _new_marks(job: Job) -> Path:
    """A new folder for marks, among the temporary files of the run, which are removed with it."""
    marks = Path(job.output, TEMPORARY, f"begun-{secrets.token_hex(8)}")
    marks.mkdir(parents=True)
    marks.chmod(0o777)  # processes of other users may do the work
    return marks


def _threads(job: Job) -> int:
    return job.threads or 1


def _on_graphics_card(job: Job) -> bool:
    return job.refiner.device == "cuda" or job.lifter.device == "cuda"


def _places(job: Job) -> int:
    """How many actors the cluster has room for. Raises UsageError where there is none."""
    import ray

    resources = ray.cluster_resources()
    if _on_graphics_card(job):
        count = int(resources.get("GPU", 0))
        what = "graphics card"
    else:
        count = int(resources.get("CPU", 0)) // _threads(job)
        what = f"machine with {_threads(job)} processors"
    if count < 1:
        raise UsageError(f"the Ray cluster has no {what}; start workers that have one")
    return count


def _tell_of_waiting(job: Job, tell: Callable[[str], None]) -> None:
    """Say so where nothing can begin: Ray itself waits without a word."""
    import ray

    name, need = ("GPU", 1) if _on_graphics_card(job) else ("CPU", _threads(job))
    free = ray.available_resources().get(name, 0)
    if free < need:
        tell(f"the cluster is busy, {free:g} {name} of {need} for an engine are free: the work begins when it is not")


def replies_of(chunks: Sequence[Chunk], setup: Setup, actors: int, worker: type = ChunkWorker) -> Iterator[Reply]:
    """Send chunks through a pool of actors; the process is connected to a cluster.

    Args:
        chunks: what is to be done.
        setup: for the actors.
        actors: how many there are.
        worker: their class.

    Yields:
        The replies, as they come.

    Raises:
        ArchiveError: the cluster failed.
    """
    from ray.data import ActorPoolStrategy, DataContext, from_items
    from ray.exceptions import RayError

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    tasks = [{TASK: pickle.dumps(chunk)} for chunk in chunks]
    job = setup.job
    # A block for each chunk: Ray repeats whole blocks, and gives their results when they are whole.
    pool = from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        worker,
        fn_constructor_args=(pickle.dumps(setup),),
        batch_size=1,
        batch_format="numpy",
        compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=CHUNKS_PER_ACTOR),
        num_cpus=_threads(job),
        num_gpus=1 if _on_graphics_card(job) else None,
    )
    try:
        for row in pool.iter_rows():
            yield pickle.loads(row[REPLY])
    except RayError as error:
        # The last line of Ray's error is that of the process in which it happened.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        last = lines[-1] if lines else type(error).__name__
        raise ArchiveError(f"Ray gave up, and its logs say more: {last}; what is done stays") from error


def _record(
    run: ArchiveRun, replies: Iterator[Reply], advance: Callable[[int], None], tell: Callable[[str], None]
) -> None:
    """Write all replies into the ledger, each chunk once."""
    waiting = {chunk.identity: chunk for chunk in run.todo}
    for reply in replies:
        if reply.fault is not None:
            raise reply.fault.error()
        chunk = waiting.pop(reply.identity, None)
        if chunk is None:
            continue
        if reply.attempt > 1:
            tell(f"a process ended while it refined {chunk.refs[0].name} and others; they were refined again")
        run.record(chunk, reply.outcomes)
        advance(chunk.weight)
    if waiting:
        raise ArchiveError(f"Ray lost {len(waiting)} of {len(run.todo)} chunks; run the command again, which does them")
