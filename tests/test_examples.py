"""Each example runs, at toy size, and has a --help."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

for needed in ("torch", "safetensors"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: the examples load checkpoints")

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


def run(name, *words):
    """The exit code of an example, in this process."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main([str(word) for word in words])


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_example_has_a_help_and_a_test(file):
    result = subprocess.run([sys.executable, file, "--help"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"usage: {file.name}") and "python examples/" in result.stdout
    assert re.search(rf'run\("{file.stem}"', Path(__file__).read_text())


def test_webcam_with_a_synthetic_person(capsys):
    assert run("webcam", "--synthetic", "--frames", 40, "--no-view") == 0
    lines = capsys.readouterr().out.splitlines()
    # Somebody is followed from the third image on.
    assert len(lines) == 40 and "nobody is followed" in lines[0] and "warm-up" in lines[1]
    assert " ok " in lines[-2] and lines[-1] == "frames 38, steps 38"


def test_webcam_draws(capsys):
    pytest.importorskip("viser", reason="viser is not installed: nothing is drawn")
    assert run("webcam", "--synthetic", "--frames", 10) == 0
    assert "open http://127.0.0.1:" in capsys.readouterr().out


def test_webcam_with_a_camera(webcam, capsys):
    assert run("webcam", "--focal-length", 1145, "--detector", "rtmlib", "--no-view") == 0
    assert re.search(r"^frames \d+", capsys.readouterr().out, re.MULTILINE)


def test_webcam_without_the_packages_of_a_camera(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert run("webcam") == 3
    told = capsys.readouterr().err
    assert "a camera needs OpenCV" in told and "pose-refiner[mediapipe]" in told and "try --synthetic" in told


def test_webcam_that_is_not_there(webcam, capsys):
    assert run("webcam", "--camera", 3) == 3
    assert "camera 3 gives no image" in capsys.readouterr().err


def test_sample_files_of_every_format(tmp_path, capsys):
    assert run("make_samples", "--output", tmp_path) == 0
    assert f"into {tmp_path}" in capsys.readouterr().out and (tmp_path / "openpose").is_dir()


def test_archive_of_synthetic_clips(tmp_path, capsys):
    assert run("archive", "--synthetic", "--output", tmp_path) == 0
    from refiner.shape import bone_lengths

    poses = {file.stem: np.load(file) for file in tmp_path.glob("*.npy")}
    assert sorted(poses) == ["Ann-walking", "Ann-waving", "Bob-walking", "Bob-waving"]
    lengths = {name: bone_lengths(pose) for name, pose in poses.items()}
    # A person has one length of each bone in all clips, and another person another.
    np.testing.assert_allclose(lengths["Ann-walking"].mean(0), lengths["Ann-waving"].mean(0), atol=1e-5)
    assert np.abs(lengths["Ann-walking"].mean(0) - lengths["Bob-walking"].mean(0)).max() > 1e-3
    assert lengths["Ann-walking"].std(0).max() < 1e-5


def test_archive_in_its_place(tmp_path):
    assert run("archive", "--synthetic", "--trajectory", "--output", tmp_path) == 0
    from refiner.camera import human36m_cameras
    from refiner.data.synthetic import synthetic_archive

    archive = synthetic_archive(7, ["Ann", "Bob"], frames=100, actions=("Walking", "Waving"))
    for name, key in (("Ann-walking", "Walking"), ("Ann-waving", "Waving")):
        truth = human36m_cameras()[0].to_camera(archive["Ann"][key].astype(np.float64))[:, 0]
        found = np.load(tmp_path / f"{name}.npy")[:, 0]
        assert np.linalg.norm(found - truth, axis=-1).mean() < 0.15 * truth[:, 2].mean()
        assert np.linalg.norm(found[:, :2] - truth[:, :2], axis=-1).mean() < 0.15


def test_archive_of_nothing(tmp_path, capsys):
    assert run("archive", "--output", tmp_path) == 2
    assert run("archive", tmp_path, "--image-size", 10, 10, "--output", tmp_path) == 2
    assert "holds no .npy file" in capsys.readouterr().err


def test_own_lifter(capsys):
    assert run("own_lifter", "--frames", 120) == 0
    before, after = map(float, re.search(r"MPJPE: ([\d.]+) -> ([\d.]+) mm", capsys.readouterr().out).groups())
    assert after < before


def test_export_and_run(tmp_path, monkeypatch, export_cache, capfd):
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: nothing can be exported")
    monkeypatch.setenv("XDG_CACHE_HOME", str(export_cache))
    assert run("export_and_run", "--output", tmp_path / "artefacts", "--frames", 60) == 0
    assert "onnx refined 60 frames without PyTorch" in capfd.readouterr().out
    assert np.load(tmp_path / "artefacts" / "refined.npy").shape == (60, 17, 3)


@pytest.mark.slow
def test_train_on_own_predictions(tmp_path, capsys):
    assert run("train_on_own_predictions", "--output", tmp_path, "--steps", 60, "--frames", 60) == 0
    before, after = map(float, re.search(r"trained on: ([\d.]+) -> ([\d.]+) mm", capsys.readouterr().out).groups())
    assert after < before


def test_the_file_of_predictions_is_the_documented_one(tmp_path):
    assert run("train_on_own_predictions", "--output", tmp_path, "--steps", 2, "--frames", 40) == 0
    from refiner.training.predictions import load_predictions

    predictions = load_predictions(tmp_path / "predictions.npz")
    assert predictions.people == ["SYN1", "SYN2", "SYN3"] and predictions.fps == 50
