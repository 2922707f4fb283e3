"""The processes of a training: `torchrun` starts them, and each computes its share of every batch.

A process that runs alone needs no group: `current` then returns `ALONE`, whose methods communicate with nobody.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

from refiner.errors import ConfigError, MissingComponentError, RefinerError, TrainingError, UsageError
from refiner.training.config import Config
from refiner.training.schedule import TimeBox

Value = TypeVar("Value")

# What `torchrun` tells each process.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# How long the processes wait for the first one, which reads states, validates and writes the checkpoints.
LONGEST_WAIT = timedelta(hours=24)
# How long they wait for each other before the run begins.
LONGEST_START = timedelta(minutes=30)
_FAILURES = "refiner/failures"


@dataclass(frozen=True, eq=False)
class Processes:
    """This process among the processes of a training.

    Attributes:
        rank: the number of this process; 0 validates, and writes the files and the progress.
        size: the number of processes.
        local_rank: the number of this process on its machine, which is the number of its CUDA device.
        group: the processes, for values on the CPU; None for a process alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this process validates, and writes the files and the progress."""
        return self.rank == 0

    def takes(self, number: int) -> bool:
        """Whether a part of a batch, or a batch of the noise fit, is this process's."""
        return number % self.size == self.rank

    def of_first(self, value: Value) -> Value:
        """The value of the first process, on all of them. The other processes wait for it."""
        if self.group is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group, device=torch.device("cpu"))
        return values[0]

    def number_of_first(self, value: float) -> float:
        """A number of the first process, on all of them; faster than `of_first`."""
        if self.group is None:
            return value
        number = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(number, src=0, group=self.group)
        return float(number)

    def gathered(self, value: Value) -> list[Value]:
        """The values of all processes, in their order, on all of them."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def total(self, value: float) -> float:
        """The sum of a number over the processes."""
        if self.group is None:
            return value
        number = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(number, group=self.group)
        return float(number)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor without dimensions over the processes; this waits for the device."""
        if self.group is None:
            return value
        return torch.tensor(self.total(float(value)) / self.size, device=value.device)

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.total(0.0)

    def check_alike(self, value: Any, what: str) -> None:
        """Raise TrainingError on all processes unless all of them have the same value."""
        values = self.gathered(value)
        others = [str(rank) for rank, other in enumerate(values) if other != values[0]]
        if others:
            raise TrainingError(f"the processes differ in {what}: {', '.join(others)} of {self.size} from process 0")

    def configured(self, config: Config) -> Config:
        """The configuration for this process: its CUDA device, and the number of parts of a batch.

        Raises:
            ConfigError: the processes cannot share the parts, or cannot run on the configured device.
            MissingComponentError: the machine has fewer CUDA devices than processes.
        """
        settings = config.training
        parts = self.size if settings.parts == 1 else settings.parts
        if settings.batch % parts or parts % self.size:
            raise ConfigError(
                f"training.batch is {settings.batch}, in {parts} parts (training.parts) for {self.size} processes: "
                "expected parts that divide the batch, and a number of processes that divides the parts"
            )
        if parts > 1 and settings.compile.endswith("graph"):
            raise ConfigError(
                f'training.compile = "{settings.compile}" records a step of one process on a whole batch as a CUDA '
                f'graph: take "none" or "compile" for {parts} parts'
            )
        device = settings.device if self.size == 1 else self._device(settings.device)
        return dataclasses.replace(config, training=dataclasses.replace(settings, parts=parts, device=device))

    def _device(self, configured: str) -> str:
        kind, _, number = configured.partition(":")
        if kind != "cuda" or number == str(self.local_rank):
            return configured
        if number:
            raise ConfigError(
                f'training.device is "{configured}" for {self.size} processes: take "cuda", which gives each process '
                "of a machine a device of its own"
            )
        devices = torch.cuda.device_count()
        if self.local_rank >= devices:
            raise MissingComponentError(
                f"process {self.local_rank} of this machine has no CUDA device, of which there are {devices}: start at "
                "most one process a device (torchrun --nproc-per-node)"
            )
        torch.cuda.set_device(self.local_rank)
        return f"cuda:{self.local_rank}"


ALONE = Processes()
_current = ALONE


def current() -> Processes:
    """The processes that `joined` joined; `ALONE` outside of it."""
    return _current


class SharedTime:
    """A `TimeBox` by the clock of the first process, so that all processes stop after the same step."""

    def __init__(self, box: TimeBox, processes: Processes) -> None:
        self._box, self._processes = box, processes
        self.finish = box.finish

    def begin(self) -> None:
        """`TimeBox.begin`."""
        self._box.begin()

    def gone(self) -> float:
        """`TimeBox.gone`."""
        gone = self._box.gone()
        return self._processes.number_of_first(gone) if self.finish else gone

    def over(self) -> bool:
        """`TimeBox.over`."""
        return bool(self._processes.number_of_first(self._box.over())) if self._box.limited else False


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that `torchrun` started, for the time of the block.

    Without `torchrun`, and with one process, this does nothing. If a process fails, the block ends on all of them, and
    only the first process to fail raises its error. The others raise SystemExit, so that they print nothing.

    Raises:
        UsageError: the environment names several processes, but not all `VARIABLES`.
        MissingComponentError: PyTorch was built without communication between processes.
        TrainingError: the processes do not find each other, or another process ended without raising an error, for
            example by a signal.
    """
    global _current
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise UsageError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']} without {', '.join(missing)}: start with torchrun")
    if not dist.is_available():
        raise MissingComponentError("this PyTorch was built without torch.distributed: train in one process")
    try:
        store, rank, size = next(rendezvous("env://", timeout=LONGEST_START))
    except dist.DistError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(f"process {os.environ['RANK']} found no other process at {place}: {error}") from error
    try:
        # Gradients go through the default group: NCCL's on CUDA devices, Gloo's on a CPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONGEST_START)
        group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        _current = Processes(rank, size, int(os.environ["LOCAL_RANK"]), group)
        yield _current
        _current.wait()
        dist.destroy_process_group()
    except BaseException as error:
        shown = _error_to_show(error, store, rank)
        if shown is error:
            raise
        raise shown from error
    finally:
        _current = ALONE


def _error_to_show(error: BaseException, store: Any, rank: int) -> BaseException:
    """The error itself for the first process that fails, SystemExit for the others."""
    code = error.exit_code if isinstance(error, RefinerError) else 1
    try:
        failed_before = store.add(_FAILURES, 1) > 1
    except RuntimeError:  # the process that held the store is gone
        failed_before = False
    if failed_before:
        return SystemExit(code)
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower()):
        cause = str(error).split("] ", 1)[-1].split(". ")[0]
        return TrainingError(
            f"process {rank} lost another process of the training, which ended without a message, for example by the "
            f"system for its memory ({cause}); the same command goes on from the last saved step"
        )
    return error
