"""The thread pool through the kernels: many callers, forks, and a system that refuses threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from refiner import native

RNG = np.random.default_rng(31)
PRELUDE = """
import numpy as np
from refiner import native
pred, target = np.random.default_rng(1).normal(size=(2, 4000, 17, 3))
expected = native.p_mpjpe(pred, target, threads=1)
"""

FORK = """
import os, signal
assert np.array_equal(native.p_mpjpe(pred, target, threads=3), expected)
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if np.array_equal(native.p_mpjpe(pred, target, threads=3), expected) else 3)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(native.p_mpjpe(pred, target, threads=3), expected)
"""

REFUSED = """
import resource, signal
signal.alarm(20)
pages = int(open("/proc/self/statm").read().split()[0])
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
# Room for a stack or two, not for fifteen.
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 20 * 2**20, hard))
assert np.array_equal(native.p_mpjpe(pred, target, threads=16), expected)
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
assert np.array_equal(native.p_mpjpe(pred, target, threads=16), expected)
"""


def test_python_threads_share_the_pool():
    pred, target = RNG.normal(size=(2, 3000, 17, 3))
    expected = native.p_mpjpe(pred, target, threads=1)
    with ThreadPoolExecutor(6) as callers:
        for found in callers.map(lambda threads: native.p_mpjpe(pred, target, threads=threads), [1, 2, 3, 4] * 15):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork and RLIMIT_AS as Linux has them")
@pytest.mark.parametrize("program", [FORK, REFUSED], ids=["a forked child", "threads refused, then granted"])
def test_the_pool_survives(program):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("refiner", "omp", "expected"), [("3", "2", 3), (None, "2", 2), ("0", "2", 2), ("many", "2", 2), (None, "4,2", 4)]
)
def test_threads_come_from_the_environment(monkeypatch, refiner, omp, expected):
    monkeypatch.delenv("REFINER_NUM_THREADS", raising=False)
    if refiner is not None:
        monkeypatch.setenv("REFINER_NUM_THREADS", refiner)
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    assert native.features()["threads"] == expected
