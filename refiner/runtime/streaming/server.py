"""Streams over WebSockets: every client has a stream of its own, and none can hurt another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from refiner.errors import MissingComponentError, RefinerError
from refiner.runtime.streaming.messages import LARGEST_MESSAGE, error_message, parse_message, refined_message
from refiner.runtime.streaming.refiner import StreamingRefiner

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

LOOPBACK = "127.0.0.1"
MOST_CLIENTS = 8
# Messages that may wait for a client's stream; its socket is not read while they do.
WAITING = 8
# Messages in a row that are no frames before a client is asked to go.
MOST_ERRORS = 100
TRY_AGAIN_LATER, POLICY = 1013, 1008


@dataclass
class ServerCounters:
    """What happened since the server began."""

    clients: int = 0
    turned_away: int = 0
    messages: int = 0
    refused: int = 0
    refined: int = 0
    open: int = field(default=0)


class StreamServer:
    """A WebSocket server; use it as an asynchronous context manager.

    Args:
        open_stream: makes the stream of a client. Called in the thread that refines, one call at a time.
        host: loopback unless told otherwise: whoever can reach the port can use it.
        port: 0 takes a free one; see `port`.
        most_clients: who comes beyond them is turned away with a message.

    A client sends the messages of `parse_message` and gets those of `refined_message`, and ``{"error": ...}`` for a
    message that was no frame; the stream goes on. Raises MissingComponentError without websockets.
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
            raise MissingComponentError("the server needs websockets: pip install 'refiner[stream]'") from error
        self._serve = websockets.asyncio.server.serve
        self._open_stream, self._host, self._wanted_port, self._most = open_stream, host, port, most_clients
        self.counters = ServerCounters()
        # One thread refines for all clients, in the order of their messages, and the loop stays free for sockets.
        self._refining = ThreadPoolExecutor(1, "refiner-stream")
        self._server: Any = None

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
        """Where it listens."""
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
            return  # in the middle of a message, or while answers were on their way: its stream ends with it

    async def _refine(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._refining, function, *arguments)

    @contextlib.asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self.counters.open += 1
        try:
            yield
        finally:
            self.counters.open -= 1


def _answers(stream: StreamingRefiner, text: str | bytes) -> list[str]:
    frames = parse_message(text)
    ready = stream.push_many(frames) if frames else stream.flush()
    return [refined_message(frame) for frame in ready]
