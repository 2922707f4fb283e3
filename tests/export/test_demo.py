"""The demo's picture shows a typical clip, neither the best nor one that contradicts the table."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from refiner_export.demo import Result, typical


@pytest.mark.parametrize(("mean_ratio", "chosen"), [(0.97, 2), (0.5, 0), (1.4, 1), (1.0, 3)])
def test_the_picture_shows_the_clip_whose_gain_is_nearest_to_the_mean(mean_ratio, chosen):
    nothing = np.zeros((1, 17, 3), np.float32)
    results = [Result(None, nothing, nothing, ratio) for ratio in (0.7, 1.3, 0.96, 1.01)]
    assert typical(results, mean_ratio) is results[chosen]
