"""The sample files are what their program writes, and every command of their page runs on them."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: the commands load checkpoints")

from refiner.cli import evaluate, refine, stream
from refiner.data.safe_npz import load_npz

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "examples" / "samples"
PAGE = (SAMPLES / "README.md").read_text(encoding="utf-8")
COMMANDS = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)[1].replace("\\\n", " ").splitlines()
MAINS = {"refiner-refine": refine.main, "refiner-stream": stream.main, "refiner-evaluate": evaluate.main}


def same(found, expected):
    """Whether two contents of files are equal, whatever they nest; floats up to rounding."""
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, np.ndarray):
        return found.shape == expected.shape and np.allclose(found, expected, rtol=1e-4, atol=1e-3)
    return found == pytest.approx(expected, abs=0.02) if isinstance(expected, float) else found == expected


def content(file):
    if file.suffix == ".npz":
        return load_npz(file)
    if file.suffix == ".npy":
        return np.load(file)
    return (
        [json.loads(line) for line in file.read_text().splitlines()]
        if file.suffix == ".jsonl"
        else (json.loads(file.read_text()))
    )


def test_the_samples_are_what_the_program_writes(tmp_path):
    spec = importlib.util.spec_from_file_location("make_samples", ROOT / "examples" / "make_samples.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["--output", str(tmp_path)]) == 0
    written = {file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()}
    assert written | {Path("README.md")} == {f.relative_to(SAMPLES) for f in SAMPLES.rglob("*") if f.is_file()}
    for name in written:
        assert same(content(SAMPLES / name), content(tmp_path / name)), name
        assert (SAMPLES / name).stat().st_size < 40_000


def test_the_page_names_every_file():
    named = set(re.findall(r"`([\w.]+)/?`", PAGE))
    assert {path.name for path in SAMPLES.iterdir()} - {"README.md"} <= named
    read = {word for command in COMMANDS for word in re.findall(r"examples/samples/([\w.]+)", command)}
    assert {path.name for path in SAMPLES.iterdir()} - {"README.md"} == read


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split())[:70])
def test_every_command_runs(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    if "<" in words:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(words[-1]).read_bytes())))
        words = words[: words.index("<")]
    assert MAINS[words[0]](words[1:]) == 0
    printed = capsys.readouterr().out
    if words[0] == "refiner-stream":
        frames = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        assert len(frames) >= 16 and np.isfinite(frames[-1]["pose_3d"]).all()
    if "--output" in words:
        output = Path(words[words.index("--output") + 1])
        file = output / "person0.npz" if output.is_dir() else output
        poses = np.load(file)["refined_pose_3d"] if output.is_dir() else np.load(file)
        assert poses.shape == (16, 17, 3) and np.isfinite(poses).all()
        leg = np.linalg.norm(poses[:, 5] - poses[:, 4], axis=-1) + np.linalg.norm(poses[:, 6] - poses[:, 5], axis=-1)
        assert 0.7 < np.median(leg) < 1.0
        # Upright in camera axes: the head above the feet, y down.
        assert (poses[:, 10, 1] < poses[:, [3, 6], 1].min(axis=1) - 1.0).all()
