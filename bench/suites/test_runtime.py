"""pytest-benchmark suites of the user's functions: the bundled models lift and refine built-in motion."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: the bundled checkpoints need it")

from refiner import Lifter, Refiner
from refiner.data.synthetic import synthetic_folder


@pytest.fixture(scope="module")
def clip():
    return synthetic_folder(5, subjects=3, frames=270).clips("all")[0]


@pytest.mark.benchmark(group="lifting and refining 270 frames")
def test_lifter(benchmark, clip):
    lifter = Lifter.load(threads=2)
    assert benchmark(lifter.lift, clip.pose_2d, clip.image_size).shape == clip.pose_3d.shape


@pytest.mark.benchmark(group="lifting and refining 270 frames")
def test_refiner(benchmark, clip):
    refiner = Refiner.load(threads=2)
    refined = benchmark(refiner.refine, clip.pose_2d, clip.pose_3d, clip.image_size)
    assert np.isfinite(refined).all() and refined.shape == clip.pose_3d.shape
