"""Clients of the server: each has its stream, and what one does wrong is its own affair."""

from __future__ import annotations

import asyncio
import contextlib
import json

import numpy as np
import pytest

pytest.importorskip("websockets", reason="websockets is not installed")

from stand_ins import SmoothingEngine, motion, stream
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from refiner import StreamingRefiner
from refiner.errors import CheckpointError
from refiner.runtime.streaming import server as server_module
from refiner.runtime.streaming.messages import LARGEST_MESSAGE
from refiner.runtime.streaming.server import StreamServer
from refiner.runtime.streaming.window_backend import WindowBackend

SIZE = (1000.0, 1002.0)


def make():
    return StreamingRefiner(WindowBackend(SmoothingEngine(), look_ahead=1), SIZE)


def message(pixels, poses, index, **more):
    return json.dumps(
        {"timestamp": index / 50, "pose_2d": pixels[index].tolist(), "pose_3d": poses[index].tolist()} | more
    )


def run(scenario, **options):
    async def serve():
        async with asyncio.timeout(60), StreamServer(make, port=0, **options) as server:
            await scenario(server, f"ws://127.0.0.1:{server.port}")
            return server.counters

    return asyncio.run(serve())


async def converse(address, pixels, poses, frames):
    """The refined poses of a whole conversation."""
    async with connect(address) as client:
        for index in range(frames):
            await client.send(message(pixels, poses, index))
        await client.send('{"flush": true}')
        return [json.loads(await client.recv()) for _ in range(frames)]


def test_several_clients_have_streams_of_their_own():
    motions = [motion(30, seed) for seed in range(3)]

    async def scenario(server, address):
        found = await asyncio.gather(*(converse(address, *pair, 30) for pair in motions))
        for answers, (pixels, poses) in zip(found, motions, strict=True):
            expected = stream(make(), pixels, poses)
            assert [answer["timestamp"] for answer in answers] == [frame.timestamp for frame in expected]
            for answer, frame in zip(answers, expected, strict=True):
                np.testing.assert_allclose(answer["pose_3d"], frame.pose_3d, atol=2e-5)

    counters = run(scenario)
    assert (counters.clients, counters.messages, counters.refined, counters.open) == (3, 93, 90, 0)


def test_bad_messages_get_an_answer_and_the_stream_goes_on():
    pixels, poses = motion(10)

    async def scenario(server, address):
        async with connect(address) as client:
            huge = message(pixels, poses, 0, focal_length=7).replace("7}", "7" * 400 + "}")
            deep, twice = "[" * 100_000, '{"timestamp": 1, "timestamp": 1}'
            for bad in ("salad", '{"timestamp": 1}', b"\x00\xff", message(pixels[:, :5], poses, 0), huge, deep, twice):
                await client.send(bad)
                assert "error" in json.loads(await client.recv())
            await client.send(message(pixels, poses, 0))
            await client.send(message(pixels, poses, 1))
            assert json.loads(await client.recv())["timestamp"] == 0.0
            # A clock that goes back is answered by nothing, and counted by the stream.
            await client.send(message(pixels, poses, 0))
            await client.send(message(pixels, poses, 2))
            assert json.loads(await client.recv())["timestamp"] == 1 / 50

    assert run(scenario).refused == 7


def test_a_message_beyond_all_measure_ends_its_client_alone():
    pixels, poses = motion(10)

    async def scenario(server, address):
        async with connect(address) as other:
            await other.send(message(pixels, poses, 0))
            async with connect(address, max_size=None) as client:
                with contextlib.suppress(ConnectionClosed):  # the server may close before all is sent
                    await client.send(b" " * (20 * LARGEST_MESSAGE))
                with pytest.raises(ConnectionClosed):
                    await client.recv()
                assert client.close_code == 1009
            await other.send(message(pixels, poses, 1))
            assert json.loads(await other.recv())["status"] == "warm-up"

    run(scenario)


def test_a_client_that_leaves_in_the_middle_is_not_missed():
    pixels, poses = motion(10)

    async def scenario(server, address):
        for _ in range(5):
            client = await connect(address)
            await client.send(message(pixels, poses, 0))
            client.transport.abort()
        _reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nsalad")
        await writer.drain()
        writer.close()
        assert len(await converse(address, pixels, poses, 10)) == 10
        while server.counters.open:
            await asyncio.sleep(0.01)

    assert run(scenario).clients == 6


def test_of_two_hundred_clients_those_who_fit_are_served():
    pixels, poses = motion(4)

    async def one(address, served, gate):
        client = await connect(address, open_timeout=30)
        try:
            await client.send(message(pixels, poses, 0))
            await client.send(message(pixels, poses, 1))
            served.append(json.loads(await client.recv())["timestamp"])
        except ConnectionClosed:
            return client.close_code, client.close_reason
        await gate.wait()
        await client.close()
        return client.close_code, client.close_reason

    async def scenario(server, address):
        served, gate = [], asyncio.Event()
        clients = [asyncio.create_task(one(address, served, gate)) for _ in range(200)]
        while len(served) < 4 or server.counters.turned_away < 196:
            await asyncio.sleep(0.02)
        gate.set()
        ends = await asyncio.gather(*clients)
        assert served == [0.0] * 4 and sorted(code for code, _ in ends) == [1000] * 4 + [1013] * 196
        assert {reason for code, reason in ends if code == 1013} == {"4 clients are connected; try again later"}

    counters = run(scenario, most_clients=4)
    assert (counters.clients, counters.turned_away) == (4, 196)


def test_a_client_of_nothing_but_errors_is_asked_to_go(monkeypatch):
    monkeypatch.setattr(server_module, "MOST_ERRORS", 5)

    async def scenario(server, address):
        async with connect(address) as client:
            for _ in range(5):
                await client.send("salad")
            answers = [json.loads(await client.recv()) for _ in range(5)]
            assert all("no JSON" in answer["error"] for answer in answers)
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
            assert caught.value.rcvd.code == 1008

    run(scenario)


def test_a_stream_that_cannot_be_made_is_told():
    def broken():
        raise CheckpointError("the checkpoint is gone")

    async def serve():
        async with asyncio.timeout(30), StreamServer(broken, port=0) as server:
            client = await connect(f"ws://127.0.0.1:{server.port}")
            assert json.loads(await client.recv()) == {"error": "the checkpoint is gone"}

    asyncio.run(serve())
