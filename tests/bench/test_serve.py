"""refiner-bench serve: a real server with a few clients, and what the report says. No time is judged."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("websockets", reason="websockets is not installed")

from refiner_bench.cli import main
from refiner_bench.measures import measures
from refiner_bench.serving import report as serving
from refiner_bench.serving.clients import messages
from refiner_bench.serving.format import format_serve, serve_table

from refiner import StreamingRefiner
from refiner.runtime.streaming.messages import parse_message


def run(clients, bursts=0, **more):
    latency = {"p50": 1.25, "p95": 2.0, "p99": 5.0}
    found = {"clients": clients, "bursts": bursts, "held": clients, "reasons": [], "frames": 400, "unanswered": 1}
    return found | {"late": 3, "latency_ms": latency, "burst_frames_per_s": 150.0, "load": 0.5} | more


def report():
    return {
        "schema": "refiner-bench/serve",
        "environment": {"processor": "a processor"},
        "settings": {"model": "m", "lifter": False, "pinned": True, "processors": 2, "rate": 50.0, "seconds": 10.0},
        "calibration": "at most 13 streams",
        "limit": 13,
        "next_client": {"taken": 0, "code": 1013, "reason": "13 streams are open"},
        "runs": [run(1), run(13), run(12, 1), run(26, no_limit=True, latency_ms=dict.fromkeys(("p50", "p95", "p99")))],
    }


def test_the_table_says_who_was_held_and_what_was_late():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in serve_table(report()).splitlines()[2:]]
    assert rows[0] == ["1", "1", "1.25", "2.00", "5.00", "4.0", "1.00 %", "0.50"]
    assert [row[0] for row in rows[1:]] == [
        "13, the limit",
        "12 and 1 as fast as it can (150 frames/s)",
        "26, no limit",
    ]
    assert rows[3][2:6] == [""] * 4
    text = format_serve(report())
    assert 'the next client was told: code 1013, "13 streams are open".' in text and "at most 13 streams" in text
    names = [measure.name for measure in measures(report())]
    assert names[:2] == ["serve: limit of clients", "serve: 1 clients, p50"] and not any("26" in name for name in names)


def test_numbers_of_clients_rise_below_the_limit():
    assert [serving._rising(limit) for limit in (1, 2, 4, 13, 16)] == [
        [],
        [1],
        [1, 2],
        [1, 2, 4, 8],
        [1, 2, 4, 8],
    ]


@pytest.mark.parametrize("lifted", [False, True])
def test_the_clients_send_frames_that_nothing_is_wrong_with(lifted):
    stream = StreamingRefiner.load(image_size=(1000, 1002), focal_length=1145, lifter=lifted)
    sent = messages(60, lifted)
    found = [frame for message in sent for frame in stream.push_many(parse_message(message))]
    assert len(found) == 60 and found[-1].status == "ok"
    assert np.isfinite(found[-1].pose_3d).all()


@pytest.mark.parametrize("words", [["--seconds", "1"], ["--seconds", "nan"], ["--beyond", "0.5"]])
def test_what_is_refused(words, capsys):
    assert main(["serve", *words]) == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_server_and_its_clients(tmp_path, capsys, monkeypatch):
    """Two clients and a third one that is refused: the limit is set, so that no time decides."""
    started = serving._server
    monkeypatch.setattr(
        serving, "_server", lambda on, lifter, *more: started(on, lifter, *(more or ("--clients", "2")))
    )
    file = tmp_path / "serve.json"
    assert main(["serve", "--seconds", "3", "--beyond", "1.5", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert [(one["clients"], one["bursts"], one["held"]) for one in found["runs"]] == [
        (1, 0, 1),
        (2, 0, 2),
        (1, 1, 1),
        (3, 0, 3),
    ]
    assert found["next_client"] == {"taken": 0, "code": 1013, "reason": "2 clients are connected; try again later"}
    assert all(one["unanswered"] == 0 and one["frames"] == one["held"] * 100 for one in found["runs"])
    assert found["runs"][2]["burst_frames_per_s"] > 0 and "the limit" in capsys.readouterr().out
