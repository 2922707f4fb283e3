"""Clients of a stream server in a process of their own, which reads a `Load` as one line of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refiner.data.synthetic import synthetic_folder

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

# Answers before this many of each client are not scored: the stream and the caches warm up.
WARM_UP = 50
# Seconds for all to connect, and for the last answers to come.
CONNECTING_S, LAST_S = 2.0, 10.0
RATE = 50.0


@dataclass(frozen=True)
class Load:
    """What the clients do.

    Attributes:
        port: of the server, on this machine.
        clients: how many keep to 50 frames a second. They are spread evenly over the time between two frames.
        bursts: how many more send as fast as the server takes frames.
        seconds: how long.
        lifted: whether the server has a lifter, so that frames come without 3D.
        processors: those to run on; empty for any.
    """

    port: int
    clients: int
    bursts: int
    seconds: float
    lifted: bool
    processors: tuple[int, ...]


def messages(frames: int, lifted: bool) -> list[str]:
    """Frames of a walking person with the errors of a detector and of a lifter, in the messages of a client."""
    clip, *_ = synthetic_folder(3, subjects=3, frames=400, actions=("Walking",)).clips("test")
    rng = np.random.default_rng(0)
    pixels = np.round(clip.pose_2d + rng.normal(0, 2.0, clip.pose_2d.shape), 2)
    poses = np.round(clip.pose_3d + rng.normal(0, 0.02, clip.pose_3d.shape), 5)
    written = []
    for index in range(frames):
        place = index % len(pixels)
        frame: dict[str, Any] = {"timestamp": index / RATE, "pose_2d": pixels[place].tolist()}
        if not lifted:
            frame["pose_3d"] = poses[place].tolist()
        written.append(json.dumps(frame))
    return written


async def _steady(address: str, frames: list[str], begin: float, seconds: list[float]) -> str | None:
    """Send the frames at their rate, and add the time that each answer took. Returns why it was refused."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    async with connect(address, compression=None, ping_interval=None) as client:
        sent: list[float] = []
        receiving = asyncio.create_task(_receive(client, sent, seconds, len(frames)))
        try:
            for index, frame in enumerate(frames):
                await asyncio.sleep(begin + index / RATE - time.monotonic())
                sent.append(time.monotonic())
                await client.send(frame)
            await asyncio.wait_for(receiving, LAST_S)
        except TimeoutError:
            pass  # what has not come by now is counted as unanswered
        except ConnectionClosed:
            return client.close_reason or "the connection was lost"
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
    return None


async def _receive(client: ClientConnection, sent: list[float], seconds: list[float], frames: int) -> None:
    """Receive the answers of frames that lie 1 / 50 s apart: one for each, in their order."""
    for index in range(frames):
        answer = await client.recv()
        now = time.monotonic()
        if not str(answer).startswith('{"timestamp"'):
            raise RuntimeError(f"frame {index} was answered by {answer!r}")
        if index >= WARM_UP:
            seconds.append(now - sent[index])


async def _burst(address: str, frames: list[str], begin: float, seconds: float) -> int:
    """Send as fast as the server takes frames, and count the answers."""
    from websockets.asyncio.client import connect

    answers = 0

    async def send(client: ClientConnection) -> None:
        index = 0
        while True:
            # Each time-stamp is new, so that every frame is refined.
            frame = frames[index % len(frames)]
            await client.send(f'{{"timestamp": {index / RATE}{frame[frame.index(",") :]}')
            index += 1

    async with connect(address, compression=None, ping_interval=None) as client:
        await asyncio.sleep(begin - time.monotonic())
        sending = asyncio.create_task(send(client))
        while time.monotonic() < begin + seconds:
            await client.recv()
            answers += 1
        sending.cancel()
    return answers


async def _all(load: Load) -> dict[str, Any]:
    address = f"ws://127.0.0.1:{load.port}"
    frames = messages(round(load.seconds * RATE), load.lifted)
    begin, processor = time.monotonic() + CONNECTING_S, time.process_time()
    seconds: list[float] = []
    bursts = [asyncio.create_task(_burst(address, frames, begin, load.seconds)) for _ in range(load.bursts)]
    refused = await asyncio.gather(
        *(_steady(address, frames, begin + client / RATE / load.clients, seconds) for client in range(load.clients))
    )
    burst_answers = sum(await asyncio.gather(*bursts))
    taken = (time.process_time() - processor) / (time.monotonic() - begin)
    reasons = sorted({reason for reason in refused if reason is not None})
    held = sum(reason is None for reason in refused)
    milliseconds: NDArray[np.float64] = 1000.0 * np.array(seconds)
    asked = held * max(len(frames) - WARM_UP, 0)
    return {
        "held": held,
        "reasons": reasons,
        "frames": asked,
        "unanswered": asked - len(seconds) if held == len(refused) else 0,
        "late": int(np.count_nonzero(milliseconds > 1000.0 / RATE)),
        "latency_ms": {
            f"p{name}": float(np.percentile(milliseconds, name)) if len(seconds) else None for name in (50, 95, 99)
        },
        "burst_frames_per_s": burst_answers / load.seconds,
        "clients_load": taken,
    }


def main() -> None:
    """Read a `Load` from standard input, run it, and print the result as JSON."""
    fields = json.loads(sys.stdin.readline())
    load = Load(**fields | {"processors": tuple(fields["processors"])})
    if load.processors:
        os.sched_setaffinity(0, load.processors)
    print(json.dumps(asyncio.run(_all(load))))


if __name__ == "__main__":
    main()
