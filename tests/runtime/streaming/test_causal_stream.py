"""A causal refiner as a stream: what comes out frame by frame is the pass over the whole sequence."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import dataclasses

import torch
from stand_ins import OffsetLifter, motion

from refiner import Lifter, Refiner, StreamingRefiner
from refiner.data.synthetic import synthetic_folder
from refiner.diffusion.uncertainty import JointUncertainty
from refiner.engines import EngineOptions
from refiner.errors import UsageError
from refiner.model_files.build import build_model
from refiner.model_files.checkpoint import save_checkpoint
from refiner.runtime import open_causal_engine
from refiner.runtime.streaming import Frame
from refiner.runtime.streaming.causal_backend import CausalBackend
from refiner.training.config import load_config

SIZE = (1000.0, 1002.0)
BAND = 9


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small causal refiner with random weights that move joints by centimetres."""
    words = ["model.causal=true", "model.dim=16", "model.heads=2", "model.mlp_ratio=2", f"frames={BAND}"]
    config = dataclasses.asdict(load_config("refiner-small", words))
    spread = JointUncertainty(np.tile([-2.5, 0.3, 0.1], (17, 1)), np.tile([1.2, 2.5], (17, 1)))
    config["uncertainty"] = spread.to_config()
    torch.manual_seed(0)
    tensors = {f"model.{name}": value for name, value in build_model(config).state_dict().items()}
    path = tmp_path_factory.mktemp("causal") / "causal.safetensors"
    save_checkpoint(path, config, tensors | {"error_scale": torch.full((51,), 0.05)})
    return path


def streamed(live, pixels, poses, begin=0):
    found = [f for i in range(begin, len(poses)) for f in live.push(pixels[i], poses[i], i / 50)]
    return found + live.flush()


@pytest.mark.parametrize("pipelined", [False, True])
def test_a_stream_is_the_offline_pass(checkpoint, pipelined):
    pixels, poses = motion(120)
    offline = Refiner.load(checkpoint, threads=1).refine(pixels, poses, SIZE)
    live = StreamingRefiner.load(checkpoint, threads=1, pipelined=pipelined, image_size=SIZE)
    assert live.delay_frames == pipelined and live.frames == BAND
    found = streamed(live, pixels, poses)
    assert [round(frame.timestamp * 50) for frame in found] == list(range(120))
    assert np.abs(offline - poses).max() > 0.005
    np.testing.assert_allclose(np.stack([frame.pose_3d for frame in found]), offline, atol=1e-5)
    assert [frame.status for frame in found] == ["warm-up"] * (BAND - 1) + ["ok"] * (121 - BAND)


def test_people_share_an_engine_and_nothing_else(checkpoint):
    pairs = [motion(60, seed) for seed in range(3)]
    live = StreamingRefiner.load(checkpoint, threads=1, people=3, image_size=SIZE)
    found = {person: [] for person in range(3)}
    for index in range(60):
        there = [person for person in range(3) if not (person == 1 and index < 20) and not (person == 2 and index > 40)]
        frames = [Frame(pairs[p][0][index], pairs[p][1][index], index / 50, person_id=p) for p in there]
        for frame in live.push_many(frames):
            found[frame.person_id].append(frame)
    for person, begin, end in ((0, 0, 60), (1, 20, 60), (2, 0, 41)):
        pixels, poses = (part[begin:end] for part in pairs[person])
        alone = Refiner.load(checkpoint, threads=1).refine(pixels, poses, SIZE)
        np.testing.assert_allclose(np.stack([f.pose_3d for f in found[person]]), alone, atol=1e-5)


def test_the_bundled_causal_refiner():
    """Loads without a path, streams what `Refiner` gives for the whole sequence, and knows how far it may be off."""
    clip = synthetic_folder(3, subjects=3, frames=80, actions=("Walking",)).clips("test")[0]
    lens = {"image_size": clip.image_size, "camera": clip.lens}
    lifted = Lifter.load(threads=1).lift(clip.pose_2d, **lens)
    live = StreamingRefiner.load(threads=1, **lens)
    found = streamed(live, clip.pose_2d, lifted)
    offline = Refiner.load("refiner-nano-rays-causal", threads=1).refine(clip.pose_2d, lifted, **lens)
    np.testing.assert_allclose(np.stack([frame.pose_3d for frame in found]), offline, atol=2e-5)
    assert live.metadata["uncertainty"] is not None and live.delay_frames == 0 and live.frames == 27
    moved = np.linalg.norm(offline - lifted, axis=-1)[30:, 1:]
    assert 0.002 < moved.mean() < 0.1
    spread = np.stack([frame.std for frame in found])[30:, 1:]
    assert spread.min() > 0.005 and spread.max() < 0.5 and spread.std(axis=0).min() > 0


def test_what_was_before_a_gap_is_forgotten(checkpoint):
    pixels, poses = motion(80)
    live = StreamingRefiner.load(checkpoint, threads=1, image_size=SIZE)
    for index in range(30):
        live.push(pixels[index], poses[index], index / 50)
    found = [f for i in range(30, 80) for f in live.push(pixels[i], poses[i], 10 + i / 50)]
    fresh = streamed(StreamingRefiner.load(checkpoint, threads=1, image_size=SIZE), pixels, poses, 30)
    assert live.counters.restarts == 1
    for frame, expected in zip(found, fresh, strict=True):
        np.testing.assert_array_equal(frame.pose_3d, expected.pose_3d)


def test_a_disturbance_dies_away(checkpoint):
    """NaN in some joints of a frame: gone to the last bit once the receptive field has passed."""
    pixels, poses = motion(200, seed=5)
    holed = poses.copy()
    holed[60, [4, 13]] = np.nan
    whole, disturbed = (
        np.stack(
            [frame.pose_3d for frame in streamed(StreamingRefiner.load(checkpoint, image_size=SIZE), pixels, given)]
        )
        for given in (poses, holed)
    )
    difference = np.abs(whole - disturbed).max(axis=(1, 2))
    assert difference[:60].max() == 0.0 and difference[60] > 0 and np.isfinite(disturbed).all()
    field = 2 * 4 * (BAND - 1 + 2)  # K steps of four attention modules, with their convolutions
    assert difference[60 + field :].max() == 0.0


@pytest.mark.filterwarnings("ignore:pose_3d")  # the lifter stands in for one that knows people
def test_a_lifter_in_the_loop_sees_the_frames_so_far(checkpoint):
    lifter = OffsetLifter()
    pixels, _ = motion(30)
    live = StreamingRefiner(CausalBackend(open_causal_engine(checkpoint, EngineOptions(threads=1)), lifter), SIZE)
    found = [live.push(pixels[i], None, i / 50)[0] for i in range(30)] + live.flush()
    body = lifter(pixels[None], np.float32([SIZE]))[0]
    np.testing.assert_allclose(
        np.stack([frame.pose_3d for frame in found]),
        Refiner.load(checkpoint, threads=1).refine(pixels, body, SIZE),
        atol=1e-5,
    )


# The stand-in sways slowly and its 3D trembles: the comparison takes it for a shift, which changes no pose.
@pytest.mark.filterwarnings("ignore:person 0. pose_3d does not fit pose_2d:refiner.errors.InputWarning")
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_two_thousand_frames_are_the_offline_pass(checkpoint, tmp_path, engine):
    """Within a hundredth of a millimetre, through the bundled size of network."""
    pixels, poses = motion(2000, seed=9)
    path = checkpoint
    if engine == "onnx":
        pytest.importorskip("onnxscript")
        from refiner_export.build import Clock, assemble
        from refiner_export.options import ExportOptions

        path = assemble(ExportOptions("onnx", tmp_path, checkpoint), tmp_path, Clock()).target
    offline = Refiner.load(checkpoint, threads=1).refine(pixels, poses, SIZE)
    live = StreamingRefiner.load(path, threads=1, image_size=SIZE)
    found = streamed(live, pixels, poses)
    assert JointUncertainty.from_config(live.metadata["uncertainty"]).coefficients[3, 0] == -2.5
    assert np.abs(offline - poses).max() > 0.005
    assert np.abs(np.stack([frame.pose_3d for frame in found]) - offline).max() < 1e-5


@pytest.mark.slow
def test_ten_thousand_frames_of_everything_through_a_causal_refiner(checkpoint):
    """A fifth of the joints, 5 % of the frames, bursts of NaN, jumping clocks: finite numbers, bounded errors."""
    rng = np.random.default_rng(12)
    pixels, poses = motion(500, seed=7)
    live = StreamingRefiner.load(checkpoint, threads=1, image_size=SIZE)
    clock, found, pushed = 0.0, [], 0
    for index in range(10_000):
        clock += 0.02 + (rng.choice([-5.0, -0.1, 0.3, 40.0]) if rng.random() < 0.004 else 0.0)
        if rng.random() < 0.05:
            continue
        place = index % 1000 if index % 1000 < 500 else 999 - index % 1000
        pose_2d, pose_3d = pixels[place].copy(), poses[place].copy()
        pose_2d[rng.random(17) < 0.2] = np.nan
        pose_3d[rng.random(17) < 0.2] = np.nan
        if index % 700 < 5:
            pose_3d[:] = rng.choice([np.nan, np.inf, 1e30])
        found += [(frame, place) for frame in live.push(pose_2d, pose_3d, clock)]
        pushed += 1
    counted = live.counters.as_dict()
    assert len(found) == pushed - counted["repeated"] - counted["late"] and counted["restarts"] > 5
    assert all(np.isfinite(frame.pose_3d).all() and np.isfinite(frame.std).all() for frame, _ in found)
    error = [
        np.linalg.norm(frame.pose_3d - poses[place], axis=-1).mean()
        for frame, place in found
        if frame.status != "invalid"
    ]
    assert np.median(error) < 0.15 and np.max(error) < 3.0


def test_options_of_the_other_mode(checkpoint):
    with pytest.raises(UsageError, match="for mode='window'"):
        StreamingRefiner.load(checkpoint, look_ahead=2)
    with pytest.raises(UsageError, match="pipelined is for causal"):
        StreamingRefiner.load(mode="window", pipelined=True)
    with pytest.raises(UsageError, match="no mode 'live'"):
        StreamingRefiner.load(mode="live")
