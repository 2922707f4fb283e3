"""refiner-stream: lines in, lines out; files at their own pace; a server."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

from refiner import StreamingRefiner
from refiner.cli.stream import main
from refiner.data.synthetic import synthetic_folder

SIZE = ("1000", "1002")
WINDOW = ["--mode", "window", "--threads", "1"]


@pytest.fixture(scope="module")
def motion():
    (clip, *_) = synthetic_folder(3, subjects=3, frames=40, actions=("Walking",)).clips("test")
    rng = np.random.default_rng(0)
    pose_3d = clip.pose_3d + rng.normal(0, 0.02, clip.pose_3d.shape)
    return clip.pose_2d.astype(np.float32), pose_3d.astype(np.float32)


def lines_of(pose_2d, pose_3d):
    return [
        json.dumps({"timestamp": index / 50, "pose_2d": a.tolist(), "pose_3d": b.tolist()})
        for index, (a, b) in enumerate(zip(pose_2d, pose_3d, strict=True))
    ]


def give(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))


def test_lines_in_lines_out(motion, monkeypatch, capsys):
    lines = lines_of(*motion)
    lines.insert(5, "salad")
    lines.append('{"flush": true}')
    give(monkeypatch, "\n".join(lines))
    assert main([*WINDOW, "--image-size", *SIZE, "--focal-length", "1145", "--look-ahead", "4"]) == 0
    out, err = capsys.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    errors = [answer for answer in answers if "error" in answer]
    refined = [answer for answer in answers if "error" not in answer]
    assert len(errors) == 1 and "refused 1" in err and "frames 40" in err
    assert [answer["timestamp"] for answer in refined] == [index / 50 for index in range(40)]
    live = StreamingRefiner.load(mode="window", look_ahead=4, threads=1, image_size=(1000, 1002), focal_length=1145)
    expected = [frame for index in range(40) for frame in live.push(motion[0][index], motion[1][index], index / 50)]
    np.testing.assert_allclose(refined[3]["pose_3d"], expected[3].pose_3d, atol=2e-5)


def test_odd_lines_are_answered_one_by_one(motion, monkeypatch, capsys):
    """Whatever a line holds, the answer is an error and the frames after it come out as if it had not come."""
    lines = [line.encode() for line in lines_of(motion[0][:12], motion[1][:12])]
    good = lines[5].decode()
    huge = good.replace('"timestamp": 0.1', '"timestamp": ' + "1" * 400)
    odd = [
        huge.encode(),
        huge.replace("1" * 400, "1" * 5000).encode(),
        huge.replace("1" * 400, "1e400").encode(),
        huge.replace("1" * 400, "NaN").encode(),
        huge.replace("1" * 400, '"0.1"').encode(),
        huge.replace("1" * 400, "true").encode(),
        good.replace('"pose_2d": [[', '"pose_2d": [["7", 8], [').encode(),
        good.replace('"timestamp"', '"timestamp": 3, "timestamp"').encode(),
        b"[" * 100_000,
        b'{"timestamp": 0.1, "pose_2d": ' + b"[" * 900 + b"]" * 900 + b"}",
        b" " * (3 << 20) + b"x",
        b"\0" * 40,
        b"\xff\xfe\xfd",
        b'{"\xed\xa0\x80": "\\ud800"}',
        good.encode("utf-16")[:-1],
    ]
    streams = []
    for with_odd in (False, True):
        text = lines[:6] + (odd if with_odd else []) + lines[6:]
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\n".join(text))))
        assert main([*WINDOW, "--image-size", *SIZE, "--focal-length", "1145"]) == 0
        answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert sum("error" in answer for answer in answers) == (len(odd) if with_odd else 0)
        streams.append([answer for answer in answers if "error" not in answer])
    assert streams[0] == streams[1] and len(streams[0]) == 12


def test_a_file_is_played_back(motion, tmp_path, capsys):
    for name, pose in zip(("2d", "3d"), motion, strict=True):
        np.save(tmp_path / f"{name}.npy", pose)
    words = [*WINDOW, "--image-size", *SIZE, "--pose-2d", str(tmp_path / "2d.npy"), "--full-speed"]
    output = tmp_path / "out.jsonl"
    assert main([*words, "--pose-3d", str(tmp_path / "3d.npy"), "--output", str(output)]) == 0
    assert len(output.read_text().splitlines()) == 40 and capsys.readouterr().out == ""
    assert main([*words, "--lifter", "bundled", "--output", str(output), "--fps", "50"]) == 0
    lifted = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(lifted) == 40 and all(answer["status"] in ("ok", "warm-up") for answer in lifted)
    np.savez(tmp_path / "both.npz", seen=motion[0], given=motion[1])
    both = ["--pose-2d", str(tmp_path / "both.npz"), "--pose-3d", str(tmp_path / "both.npz"), "--full-speed"]
    common = [*WINDOW, "--image-size", *SIZE, *both, "--output", str(tmp_path / "named.jsonl")]
    assert main(common) == 5 and "several arrays (given, seen)" in capsys.readouterr().err
    assert main([*common, "--key-2d", "seen", "--key-3d", "given"]) == 0
    assert len((tmp_path / "named.jsonl").read_text().splitlines()) == 40


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--pose-3d", "a.npy"], "--pose-3d goes with --pose-2d"),
        (["--serve", "x"], "expected [HOST:]PORT"),
        (["--serve", "70000"], "expected [HOST:]PORT"),
        (["--serve", "0", "--view"], "leave --pose-2d, --output and --view out"),
        ([*WINDOW, "--hop", "0"], "hop, in a window of"),
        (["--mode", "causal", "--look-ahead", "3"], "for mode='window'"),
        *(
            (["--fps", odd], f"argument --fps: expected 1 to 1000, got '{odd}'")
            for odd in ("0", "-1", "nan", "inf", "1e400", "fast", "1001")
        ),
        (["--least-confidence", "nan"], "argument --least-confidence: expected 0 to 1, got 'nan'"),
        (["--least-confidence", "7"], "argument --least-confidence: expected 0 to 1, got '7'"),
        (["--clients", "0"], "argument --clients: expected 1 to 10000, got '0'"),
        (["--view", "70000"], "argument --view: expected 0 to 65535, got '70000'"),
    ],
)
def test_what_does_not_go_together(words, told, capsys, monkeypatch):
    give(monkeypatch, "")
    assert main(["--image-size", *SIZE, *words]) == 2
    assert told in capsys.readouterr().err


def test_standard_output_holds_json_alone(motion, tmp_path, monkeypatch, capsys):
    """The viewer's library prints a banner, and other libraries what they like."""
    pytest.importorskip("viser", reason="viser is not installed")
    give(monkeypatch, "\n".join(lines_of(*motion)[:4]))
    assert main([*WINDOW, "--image-size", *SIZE, "--focal-length", "1145", "--view", "0"]) == 0
    out, err = capsys.readouterr()
    assert len([json.loads(line) for line in out.splitlines()]) == 4 and "view: http://" in err


def test_an_array_of_several_is_named(motion, tmp_path, capsys):
    file = tmp_path / "both.npz"
    np.savez(file, pose_2d=motion[0], pose_3d=motion[1])
    words = [*WINDOW, "--image-size", *SIZE, "--focal-length", "1145", "--full-speed"]
    words += ["--pose-2d", str(file), "--pose-3d", str(file)]
    assert main(words) == 5
    assert "holds several arrays (pose_2d, pose_3d); give the name of one" in capsys.readouterr().err
    assert main([*words, "--key-2d", "pose_2d", "--key-3d", "pose_3d"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 40


@pytest.mark.parametrize("option", ["--pose-2d", "--pose-3d"])
def test_the_output_is_no_input(motion, tmp_path, capsys, option):
    files = {"--pose-2d": tmp_path / "2d.npy", "--pose-3d": tmp_path / "3d.npy"}
    for file, pose in zip(files.values(), motion, strict=True):
        np.save(file, pose)
    before = files[option].read_bytes()
    words = [str(word) for pair in files.items() for word in pair]
    assert main([*WINDOW, "--image-size", *SIZE, *words, "--output", str(files[option])]) == 2
    assert f"is the file of {option}" in capsys.readouterr().err and files[option].read_bytes() == before


def test_standard_input_is_no_output(tmp_path, monkeypatch, capsys):
    file = tmp_path / "lines.jsonl"
    file.write_text("salad")
    with file.open() as opened:
        monkeypatch.setattr(sys, "stdin", opened)
        assert main([*WINDOW, "--image-size", *SIZE, "--lifter", "bundled", "--output", str(file)]) == 2
    assert "is the file of standard input" in capsys.readouterr().err and file.read_text() == "salad"


def test_a_full_disk_names_the_output(motion, monkeypatch, capsys):
    give(monkeypatch, "\n".join(lines_of(*motion)))
    assert main([*WINDOW, "--image-size", *SIZE, "--focal-length", "1145", "--output", "/dev/full"]) == 5
    assert "/dev/full: the disk is full; free some space in /dev" in capsys.readouterr().err


def test_help_is_instant_and_needs_nothing(capsys):
    assert main(["--help"]) == 0
    assert "my-camera | refiner-stream" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_server_process_ends_on_an_interrupt(sign):
    pytest.importorskip("websockets")
    words = [*WINDOW, "--image-size", *SIZE, "--focal-length", "1145", "--serve", "0"]
    code = "import sys; from refiner.cli.stream import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "serving ws://127.0.0.1:" in line
    process.send_signal(sign)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 128 + sign and "clients 0" in rest and "at most" in line


def test_a_stream_that_refines_nothing_is_an_error(monkeypatch, capsys):
    """Every frame refused, or none with enough joints: the exit code says so."""
    wrong = json.dumps({"timestamp": 0.0, "pose_2d": [[1.0, 2.0]] * 5})
    empty = json.dumps({"timestamp": 0.0, "pose_2d": [[None, None]] * 17})
    cases = ((wrong, "refined; the first error"), (empty, "none shows enough joints"), ("", "refined: none came"))
    for line, message in cases:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((line + "\n").encode() * 3)))
        assert main(["--image-size", "1000", "1000", "--lifter", "bundled", "--focal-length", "1100"]) == 5
        assert message in capsys.readouterr().err
