"""The last arrays of a stream, on which its verdicts look back."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from refiner.runtime.streaming.evidence import _Last


@pytest.mark.parametrize("length", [1, 4, 7])
def test_the_last_arrays_newest_first(length):
    rng = np.random.default_rng(length)
    last, expected = _Last(length), deque(maxlen=length)
    for number in range(3 * length + 1):
        array = rng.normal(size=(3, 2))
        last.append(array)
        expected.appendleft(array)
        np.testing.assert_array_equal(last.newest_first(), np.stack(expected))
        np.testing.assert_array_equal(last.median(), np.median(np.stack(expected), axis=0))
        assert len(last) == min(number + 1, length)
    last.clear()
    assert len(last) == 0
    last.append(array)
    np.testing.assert_array_equal(last.newest_first(), [array])
