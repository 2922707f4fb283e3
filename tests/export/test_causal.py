"""Causal refiners as artefacts: frame by frame what PyTorch makes of the whole stream, in every engine."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from refiner_export import cli
from refiner_export.build import command_line
from refiner_export.inspection import describe_lines
from refiner_export.options import ExportOptions

from refiner.causal_state import CAUSAL, step_inputs, step_outputs
from refiner.engines import EngineOptions
from refiner.errors import ArtefactError, UsageError
from refiner.runtime import Lifter, Refiner, open_causal_engine
from refiner.runtime.causal_onnx import OnnxCausalEngine
from refiner.runtime.manifest import manifest_path

SIZES = np.array([[1000, 1002], [640, 480]], np.float32)
FRAMES = 40


@pytest.fixture(scope="session")
def checkpoint(write_checkpoint):
    model = {"dim": 16, "blocks": 1, "heads": 2, "mlp_ratio": 4, "joint_embedding": True, "causal": True}
    return write_checkpoint("refiner", model=model, frames=7)


@pytest.fixture(scope="session")
def streamed(checkpoint, export_to, tmp_path_factory):
    """``streamed(engine, pipelined)``: the artefact of two streams, made once."""
    made = {}

    def make(engine, pipelined=False, **changes):
        key = (engine, pipelined, *changes.items())
        if key not in made:
            folder = tmp_path_factory.mktemp("streamed")
            made[key] = export_to(folder, checkpoint, engine=engine, streams=2, pipelined=pipelined, **changes)
        return made[key]

    return make


def sequences(seed):
    rng = np.random.default_rng(seed)
    poses = rng.normal(0, 0.4, (2, 1, 17, 3)) + np.cumsum(rng.normal(0, 0.02, (2, FRAMES, 17, 3)), axis=1)
    pixels = SIZES[:, None, None] * (0.5 + 0.2 * poses[..., :2])
    return pixels.astype(np.float32), (poses + rng.normal(0, 2, (2, FRAMES, 1, 3))).astype(np.float32)


def assert_it_streams(engine, checkpoint):
    """Twice from the beginning, the second time after a reset of the first stream alone."""
    pixels, poses = sequences(4)
    refiner = Refiner.load(checkpoint)
    expected = np.stack([refiner.refine(pixels[i], poses[i], tuple(SIZES[i])) for i in (0, 1)])
    active = np.array([True, False])
    for frame in range(FRAMES):
        found = engine.step(pixels[:, frame], poses[:, frame], SIZES)
        assert np.isnan(found).all() == (frame < engine.delay)
        if frame >= engine.delay:
            assert np.abs(found - expected[:, frame - engine.delay]).max() < 1e-5
        if frame == 12:
            engine.reset(0)
            for again in range(frame + 1):
                found = engine.step(pixels[:, again], poses[:, again], SIZES, active)
                assert np.isnan(found[1]).all()
                if again >= engine.delay:
                    assert np.abs(found[0] - expected[0, again - engine.delay]).max() < 1e-5
    assert np.abs(expected - poses).max() > 1e-3


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("engine", ["onnx", "openvino", pytest.param("aoti", marks=pytest.mark.slow)])
def test_streams_through_an_artefact(streamed, checkpoint, engine, pipelined):
    if engine == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    result = streamed(engine, pipelined)
    opened = open_causal_engine(result.path, EngineOptions(threads=1))
    assert (opened.streams, opened.frames, opened.delay, opened.fps) == (2, 7, int(pipelined), 50.0)
    assert opened.metadata["engine"] == engine
    assert_it_streams(opened, checkpoint)
    total = result.manifest["parity"]["total"]
    assert total["largest_mm"] < 0.01 and result.manifest["parity"]["frames"] >= 300


@pytest.mark.parametrize("pipelined", [False, True])
def test_a_state_that_is_carried_takes_turns(checkpoint, pipelined, tmp_path):
    """The graph for a device, whose two sets of buffers take turns, here on the CPU."""
    path = tmp_path / "carried.onnx"
    write_carried(checkpoint, pipelined, path)
    engine = OnnxCausalEngine(path, "cpu", threads=1)
    assert engine.metadata["state"]["form"] == "carried"
    assert_it_streams(engine, checkpoint)


def write_carried(checkpoint, pipelined, path):
    """What ``--device cuda`` writes, which cannot be asked for without one."""
    import onnx
    from refiner_export.graph import trace_step
    from refiner_export.manifest import describe
    from refiner_export.precision import type_graph
    from refiner_export.source import read_source

    from refiner.runtime.onnx_engine import METADATA_KEY

    options = ExportOptions("onnx", path.parent, checkpoint, streams=2, pipelined=pipelined, device="cuda")
    source = read_source(options)
    typed = type_graph(trace_step(source.module), "fp32")
    manifest = {**describe(source, typed, options), "parity": {}}
    onnx.helper.set_model_props(typed.model, {METADATA_KEY: json.dumps(manifest)})
    onnx.save(typed.model, path)


@pytest.mark.slow
def test_tensorrt_builds_it(checkpoint, export_to, tmp_path):
    """With its state as inputs and outputs; nothing here runs it."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    result = export_to(tmp_path, checkpoint, engine="trt-rtx", streams=2, pipelined=True, compute_capability="8.6")
    assert result.manifest["state"]["form"] == "carried" and "not run" in result.manifest["parity"]["note"]
    assert result.manifest["parity"]["total"]["largest_mm"] < 0.01  # of its graph
    built = {name: tuple(entry["shape"]) for name, entry in result.manifest["build"]["inputs"].items()}
    assert built == {name: tuple(entry["shape"]) for name, entry in result.manifest["inputs"].items()}
    with pytest.raises(UsageError, match="no TensorRT engine of ours binds yet"):
        open_causal_engine(result.path)


def test_nothing_of_an_artefact_moves_while_it_streams(streamed):
    """The arrays that are bound stay where they are, and a frame's result is the caller's own."""
    engine = open_causal_engine(streamed("onnx").path, EngineOptions(threads=1))
    pixels, poses = sequences(9)
    arrays = {**engine.inputs, **engine.counts.tensors(), **engine.counts.fresh(), "refined": engine.refined}
    places = {name: array.ctypes.data for name, array in arrays.items()}
    first = engine.step(pixels[:, 0], poses[:, 0], SIZES)
    kept = first.copy()
    for frame in range(1, 20):
        engine.step(pixels[:, frame], poses[:, frame], SIZES)
    np.testing.assert_array_equal(first, kept)
    now = {**engine.inputs, **engine.counts.tensors(), **engine.counts.fresh(), "refined": engine.refined}
    assert {name: array.ctypes.data for name, array in now.items()} == places


def test_the_manifest_says_what_state_there_is(streamed):
    for pipelined in (False, True):
        result = streamed("onnx", pipelined)
        manifest = result.manifest
        layout = open_causal_engine(result.path).layout
        assert manifest["kind"] == CAUSAL and manifest["batch"] == {"min": 2, "opt": 2, "max": 2}
        assert manifest["state"]["form"] == "entries" and manifest["state"]["delay"] == int(pipelined)
        assert manifest["state"]["layout"] == dataclasses.asdict(layout)
        for part, expected in (("inputs", step_inputs(layout, False)), ("outputs", step_outputs(layout, False))):
            assert {name: tuple(entry["shape"]) for name, entry in manifest[part].items()} == expected
        lines = "\n".join(describe_lines(result.described, result.path))
        assert f"comes out {int(pipelined)} later; state: entries" in lines and "on 2 streams of 300 frames" in lines
        assert "keys_" not in lines


def test_what_an_artefact_is_not(streamed, exported):
    path = streamed("onnx").path
    with pytest.raises(ArtefactError, match="is a causal-refiner, expected a refiner; load it as what it is"):
        Refiner.load(path)
    with pytest.raises(ArtefactError, match="expected a lifter"):
        Lifter.load(path)
    with pytest.raises(ArtefactError, match="is a refiner, expected a causal-refiner"):
        open_causal_engine(exported["refiner"][1].path)
    for wanted in ({"streams": 3}, {"pipelined": True}, {"steps": 5}):
        with pytest.raises(UsageError, match="export it again with --streams"):
            open_causal_engine(path, EngineOptions(**wanted))
    assert open_causal_engine(path, EngineOptions(streams=2, pipelined=False, steps=2)).streams == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layout"), "does not describe the state"),
        (lambda state: state["layout"].update(width=-1), "width: expected a whole number from 1"),
        (lambda state: state["layout"].update(width=7), "its manifest says"),
        (lambda state: state["layout"].update(frames=2), "expected 3 or more"),
        (lambda state: state["layout"].update(streams=3), "contradicts itself"),
        (lambda state: state["layout"].update(pipelined=True), "does not have the tensors of its state"),
        (lambda state: state["layout"].update(colour="red"), "does not describe the state"),
    ],
)
def test_a_manifest_that_lies_is_refused(streamed, tmp_path, change, message):
    import onnx

    from refiner.runtime.onnx_engine import METADATA_KEY

    model = onnx.load(streamed("onnx").path)
    manifest = json.loads({entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY])
    change(manifest["state"])
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(manifest)})
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(ArtefactError, match=message):
        open_causal_engine(tmp_path / "changed.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "leave --precision fp16 out"),
        ({"frames": 9, "flip_test": True}, "leave --flip-test, --frames out"),
        ({"streams": 0}, "--streams is 0; expected"),
    ],
)
def test_what_a_causal_refiner_cannot_be_exported_with(checkpoint, export_to, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        export_to(tmp_path, checkpoint, **changes)


def test_windows_have_no_streams(write_checkpoint, export_to, tmp_path):
    with pytest.raises(UsageError, match="for causal refiners"):
        export_to(tmp_path, write_checkpoint("refiner"), streams=2)


def test_the_command(checkpoint, tmp_path, capsys):
    words = ["--engine", "onnx", "--checkpoint", str(checkpoint), "--streams", "3", "--pipelined"]
    assert cli.main([*words, "--output", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["command"].endswith("--streams 3 --pipelined")
    assert "causal-refiner-f7-j17-k2-s3-pipelined-fp32.onnx" in said["artefact"]
    assert manifest_path(said["artefact"]).is_file()
    assert cli.main([*words, "--output", str(tmp_path), "--triton", str(tmp_path / "triton")]) == 2
    assert "no Triton model of ours" in capsys.readouterr().err
    options = cli.options_of(cli.build_parser().parse_args(words))
    assert command_line(options) == said["command"]


def test_the_gate_compares_the_state_too(checkpoint, streamed, monkeypatch):
    """A ring that is written a slot too late is found out."""
    from refiner_export.engines import Graph
    from refiner_export.parity import compare_stream
    from refiner_export.source import read_source

    from refiner.causal_state import CausalState

    path = streamed("onnx").path
    options = ExportOptions("onnx", path.parent, checkpoint, streams=2)
    graph = Graph(read_source(options), None)
    assert compare_stream(graph, options, path)["total"]["largest_mm"] < 0.01
    write = CausalState._write
    monkeypatch.setattr(CausalState, "_write", lambda self, rows, slot: write(self, rows, (slot + 1) % 6))
    assert compare_stream(graph, options, path)["total"]["largest_mm"] > 0.01
