"""The thread pool through the kernels: many callers, forks, and a system that refuses threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from refiner import native
from refiner.errors import RefinerError, UsageError

RNG = np.random.default_rng(31)
PRELUDE = """
import numpy as np
from refiner import native
from refiner.errors import RefinerError, UsageError
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


KERNELS = {
    "p_mpjpe": lambda threads: native.p_mpjpe(*BODIES, threads=threads),
    "procrustes_align": lambda threads: native.procrustes_align(*BODIES, threads=threads),
    "sample_conditional": lambda threads: native.sample_conditional(*GAUSSIAN, seed=3, threads=threads),
    "diffuse": lambda threads: native.diffuse(
        GAUSSIAN[0], RNG.normal(size=(500, 5)), np.ones(500), np.ones(500), *GAUSSIAN[1:], threads=threads
    )[1],
    "philox_normal": lambda threads: native.philox_normal(3, 0, 500, 5, threads=threads),
}
BODIES = RNG.normal(size=(2, 500, 17, 3))
GAUSSIAN = (RNG.normal(size=(500, 4)), np.zeros(5), np.zeros(4), RNG.normal(size=(5, 4)), np.eye(5))


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_from_threads(name):
    kernel = KERNELS[name]
    expected = kernel(1)
    with ThreadPoolExecutor(6) as callers:
        for found in callers.map(kernel, [0, 1, 2, 3] * 8):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "threads", [-1, 1.5, True, "2", None, np.nan, 10**6, 2**31, 10**400], ids=lambda odd: str(odd)[:9]
)
@pytest.mark.parametrize("name", KERNELS)
def test_odd_numbers_of_threads(name, threads):
    with pytest.raises(UsageError, match="threads is"):
        KERNELS[name](threads)


@pytest.mark.parametrize("seed", [1.9, "3", None, np.nan, [1]], ids=str)
def test_odd_seeds(seed):
    for call in (lambda: native.sample_conditional(*GAUSSIAN, seed=seed), lambda: native.philox_normal(seed, 0, 2, 2)):
        with pytest.raises(UsageError, match="whole numbers"):
            call()
    for size in ((1.5, 2), (2, "3"), (10**400, 1), (2**59, 2**59), (True, 1)):
        with pytest.raises(RefinerError, match=r"frames|dims|numbers"):
            native.philox_normal(0, 0, *size)


def test_masked_poses_have_no_error():
    pred = np.ma.array(BODIES[0], mask=np.zeros(BODIES[0].shape, dtype=bool))
    pred[7, 3] = np.ma.masked
    expected = native.p_mpjpe(*BODIES)
    found = native.p_mpjpe(pred, BODIES[1])
    assert np.isnan(found[7]) and np.isfinite(expected[7])
    np.testing.assert_array_equal(np.delete(found, 7), np.delete(expected, 7))


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
