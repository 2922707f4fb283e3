"""Networks of the native engine on a CUDA device: against the CPU, alone, beside each other, and at every tile."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from refiner_bench.gpu.random_network import errors_of, random_denoiser, random_lifter

from refiner import bundled, native
from refiner.engines import EngineOptions
from refiner.runtime.loading import open_engine

FEATURES = native.features()
if not FEATURES.get("cuda"):
    pytest.skip("refiner was built without CUDA", allow_module_level=True)
if FEATURES["cuda_devices"] == 0:
    pytest.skip("no CUDA device", allow_module_level=True)

ON_DEVICE = EngineOptions("native", device="cuda")
# Root mean square and largest error, in roundings to half precision: as tests/native/test_cuda_on_host.py finds on an
# emulated grid, and twice that for networks of eight modules.
MEAN, LARGEST = 4.0, 32.0


def windows(network, step, features, rows=0):
    output = np.full((*features.shape[:3], 3), np.nan, np.float32)
    network.windows(step, features, output, 0, *([rows] if rows else []))
    return output


def features_of(batch, frames, size, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, (batch, frames, 17, size)).astype(np.float32)


def assert_half(found, expected, times=1.0):
    assert np.isfinite(found).all() and np.sqrt(np.mean(np.square(expected))) > 0.05
    mean, largest = errors_of(found, expected)
    assert mean < MEAN * times and largest < LARGEST * times


def inputs_of(engine, batch, seed=3):
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 80, (batch, engine.frames, 17, 2)) + 500
    pose = rng.normal(0, 0.4, (batch, engine.frames, 17, 3)) + np.array([0, 0, 4])
    lens = np.tile([1000.0, 1002.0, 1100.0], (batch, 1))
    if engine.rays:
        pixels = np.concatenate([pixels, rng.uniform(0.2, 1, (*pixels.shape[:3], 1))], axis=-1)
    else:
        lens = lens[:, :2]
    arrays = (pixels, lens) if engine.kind == "lifter" else (pixels, pose, lens)
    return [array.astype(np.float32) for array in arrays]


@pytest.mark.parametrize("rows", [0, 16, 32, 64])
@pytest.mark.parametrize(
    ("dim", "heads", "band"),
    [(32, 8, 0), (64, 8, 0), (64, 2, 0), (96, 8, 4), (192, 16, 0), (256, 8, 0), (384, 16, 0)],
)
def test_networks_equal_the_cpu_kernels(dim, heads, band, rows):
    there, here = (random_denoiser(dim, heads, dim, band, ratio=3, device=device) for device in ("cuda", "cpu"))
    for batch, frames in ((1, 9), (3, 5)):
        features = features_of(batch, frames, 5, seed=batch)
        for step in (0, 1):
            assert_half(windows(there, step, features, rows), windows(here, step, features))


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_networks_of_the_paper_s_size_at_every_batch(batch):
    there, here = (random_denoiser(256, 8, 11, blocks=4, ratio=8, device=device) for device in ("cuda", "cpu"))
    features = features_of(batch, 27, 5, seed=batch)
    assert_half(windows(there, 1, features), windows(here, 1, features), times=2.0)


def test_long_windows_lifters_and_the_largest_network():
    there, here = (random_lifter(64, 8, 12, device=device) for device in ("cuda", "cpu"))
    for frames in (1, 81, 243):
        features = features_of(2, frames, 2, seed=frames)
        assert_half(windows(there, 0, features), windows(here, 0, features))
    there, here = (random_denoiser(512, 16, 13, device=device) for device in ("cuda", "cpu"))
    features = features_of(1, 5, 5)
    assert_half(windows(there, 0, features), windows(here, 0, features))


@pytest.mark.parametrize("name", [path.stem for path in sorted(bundled.FOLDER.glob("*.safetensors"))])
def test_bundled_models_within_half_precision(name):
    """As the gate of exported models: 0.5 mm on average in half precision; and 0.05 mm in the mean joint error."""
    pytest.importorskip("torch")
    role = "lifter" if "lifter" in name else "refiner"
    reference = open_engine(name, role, EngineOptions("torch"))
    engine = open_engine(name, role, ON_DEVICE)
    assert (engine.metadata["device"], engine.metadata["precision"]) == ("cuda", "fp16")
    for batch in (1, 7, 64):
        inputs = inputs_of(reference, batch)
        found, expected = engine(*inputs).astype(np.float64), reference(*inputs)
        assert 1000 * np.linalg.norm(found - expected, axis=-1).mean() < 0.5
        target = expected + np.random.default_rng(batch).normal(0, 0.03, expected.shape)
        errors = [1000 * np.linalg.norm(pose - target, axis=-1).mean() for pose in (found, expected)]
        assert abs(errors[0] - errors[1]) < 0.05


@pytest.mark.parametrize("rows", [16, 32, 64])
def test_nan_stays_in_its_window(rows):
    network, features = random_denoiser(64, 8, 14, device="cuda"), features_of(5, 9, 5)
    whole = windows(network, 0, features, rows)
    features[2, 8, 16, 4] = np.nan
    found = windows(network, 0, features, rows)
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(found[others], whole[others])
    assert np.isnan(found[2]).any()


def test_the_result_depends_on_no_tile_neighbour_or_call():
    network, features = random_denoiser(64, 8, 15, device="cuda"), features_of(40, 9, 5)
    whole = windows(network, 1, features)
    for rows in (0, 16, 32, 64):
        for _ in range(5):
            np.testing.assert_array_equal(windows(network, 1, features, rows), whole)
    np.testing.assert_array_equal(windows(network, 1, features[7:8]), whole[7:8])


def test_several_threads_at_once():
    network = random_denoiser(128, 8, 16, device="cuda")
    given = [features_of(batch, 27, 5, seed=batch) for batch in (1, 40, 3, 17)]
    expected = [windows(network, 0, features) for features in given]
    wrong = []

    def work(index):
        found = (windows(network, 0, given[index]) for _ in range(20))
        wrong.extend(index for each in found if not np.array_equal(each, expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_tensors_of_the_device_on_the_current_stream():
    torch = pytest.importorskip("torch")
    network, features = random_denoiser(64, 8, 17, device="cuda"), features_of(9, 9, 5)
    expected = windows(network, 0, features)
    stream = torch.cuda.Stream()
    output = torch.full(expected.shape, torch.nan, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        late = torch.from_numpy(features).to("cuda", non_blocking=True) + 0.0
        network.windows_on_device(0, 9, 9, late.data_ptr(), output.data_ptr(), stream.cuda_stream)
    stream.synchronize()
    np.testing.assert_array_equal(output.cpu().numpy(), expected)


def test_what_is_no_step_window_or_tile_is_refused():
    network, features = random_denoiser(64, 8, 18, device="cuda"), features_of(1, 3, 5)
    with pytest.raises(ValueError, match="no such step"):
        windows(network, 2, features)
    with pytest.raises(ValueError, match="features"):
        windows(network, 0, features[..., :4].copy())
    with pytest.raises(ValueError, match="no tiles of that size"):
        windows(network, 0, features, rows=48)
    assert windows(network, 0, features[:0]).shape == (0, 3, 17, 3)
