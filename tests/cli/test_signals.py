"""What a signal leaves: a finished stream, and no half-written files."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refiner.cli.common import run
from refiner.cli.signals import ENDING, TERMINATING, Terminated, UntilEnded
from refiner.files import atomic_path

STAND_INS = Path(__file__).parent.parent / "runtime" / "streaming"
STREAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from stand_ins import SmoothingEngine
import refiner.cli.stream as command
from refiner import StreamingRefiner
from refiner.runtime.streaming.window_backend import WindowBackend
backend = WindowBackend(SmoothingEngine(), look_ahead=4)
command._open = lambda arguments: lambda: StreamingRefiner(backend, (1000.0, 1000.0))
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("sign", ENDING)
@pytest.mark.parametrize("to_file", [True, False])
def test_a_stream_that_a_signal_ends_has_all_its_frames(tmp_path, sign, to_file):
    rng = np.random.default_rng(0)
    pixels, poses = rng.uniform(300, 700, (17, 2)), rng.normal(0, 0.4, (17, 3)) + np.array([0, 0, 4])
    output = tmp_path / "out.jsonl"
    words = ["--output", str(output)] if to_file else []
    process = subprocess.Popen(
        [sys.executable, "-c", STREAM, str(STAND_INS), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    for index in range(10):
        frame = {"timestamp": index / 50, "pose_2d": pixels.tolist(), "pose_3d": poses.tolist()}
        process.stdin.write(json.dumps(frame) + "\n")
    # The last frame of those that are ready has come out when the answer to this line is there.
    process.stdin.write("salad\n")
    process.stdin.flush()
    ready = ""
    while "error" not in ready:
        if to_file:
            ready = output.read_text() if output.exists() else ""
            assert process.poll() is None, process.stderr.read()
        else:
            ready += process.stdout.readline()
    process.send_signal(sign)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + sign and f"ended by {sign.name}" in errors
    answers = [json.loads(line) for line in (output.read_text() if to_file else ready + rest).splitlines()]
    refined = [answer["timestamp"] for answer in answers if "error" not in answer]
    assert refined == [index / 50 for index in range(10)]
    assert [path for path in tmp_path.iterdir() if path != output] == []


@pytest.mark.parametrize("sign", TERMINATING)
def test_a_result_that_a_signal_interrupts_leaves_the_earlier_one(tmp_path, capsys, sign):
    path = tmp_path / "result.npy"
    path.write_text("earlier")

    def command(arguments: argparse.Namespace) -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), sign)

    before = signal.getsignal(sign)
    assert run(command, argparse.ArgumentParser(prog="tool"), []) == 128 + sign
    assert f"ended by {sign.name}" in capsys.readouterr().err
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]
    assert signal.getsignal(sign) is before


@pytest.mark.parametrize("sign", ENDING)
def test_the_item_that_is_worked_on_is_finished(sign):
    done = []
    with UntilEnded() as ending:
        for item in ending.items(range(10)):
            if item == 3:
                os.kill(os.getpid(), sign)
            done.append(item)
    assert done == [0, 1, 2, 3] and ending.received == sign


def test_a_signal_ends_the_wait_for_an_item():
    def source():
        yield 1
        os.kill(os.getpid(), signal.SIGTERM)
        yield 2

    with UntilEnded() as ending:
        assert list(ending.items(source())) == [1]


def test_a_second_signal_ends_at_once():
    with UntilEnded() as ending:
        (_,) = [item for item in ending.items([1, 2]) if os.kill(os.getpid(), signal.SIGTERM) is None]
        with pytest.raises(Terminated) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.exit_code == 143


def test_what_the_caller_ignores_stays_ignored():
    """nohup, and jobs that a shell runs in the background."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with UntilEnded() as ending:
            items = [item for item in ending.items([1, 2]) if os.kill(os.getpid(), signal.SIGTERM) is None]
        assert items == [1, 2] and ending.received is None
    finally:
        signal.signal(signal.SIGTERM, before)
