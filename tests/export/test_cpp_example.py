"""The C++ example: built, run on a file, compared with Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from refiner_export.gate import ray_parity_windows

from refiner.camera import human36m_cameras
from refiner.data import camera_clips
from refiner.data.synthetic import synthetic_motion
from refiner.runtime import Refiner
from refiner.runtime.loading import open_engine
from refiner.runtime.manifest import manifest_path

EXAMPLE = Path(__file__).parents[2] / "export" / "examples" / "cpp"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    pytest.importorskip("openvino", reason="OpenVINO is not installed: the example cannot be linked")
    from openvino.utils import get_cmake_path

    cmake = shutil.which("cmake")
    if cmake is None or shutil.which("c++") is None:
        pytest.skip("cmake or a C++ compiler is missing")
    folder = tmp_path_factory.mktemp("example")
    for command in (
        [cmake, "-S", EXAMPLE, "-B", folder, f"-DOpenVINO_DIR={get_cmake_path()}", "-DCMAKE_BUILD_TYPE=Release"],
        [cmake, "--build", folder],
    ):
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder / "refine_file"


def call(program, *words):
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False, timeout=120)


def recording(frames):
    """A person who walks before a camera of 1000 x 1002 pixels, and 3D poses that are 2 cm off."""
    camera = next(camera for camera in human36m_cameras() if (camera.width, camera.height) == (1000, 1002))
    (clip,) = camera_clips({"A": {"Walking": synthetic_motion(5, "Walking", frames)}}, [camera])
    pose_3d = clip.pose_3d + np.random.default_rng(3).normal(0, 0.02, clip.pose_3d.shape)
    return clip.pose_2d.astype(np.float32), pose_3d.astype(np.float32)


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
@pytest.mark.parametrize("frames", [20, 27, 100])
def test_a_file_is_refined_as_in_python(program, write_checkpoint, export_to, tmp_path, engine, frames):
    checkpoint = write_checkpoint("refiner")
    artefact = export_to(tmp_path / engine, checkpoint, engine=engine, windows=4).path
    pose_2d, pose_3d = recording(frames)
    np.save(tmp_path / "2d.npy", pose_2d)
    np.save(tmp_path / "3d.npy", pose_3d)
    result = call(program, artefact, tmp_path / "2d.npy", tmp_path / "3d.npy", 1000, 1002, tmp_path / "out.npy")
    assert result.returncode == 0, result.stderr
    expected = Refiner.load(checkpoint).refine(pose_2d, pose_3d, (1000, 1002))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


@pytest.mark.parametrize(("stride", "frames"), [(3, 5), (3, 20), (3, 70), (5, 70)])
def test_windows_of_every_so_many_frames(program, write_checkpoint, export_to, tmp_path, stride, frames):
    checkpoint = write_checkpoint("refiner", frames=9, stride=stride)
    artefact = export_to(tmp_path, checkpoint, engine="openvino", windows=4).path
    pose_2d, pose_3d = recording(frames)
    np.save(tmp_path / "2d.npy", pose_2d)
    np.save(tmp_path / "3d.npy", pose_3d)
    words = [artefact, tmp_path / "2d.npy", tmp_path / "3d.npy", 1000, 1002, tmp_path / "out.npy"]
    result = call(program, *words)
    assert result.returncode == 0, result.stderr
    expected = Refiner.load(checkpoint).refine(pose_2d, pose_3d, (1000, 1002))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)
    manifest_path(artefact).unlink()
    result = call(program, *words)
    assert result.returncode == 5 and "the manifest belongs beside the model" in result.stderr


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
@pytest.mark.parametrize("told", ["everything", "no confidence", "no focal length"])
def test_a_camera_aware_model(program, write_checkpoint, export_to, tmp_path, engine, told):
    model = {"dim": 16, "blocks": 1, "heads": 2, "mlp_ratio": 4, "joint_embedding": True, "input": "rays"}
    checkpoint = write_checkpoint("refiner", model=model)
    artefact = export_to(tmp_path / engine, checkpoint, engine=engine, windows=4).path
    keypoints, pose_3d = (part[0] for part in ray_parity_windows(1, 27, seed=3)[:2])
    if told == "no confidence":
        keypoints[..., 2] = 1.0
    np.save(tmp_path / "2d.npy", np.ascontiguousarray(keypoints[..., : 2 if told == "no confidence" else 3]))
    np.save(tmp_path / "3d.npy", pose_3d)
    focal = [] if told == "no focal length" else ["1300"]
    words = [artefact, tmp_path / "2d.npy", tmp_path / "3d.npy", 1000, 1002, tmp_path / "out.npy", *focal]
    result = call(program, *words)
    assert result.returncode == 0, result.stderr
    camera = np.array([1000, 1002, 1300 if focal else 1002], np.float32)
    expected = open_engine(checkpoint, "refiner")(keypoints[None], pose_3d[None], camera[None])[0]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)
    keypoints[5, 3, 2] = 1.5
    np.save(tmp_path / "2d.npy", keypoints)
    result = call(program, *words)
    assert result.returncode == 5 and "is a confidence, from 0 to 1" in result.stderr


def test_what_a_model_without_a_lens_is_not_told(program, write_checkpoint, export_to, tmp_path):
    artefact = export_to(tmp_path, write_checkpoint("refiner"), engine="onnx", windows=4).path
    for name, numbers in (("2d", 2), ("3d", 3)):
        np.save(tmp_path / f"{name}.npy", np.ones((5, 17, numbers), np.float32))
    rest = [tmp_path / "3d.npy", "1000", "1000", tmp_path / "out.npy"]
    for words, message in (
        ([tmp_path / "2d.npy", *rest, "1100"], "leave FOCAL_LENGTH out"),
        ([tmp_path / "3d.npy", *rest], "this model sees no confidence"),
    ):
        result = call(program, artefact, *words)
        assert result.returncode == 5 and message in result.stderr


def test_bad_files_are_named(program, tmp_path):
    np.save(tmp_path / "double.npy", np.zeros((5, 17, 2)))
    np.save(tmp_path / "2d.npy", np.zeros((5, 17, 2), np.float32))
    np.save(tmp_path / "3d.npy", np.zeros((4, 17, 3), np.float32))
    np.save(tmp_path / "gap.npy", np.full((4, 17, 3), np.nan, np.float32))
    (tmp_path / "text.npy").write_text("no array")
    rest = ["1000", "1000", tmp_path / "out.npy"]
    for words, message in (
        (["m.xml", tmp_path / "none.npy", tmp_path / "3d.npy", *rest], "cannot be opened"),
        (["m.xml", tmp_path / "text.npy", tmp_path / "3d.npy", *rest], "is no .npy file"),
        (["m.xml", tmp_path / "double.npy", tmp_path / "3d.npy", *rest], "expected float32"),
        (["m.xml", tmp_path / "2d.npy", tmp_path / "3d.npy", *rest], "differ in frames"),
        (["m.xml", tmp_path / "2d.npy", tmp_path / "2d.npy", *rest], "2D poses first, then 3D"),
        (["m.xml", tmp_path / "3d.npy", tmp_path / "gap.npy", *rest], "holds NaN or infinite values"),
        (["m.xml", tmp_path / "3d.npy", tmp_path / "3d.npy", "0", *rest[1:]], "WIDTH is in pixels, above 0"),
    ):
        result = call(program, *words)
        assert result.returncode == 5 and message in result.stderr
    assert call(program, "m.xml").returncode == 2 and not (tmp_path / "out.npy").exists()
