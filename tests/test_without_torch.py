"""The bundled models run where ONNX Runtime is the only engine: no PyTorch, no exporter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refiner import Lifter, Refiner, bundled
from refiner.files import sha256_of

PROGRAM = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "safetensors", "onnx", "onnxscript", "refiner_export"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""
PYTHON = """
import sys
import numpy as np
from refiner import Lifter, Refiner, StreamingRefiner

pose_2d = np.load(sys.argv[1])
size, lens = (1280, 720), {"focal_length": 900.0}
lifted = Lifter.load().lift(pose_2d, size, **lens)
refined = Refiner.load().refine(pose_2d, lifted, size, **lens)
live = StreamingRefiner.load(image_size=size, lifter=True, **lens)
frames = [frame for index, row in enumerate(pose_2d) for frame in live.push(row, None, index / 50)]
assert len(frames) == len(pose_2d) and np.isfinite(frames[-1].pose_3d).all()
np.savez(sys.argv[2], lifted=lifted, refined=refined)
"""
COMMAND = """
from refiner.cli.{name} import main
sys.exit(main(sys.argv[1:]))
"""


def run(code, *words, given=""):
    command = [sys.executable, "-c", PROGRAM + code, *map(str, words)]
    ended = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def pose_2d(tmp_path_factory):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: the graphs cannot run")
    with np.load(Path(__file__).parent / "earlier" / "poses.npz") as stored:
        path = tmp_path_factory.mktemp("poses") / "2d.npy"
        np.save(path, stored["pose_2d"])
    return path


@pytest.mark.parametrize("checkpoint", bundled.with_graphs(), ids=lambda path: path.stem)
def test_a_graph_is_that_of_its_checkpoint(checkpoint):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    model = onnx.load(bundled.graph_of(checkpoint))
    (entry,) = (entry for entry in model.metadata_props if entry.key == "refiner")
    manifest = json.loads(entry.value)
    assert manifest["checkpoint"] == {"name": checkpoint.name, "sha256": sha256_of(checkpoint)}, (
        "run python -m refiner_export.bundle"
    )
    # In half precision: the graph is not much larger than the checkpoint.
    assert bundled.graph_of(checkpoint).stat().st_size < 1.5 * checkpoint.stat().st_size


def test_python_runs_the_bundled_models(pose_2d, tmp_path):
    run(PYTHON, pose_2d, tmp_path / "out.npz")
    size, lens = (1280, 720), {"focal_length": 900.0}
    with np.load(tmp_path / "out.npz") as found:
        lifted = Lifter.load().lift(np.load(pose_2d), size, **lens)
        np.testing.assert_allclose(found["lifted"], lifted, atol=1e-5)
        np.testing.assert_allclose(
            found["refined"], Refiner.load().refine(np.load(pose_2d), lifted, size, **lens), atol=1e-5
        )


def test_the_commands_run_the_bundled_models(pose_2d, tmp_path):
    size = ("--image-size", 1280, 720, "--focal-length", 900)
    told = run(COMMAND.format(name="refine"), "--pose-2d", pose_2d, *size, "--output", tmp_path / "refined.npy")
    assert "lifted and refined 60 frames" in told and np.load(tmp_path / "refined.npy").shape == (60, 17, 3)
    lines = [
        json.dumps({"timestamp": index / 50, "pose_2d": row.tolist()})
        for index, row in enumerate(np.load(pose_2d).round(2))
    ]
    told = run(COMMAND.format(name="stream"), *size, "--lifter", "bundled", given="\n".join(lines) + "\n")
    frames = [json.loads(line) for line in told.splitlines()]
    assert len(frames) == 60 and np.shape(frames[-1]["pose_3d"]) == (17, 3)


def test_an_engine_that_is_asked_for_is_taken():
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    assert Refiner.load(engine="onnx").metadata["engine"] == "onnx"
    assert Lifter.load("lifter-nano-rays", engine="onnx").metadata["engine"] == "onnx"
    pytest.importorskip("torch", reason="PyTorch is not installed")
    assert Refiner.load(engine="torch").metadata["engine"] == "torch"
