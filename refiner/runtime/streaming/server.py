"""Streams over WebSockets. Every client has a stream of its own, and no client can disturb another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from refiner.errors import MissingComponentError, RefinerError
from refiner.runtime.streaming.messages import LARGEST_MESSAGE, error_message, parse_message, refined_message
from refiner.runtime.streaming.refiner import StreamingRefiner

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection

LOOPBACK = "127.0.0.1"
MOST_CLIENTS = 8
# How many messages of a client may wait. Its socket is not read while they do.
WAITING = 8
# After this many invalid messages in a row, the connection is closed.
MOST_ERRORS = 100
# Codes of the WebSocket protocol for closing a connection (RFC 6455, section 7.4).
TRY_AGAIN_LATER, POLICY = 1013, 1008

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class ServerCounters:
    """What happened since the server started; ``open`` is the number of clients at this moment."""

    clients: int = 0
    turned_away: int = 0
    messages: int = 0
    refused: int = 0
    refined: int = 0
    open: int = 0


class StreamServer:
    """A WebSocket server for streams. Use it as an asynchronous context manager.

    A client sends the messages that `parse_message` reads, and gets the messages that `refined_message` writes. An
    invalid message is answered with ``{"error": ...}``, and the stream goes on.

    Args:
        open_stream: opens the stream of a client. It is called in the thread that refines, one call at a time.
        host: by default loopback, because everybody who can reach the port can use the server.
        port: 0 takes a free port; see `port`.
        most_clients: the largest number of clients at a time. Further clients are turned away with a message.

    Raises:
        MissingComponentError: websockets is not installed.
    """

    def __init__(
        self,
        open_stream: Callable[[], StreamingRefiner],
        host: str = LOOPBACK,
        port: int = 8765,
        most_clients: int = MOST_CLIENTS,
    ) -> None:
        try:
            import websockets.asyncio.server
        except ModuleNotFoundError as error:
            raise MissingComponentError("the server needs websockets: pip install 'pose-refiner[stream]'") from error
        self._serve = websockets.asyncio.server.serve
        self._open_stream, self._host, self._wanted_port, self._most = open_stream, host, port, most_clients
        self.counters = ServerCounters()
        # One thread refines for all clients, in the order of their messages. The event loop stays free for sockets.
        self._refining = ThreadPoolExecutor(1, "refiner-stream")
        self._server: Server

    async def __aenter__(self) -> StreamServer:
        self._server = await self._serve(
            self._client, self._host, self._wanted_port, max_size=LARGEST_MESSAGE, max_queue=WAITING
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()
        self._refining.shutdown(wait=False, cancel_futures=True)

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._server.sockets[0].getsockname()[1])

    async def run_forever(self) -> None:
        """Serve until cancelled."""
        await self._server.serve_forever()

    async def _client(self, connection: ServerConnection) -> None:
        if self.counters.open >= self._most:
            self.counters.turned_away += 1
            await connection.close(TRY_AGAIN_LATER, f"{self._most} clients are connected; try again later")
            return
        self.counters.clients += 1
        async with self._counted():
            try:
                stream = await self._refine(self._open_stream)
            except RefinerError as error:
                await connection.send(error_message(error))
                return
            await self._converse(connection, stream)

    async def _converse(self, connection: ServerConnection, stream: StreamingRefiner) -> None:
        from websockets.exceptions import ConnectionClosed

        wrong = 0
        try:
            async for text in connection:
                self.counters.messages += 1
                try:
                    answers = await self._refine(_answers, stream, text)
                    wrong = 0
                except RefinerError as error:
                    self.counters.refused += 1
                    wrong += 1
                    await connection.send(error_message(error))
                    if wrong >= MOST_ERRORS:
                        await connection.close(POLICY, f"{wrong} messages in a row were no frames")
                    continue
                for answer in answers:
                    await connection.send(answer)
                self.counters.refined += len(answers)
        except ConnectionClosed:
            return  # the client left in the middle of a message or of the answers; its stream ends here

    async def _refine(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call a function in the thread that refines."""
        call = partial(function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._refining, call)

    @contextlib.asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self.counters.open += 1
        try:
            yield
        finally:
            self.counters.open -= 1


def _answers(stream: StreamingRefiner, text: str | bytes) -> list[str]:
    """Refine the frames of a message, and write the answers as messages."""
    frames = parse_message(text)
    ready = stream.push_many(frames) if frames else stream.flush()
    return [refined_message(frame) for frame in ready]
