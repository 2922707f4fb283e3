"""What a frame costs on this machine, from its bytes to the bytes of its answer: measured before a server opens."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from refiner.errors import InputError
from refiner.runtime.streaming.capacity import Agreement, Capacity
from refiner.runtime.streaming.intake import STANDING
from refiner.runtime.streaming.refiner import StreamingRefiner
from refiner.runtime.streaming.server import LOOPBACK, StreamServer

# Frames of each client that are measured, after twice as many that warm up. After this time, fewer of both will do.
FRAMES, LONGEST_S = 25, 2.0
# Several clients take turns with pauses, as they will: a stream's model is then no longer in the processor's caches.
CLIENTS, PAUSE_S = 4, 0.001
# After this long without an answer, the stream is taken to answer later.
PATIENCE_S = 0.1
IMAGE_SIZE = (1280.0, 720.0)


def frame_cost(
    open_stream: Callable[[], StreamingRefiner],
    people: int,
    lifted: bool,
    image_size: tuple[float, float] | None = None,
    frames: int = FRAMES,
) -> float:
    """Measure the processor time that a server takes for a message, in seconds, with a few clients on this machine.

    The processor time of the clients is left out.

    Args:
        open_stream: opens a stream for Human3.6M's joints.
        people: in each message.
        lifted: whether the stream has a lifter, so that messages come without 3D.
        image_size: in pixels; None where messages state it.
        frames: the number of measured messages of each client.

    Raises:
        InputError: the stream refuses the frames, or answers none.
    """
    messages = [_message(index, people, lifted, image_size) for index in range(3 * frames)]

    async def measure() -> float:
        # A rate that never makes the client wait.
        capacity = Capacity(Agreement(rate=1000.0, clients=CLIENTS))
        async with StreamServer(open_stream, LOOPBACK, 0, capacity) as server:
            cost, answer = await asyncio.to_thread(_converse, server.port, messages, people)
            if server.counters.refused or not server.counters.refined:
                raise InputError(f"the calibration got no refined frames: {answer}")
            return cost

    return asyncio.run(measure())


class _Client:
    """A client that takes little processor time, all of it in the thread that calls it.

    Attributes:
        answers: how many came.
        last: the last one.
    """

    def __init__(self, connection: socket.socket, address: str) -> None:
        from websockets.client import ClientProtocol
        from websockets.uri import parse_uri

        self._protocol = ClientProtocol(parse_uri(address))
        self._connection = connection
        self.answers, self.last = 0, ""
        self._protocol.send_request(self._protocol.connect())
        connection.sendall(b"".join(self._protocol.data_to_send()))
        while self._protocol.handshake_exc is None and self._protocol.state.name == "CONNECTING":
            self.receive()

    def send(self, message: str) -> None:
        self._protocol.send_text(message.encode())
        self._connection.sendall(b"".join(self._protocol.data_to_send()))

    def receive(self) -> bool:
        """Receive some answers. Returns whether any came within `PATIENCE_S`."""
        from websockets.frames import Frame, Opcode

        try:
            received = self._connection.recv(1 << 16)
        except TimeoutError:
            return False
        if not received:
            raise InputError(f"the server closed the connection of the calibration: {self.last or 'no answer'}")
        self._protocol.receive_data(received)
        events = self._protocol.events_received()
        frames = [event for event in events if isinstance(event, Frame) and event.opcode is Opcode.TEXT]
        self.answers += len(frames)
        self.last = bytes(frames[-1].data).decode() if frames else self.last
        return True


def _converse(port: int, messages: list[str], people: int) -> tuple[float, str]:
    """Send the messages in turns from all clients. Returns the processor time of a late one, and the last answer."""
    with ExitStack() as stack:
        clients = []
        for _ in range(CLIENTS):
            connection = stack.enter_context(socket.create_connection((LOOPBACK, port), timeout=PATIENCE_S))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            clients.append(_Client(connection, f"ws://{LOOPBACK}:{port}/"))
        behind, measured, processor, began = 0, 0, 0.0, time.monotonic()
        for index, message in enumerate(messages):
            now = time.monotonic()
            if measured and now > began + 2.0 * LONGEST_S:
                break
            if measured or 3 * index >= 2 * len(messages) or now > began + LONGEST_S:
                processor = processor if measured else _server_time()
                measured += len(clients)
            for client in clients:
                time.sleep(PAUSE_S)
                client.send(message)
                # A stream with a delay answers only after later messages.
                while client.answers < people * (index + 1 - behind):
                    behind += not client.receive()
        return (_server_time() - processor) / max(measured, 1), clients[0].last


def _server_time() -> float:
    """The processor time of this process without this thread."""
    return time.process_time() - time.thread_time()


def _message(index: int, people: int, lifted: bool, image_size: tuple[float, float] | None) -> str:
    """A frame of people who stand side by side and sway."""
    width, height = image_size or IMAGE_SIZE
    focal = max(width, height)
    frames = []
    for person in range(people):
        sway = 0.05 * np.sin(0.1 * index + np.arange(17.0) + person)[:, None]
        body = STANDING + sway + (0.8 * (person - (people - 1) / 2), 0.0, 4.0 + 0.5 * people)
        pixels = focal * body[:, :2] / body[:, 2:] + (width / 2, height / 2)
        frame = {"timestamp": index / 50, "person_id": person, "pose_2d": np.round(pixels, 2).tolist()}
        if not lifted:
            frame["pose_3d"] = np.round(body, 5).tolist()
        if image_size is None:
            frame["image_size"] = [width, height]
        frames.append(frame)
    return json.dumps({"frames": frames})
