"""Streams over WebSockets. Every client has a stream of its own, and no client can disturb another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from refiner.errors import MissingComponentError, RefinerError
from refiner.runtime.streaming.answer_times import AnswerTimes
from refiner.runtime.streaming.capacity import Agreement, Capacity
from refiner.runtime.streaming.messages import LARGEST_MESSAGE, error_message, parse_message, refined_message
from refiner.runtime.streaming.refiner import StreamingRefiner
from refiner.runtime.streaming.turns import Pace, Turns

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

LOOPBACK = "127.0.0.1"
# How many messages of a client may wait. Its socket is not read while they do.
WAITING = 8
# Bytes of each direction that the system keeps for a client: some hundred frames. What is beyond stays with the client.
# Less than a few packets of the loopback device (64 kB each) makes a connection slow.
SYSTEM_BUFFER = 1 << 18
# After this many invalid messages in a row, the connection is closed.
MOST_ERRORS = 100
# A client that reads none of its answers for this long is disconnected.
STALLED_S = 10.0
# A connection whose other end is gone is closed after this long.
GONE_MS = 60_000
# The load is measured this often; late answers of this time count.
WATCH_S, LATE_S = 1.0, 5.0
# Codes of the WebSocket protocol for closing a connection (RFC 6455, section 7.4).
TRY_AGAIN_LATER, POLICY = 1013, 1008


@dataclass
class ServerCounters:
    """What happened since the server started; ``open`` is the number of clients at this moment.

    ``turned_away`` counts clients and ``refused`` messages; ``ahead`` counts messages that came faster than agreed, and
    ``stalled`` clients that did not read their answers.
    """

    clients: int = 0
    turned_away: int = 0
    messages: int = 0
    refused: int = 0
    refined: int = 0
    ahead: int = 0
    stalled: int = 0
    open: int = 0


class StreamServer:
    """A WebSocket server for streams. Use it as an asynchronous context manager.

    A client sends the messages that `parse_message` reads, and gets the messages that `refined_message` writes. An
    invalid message is answered with ``{"error": ...}``, and the stream goes on. A client for whom there is no room is
    turned away: its connection is closed with code 1013 and the reason.

    One thread refines for all clients, in the order of `Turns`; the event loop stays free for sockets. ``GET /status``
    is answered by `status` as JSON, and ``GET /ready`` by 200 while there is room for a client and by 503 while there
    is none.

    Args:
        open_stream: opens the stream of a client. It is called in the thread that refines, one call at a time.
        host: by default loopback, because everybody who can reach the port can use the server.
        port: 0 takes a free port; see `port`.
        capacity: how many clients there is room for; by default 8.

    Raises:
        MissingComponentError: websockets is not installed.
    """

    def __init__(
        self,
        open_stream: Callable[[], StreamingRefiner],
        host: str = LOOPBACK,
        port: int = 8765,
        capacity: Capacity | None = None,
    ) -> None:
        try:
            import websockets.asyncio.server
        except ModuleNotFoundError as error:
            raise MissingComponentError("the server needs websockets: pip install 'pose-refiner[stream]'") from error
        self._serve = websockets.asyncio.server.serve
        self._open_stream, self._host, self._wanted_port = open_stream, host, port
        self.capacity = Capacity(Agreement(clients=8)) if capacity is None else capacity
        self.counters, self.answer_times = ServerCounters(), AnswerTimes()
        self._answered, self._load = 0, 0.0  # messages that were refined; processor time over time, of the last second
        self._turns = Turns()
        self._tasks: list[asyncio.Task[None]] = []
        self._server: Server

    async def __aenter__(self) -> StreamServer:
        self._server = await self._serve(
            self._client,
            self._host,
            self._wanted_port,
            process_request=self._request,
            # Compression takes processor time from the refinement, and answers are short.
            compression=None,
            # The answer to a ping waits behind the frames that the client has sent, which may take any time.
            ping_timeout=None,
            max_size=LARGEST_MESSAGE,
            max_queue=WAITING,
        )
        self._tasks = [asyncio.create_task(self._turns.run()), asyncio.create_task(self._watch())]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._server.sockets[0].getsockname()[1])

    async def run_forever(self) -> None:
        """Serve until cancelled. Raises what no client can have caused: the server would answer nobody any more."""
        await asyncio.gather(self._server.serve_forever(), *self._tasks)

    def status(self) -> dict[str, object]:
        """The load, the limit, the latencies and the counters, as JSON types."""
        agreed = self.capacity.agreement
        return {
            "streams": self.counters.open,
            "limit": self.capacity.limit,
            "rate": agreed.rate,
            "room": self._refusal() is None,
            "load": round(self._load, 3),
            "frame_ms": round(1000.0 * self.capacity.cost_s, 3),
            "latency_ms": self.answer_times.percentiles_ms(),
            "counters": asdict(self.counters),
        }

    def _refusal(self) -> str | None:
        """Why the next client is refused; None where there is room."""
        late = self.answer_times.late(time.monotonic() - LATE_S, 1.0 / self.capacity.agreement.rate)
        return self.capacity.refusal(self.counters.open, late)

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer requests for the status; all others open a stream."""
        if request.path == "/status":
            response = connection.respond(200, json.dumps(self.status()) + "\n")
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        if request.path == "/ready":
            reason = self._refusal()
            return connection.respond(200 if reason is None else 503, (reason or "ready") + "\n")
        return None

    async def _client(self, connection: ServerConnection) -> None:
        reason = self._refusal()
        if reason is not None:
            self.counters.turned_away += 1
            await connection.close(TRY_AGAIN_LATER, reason)
            return
        self.counters.clients += 1
        async with self._counted():
            _bound_buffers(connection)
            try:
                stream = await self._turns.call(time.monotonic(), self._open_stream)
            except RefinerError as error:
                await connection.send(error_message(error))
                return
            await self._converse(connection, stream)

    async def _converse(self, connection: ServerConnection, stream: StreamingRefiner) -> None:
        from websockets.exceptions import ConnectionClosed

        wrong, pace = 0, Pace(self.capacity.agreement.rate)
        try:
            async for text in connection:
                self.counters.messages += 1
                received = time.monotonic()
                turn = pace.turn(received, len(text))
                self.counters.ahead += turn > received
                try:
                    answers = await self._turns.call(turn, partial(_answers, stream, text))
                    wrong = 0
                except RefinerError as error:
                    self.counters.refused += 1
                    wrong += 1
                    await _send(connection, [error_message(error)])
                    if wrong >= MOST_ERRORS:
                        await connection.close(POLICY, f"{wrong} messages in a row were no frames")
                    continue
                await _send(connection, answers)
                self._answered += 1
                self.counters.refined += len(answers)
                if turn == received:  # a message that comes faster than agreed waits for reasons of its own
                    self.answer_times.add(received, time.monotonic())
        except ConnectionClosed:
            return  # the client left in the middle of a message or of the answers; its stream ends here
        except TimeoutError:
            self.counters.stalled += 1
            connection.transport.abort()

    async def _watch(self) -> None:
        """Measure the load and the cost of a message, again and again."""
        while True:
            began, processor, answered = time.monotonic(), time.process_time(), self._answered
            await asyncio.sleep(WATCH_S)
            taken = time.process_time() - processor
            self._load = taken / (time.monotonic() - began)
            self.capacity.took(self._answered - answered, taken)

    @contextlib.asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self.counters.open += 1
        try:
            yield
        finally:
            self.counters.open -= 1


def _bound_buffers(connection: ServerConnection) -> None:
    """Bound what the system keeps of a client, and the time for which it waits for a client that is gone."""
    opened = connection.transport.get_extra_info("socket")
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        opened.setsockopt(socket.SOL_SOCKET, option, SYSTEM_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_MS)


async def _send(connection: ServerConnection, answers: list[str]) -> None:
    """Send answers. Raises TimeoutError where a client does not read them."""
    async with asyncio.timeout(STALLED_S):
        for answer in answers:
            await connection.send(answer)


def _answers(stream: StreamingRefiner, text: str | bytes) -> list[str]:
    """Refine the frames of a message, and write the answers as messages."""
    frames = parse_message(text)
    ready = stream.push_many(frames) if frames else stream.flush()
    return [refined_message(frame) for frame in ready]
