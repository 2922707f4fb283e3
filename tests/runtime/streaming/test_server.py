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
from refiner.runtime.streaming.capacity import Agreement, Capacity
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
            client = await connect(address)
            with contextlib.suppress(ConnectionClosed):  # the server may close before all is sent
                await client.send(b" " * (20 * LARGEST_MESSAGE))
            with pytest.raises(ConnectionClosed):
                await client.recv()
            # The system may throw the code away with the rest of the message.
            assert client.close_code in (1009, 1006)
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

    counters = run(scenario, capacity=Capacity(Agreement(clients=4)))
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


def test_the_refused_client_is_told_why_and_the_others_go_on():
    pixels, poses = motion(6)
    capacity = Capacity(Agreement(rate=50, share=0.7), 0.3)  # a second for each second: one stream alone

    async def scenario(server, address):
        async with connect(address) as first:
            await first.send(message(pixels, poses, 0))
            second = await connect(address)
            with pytest.raises(ConnectionClosed) as caught:
                await second.recv()
            assert caught.value.rcvd.code == 1013
            assert caught.value.rcvd.reason == (
                "1 stream at 50 frames/s is open; one more would take over 70 % of a core; try again later"
            )
            await first.send(message(pixels, poses, 1))
            assert json.loads(await first.recv())["timestamp"] == 0.0
        while server.counters.open:
            await asyncio.sleep(0.01)
        assert len(await converse(address, pixels, poses, 6)) == 6

    counters = run(scenario, capacity=capacity)
    assert (counters.clients, counters.turned_away) == (2, 1)


def test_late_answers_close_the_door():
    capacity = Capacity(Agreement(rate=50, share=0.7), 1e-6)

    async def scenario(server, address):
        async with connect(address):
            while not server.counters.open:
                await asyncio.sleep(0.01)
            now = server_module.time.monotonic()
            for _ in range(10):
                server.answer_times.add(now, now + 0.03)
            client = await connect(address)
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
            assert "100 % of the last answers took over 20 ms" in caught.value.rcvd.reason

    assert run(scenario, capacity=capacity).turned_away == 1


async def get(server, path):
    """The status code, the type and the body of an answer over plain HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    return int(head.split()[1]), lines["Content-Type"], body


def test_the_status_is_a_plain_request():
    pixels, poses = motion(6)

    async def scenario(server, address):
        assert (await get(server, "/ready"))[0] == 200
        assert len(await converse(address, pixels, poses, 6)) == 6
        async with connect(address) as client:
            await client.send("salad")
            assert "error" in json.loads(await client.recv())
            code, kind, body = await get(server, "/status")
            found = json.loads(body)
            assert (code, kind) == (200, "application/json") and found == server.status()
            assert (found["limit"], found["rate"], found["room"]) == (1, 50.0, False)
            assert found["streams"] == 1 and sorted(found["latency_ms"]) == ["p50", "p95", "p99"]
            counted = {"clients": 2, "messages": 8, "refined": 6, "refused": 1, "turned_away": 0, "open": 1}
            assert counted.items() <= found["counters"].items()
            code, _, body = await get(server, "/ready")
            assert code == 503 and body == "1 client is connected; try again later\n"

    run(scenario, capacity=Capacity(Agreement(clients=1)))


def test_a_client_that_never_reads_is_slowed_and_then_leaves_room(monkeypatch):
    """It gets as many answers as the buffers hold; its further frames stay with it, and others are served meanwhile."""
    monkeypatch.setattr(server_module, "STALLED_S", 1.0)
    pixels, poses = motion(6)
    plenty = 20_000
    text = [message(pixels, poses, 0).replace('"timestamp": 0.0', f'"timestamp": {i / 50}') for i in range(plenty)]

    async def scenario(server, address):
        client = await connect(address, max_queue=1, ping_interval=None)
        sent = 0
        with contextlib.suppress(ConnectionClosed):
            for sent, line in enumerate(text):
                await client.send(line)
                if sent == 50:
                    assert len(await converse(address, pixels, poses, 6)) == 6
        await client.wait_closed()
        while server.counters.open:
            await asyncio.sleep(0.01)
        assert server.counters.stalled == 1 and server.counters.messages < sent <= plenty // 2
        assert len(await converse(address, pixels, poses, 6)) == 6

    run(scenario)


def test_a_client_faster_than_agreed_is_counted_and_answered_in_full():
    pixels, poses = motion(60)

    async def scenario(server, address):
        assert len(await converse(address, pixels, poses, 60)) == 60

    counters = run(scenario, capacity=Capacity(Agreement(rate=1.0, clients=2)))
    # 61 messages within a minute by an agreement of one in a second, two of them at once.
    assert counters.refined == 60 and counters.ahead > 0


def test_a_fault_of_our_own_ends_the_server_instead_of_leaving_it_silent(monkeypatch):
    async def broken(self, waiting):
        raise RuntimeError("a fault")

    monkeypatch.setattr(server_module.Turns, "_run", broken)

    async def serve():
        async with asyncio.timeout(30):
            async with StreamServer(make, port=0) as server:
                serving = asyncio.create_task(server.run_forever())
                client = await connect(f"ws://127.0.0.1:{server.port}")
                with pytest.raises(RuntimeError, match="a fault"):
                    await serving
            await client.wait_closed()
            assert client.close_code in (1001, 1011)

    asyncio.run(serve())
