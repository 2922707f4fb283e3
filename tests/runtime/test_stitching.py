"""Windows over a sequence and back, against the loop that anybody would write."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.errors import UsageError
from refiner.runtime.stitching import check_hop, run_windows


def ramp(windows):
    """An output that depends on the place in the window, so that blending shows."""
    return windows * 0.5 + np.linspace(0, 1, windows.shape[1], dtype=np.float32).reshape(1, -1, 1)


def loop(model, sequence, window, hop):
    frames = len(sequence)
    starts = [*range(0, max(frames - window, 0), hop), max(frames - window, 0)]
    total, weights = np.zeros_like(sequence, dtype=np.float64), np.zeros(frames)
    for start in starts:
        part = np.stack([sequence[min(start + place, frames - 1)] for place in range(window)])
        output = model(part[None])[0]
        for place in range(window):
            if start + place < frames:
                weight = np.sin(np.pi * (place + 0.5) / window) ** 2
                total[start + place] += weight * output[place]
                weights[start + place] += weight
    return total / weights[:, None]


@pytest.mark.parametrize("frames", [1, 2, 8, 9, 10, 17, 18, 19, 50, 131])
@pytest.mark.parametrize("hop", [1, 3, 4, 9])
def test_agrees_with_the_loop(frames, hop):
    sequence = np.random.default_rng(frames).normal(size=(frames, 5)).astype(np.float32)
    result = run_windows(ramp, (sequence,), window=9, hop=hop, batch=4)
    assert result.dtype == np.float32 and result.shape == sequence.shape
    np.testing.assert_allclose(result, loop(ramp, sequence, 9, hop), atol=1e-6)


@pytest.mark.parametrize("frames", [1, 5, 9, 64])
def test_the_weights_sum_to_one(frames):
    sequence = np.random.default_rng(2).normal(size=(frames, 3)).astype(np.float32)
    np.testing.assert_allclose(run_windows(lambda part: part, (sequence,), 9, 4), sequence, rtol=1e-6)


def test_the_batch_changes_nothing():
    sequence = np.random.default_rng(3).normal(size=(100, 4)).astype(np.float32)
    expected = run_windows(ramp, (sequence,), 9, 4, batch=1)
    for batch in (2, 5, 1000):
        np.testing.assert_array_equal(run_windows(ramp, (sequence,), 9, 4, batch=batch), expected)


def test_batches_are_as_large_as_asked():
    sizes = []

    def model(part):
        sizes.append(len(part))
        return part

    run_windows(model, (np.random.default_rng(4).normal(size=(100, 1)).astype(np.float32),), 9, 9, batch=5)
    assert sizes == [5, 5, 2]


def test_several_sequences_go_together():
    rng = np.random.default_rng(5)
    one, two = rng.normal(size=(2, 40, 3)).astype(np.float32)
    both = run_windows(lambda a, b: a - b, (one, two), 9, 4)
    np.testing.assert_allclose(both, one - two, atol=1e-6)


def test_hops():
    assert check_hop(None, 27) == 13 and check_hop(None, 1) == 1 and check_hop(27, 27) == 27
    for hop in (0, -1, 28):
        with pytest.raises(UsageError, match="a whole number from 1 to 27"):
            check_hop(hop, 27)
