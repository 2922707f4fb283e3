"""Lifters of MixSTE's blocks in the native engine, against PyTorch's plain operations."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from refiner import Lifter  # noqa: E402
from refiner.engines import EngineOptions  # noqa: E402
from refiner.errors import CheckpointError, ConfigError, ShapeError, UsageError  # noqa: E402
from refiner.model_files.build import build_model, load_module  # noqa: E402
from refiner.model_files.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from refiner.models import MixSTE, STCFormer  # noqa: E402
from refiner.models.fused import attention_by  # noqa: E402
from refiner.runtime.loading import open_engine  # noqa: E402
from refiner.training.published import import_published  # noqa: E402

NATIVE, TORCH = EngineOptions("native", threads=1), EngineOptions("torch")
# 0.01 mm for poses within a metre, the same share of larger ones, which random weights give.
CLOSE = 1e-5

SIZES = st.sampled_from(
    [(32, 16), (48, 3), (64, 8), (64, 1), (72, 2), (96, 6), (128, 2), (160, 5), (256, 2), (512, 4), (512, 16)]
)


def stored(path, model, frames, seed=0, spread=0.1, changed=None, **sections):
    """A checkpoint with random weights, larger than those of a fresh network, so that every part counts."""
    sizes = {"architecture": "mixste", "dim": 32, "heads": 4, "blocks": 1, "mlp_ratio": 2, "drop_path": 0.0}
    sizes |= {"root": "zeroed", "input": "screen"} | model
    config = {"kind": "lifter", "frames": frames, "model": sizes, "data_description": {"fps": 50.0}} | sections
    torch.manual_seed(seed)
    tensors = {
        f"model.{name}": value + spread * torch.randn(value.shape)
        for name, value in build_model(config).state_dict().items()
    }
    if changed is not None:
        changed(tensors, config)
    save_checkpoint(path, config, tensors)
    return path


def seen(seed, batch, frames, rays=False, spread=80.0):
    """Pixels and cameras of random windows."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, spread, (batch, frames, 17, 2)) + rng.uniform(300, 700, (batch, 1, 1, 2))
    cameras = np.tile([1000.0, 1002.0, rng.uniform(600, 1600)], (batch, 1))
    if rays:
        pixels = np.concatenate([pixels, rng.random((batch, frames, 17, 1))], axis=-1)
    return pixels.astype(np.float32), cameras[:, : 3 if rays else 2].astype(np.float32)


def by_pytorch(path, inputs):
    with attention_by("plain"):
        return open_engine(path, "lifter", TORCH)(*inputs)


def assert_as_pytorch(path, inputs, engine=None):
    """Within the bound of the network in float64, or as near to it as PyTorch: some random weights amplify rounding."""
    expected = by_pytorch(path, inputs)
    found = (open_engine(path, "lifter", NATIVE) if engine is None else engine)(*inputs)
    with attention_by("plain"), torch.no_grad():
        exact = load_module(path).double()(*(torch.from_numpy(part).double() for part in inputs)).numpy()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
    largest = max(1.0, float(np.abs(np.nan_to_num(exact)).max(initial=0.0)))
    distance = float(np.abs(np.nan_to_num(expected - exact)).max(initial=0.0))
    assert np.abs(np.nan_to_num(found - exact)).max(initial=0.0) <= max(CLOSE * largest, 2.0 * distance)
    return expected


NETWORKS = st.fixed_dictionaries(
    {
        "size": SIZES,
        "frames": st.one_of(st.integers(1, 70), st.sampled_from([81, 127, 128, 243])),
        "batch": st.integers(1, 5),
        "blocks": st.integers(1, 2),
        "ratio": st.sampled_from([1, 2, 4]),
        "rays": st.booleans(),
        "root": st.sampled_from(["subtracted", "zeroed"]),
        "joints": st.sampled_from(["h36m17", "3dhp"]),
        "seed": st.integers(0, 2**20),
    }
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(network=NETWORKS)
def test_mixste_equals_pytorch(tmp_path, network):
    check_mixste(tmp_path, **network)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(network=NETWORKS)
def test_many_mixste_equal_pytorch(tmp_path, network):
    check_mixste(tmp_path, **network)


def check_mixste(tmp_path, size, frames, batch, blocks, ratio, rays, root, joints, seed):
    dim, heads = size
    batch = 1 if dim * frames > 5000 else batch
    model = {"dim": dim, "heads": heads, "blocks": blocks, "mlp_ratio": ratio, "root": root, "joints": joints}
    model |= {"input": "rays" if rays else "screen"}
    # The sums of wide layers have more terms.
    path = stored(tmp_path / "mixste.safetensors", model, frames, seed, 0.8 / dim**0.5)
    engine = open_engine(path, "lifter", NATIVE)
    assert (engine.engine, engine.frames, engine.rays, engine.kind) == ("native", frames, rays, "lifter")
    expected = assert_as_pytorch(path, seen(seed, batch, frames, rays), engine)
    assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize("heads", [1, 8])
@pytest.mark.parametrize("factor", [0.0, 300.0])
def test_scores_of_any_size(tmp_path, heads, factor):
    """Equal attention to all tokens, and attention to one alone: scores in the thousands, whose rounding shows.

    The reference is the network in float64, and the measure is PyTorch's own distance from it: the usual one, and with
    more room the largest, which a few scores decide that are nearly equal.
    """

    def change(tensors, config):
        for name in [name for name in tensors if "qkv" in name]:
            tensors[name][:64] *= factor

    path = stored(tmp_path / "mixste.safetensors", {"dim": 64, "heads": heads}, 27, changed=change)
    pixels, cameras = seen(3, 2, 27)
    module = load_module(path).double()
    with attention_by("plain"), torch.no_grad():
        exact = module(torch.from_numpy(pixels).double(), torch.from_numpy(cameras).double()).numpy()
    distance = np.abs(by_pytorch(path, (pixels, cameras)) - exact)
    found = np.abs(open_engine(path, "lifter", NATIVE)(pixels, cameras) - exact)
    assert np.median(found) <= 2 * np.median(distance)
    assert found.max() <= 10 * distance.max() + CLOSE


def test_the_published_size(tmp_path):
    path = stored(tmp_path / "mixste.safetensors", {"dim": 512, "heads": 8, "blocks": 2}, 27, spread=0.02)
    assert_as_pytorch(path, seen(5, 1, 27))


def test_threads_neighbours_and_layout_change_nothing(tmp_path):
    path = stored(tmp_path / "mixste.safetensors", {"dim": 64, "heads": 2, "blocks": 2}, 27)
    pixels, cameras = seen(2, 5, 27)
    engine = open_engine(path, "lifter", NATIVE)
    whole = engine(pixels, cameras)
    for threads in (2, 5):
        other = open_engine(path, "lifter", EngineOptions("native", threads=threads))
        np.testing.assert_array_equal(other(pixels, cameras), whole)
    for window in range(5):
        alone = engine(pixels[window : window + 1], cameras[window : window + 1])
        np.testing.assert_array_equal(alone[0], whole[window])
    strided = np.repeat(pixels, 2, axis=1)[:, ::2].astype(np.float64)
    np.testing.assert_array_equal(engine(strided, cameras), whole)
    assert engine(pixels[:0], cameras[:0]).shape == (0, 27, 17, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_pose_stays_in_its_window(tmp_path, value):
    path = stored(tmp_path / "mixste.safetensors", {"dim": 48, "heads": 3}, 9)
    engine = open_engine(path, "lifter", NATIVE)
    pixels, cameras = seen(4, 3, 9)
    clean = engine(pixels, cameras)
    pixels[1, 4, 6, 0] = value
    spoilt = engine(pixels, cameras)
    np.testing.assert_array_equal(spoilt[[0, 2]], clean[[0, 2]])
    np.testing.assert_array_equal(np.isnan(spoilt), np.isnan(by_pytorch(path, (pixels, cameras))))
    assert np.isnan(spoilt[1, :, 1:]).all()


@pytest.mark.parametrize("isa", ["baseline", "v3"])
def test_every_instruction_set(tmp_path, isa):
    """In a process of its own, since a process chooses once."""
    script = """
import sys, numpy as np
from refiner.engines import EngineOptions
from refiner.runtime.loading import open_engine
for path in sys.argv[1:]:
    pixels, cameras = (np.load(f"{path}.{name}.npy") for name in ("pixels", "cameras"))
    engines = [open_engine(path, "lifter", EngineOptions("native", threads=count)) for count in (1, 2)]
    one, two = (engine(pixels, cameras) for engine in engines)
    assert np.array_equal(one, two)
    np.save(f"{path}.lifted.npy", one)
"""
    cases = {}
    for dim, heads, frames in ((32, 16, 19), (64, 8, 27), (72, 2, 81), (200, 5, 33), (512, 4, 3)):
        path = stored(tmp_path / f"{dim}.safetensors", {"dim": dim, "heads": heads}, frames, 0, 0.8 / dim**0.5)
        cases[path] = seen(dim, 2, frames)
        for name, part in zip(("pixels", "cameras"), cases[path], strict=True):
            np.save(f"{path}.{name}.npy", part)
    words = [sys.executable, "-c", script, *map(str, cases)]
    subprocess.run(words, check=True, env={**os.environ, "REFINER_ISA": isa}, timeout=300)
    for path, inputs in cases.items():
        assert_as_pytorch(path, inputs, lambda *given, path=path: np.load(f"{path}.lifted.npy"))


def test_windows_of_another_length_are_refused(tmp_path):
    engine = open_engine(stored(tmp_path / "mixste.safetensors", {}, 9), "lifter", NATIVE)
    with pytest.raises(ShapeError, match="9 frames; got a window of 8"):
        engine(*seen(0, 1, 8))


SAMPLING = {"timesteps": 1000, "offset": 0.008, "limit": 1.1, "eta": 1.0, "seed": 3}


@pytest.mark.parametrize(
    ("steps", "hypotheses", "flip", "joints"), [(1, 1, False, "h36m17"), (3, 4, True, "h36m17"), (2, 3, True, "3dhp")]
)
def test_d3dp_equals_pytorch(tmp_path, steps, hypotheses, flip, joints):
    sampling = SAMPLING | {"steps": steps, "hypotheses": hypotheses, "flip": flip}
    path = stored(
        tmp_path / "d3dp.safetensors",
        {"architecture": "d3dp", "dim": 48, "heads": 4, "joints": joints, "root": "subtracted"},
        9,
        sampling=sampling,
    )
    for chosen in (None, 5):
        engine, reference = (
            open_engine(path, "lifter", EngineOptions(name, steps=chosen, threads=1)) for name in ("native", "torch")
        )
        assert (engine.largest_batch, engine.steps) == (reference.largest_batch, reference.steps)
        assert engine.metadata["sampling"] == reference.metadata["sampling"]
        inputs = seen(9, 3, 9)
        with attention_by("plain"):
            expected, poses = reference(*inputs), reference.hypotheses(*inputs)
        np.testing.assert_allclose(engine(*inputs), expected, rtol=0, atol=CLOSE)
        np.testing.assert_allclose(engine.hypotheses(*inputs), poses, rtol=0, atol=CLOSE)
        assert poses.shape == (3, hypotheses, 9, 17, 3) and np.abs(poses[:, :, :, 1:]).min() < 1.0
        assert hypotheses == 1 or np.abs(poses[:, 0] - poses[:, 1]).max() > 1e-3
        np.testing.assert_array_equal(engine(*(part[1:2] for part in inputs))[0], engine(*inputs)[1])
    clean = engine(*inputs)
    inputs[0][0, 2, 3] = np.nan
    np.testing.assert_array_equal(engine(*inputs)[1:], clean[1:])
    with pytest.raises(ShapeError, match="9 frames; got a window of 8"):
        engine(*seen(0, 1, 8))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda tensors, config: config["sampling"].pop("limit"), CheckpointError),
        (lambda tensors, config: config["sampling"].update(steps=60, timesteps=50), ConfigError),
        (lambda tensors, config: config["model"].update(input="rays"), ConfigError),
        (lambda tensors, config: config["model"].update(dim=33, heads=3), ConfigError),
        (lambda tensors, config: tensors.pop("model.pose_estimator.time_mlp.3.bias"), CheckpointError),
        (lambda tensors, config: tensors.update({"model.signal": torch.zeros(1000)}), CheckpointError),
    ],
)
def test_odd_diffusion_lifters_are_refused(tmp_path, change, kind):
    sampling = SAMPLING | {"steps": 2, "hypotheses": 2, "flip": True}
    path = stored(tmp_path / "d3dp.safetensors", {"architecture": "d3dp"}, 9, changed=change, sampling=sampling)
    with pytest.raises(kind):
        open_engine(path, "lifter", NATIVE)


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        ({"dim": 20, "heads": 8}, ConfigError, "multiple of heads, got dim 20 and heads 8"),
        ({"architecture": "tcn", "dropout": 0.0}, UsageError, "not tcn; engine='torch'"),
        ({"architecture": "mlp", "dropout": 0.0}, UsageError, "not mlp; engine='torch'"),
    ],
)
def test_what_the_engine_does_not_run_is_refused(tmp_path, model, kind, message):
    whole = {"dim": 24, "heads": 8} | {name: value for name, value in model.items() if name != "dim"}
    path = stored(
        tmp_path / "model.safetensors", whole, 9, changed=lambda tensors, config: config["model"].update(model)
    )
    with pytest.raises(kind, match=message):
        open_engine(path, "lifter", NATIVE)


def _without(name):
    return lambda tensors, config: tensors.pop(name)


def _with(name, *shape):
    return lambda tensors, config: tensors.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    "change",
    [
        _without("model.Spatial_pos_embed"),
        _without("model.head.1.bias"),
        _without("model.TTEblocks.0.attn.proj.bias"),
        _with("model.Temporal_pos_embed", 1, 8, 32),
        _with("model.Spatial_patch_to_embedding.weight", 32, 6),
        _with("model.STEblocks.1.norm1.weight", 32),
        lambda tensors, config: config["model"].pop("mlp_ratio"),
        lambda tensors, config: config.update(frames=8),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change):
    path = stored(tmp_path / "mixste.safetensors", {}, 9, changed=change)
    with pytest.raises(CheckpointError):
        open_engine(path, "lifter", NATIVE)


@pytest.mark.parametrize("joints", ["h36m17", "3dhp"])
@pytest.mark.parametrize("name", ["mixste", "stcformer"])
def test_published_weights_run_without_pytorch(tmp_path, name, joints):
    torch.manual_seed(4)
    network = MixSTE(64, 2, 8, 2, 27) if name == "mixste" else STCFormer(64, 2, 8)
    state = {f"module.{key}": value + 0.1 * torch.randn_like(value) for key, value in network.state_dict().items()}
    torch.save({"model_pos": state}, tmp_path / "published.bin")
    path = tmp_path / "converted.safetensors"
    frames = 27 if name == "stcformer" else None
    import_published(name, tmp_path / "published.bin", path, frames, joints=joints)
    assert load_checkpoint(path).spec.joints == joints
    assert open_engine(path, "lifter").engine == "torch"  # only bundled models run natively by default
    engine = open_engine(path, "lifter", NATIVE)
    assert engine.stride == (3 if name == "stcformer" else 1)
    assert_as_pytorch(path, seen(6, 2, 27), engine)

    script = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np
from refiner import Lifter
pixels = np.load(sys.argv[2])
lifter = Lifter.load(sys.argv[1], engine="native", flip_test=True, threads=1)
np.save(sys.argv[2], lifter.lift(pixels, (1000, 1002)))
"""
    pixels = seen(7, 1, 60, spread=60.0)[0][0]
    file = tmp_path / "poses.npy"
    np.save(file, pixels)
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(path), str(file)], check=True, timeout=300)
    with attention_by("plain"):
        expected = Lifter.load(path, engine="torch", flip_test=True).lift(pixels, (1000, 1002))
    np.testing.assert_allclose(np.load(file), expected, rtol=0, atol=CLOSE * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("name", ["mixste", "d3dp"])
def test_a_cuda_device_has_no_kernels_for_these_blocks(tmp_path, name):
    sampling = SAMPLING | {"steps": 1, "hypotheses": 1, "flip": False}
    path = stored(tmp_path / "model.safetensors", {"architecture": name}, 9, sampling=sampling)
    with pytest.raises(UsageError, match=f"on a CUDA device the native engine runs networks of STC blocks, not {name}"):
        open_engine(path, "lifter", EngineOptions("native", device="cuda"))
