"""``refiner-stream --camera``: a video or a webcam in, lines of refined frames out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from coded_video import FOCAL, SIZE, WALK, write

from refiner import StreamingRefiner
from refiner.cli.stream import main

CODED = ["--detector", "coded_video:CodedDetector", "--focal-length", str(FOCAL), "--threads", "1"]


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_video_at_full_speed(tmp_path, capsys):
    file = write(tmp_path / "film.mp4", [0] * 5 + [1] * 30, fps=50)
    assert main(["--camera", str(file), "--full-speed", *CODED]) == 0
    answers = lines(capsys)
    # The first two sights are waited for.
    assert [answer["timestamp"] for answer in answers] == pytest.approx(np.arange(7, 35) / 50)
    assert {answer["person_id"] for answer in answers} == {0}
    assert {answer["status"] for answer in answers} == {"warm-up", "ok"}
    live = StreamingRefiner.load(image_size=SIZE, focal_length=FOCAL, lifter=True, threads=1)
    expected = [
        frame
        for index in range(7, 35)
        for frame in live.push(WALK[0][index], None, index / 50, confidence=np.full(17, 0.9))
    ]
    np.testing.assert_allclose(
        [answer["pose_3d"] for answer in answers], [frame.pose_3d for frame in expected], atol=1e-3
    )


def test_several_people(tmp_path, capsys):
    file = write(tmp_path / "film.mp4", [2] * 20, fps=50)
    words = ["--camera", str(file), "--full-speed", "--people", "2", *CODED]
    words[words.index("coded_video:CodedDetector")] = "coded_video:ReversedDetector"
    assert main(words) == 0
    answers = lines(capsys)
    assert len(answers) == 36
    for number in (0, 1):
        own = np.array([answer["pose_3d"] for answer in answers if answer["person_id"] == number])
        assert len(own) == 18
        # Nobody is exchanged: no joint jumps.
        assert np.abs(np.diff(own, axis=0)).max() < 0.15


def test_a_video_is_played_like_a_camera(tmp_path, capsys):
    file = write(tmp_path / "film.mp4", [1] * 25, fps=25)
    output = tmp_path / "out.jsonl"
    assert main(["--camera", str(file), "--output", str(output), *CODED]) == 0
    told = capsys.readouterr()
    stamps = [json.loads(line)["timestamp"] for line in output.read_text().splitlines()]
    assert told.out == "" and "images, " in told.err
    assert stamps == sorted(set(stamps)) and 1 <= len(stamps) <= 23 and stamps[-1] == pytest.approx(24 / 25)


def test_a_webcam(webcam, capsys):
    assert main(["--camera", "0", "--detector", "rtmlib", "--focal-length", "1145", "--threads", "1"]) == 0
    answers = lines(capsys)
    assert answers and all(np.isfinite(answer["pose_3d"]).all() for answer in answers)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--camera", "7", "--detector", "rtmlib"], 3, "camera 7 gives no image"),
        (["--camera", "missing.mp4"], 5, "there is no video missing.mp4"),
        (["--camera", "FILM", "--pose-2d", "a.npy"], 2, "--pose-2d: leave it out with --camera"),
        (["--camera", "FILM", "--serve", "8765"], 2, "--serve: leave it out with --camera"),
        (["--camera", "FILM", "--image-size", "320", "240"], 2, "--image-size: leave it out"),
        (["--camera", "FILM", "--joints", "coco17"], 2, "--joints: leave it out"),
        (["--camera", "0", "--full-speed"], 2, "--full-speed is for files"),
        (["--camera", "EMPTY", "--full-speed"], 5, "the 5 images show nobody"),
        (["--detector", "rtmlib"], 2, "--detector goes with --camera"),
    ],
)
def test_what_does_not_go(tmp_path, monkeypatch, capsys, webcam, words, code, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "FILM.mp4", [1] * 5).rename("FILM")
    write(tmp_path / "EMPTY.mp4", [0] * 5).rename("EMPTY")
    chosen = [] if "--detector" in words else CODED[:2]
    assert main([*words, *chosen, "--focal-length", str(FOCAL)]) == code
    assert message in capsys.readouterr().err


def test_the_video_is_not_overwritten(tmp_path, capsys):
    file = write(tmp_path / "film.mp4", [1] * 5)
    before = file.read_bytes()
    assert main(["--camera", str(file), "--output", str(file), *CODED]) == 2
    assert "is the file of --camera" in capsys.readouterr().err and file.read_bytes() == before


def test_who_waits_alone_is_told(tmp_path, capsys):
    file = write(tmp_path / "film.mp4", [1] * 10 + [0] * 60 + [1] * 10, fps=25)
    assert main(["--camera", str(file), "--full-speed", *CODED]) == 0
    told = capsys.readouterr().err
    assert "2.4 s: nobody is seen; waiting" in told and "2.9 s: somebody is seen" in told
    assert "80 images, 16 with a person who is followed" in told


@pytest.mark.slow
def test_an_interrupt_ends_a_camera(tmp_path):
    """Ctrl-C while a video is played: the lines are whole, and the process ends at once."""
    file = write(tmp_path / "film.mp4", [1] * 250, fps=10)
    code = "import sys; from refiner.cli.stream import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--camera", str(file), *CODED]
    folder = str(Path(__file__).parent)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=60)
    answers = [json.loads(line) for line in [first, *rest.splitlines()]]
    assert process.returncode == 130 and len(answers) < 240
    assert "ended by SIGINT" in told and "Traceback" not in told and "frames" in told
