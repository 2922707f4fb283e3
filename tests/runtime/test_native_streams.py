"""The native engine frame by frame: against PyTorch and NumPy, pipelined, and what breaks off or has no number."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: there is no reference")

import torch
from native_models import NATIVE, assert_close, windows, written

from refiner import bundled
from refiner.engines import EngineOptions
from refiner.model_files.checkpoint import load_checkpoint, save_checkpoint
from refiner.rays import placed, seen_by_network, turned
from refiner.runtime.loading import open_causal_engine, open_engine
from refiner.runtime.native import checkpoint

STREAM = EngineOptions("native")


def frames_of(seed, streams, rays=True):
    """One frame of each stream."""
    return tuple(part[:, 0] if part.ndim > 2 else part for part in windows(seed, streams, 1, rays))


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("rays", [False, True])
@pytest.mark.parametrize("streams", [1, 3])
def test_frames_of_streams_equal_pytorch(tmp_path, rays, streams, pipelined):
    path = written(tmp_path / "causal.safetensors", frames=6, rays=rays, causal=True, blocks=2)
    native, reference = (
        open_causal_engine(path, EngineOptions(engine, streams=streams, pipelined=pipelined))
        for engine in ("native", "torch")
    )
    assert native.layout == reference.layout and native.delay == int(pipelined)
    rng = np.random.default_rng(1)
    answered = 0
    for frame in range(40):
        pixels, pose, camera = frames_of(frame, streams, rays)
        if frame in (13, 30):
            for engine in (native, reference):
                engine.reset(streams - 1)
        active = rng.random(streams) > 0.3
        refined, expected = (engine.step(pixels, pose, camera, active) for engine in (native, reference))
        np.testing.assert_array_equal(np.isnan(refined), np.isnan(expected))
        assert_close(refined, expected)
        answered += np.count_nonzero(np.isfinite(expected).all(axis=(1, 2)))
    assert answered > 20 * streams


@pytest.mark.parametrize(("dim", "heads", "frames"), [(16, 1, 40), (36, 3, 17), (64, 2, 18), (40, 10, 3), (96, 16, 27)])
def test_every_size_runs_frame_by_frame(tmp_path, dim, heads, frames):
    """More frames than a ring holds; widths that no register holds whole, and heads beside which zeros lie."""
    path = written(tmp_path / "causal.safetensors", frames=frames, dim=dim, heads=heads, causal=True)
    inputs = windows(8, 1, 2 * frames + 5, True)
    whole = open_engine(path, "refiner", EngineOptions("torch"))(*inputs)
    for pipelined in (False, True):
        stream = open_causal_engine(path, EngineOptions("native", pipelined=pipelined))
        found = [stream.step(inputs[0][:, t], inputs[1][:, t], inputs[2]) for t in range(2 * frames + 5)]
        assert_close(np.stack(found, axis=1)[:, stream.delay :], whole[:, : 2 * frames + 5 - stream.delay])


def test_a_stream_is_the_pass_over_its_sequence(tmp_path):
    path = written(tmp_path / "causal.safetensors", frames=5, causal=True)
    inputs = windows(8, 1, 30, True)
    whole = open_engine(path, "refiner", NATIVE)(*inputs)
    stream = open_causal_engine(path, STREAM)
    frames = [stream.step(inputs[0][:, frame], inputs[1][:, frame], inputs[2]) for frame in range(30)]
    np.testing.assert_allclose(np.stack(frames, axis=1), whole, atol=1e-6)


@pytest.mark.parametrize("start", ["lifter", "corrected"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("rays", [False, True])
def test_a_frame_is_what_numpy_makes_of_it(tmp_path, rays, steps, start):
    """Rays, the expected error, the DDIM loop and the pose's place, with a network that gives the same for all."""
    path = written(tmp_path / "causal.safetensors", rays=rays, causal=True, frames=4)
    found = load_checkpoint(path)
    torch.manual_seed(3)
    tensors = dict(found.tensors)
    for name, tensor in tensors.items():  # the joint embedding alone is left: the same output in every frame
        if name.startswith("model.") and not name.endswith((".head.weight", "model.joint_embedding")):
            tensors[name] = torch.zeros_like(tensor)
    tensors["model.head.weight"] = 5.0 * torch.randn(3, 16)
    config = {**found.config, "diffusion": {**found.config["diffusion"], "steps": steps, "start": start}}
    if start == "corrected":
        tensors |= {"noise.gain": 0.1 * torch.randn(51, 85), "noise.mean_error": 0.1 * torch.randn(51)}
        tensors |= {"noise.mean_condition": torch.randn(85), "noise.cholesky": torch.zeros(51, 51)}
    save_checkpoint(path, config, tensors)
    error = (tensors["model.joint_embedding"] @ tensors["model.head.weight"].T).numpy()
    refinement = checkpoint.load_model(path, "refiner", None).refinement
    stream = open_causal_engine(path, EngineOptions("native", streams=3))
    for seed in range(5):
        pixels, pose, camera = frames_of(seed, 3, rays)
        if rays:
            pixels[0, :, 2] = 0.0 if seed == 3 else pixels[0, :, 2]  # no joint was seen
            pixels[1, 4, :2] = 1e5  # behind the virtual camera's largest angle
        seen, rotation = seen_by_network(pixels, camera, rays)
        root = pose[:, :1]
        begun = refinement.begin(turned(pose - root, rotation), seen)
        expected = placed(refinement.denoised(begun, lambda step, given: error), rotation, root)
        refined = stream.step(pixels, pose, camera)
        np.testing.assert_allclose(refined, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
        np.testing.assert_array_equal(refined[:, 0], pose[:, 0])
        assert np.abs(refined - pose).max() > 1e-2


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("rays", [False, True])
def test_a_frame_that_breaks_off_changes_nothing(tmp_path, monkeypatch, rays, pipelined):
    """It breaks off when the kernels have written their memory; the state is that of the frames that were answered."""
    path = written(tmp_path / "causal.safetensors", frames=6, causal=True, rays=rays)
    options = EngineOptions("native", streams=2, pipelined=pipelined)
    steady, broken = (open_causal_engine(path, options) for _ in range(2))

    def fail(rows):
        raise MemoryError

    rng = np.random.default_rng(0)
    for frame in range(25):
        active = rng.random(2) > 0.2
        for other in (1000 + frame, 2000 + frame):
            with monkeypatch.context() as patch:
                patch.setattr(broken.counts, "advance", fail)
                with pytest.raises(MemoryError):
                    broken.step(*frames_of(other, 2, rays))
        given = frames_of(frame, 2, rays)
        np.testing.assert_array_equal(broken.step(*given, active), steady.step(*given, active))


@pytest.mark.parametrize("pipelined", [False, True])
def test_a_stream_is_the_same_beside_others(tmp_path, pipelined):
    """Bit for bit: alone or with six others, of which some rest and one is not a number, with one thread or three."""
    path = written(tmp_path / "causal.safetensors", frames=6, dim=64, heads=8, causal=True)
    alone, many = (
        open_causal_engine(path, EngineOptions("native", streams=streams, threads=threads, pipelined=pipelined))
        for streams, threads in ((1, 1), (7, 3))
    )
    rng = np.random.default_rng(0)
    for frame in range(20):
        pixels, pose, camera = frames_of(frame, 7)
        if frame == 5:
            pose[1, 3] = 3e38  # overflows
        active = rng.random(7) > 0.4
        active[4] = True
        with np.errstate(all="ignore"):
            found = many.step(pixels, pose, camera, active)
        expected = alone.step(pixels[4:5], pose[4:5], camera[4:5])
        np.testing.assert_array_equal(found[4:5], expected)
    assert np.isfinite(expected).all()


@pytest.mark.parametrize("pipelined", [False, True])
def test_a_stream_that_begins_anew_sees_nothing_of_before(tmp_path, pipelined):
    """Not even what is not a number."""
    path = written(tmp_path / "causal.safetensors", frames=6, causal=True)
    used, fresh = (open_causal_engine(path, EngineOptions("native", pipelined=pipelined)) for _ in range(2))
    spoilt = frames_of(50, 1)
    spoilt[1][0, 3] = 3e38
    for frame in range(8):
        used.step(*(spoilt if frame == 6 else frames_of(frame, 1)))
    used.reset(0)
    for frame in range(100, 110):
        np.testing.assert_array_equal(used.step(*frames_of(frame, 1)), fresh.step(*frames_of(frame, 1)))


def test_any_kind_of_mask_says_who_is_active(tmp_path):
    path = written(tmp_path / "causal.safetensors", frames=6, causal=True)
    steady, other = (open_causal_engine(path, EngineOptions("native", streams=2)) for _ in range(2))
    wide = np.array([True, False, False, True])
    for frame in range(8):
        pixels, pose, camera = (part[:, 0] if part.ndim > 2 else part for part in windows(frame, 2, 1, True))
        expected = steady.step(pixels, pose, camera, np.array([True, False]))
        np.testing.assert_array_equal(other.step(pixels, pose, camera, wide[::2]), expected)


def test_a_lens_of_nothing_stays_with_its_stream(tmp_path):
    path = written(tmp_path / "causal.safetensors", frames=6, causal=True, rays=False)
    steady, other = (open_causal_engine(path, EngineOptions("native", streams=2)) for _ in range(2))
    for frame in range(8):
        pixels, pose, camera = (part[:, 0] if part.ndim > 2 else part for part in windows(frame, 2, 1, False))
        lens = camera.copy()
        if frame == 2:
            lens[1] = 0.0
        expected, found = steady.step(pixels, pose, camera), other.step(pixels, pose, lens)
        np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_steps_allocate_nothing_after_the_first(threads):
    """NumPy's arrays and Python's objects of 300 steps; the memory of the kernels is `test_native_memory`'s part."""
    import tracemalloc

    stream = open_causal_engine(bundled.default_checkpoint("causal-refiner"), EngineOptions("native", threads=threads))
    given, out = frames_of(0, 1), np.empty((1, 17, 3), np.float32)
    for _ in range(40):
        stream.step(*given, out=out)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(300):
            stream.step(*given, out=out)
        assert tracemalloc.get_traced_memory()[0] - before < 2000
    finally:
        tracemalloc.stop()
