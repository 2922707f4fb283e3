"""Streams through an engine: what comes out is what the pass over the whole sequence gives, and nothing spoils it."""

from __future__ import annotations

import numpy as np
import pytest

from refiner import bundled
from refiner.engines import EngineOptions
from refiner.errors import ArtefactError, CheckpointError, ConfigError, NonFiniteError, UsageError
from refiner.runtime import Refiner, open_causal_engine
from refiner.runtime.stitching import Run, run_causal

torch = pytest.importorskip("torch", reason="PyTorch is not installed: checkpoints cannot be run")

SIZE = (1000, 1002)
LENGTH = 60


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A causal refiner of random weights, and the same for windows."""
    from refiner.model_files.build import build_model
    from refiner.model_files.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints")
    for causal in (True, False):
        torch.manual_seed(5)
        config = {
            "kind": "refiner",
            "frames": 6,
            "model": {"dim": 16, "blocks": 1, "heads": 2, "mlp_ratio": 2, "joint_embedding": True, "causal": causal},
            "diffusion": {"timesteps": 50, "steps": 2, "offset": 0.008, "terminal": "zero"},
            "data_description": {"fps": 25.0},
        }
        state = build_model(config).state_dict()
        tensors = {f"model.{name}": value + 0.1 * torch.randn_like(value) for name, value in state.items()}
        name = "causal" if causal else "windows"
        save_checkpoint(folder / f"{name}.safetensors", config, tensors | {"error_scale": torch.full((51,), 0.03)})
    return folder


@pytest.fixture(scope="module")
def checkpoint(checkpoints):
    return checkpoints / "causal.safetensors"


@pytest.fixture
def people(clip):
    """Two clips: pixels ``(2, F, 17, 2)`` and metres ``(2, F, 17, 3)``, and the whole passes over them."""

    def make(checkpoint):
        clips = [clip(LENGTH, seed) for seed in (1, 2)]
        refiner = Refiner.load(checkpoint)
        pixels, poses = (np.stack([part[index] for part in clips]) for index in (0, 1))
        return pixels, poses, np.stack([refiner.refine(*part, SIZE, fps=25.0) for part in clips])

    return make


def stand_in_recorder(run):
    """As a CUDA graph, on the CPU: what is replayed reads and writes the memory of the recording."""
    output = run().clone()

    def replay():
        output.copy_(run())

    return replay, output


def carried_engine(checkpoint, streams, pipelined):
    """The way of a GPU with a stand-in for its graphs."""
    from refiner.model_files.build import load_module
    from refiner.models.causal import CarriedStep, CausalStep
    from refiner.runtime.causal import StreamFacts
    from refiner.runtime.causal_torch import TensorStreamEngine

    step = CarriedStep(CausalStep(load_module(checkpoint), streams, pipelined))
    return TensorStreamEngine(
        step, step.layout, StreamFacts("torch", "cpu", 25.0, None, {}), torch.device("cpu"), stand_in_recorder
    )


def torch_engine(checkpoint, streams, pipelined):
    return open_causal_engine(checkpoint, EngineOptions(streams=streams, pipelined=pipelined))


SIZES = np.array([SIZE, SIZE], np.float32)


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("make", [torch_engine, carried_engine])
def test_streams_are_the_pass_over_the_sequences(checkpoint, people, make, pipelined):
    """The second stream begins later and stops for a while; a third is never there."""
    pixels, poses, expected = people(checkpoint)
    engine = make(checkpoint, 3, pipelined)
    assert (engine.frames, engine.streams, engine.fps, engine.delay) == (6, 3, 25.0, int(pipelined))
    given, out = [0, 0], [[], []]
    nothing = np.full((3, 17, 2), np.nan, np.float32), np.full((3, 17, 3), np.nan, np.float32), np.zeros((3, 2))
    for tick in range(2 * LENGTH):
        pose_2d, pose_3d, sizes = (part.copy() for part in nothing)
        active = np.array([given[0] < LENGTH, tick >= 7 and tick % 5 != 0 and given[1] < LENGTH, False])
        for stream in np.flatnonzero(active):
            pose_2d[stream], pose_3d[stream] = pixels[stream, given[stream]], poses[stream, given[stream]]
            sizes[stream] = SIZE
            given[stream] += 1
        refined = engine.step(pose_2d, pose_3d, sizes, active)
        assert refined.dtype == np.float32 and np.isnan(refined[~active]).all()
        for stream in np.flatnonzero(active):
            whole = np.isfinite(refined[stream]).all()
            assert whole == (given[stream] > engine.delay)
            if whole:
                out[stream].append(refined[stream])
    for stream in (0, 1):
        assert len(out[stream]) == LENGTH - engine.delay
        assert np.abs(np.stack(out[stream]) - expected[stream, : len(out[stream])]).max() < 1e-5
    assert np.abs(expected - poses).max() > 1e-3


def test_what_is_wrong_leaves_the_state_as_it_was(checkpoint, people):
    pixels, poses, expected = people(checkpoint)
    engine = open_causal_engine(checkpoint, EngineOptions(streams=2))
    spoilt = poses[:, 0].copy()
    spoilt[1, 4, 2] = np.nan
    both = np.ones(2, dtype=bool)
    for frame in range(20):
        with pytest.raises(NonFiniteError, match="pose_3d holds NaN or infinite values in stream 1"):
            engine.step(pixels[:, frame], spoilt, SIZES)
        with pytest.raises(UsageError, match=r"pose_2d has shape \(2, 16, 2\)"):
            engine.step(pixels[:, frame, :16], poses[:, frame], SIZES)
        with pytest.raises(UsageError, match=r"image_size has shape \(2,\)"):
            engine.step(pixels[:, frame], poses[:, frame], np.array(SIZE))
        with pytest.raises(UsageError, match="expected bool"):
            engine.step(pixels[:, frame], poses[:, frame], SIZES, active=np.ones(2))
        with pytest.raises(UsageError, match="out is float64"):
            engine.step(pixels[:, frame], poses[:, frame], SIZES, both, out=np.zeros((2, 17, 3)))
        refined = engine.step(pixels[:, frame], poses[:, frame], SIZES, both)
        assert np.abs(refined - expected[:, frame]).max() < 1e-5
    with pytest.raises(UsageError, match="no stream 2"):
        engine.reset(2)


@pytest.mark.parametrize("make", [torch_engine, carried_engine])
def test_a_stream_that_is_reset_begins_anew(checkpoint, people, make):
    pixels, poses, expected = people(checkpoint)
    engine = make(checkpoint, 2, False)
    out = np.empty((2, 17, 3), np.float32)
    for frame in range(40):
        at = [frame, frame if frame < 17 else frame - 17]
        if frame == 17:
            engine.reset(1)
        frames = [np.stack([part[stream, at[stream]] for stream in (0, 1)]) for part in (pixels, poses, expected)]
        found = engine.step(frames[0], frames[1], SIZES, out=out)
        assert found is out and np.abs(found - frames[2]).max() < 1e-5


def test_the_whole_pass_in_parts_is_the_whole_pass(checkpoint, clip):
    from refiner.runtime.torch_engine import TorchEngine

    engine = TorchEngine(checkpoint, "refiner")
    assert engine.reach == 2 * 2 * 5
    pose_2d, pose_3d = clip(200)

    run = Run((pose_2d, pose_3d), (np.array(SIZE, np.float32),))
    whole = run_causal(engine, [run], engine.reach, part=1000)[0]
    parts = run_causal(engine, [run], engine.reach, part=33)[0]
    assert whole.shape == parts.shape and np.abs(whole - parts).max() < 1e-6
    # A shorter way back is not enough: the frames that begin a part show it.
    assert np.abs(run_causal(engine, [run], 5, part=33)[0] - whole).max() > 1e-5


def test_a_causal_refiner_has_no_windows(checkpoint):
    with pytest.raises(UsageError, match="leave hop out"):
        Refiner.load(checkpoint, hop=3)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("windows.safetensors", {}, ConfigError, "trained on windows"),
        ("none.safetensors", {}, CheckpointError, "no checkpoint at"),
        ("causal.safetensors", {"engine": "onnx"}, UsageError, "refiner-export --engine onnx"),
        ("causal.safetensors", {"engine": "torch-compile"}, UsageError, "--engine aoti"),
        ("causal.safetensors", {"streams": 0}, UsageError, "streams is 0"),
        ("causal.safetensors", {"steps": 1, "pipelined": True}, ConfigError, "nothing to pipeline"),
        ("none.onnx", {}, ArtefactError, "no artefact at"),
    ],
)
def test_what_does_not_go_together(checkpoints, name, options, error, message):
    with pytest.raises(error, match=message):
        open_causal_engine(checkpoints / name, EngineOptions(**options))


def test_the_bundled_checkpoint_is_the_default(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="no bundled causal refiner"):
        open_causal_engine()
    bundled.default_checkpoint("causal-refiner").write_bytes((checkpoints / "causal.safetensors").read_bytes())
    assert open_causal_engine().streams == 1
