"""Camera-aware models as artefacts: keypoints and cameras in, the same poses as from PyTorch out, in every engine."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from refiner_export import Batch, ExportOptions, cli, gate
from refiner_export.gate import gate_windows, ray_parity_windows, with_wild_windows
from refiner_export.inspection import describe_lines
from refiner_export.triton import write_repository

from refiner.camera import default_focal_length
from refiner.engines import EngineOptions
from refiner.errors import ArtefactError, NonFiniteError, UsageError
from refiner.model_files.build import load_module
from refiner.models import LiftingRefiner, MirroredPass
from refiner.runtime import Lifter, Refiner, open_causal_engine
from refiner.runtime.causal import layout_of
from refiner.runtime.engine import input_names, window_inputs
from refiner.runtime.loading import open_engine
from refiner.runtime.manifest import manifest_path, parse_manifest

MODEL = {"dim": 16, "blocks": 1, "heads": 2, "mlp_ratio": 4, "joint_embedding": True, "input": "rays"}
FRAMES = 9
# What is exported: of which checkpoints, and how.
FORMS = {
    "lifter": ("lifter", {}),
    "lifter, mirrored pass": ("lifter", {"flip_test": True}),
    "refiner": ("refiner", {}),
    "refiner, mirrored pass": ("refiner", {"flip_test": True}),
    "lifter and refiner": ("refiner", {"lifter": "lifter", "flip_test": True, "batch": Batch(1, 2, 4)}),
}


@pytest.fixture(scope="session")
def checkpoints(write_checkpoint):
    """Models that see rays, of random weights."""
    return {
        "lifter": write_checkpoint("lifter", model=MODEL, frames=FRAMES),
        "refiner": write_checkpoint("refiner", model=MODEL, frames=FRAMES),
        "causal": write_checkpoint("refiner", model=MODEL | {"causal": True}, frames=7),
    }


@pytest.fixture(scope="session")
def made(checkpoints, export_to, tmp_path_factory):
    """``made(form, engine)``: the artefact of one of `FORMS`, made once."""
    results = {}

    def make(form, engine="onnx", **changes):
        key = (form, engine, *changes.items())
        if key not in results:
            name, options = FORMS[form]
            options = {**options, **changes}
            if "lifter" in options:
                options["lifter"] = checkpoints[options["lifter"]]
            folder = tmp_path_factory.mktemp("rays")
            results[key] = export_to(folder, checkpoints[name], engine=engine, windows=20, **options)
        return results[key]

    return make


def pytorch(checkpoints, form):
    """The module that was exported as ``form``, as it was trained."""
    name, options = FORMS[form]
    module = load_module(checkpoints[name])
    if "lifter" in options:
        module = LiftingRefiner(load_module(checkpoints["lifter"]), module)
    return MirroredPass(module) if options.get("flip_test") else module


def role_of(form):
    return "lifter" if form.startswith("lifter") else "refiner"


def inputs_of(form, windows, seed):
    keypoints, pose_3d, camera = ray_parity_windows(windows, FRAMES, seed)
    return (keypoints, camera) if role_of(form) == "lifter" else (keypoints, pose_3d, camera)


def expected_of(module, inputs):
    with torch.inference_mode():
        return module(*(torch.from_numpy(part) for part in inputs)).numpy()


# Windows.


@pytest.mark.parametrize(
    ("form", "engine"),
    [
        *((form, "onnx") for form in FORMS),
        *(pytest.param(form, "openvino", marks=pytest.mark.slow) for form in FORMS),
        *(pytest.param(form, "aoti", marks=pytest.mark.slow) for form in ("lifter, mirrored pass", "refiner")),
    ],
)
def test_windows_through_an_artefact(checkpoints, made, form, engine):
    if engine == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    result = made(form, engine)
    assert result.manifest["parity"]["total"]["largest_mm"] < 0.01
    opened, module = open_engine(result.path, role_of(form)), pytorch(checkpoints, form)
    assert opened.rays is True
    for batch in (1, 3):
        inputs = inputs_of(form, batch, seed=batch)
        expected = expected_of(module, inputs)
        assert np.abs(opened(*inputs) - expected).max() < 1e-5
        # The confidence and the focal length are looked at.
        for place in (0, -1):
            other = [part.copy() for part in inputs]
            other[place][..., 2] = 0.5 if place == 0 else 2 * other[place][..., 2]
            assert np.abs(opened(*other) - expected).max() > 1e-4


@pytest.mark.parametrize("form", ["lifter", "refiner"])
def test_openvino_is_the_same(checkpoints, made, form):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    inputs = inputs_of(form, 2, seed=6)
    found = open_engine(made(form, "openvino").path, role_of(form))(*inputs)
    assert np.abs(found - expected_of(pytorch(checkpoints, form), inputs)).max() < 1e-5


@pytest.mark.parametrize("frames", [20, 4])
def test_whole_sequences_with_gaps(checkpoints, made, frames):
    """As users call it: missing joints, a lens of its own."""
    keypoints, pose_3d, _ = (part[0] for part in ray_parity_windows(1, frames, seed=5))
    told = {"image_size": (1000, 1002), "confidence": keypoints[..., 2], "focal_length": 1300.0}
    lifted = [
        Lifter.load(path).lift(keypoints[..., :2], **told) for path in (checkpoints["lifter"], made("lifter").path)
    ]
    refined = [
        Refiner.load(path).refine(keypoints[..., :2], pose_3d, **told)
        for path in (checkpoints["refiner"], made("refiner").path)
    ]
    for expected, found in (lifted, refined):
        assert found.shape == (frames, 17, 3) and np.abs(found - expected).max() < 1e-5


def awkward_windows():
    """Frames that detectors give: keypoints ``(N, T, 17, 3)`` and cameras ``(N, 3)``, by what is awkward of them."""
    keypoints, _, camera = ray_parity_windows(1, FRAMES, seed=8)
    keypoints[..., 2] = np.random.default_rng(8).uniform(0.3, 1, keypoints.shape[:-1])
    named = {}

    def window(name):
        named[name] = (keypoints[0].copy(), camera[0].copy())
        return named[name]

    window("nothing awkward")
    window("no frame has a joint")[0][..., 2] = 0.0
    window("some frames have no joint")[0][3:6, :, 2] = 0.0
    poses, _ = window("all joints missing, all at one place")
    poses[...] = 0.0
    window("one joint")[0][:, 1:, 2] = 0.0
    poses, lens = window("a person of 20 pixels")
    middle = poses[..., :2].mean(axis=(0, 1))
    poses[..., :2] = [1500.0, 300.0] + (poses[..., :2] - middle) * 20 / np.ptp(poses[..., 1])
    lens[:] = [1920.0, 1080.0, 1920.0]
    window("a person at one pixel")[0][..., :2] = 400.0
    window("far outside of the image")[0][..., 0] += 4000.0
    poses, _ = window("one joint far away")
    poses[:, 16, :2] = 1e6
    window("a fisheye's focal length")[1][2] = 0.25 * camera[0, :2].max()
    window("a tele lens")[1][2] = 30 * camera[0, :2].max()
    poses, lens = window("rays in the place of pixels")
    poses[..., :2] = (poses[..., :2] - 0.5 * lens[:2]) / lens[2] + 1.0
    lens[:] = [2.0, 2.0, 1.0]
    return named


@pytest.mark.parametrize("name", awkward_windows())
@pytest.mark.parametrize("form", ["lifter", "refiner", "lifter and refiner"])
def test_awkward_frames(checkpoints, made, form, name):
    """Finite everywhere, and what PyTorch makes of them."""
    seen, lens = (part[None] for part in awkward_windows()[name])
    pose_3d = ray_parity_windows(1, FRAMES, seed=9)[1]
    inputs = (seen, lens) if role_of(form) == "lifter" else (seen, pose_3d, lens)
    expected = expected_of(pytorch(checkpoints, form), inputs)
    found = open_engine(made(form).path, role_of(form))(*inputs)
    assert np.isfinite(expected).all() and np.isfinite(found).all()
    assert np.abs(found - expected).max() < 1e-5


def test_the_manifest_names_keypoints_and_cameras(made, tmp_path):
    result = made("refiner")
    manifest = result.manifest
    assert {name: entry["shape"] for name, entry in manifest["inputs"].items()} == {
        "keypoints": ["batch", FRAMES, 17, 3],
        "pose_3d": ["batch", FRAMES, 17, 3],
        "camera": ["batch", 3],
    }
    assert manifest["units"]["keypoints"] == "x, y in pixels, confidence 0 (missing) to 1"
    assert manifest["units"]["camera"] == "width, height, focal length in pixels"
    assert manifest["stride"] == 1 and manifest["model"]["input"] == "rays"
    assert not manifest["parity"]["mpjpe_is_accuracy"]
    assert "confidences made up" in manifest["parity"]["motion"]
    lines = "\n".join(describe_lines(result.described, result.path))
    assert "camera float32 ['batch', 3] width, height, focal length in pixels" in lines
    model = onnx.load(result.path)
    assert [entry.name for entry in model.graph.input] == ["keypoints", "pose_3d", "camera"]
    config = (write_repository(result.path, tmp_path) / "config.pbtxt").read_text()
    assert '{ name: "camera" data_type: TYPE_FP32 dims: [3] }' in config and "pose_2d" not in config


def test_what_does_not_fit(made, exported):
    engine = open_engine(made("refiner").path, "refiner")
    keypoints, pose_3d, camera = ray_parity_windows(2, FRAMES, seed=1)
    with pytest.raises(UsageError, match=r"keypoints has shape \(2, 9, 17, 2\)"):
        engine(keypoints[..., :2], pose_3d, camera)
    with pytest.raises(UsageError, match=r"camera has shape \(2, 2\)"):
        engine(keypoints, pose_3d, camera[:, :2])
    with pytest.raises(UsageError, match="takes keypoints, pose_3d, camera; got 2"):
        engine(keypoints, camera)
    assert engine(keypoints[:0], pose_3d[:0], camera[:0]).shape == (0, FRAMES, 17, 3)
    assert open_engine(exported["refiner"][1].path, "refiner").rays is False


def test_a_manifest_of_the_other_form_is_refused(made, tmp_path):
    """The graph's names are in its manifest; renamed there alone they no longer fit it."""
    from refiner.runtime.onnx_engine import METADATA_KEY

    model = onnx.load(made("refiner").path)
    manifest = json.loads({entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY])
    shapes = window_inputs("refiner", FRAMES)
    manifest["inputs"] = {name: {"type": "float32", "shape": ["batch", *shape]} for name, shape in shapes.items()}
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(manifest)})
    onnx.save(model, tmp_path / "renamed.onnx")
    with pytest.raises(ArtefactError, match=r"it has \['keypoints', 'pose_3d', 'camera'\] where its manifest"):
        open_engine(tmp_path / "renamed.onnx", "refiner")


def test_lifter_and_refiner_must_see_alike(checkpoints, write_checkpoint, export_to, tmp_path):
    from refiner.errors import ConfigError

    screen = write_checkpoint("lifter", frames=FRAMES)
    with pytest.raises(ConfigError, match="one graph needs both alike"):
        export_to(tmp_path, checkpoints["refiner"], lifter=screen)
    far = write_checkpoint("lifter", frames=FRAMES, stride=3, model=MODEL)
    with pytest.raises(ConfigError, match="every 3 frames, the refiner every 1"):
        export_to(tmp_path, checkpoints["refiner"], lifter=far)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_hidden_layers_alone_leave_float32(made, checkpoints, precision):
    """Rays, rotations and confidences stay in float32: the features have no room for rounding."""
    result = made("refiner", precision=precision, tolerance_mm=100.0)
    whole = made("refiner").manifest
    kept = result.manifest["kept_float32"]["normalisation, root and DDIM arithmetic"]
    assert kept == whole["kept_float32"]["normalisation, root and DDIM arithmetic"] > 80
    inputs = inputs_of("refiner", 4, seed=2)
    change = open_engine(result.path, "refiner")(*inputs) - expected_of(pytorch(checkpoints, "refiner"), inputs)
    assert 1e-7 < np.abs(change).mean() < 1e-3


def test_the_command(checkpoints, tmp_path, capsys):
    words = ["--engine", "onnx", "--checkpoint", str(checkpoints["refiner"]), "--windows", "8"]
    assert cli.main([*words, "--output", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["parity"]["total"]["largest_mm"] < 0.01
    assert "keypoints" in json.loads(manifest_path(said["artefact"]).read_text())["inputs"]


@pytest.mark.slow
def test_tensorrt_builds_it(made):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    for form in ("refiner", "lifter and refiner"):
        result = made(form, "trt-rtx", compute_capability="8.6")
        assert "not run" in result.manifest["parity"]["note"]
        assert result.manifest["parity"]["total"]["largest_mm"] < 0.01  # of its graph
        built = {name: entry["shape"][1:] for name, entry in result.manifest["build"]["inputs"].items()}
        kind = result.manifest["kind"]
        assert built == {name: list(shape) for name, shape in window_inputs(kind, FRAMES, rays=True).items()}


# The windows of the gate.


def test_both_forms_are_compared_on_the_same_motion():
    options = ExportOptions("onnx", Path("x"), Path("y"), windows=40)
    windows, of_rays = (gate_windows(options, FRAMES, rays=rays) for rays in (False, True))
    keypoints, pose_3d, camera = of_rays.of_kind("refiner", rays=True)
    pose_2d, same, size = windows.of_kind("refiner")
    np.testing.assert_array_equal(keypoints[..., :2], pose_2d)
    np.testing.assert_array_equal(pose_3d, same)
    np.testing.assert_array_equal(camera[:, :2], size)
    confidence, focal = keypoints[..., 2], camera[:, 2]
    assert confidence.min() == 0.0 and confidence.max() == 1.0
    assert 0.01 < (confidence == 0).mean() < 0.2 and (confidence == 0).all(axis=2).any()
    assert (confidence == 1).all(axis=(1, 2)).any() and not (confidence == 1).all(axis=(1, 2)).all()
    default = np.array([default_focal_length(tuple(row)) for row in size], np.float32)
    unknown = focal == default
    assert unknown.any() and not unknown.all() and (focal > 300).all()
    assert keypoints.dtype == camera.dtype == np.float32


def test_wild_windows_have_wild_lenses():
    windows = gate_windows(ExportOptions("onnx", Path("x"), Path("y"), windows=80), FRAMES, rays=True)
    wild = with_wild_windows(windows)
    keypoints, _, camera = (part[-wild.wild :] for part in wild.of_kind("refiner", rays=True))
    units = camera[:, 2] / camera[:, :2].max(axis=1)
    assert wild.wild == len(wild.truth) // 4 and units.min() < 0.8 and units.max() > 3
    assert (keypoints[..., 2] == 0).mean() > 0.2


def test_a_stride_takes_every_so_many_frames(write_checkpoint, export_to, tmp_path):
    options = ExportOptions("onnx", Path("x"), Path("y"), windows=20)
    near, far = (gate_windows(options, FRAMES, stride=stride).truth for stride in (1, 5))
    steps = [np.linalg.norm(np.diff(truth, axis=1), axis=-1).mean() for truth in (near, far)]
    assert steps[1] > 2 * steps[0] and far.shape[1] == FRAMES
    result = export_to(tmp_path, write_checkpoint("lifter", model=MODEL, frames=FRAMES, stride=5), windows=8)
    assert result.manifest["stride"] == 5 and result.manifest["parity"]["total"]["largest_mm"] < 0.01


@pytest.mark.parametrize(("lifter_sees", "refiner_sees", "lifted"), [(0, 0, True), (0, 1, False), (1, 1, True)])
def test_the_bundled_lifter_serves_refiners_that_see_what_it_sees(monkeypatch, lifter_sees, refiner_sees, lifted):
    class Lifter:
        frames, rays, stride = FRAMES, bool(lifter_sees), 1

        def __call__(self, *inputs):
            assert [part.shape[1:] for part in inputs] == list(window_inputs("lifter", FRAMES, self.rays).values())
            return np.full((*inputs[0].shape[:-1], 3), 0.5, np.float32)

    from refiner.data.synthetic import synthetic_folder

    monkeypatch.setattr(gate, "open_engine", lambda path, role: Lifter())
    monkeypatch.setattr(gate, "open_motion_folder", lambda path: synthetic_folder(3, subjects=3, frames=250))
    options = ExportOptions("onnx", Path("x"), Path("y"), windows=8, data=Path("some"))
    windows = gate_windows(options, FRAMES, part="all", rays=bool(refiner_sees))
    assert windows.real is lifted
    assert (np.ptp(windows.pose_3d, axis=2).max() < 1e-6) == lifted


# Streams.

SIZES = np.array([[1000, 1002, 1100], [640, 480, 600]], np.float32)
LENGTH = 40


@pytest.fixture(scope="session")
def streamed(checkpoints, export_to, tmp_path_factory):
    results = {}

    def make(engine, pipelined):
        if (engine, pipelined) not in results:
            folder = tmp_path_factory.mktemp("streams")
            results[engine, pipelined] = export_to(
                folder, checkpoints["causal"], engine=engine, streams=2, pipelined=pipelined
            )
        return results[engine, pipelined]

    return make


def sequences(seed):
    """Keypoints, metres and cameras of two people; some frames of the second have no joint."""
    keypoints, pose_3d, _ = ray_parity_windows(2, LENGTH, seed)
    keypoints[1, 10:14, :, 2] = 0.0
    return keypoints, pose_3d


def assert_it_streams(engine, checkpoint):
    """Against the pass over the whole sequences; the first stream begins anew in the middle."""
    keypoints, pose_3d = sequences(4)
    expected = expected_of(load_module(checkpoint), (keypoints, pose_3d, SIZES))
    active = np.array([True, False])
    for frame in range(LENGTH):
        found = engine.step(keypoints[:, frame], pose_3d[:, frame], SIZES)
        assert np.isnan(found).all() == (frame < engine.delay)
        if frame >= engine.delay:
            assert np.abs(found - expected[:, frame - engine.delay]).max() < 1e-5
        if frame == 12:
            engine.reset(0)
            for again in range(frame + 1):
                found = engine.step(keypoints[:, again], pose_3d[:, again], SIZES, active)
                assert np.isnan(found[1]).all()
                if again >= engine.delay:
                    assert np.abs(found[0] - expected[0, again - engine.delay]).max() < 1e-5
    assert np.abs(expected - pose_3d).max() > 1e-3


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino", pytest.param("aoti", marks=pytest.mark.slow)])
def test_streams(checkpoints, streamed, engine, pipelined):
    if engine == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    if engine == "torch":
        opened = open_causal_engine(checkpoints["causal"], EngineOptions(streams=2, pipelined=pipelined))
    else:
        result = streamed(engine, pipelined)
        assert result.manifest["parity"]["total"]["largest_mm"] < 0.01
        opened = open_causal_engine(result.path, EngineOptions(threads=1))
    assert opened.rays is True
    assert list(opened.inputs)[:3] == input_names("causal-refiner", rays=True)
    assert (opened.inputs["camera"] == 1).all(), "nothing is divided by 0 before a stream begins"
    assert_it_streams(opened, checkpoints["causal"])


def test_a_stream_that_has_not_begun_spoils_none(streamed):
    """Nothing of the second stream is looked at, and all that is carried for it stays finite."""
    engine = open_causal_engine(streamed("onnx", True).path, EngineOptions(threads=1))
    keypoints, pose_3d = sequences(5)
    keypoints[1], pose_3d[1] = np.nan, np.inf
    for frame in range(12):
        engine.step(keypoints[:, frame], pose_3d[:, frame], SIZES, np.array([True, False]))
    assert all(np.isfinite(array).all() for array in engine.counts.tensors().values())
    with pytest.raises(NonFiniteError, match="keypoints holds NaN or infinite values in stream 1"):
        engine.step(keypoints[:, 0], pose_3d[:, 0], SIZES)
    with pytest.raises(UsageError, match=r"camera has shape \(2, 2\), expected \(2, 3\)"):
        engine.step(keypoints[:, 0], pose_3d[:, 0], SIZES[:, :2], np.array([True, False]))


def test_a_layout_of_the_other_form_is_refused(streamed):
    result = streamed("onnx", False)
    manifest = json.loads(json.dumps(result.manifest))

    def read():
        return layout_of(parse_manifest(manifest, result.path), result.path)

    layout = read()
    assert layout.rays and manifest["state"]["layout"] == dataclasses.asdict(layout)
    manifest["state"]["layout"]["rays"] = False
    with pytest.raises(ArtefactError, match="contradicts itself"):
        read()
    # As manifests were before there were rays.
    del manifest["state"]["layout"]["rays"]
    manifest["inputs"]["pose_2d"] = manifest["inputs"].pop("keypoints")
    assert not read().rays


@pytest.mark.slow
def test_tensorrt_builds_streams(checkpoints, export_to, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    options = {"streams": 2, "pipelined": True, "compute_capability": "8.6"}
    result = export_to(tmp_path, checkpoints["causal"], engine="trt-rtx", **options)
    assert list(result.manifest["build"]["inputs"])[:3] == ["keypoints", "pose_3d", "camera"]
    assert result.manifest["parity"]["total"]["largest_mm"] < 0.01  # of its graph
