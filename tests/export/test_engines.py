"""Every engine that this machine has: exported, loaded, compared; and what each says when something is wrong."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from refiner_export import Batch
from refiner_export.gate import parity_windows
from refiner_export.inspection import inspect_artefact

from refiner import bundled
from refiner.engines import EngineOptions
from refiner.errors import ArtefactError, ParityError, UsageError
from refiner.runtime import Refiner
from refiner.runtime.loading import open_engine

SIZE = (1000, 1002)


def sequence(frames=60):
    windows = parity_windows(4, 27, seed=5)
    return tuple(part.reshape(-1, 17, part.shape[-1])[:frames] for part in windows[:2])


@pytest.fixture(scope="module")
def openvino_artefact(write_checkpoint, tmp_path_factory, export_to):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    checkpoint = write_checkpoint("refiner")
    return checkpoint, export_to(tmp_path_factory.mktemp("openvino"), checkpoint, engine="openvino", windows=20)


def test_openvino_computes_what_pytorch_computes(openvino_artefact):
    checkpoint, result = openvino_artefact
    assert sorted(result.manifest["files"]) == ["refiner-f27-j17-k2-fp32.bin", "refiner-f27-j17-k2-fp32.xml"]
    assert result.manifest["parity"]["total"]["largest_mm"] < 0.01
    pose = sequence()
    ours = Refiner.load(result.path, threads=1)
    assert ours.metadata["engine"] == "openvino" and ours.steps == 2
    expected = Refiner.load(checkpoint).refine(*pose, SIZE)
    assert np.abs(ours.refine(*pose, SIZE) - expected).max() < 1e-5
    # The second call does not write into what the first returned.
    engine = ours._engine
    inputs = parity_windows(2, 27, seed=6)
    first = engine(*inputs)
    kept = first.copy()
    engine(*(part[::-1] for part in inputs))
    np.testing.assert_array_equal(first, kept)


def test_openvino_in_bf16(write_checkpoint, tmp_path, export_to):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    with pytest.raises(ParityError, match=r"mean joint difference"):
        export_to(
            tmp_path, write_checkpoint("refiner"), engine="openvino", precision="bf16", windows=4, tolerance_mm=1e-6
        )
    left = {path.name.split(".", 1)[1] for path in tmp_path.iterdir()}
    assert left == {"xml.rejected", "bin.rejected", "xml.json.rejected"}
    # What was refused says how far off it is, and from where.
    rejected = inspect_artefact(next(tmp_path.glob("*.xml.rejected"))).content
    assert rejected["parity"]["typing"]["mean_mm"] > 1e-6


def test_openvino_files_that_do_not_fit(openvino_artefact, tmp_path):
    _, result = openvino_artefact
    for path in result.path.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    copied = tmp_path / result.path.name
    weights = copied.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ArtefactError, match=r"\.bin has sha256 .* truncated"):
        Refiner.load(copied)
    weights.unlink()
    with pytest.raises(ArtefactError, match="copy the whole folder"):
        Refiner.load(copied)
    with pytest.raises(UsageError, match="runs on the CPU"):
        Refiner.load(result.path, device="cuda")
    with pytest.raises(UsageError, match="artefact for openvino, not for onnx"):
        Refiner.load(result.path, engine="onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "precision", "tolerance_mm"),
    # OpenVINO's own bf16 moves the bundled refiner's joints by more than the default limit of 0.5 mm.
    [("openvino", "bf16", 1.0), ("openvino", "int8", None), ("aoti", "bf16", None)],
)
def test_the_bundled_refiner_in_low_precision(tmp_path, export_to, engine, precision, tolerance_mm):
    """Through its gate."""
    if engine == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    checkpoint = bundled.checkpoint("refiner")
    options = {"precision": precision, "batch": Batch(1, 2, 4), "tolerance_mm": tolerance_mm}
    result = export_to(tmp_path, checkpoint, engine=engine, **options)
    total = result.manifest["parity"]["total"]
    assert total["mean_mm"] > 1e-3 and total["largest_mm"] < 100  # it is low precision, and no nonsense
    spared = result.manifest.get("float32_branches", [])
    assert spared == (["denoiser.blocks.0.stc_first"] if engine == "aoti" else [])
    assert Refiner.load(result.path).metadata["precision"] == precision


@pytest.mark.slow
@pytest.mark.parametrize("batch", [Batch(1, 1, 1), Batch(1, 2, 8)])
def test_aoti_computes_what_pytorch_computes(write_checkpoint, tmp_path, export_to, batch):
    checkpoint = write_checkpoint("refiner", frames=9)
    result = export_to(tmp_path, checkpoint, engine="aoti", batch=batch, windows=10)
    assert result.manifest["parity"]["total"]["largest_mm"] < 0.01
    pose = sequence()
    ours = Refiner.load(result.path)
    assert np.abs(ours.refine(*pose, SIZE) - Refiner.load(checkpoint).refine(*pose, SIZE)).max() < 1e-5
    with pytest.raises(UsageError, match="compiled for cpu"):
        Refiner.load(result.path, device="cuda")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refiner", "lifter"])
def test_torch_compile_computes_what_pytorch_computes(write_checkpoint, kind):
    checkpoint = write_checkpoint(kind, frames=9)
    eager, compiled = (open_engine(checkpoint, kind, EngineOptions(name)) for name in ("torch", "torch-compile"))
    for batch in (1, 3):
        pose_2d, pose_3d, size = parity_windows(batch, 9, seed=batch)
        inputs = (pose_2d, pose_3d, size) if kind == "refiner" else (pose_2d, size)
        expected = eager(*inputs)
        assert np.abs(compiled(*inputs) - expected).max() < 1e-5 < np.abs(expected).max()


def test_a_package_of_another_pytorch_is_refused(openvino_artefact, tmp_path):
    import json

    from refiner.files import sha256_of
    from refiner.runtime.manifest import manifest_path

    package = tmp_path / "refiner.pt2"
    package.write_bytes(b"not looked at")
    manifest = openvino_artefact[1].manifest | {
        "engine": "aoti",
        "files": {"refiner.pt2": sha256_of(package)},
        "versions": {"torch": "2.0.0"},
        "build": {"device": "cpu"},
    }
    manifest_path(package).write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=r"compiled by PyTorch 2\.0\.0, this is .*refiner-export --engine aoti"):
        Refiner.load(package)


NO_TORCH = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnxscript", "safetensors", "matplotlib", "refiner_export"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
from refiner import Refiner
rng = np.random.default_rng(0)
pose_2d, pose_3d = rng.uniform(200, 800, (40, 17, 2)), rng.normal(0, 0.4, (40, 17, 3))
print(np.abs(Refiner.load(sys.argv[1]).refine(pose_2d, pose_3d, image_size=(1000, 1002)) - pose_3d).max())
"""


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_artefacts_run_without_pytorch(exported, openvino_artefact, engine):
    path = {"onnx": exported["refiner"][1].path, "openvino": openvino_artefact[1].path}[engine]
    result = subprocess.run(
        [sys.executable, "-c", NO_TORCH, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert 1e-4 < float(result.stdout) < 1.0
