"""pytest-benchmark suites of the compiled kernels and their peers.

Run ``python -m pytest bench/suites --benchmark-enable --benchmark-json suite.json``. ``refiner-bench page`` reads the
file. The ratios that ``refiner-bench compare`` judges come from ``refiner-bench native``, whose contestants take turns.
"""

from __future__ import annotations

import numpy as np
import pytest
from refiner_bench.native_kernels import CONDITION, JOINTS, numpy_p_mpjpe, random_gaussian

from refiner import native

ITEMS = 20_000
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def poses():
    target = RNG.normal(scale=0.3, size=(ITEMS, JOINTS, 3)).astype(np.float32)
    return (target + RNG.normal(scale=0.05, size=target.shape)).astype(np.float32), target


@pytest.mark.benchmark(group="P-MPJPE of 20,000 poses")
def test_native_p_mpjpe(benchmark, poses):
    errors = benchmark(native.p_mpjpe, *poses)
    assert errors.shape == (ITEMS,) and 0.05 < errors.mean() < 0.1


@pytest.mark.benchmark(group="P-MPJPE of 20,000 poses")
def test_numpy_p_mpjpe(benchmark, poses):
    errors = benchmark(numpy_p_mpjpe, *poses)
    np.testing.assert_allclose(errors, native.p_mpjpe(*poses), atol=1e-5)


@pytest.mark.benchmark(group="one pose from Python")
def test_native_one_pose(benchmark, poses):
    assert benchmark(native.p_mpjpe, poses[0][:1], poses[1][:1]).shape == (1,)


@pytest.mark.benchmark(group="conditional sampling of 20,000 frames")
@pytest.mark.parametrize("threads", [1, 2])
def test_native_sampling(benchmark, threads):
    condition = RNG.normal(size=(ITEMS, CONDITION)).astype(np.float32)
    sample = benchmark(native.sample_conditional, condition, **random_gaussian(RNG), seed=1, threads=threads)
    assert np.isfinite(sample).all()


@pytest.mark.benchmark(group="conditional sampling of 20,000 frames")
def test_numpy_sampling(benchmark):
    condition, gaussian = RNG.normal(size=(ITEMS, CONDITION)).astype(np.float32), random_gaussian(RNG)

    def draw():
        noise = RNG.standard_normal((ITEMS, len(gaussian["mean_error"])), dtype=np.float32) @ gaussian["cholesky"].T
        return gaussian["mean_error"] + (condition - gaussian["mean_condition"]) @ gaussian["gain"].T + noise

    assert np.isfinite(benchmark(draw)).all()
