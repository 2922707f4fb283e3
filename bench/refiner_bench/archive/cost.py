"""What a large archive costs on a cluster: the arithmetic, without measurements. Every input has a name and a unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from refiner.errors import UsageError

SECONDS = 3600.0
MILLION = 1e6


@dataclass(frozen=True)
class Measured:
    """What was measured with one and two workers on one machine.

    Attributes:
        worker_rate: frames/s of one worker with one thread, while it works.
        scaling: frames/s of two workers over those of one.
        chunk_frames: frames of a chunk.
        chunk_overhead_s: seconds of the driver for one chunk.
        start_s: seconds until the first worker has loaded its models, with the start of Ray.
        bytes_in: bytes of a frame in the archive.
        bytes_out: by format, bytes of a frame in the results.
    """

    worker_rate: float
    scaling: float
    chunk_frames: float
    chunk_overhead_s: float
    start_s: float
    bytes_in: float
    bytes_out: Mapping[str, float]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value.values() if isinstance(value, Mapping) else [value]:
                if not number > 0:
                    raise UsageError(f"{field.name} is {number}; expected more than 0")


@dataclass(frozen=True)
class Assumed:
    """What is assumed, since nothing here measures it.

    Attributes:
        frames: of the archive.
        workers: that work at a time, with one processor each.
        failures_per_hour: how often a worker dies, for each hour that it works.
        core_hour_price: of a processor for an hour, in dollars.
    """

    frames: float = 1e9
    workers: int = 100
    failures_per_hour: float = 0.01
    core_hour_price: float = 0.05

    def __post_init__(self) -> None:
        for name, least in (("frames", 1.0), ("workers", 1.0), ("failures_per_hour", 0.0), ("core_hour_price", 0.0)):
            if not getattr(self, name) >= least:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least {least:g}")


@dataclass(frozen=True)
class Estimate:
    """What an archive costs.

    Attributes:
        efficiency: of a worker beside others: half of the scaling from one to two, and at most 1.
        chunks: how many chunks there are.
        compute_hours: hours of one processor, for the frames alone.
        failures: workers that die.
        repeated_hours: hours of one processor for what these had begun, and for the start of their successors.
        wall_hours: from the start to the end.
        driver_share: of the driver's time that the chunks take; the workers wait for the driver from 1 on.
        most_workers: how many workers one driver can keep busy.
        read_rate: bytes/s that all workers together read from the shared folder.
        bytes_in: of the archive.
        bytes_out: by format, of the results.
        core_hours: hours of processors that are paid: all workers and the driver, for the wall time.
        cost: of the core hours, in dollars.
    """

    efficiency: float
    chunks: float
    compute_hours: float
    failures: float
    repeated_hours: float
    wall_hours: float
    driver_share: float
    most_workers: float
    read_rate: float
    bytes_in: float
    bytes_out: Mapping[str, float]
    core_hours: float
    cost: float


def estimate(measured: Measured, assumed: Assumed) -> Estimate:
    """The cost of an archive.

    A worker that dies loses half a chunk on average, and its successor starts as the first one did. The workers do
    ``frames / (workers rate efficiency)`` seconds of work, and what is repeated; to this the start is added once. Where
    the driver has no time for all chunks, it decides the wall time.
    """
    efficiency = min(1.0, measured.scaling / 2)
    rate = measured.worker_rate * efficiency
    chunks = assumed.frames / measured.chunk_frames
    compute = assumed.frames / rate / SECONDS
    failures = compute * assumed.failures_per_hour
    repeated = failures * (measured.chunk_frames / rate / 2 + measured.start_s) / SECONDS
    working = (compute + repeated) / assumed.workers
    driving = chunks * measured.chunk_overhead_s / SECONDS
    wall = max(working, driving) + measured.start_s / SECONDS
    core_hours = wall * (assumed.workers + 1)
    return Estimate(
        efficiency=efficiency,
        chunks=chunks,
        compute_hours=compute,
        failures=failures,
        repeated_hours=repeated,
        wall_hours=wall,
        driver_share=driving / working,
        most_workers=measured.chunk_frames / rate / measured.chunk_overhead_s,
        read_rate=assumed.workers * rate * measured.bytes_in,
        bytes_in=assumed.frames * measured.bytes_in,
        bytes_out={name: assumed.frames * size for name, size in measured.bytes_out.items()},
        core_hours=core_hours,
        cost=core_hours * assumed.core_hour_price,
    )


@dataclass(frozen=True)
class Processing:
    """A million frames through a model, on one thread.

    Attributes:
        core_hours: hours of one processor.
        cost: in dollars.
    """

    core_hours: float
    cost: float


def million_frames(rate: float, assumed: Assumed) -> Processing:
    """What a million frames cost at ``rate`` frames/s, without anything beside the model."""
    if not rate > 0:
        raise UsageError(f"the rate is {rate} frames/s; expected more than 0")
    hours = MILLION / rate / SECONDS
    return Processing(hours, hours * assumed.core_hour_price)
