"""Conditional sampling: Philox against Random123's known answers, statistics, and independence of the batch."""

from __future__ import annotations

import numpy as np
import pytest

from refiner import native
from refiner.errors import DTypeError, ShapeError, UsageError

RNG = np.random.default_rng(7)


def philox(counter, key):
    """Philox 4x32-10 written with Python integers."""
    c, k, word = list(counter), list(key), 2**32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 // word) ^ c[1] ^ k[0], p1 % word, (p0 // word) ^ c[3] ^ k[1], p0 % word]
        k = [(k[0] + 0x9E3779B9) % word, (k[1] + 0xBB67AE85) % word]
    return c


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_twin_gives_random123s_known_answers(counter, key, answer):
    assert tuple(philox(counter, key)) == answer


@pytest.mark.parametrize(("seed", "first"), [(0, 0), (12345678901234567890, 3), (5, 2**40 + 1), (2**64 - 1, 2**63)])
def test_normals_are_box_muller_of_philox(seed, first):
    drawn = native.philox_normal(seed, first, 5, 11)
    expected = np.empty((5, 12))
    for row in range(5):
        frame = (first + row) % 2**64
        for block in range(3):
            x = philox((frame % 2**32, frame >> 32, block, 0), (seed % 2**32, seed >> 32))
            for pair in range(2):
                radius = np.sqrt(-2 * np.log((x[2 * pair] + 1) / 2**32))
                angle = 2 * np.pi * x[2 * pair + 1] / 2**32
                expected[row, 4 * block + 2 * pair : 4 * block + 2 * pair + 2] = (
                    radius * np.cos(angle),
                    radius * np.sin(angle),
                )
    np.testing.assert_allclose(drawn, expected[:, :11], rtol=1e-6, atol=1e-7)


def gaussian(size=6, inputs=9):
    return {
        "mean_error": RNG.normal(size=size).astype(np.float32),
        "mean_condition": RNG.normal(size=inputs).astype(np.float32),
        "gain": RNG.normal(size=(size, inputs)).astype(np.float32),
        "cholesky": (np.tril(RNG.normal(size=(size, size))) * 0.3).astype(np.float32),
    }


def test_the_sample_is_the_formula():
    g, condition = gaussian(51, 85), RNG.normal(size=(300, 85)).astype(np.float32)
    z = native.philox_normal(9, 1000, 300, 51).astype(np.float64)
    wide = {name: value.astype(np.float64) for name, value in g.items()}
    expected = wide["mean_error"] + (condition - wide["mean_condition"]) @ wide["gain"].T + z @ wide["cholesky"].T
    np.testing.assert_allclose(
        native.sample_conditional(condition, **g, seed=9, first_frame=1000), expected, rtol=1e-5, atol=3e-5
    )


def test_threads_and_splits_change_no_bit():
    g, condition = gaussian(), RNG.normal(size=(1001, 9)).astype(np.float32)
    whole = native.sample_conditional(condition, **g, seed=3, first_frame=50, threads=1)
    np.testing.assert_array_equal(whole, native.sample_conditional(condition, **g, seed=3, first_frame=50, threads=4))
    parts = [
        native.sample_conditional(condition[start : start + 77], **g, seed=3, first_frame=50 + start)
        for start in range(0, 1001, 77)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, native.sample_conditional(condition, **g, seed=4, first_frame=50))


def test_a_million_samples_reproduce_mean_and_covariance():
    g = gaussian(4, 3)
    count, condition = 1_000_000, np.array([0.3, -1.0, 2.0], np.float32)
    drawn = native.sample_conditional(np.tile(condition, (count, 1)), **g, seed=11).astype(np.float64)
    covariance = g["cholesky"].astype(np.float64) @ g["cholesky"].T
    mean = g["mean_error"] + g["gain"] @ (condition - g["mean_condition"])
    deviation = np.sqrt(np.diag(covariance))
    # Five standard errors of a mean and of a covariance of `count` draws.
    assert (np.abs(drawn.mean(0) - mean) < 5 * deviation / np.sqrt(count)).all()
    error = np.abs(np.cov(drawn.T) - covariance)
    assert (error < 5 * np.sqrt((covariance**2 + np.outer(deviation, deviation) ** 2) / count)).all()


def test_diffuse_is_the_sample_and_equation_8():
    g, condition = gaussian(), RNG.normal(size=(130, 9)).astype(np.float32)
    clean = RNG.normal(size=(130, 6)).astype(np.float32)
    a, b = RNG.uniform(1, 1.41, 130).astype(np.float32), RNG.uniform(0, 1, 130).astype(np.float32)
    noisy, drawn = native.diffuse(condition, clean, a, b, **g, seed=2, first_frame=7)
    np.testing.assert_array_equal(drawn, native.sample_conditional(condition, **g, seed=2, first_frame=7))
    np.testing.assert_allclose(noisy, a[:, None] * clean + b[:, None] * drawn, rtol=1e-6, atol=1e-6)


def test_a_shuffled_batch_draws_what_the_ordered_one_does():
    g, condition = gaussian(), RNG.normal(size=(500, 9)).astype(np.float32)
    clean = RNG.normal(size=(500, 6)).astype(np.float32)
    a, b = RNG.uniform(0, 1.4, (2, 500)).astype(np.float32)
    order = RNG.permutation(500)
    ordered = native.diffuse(condition, clean, a, b, **g, seed=2, first_frame=2**41)
    ids = order + 2**41
    shuffled = native.diffuse(condition[order], clean[order], a[order], b[order], **g, seed=2, frame_ids=ids, threads=3)
    for there, here in zip(shuffled, ordered, strict=True):
        np.testing.assert_array_equal(there, here[order])
    drawn = native.sample_conditional(condition[order], **g, seed=2, frame_ids=ids)
    np.testing.assert_array_equal(drawn, shuffled[1])


def test_frame_ids_are_checked():
    g, condition = gaussian(), np.ones((4, 9), np.float32)
    with pytest.raises(ShapeError, match="frame_ids has shape"):
        native.sample_conditional(condition, **g, frame_ids=np.arange(5))
    with pytest.raises(DTypeError, match="frame_ids has type"):
        native.sample_conditional(condition, **g, frame_ids=np.arange(4.0))


def test_diffuse_of_tensors_is_tensors():
    torch = pytest.importorskip("torch")
    g = gaussian()
    arrays = [RNG.normal(size=shape).astype(np.float32) for shape in ((7, 9), (7, 6), (7,), (7,))]
    expected = native.diffuse(*arrays, **g, seed=1)
    found = native.diffuse(*map(torch.from_numpy, arrays), **g, seed=1)
    for there, here in zip(found, expected, strict=True):
        np.testing.assert_array_equal(there.numpy(), here)


def test_empty_batches_and_tensors():
    torch = pytest.importorskip("torch")
    g = gaussian()
    assert native.sample_conditional(np.empty((0, 9), np.float32), **g).shape == (0, 6)
    condition = RNG.normal(size=(3, 9)).astype(np.float32)
    tensor = native.sample_conditional(torch.from_numpy(condition), **g)
    np.testing.assert_array_equal(tensor.numpy(), native.sample_conditional(condition, **g))


def test_wrong_inputs_are_named():
    g = gaussian()
    with pytest.raises(ShapeError, match="mean_condition has shape"):
        native.sample_conditional(np.ones((2, 8), np.float32), **g)
    with pytest.raises(ShapeError, match="expected condition"):
        native.sample_conditional(np.ones(9, np.float32), **g)
    with pytest.raises(DTypeError, match="condition has type"):
        native.sample_conditional(np.ones((2, 9), int), **g)
    with pytest.raises(UsageError, match="frames is -1"):
        native.philox_normal(0, 0, -1, 3)


def test_whitened_samples_are_standard_normal_and_independent():
    """Kolmogorov-Smirnov on a million whitened frames, and no correlation between frames or dimensions."""
    from scipy import stats

    count, size = 1_000_000, 3
    g = gaussian(size, 2)
    g["cholesky"] += np.eye(size, dtype=np.float32)
    condition = RNG.normal(size=(count, 2)).astype(np.float32)
    drawn = native.sample_conditional(condition, **g, seed=31).astype(np.float64)
    mean = g["mean_error"] + (condition.astype(np.float64) - g["mean_condition"]) @ g["gain"].T
    white = np.linalg.solve(g["cholesky"].astype(np.float64), (drawn - mean).T).T
    for dimension in range(size):
        assert stats.kstest(white[:, dimension], "norm").pvalue > 1e-4
    bound = 5 / np.sqrt(count)
    for lag in (1, 2, 27):
        products = white[lag:].T @ white[:-lag] / (count - lag)
        assert np.abs(products).max() < bound
    assert np.abs(np.corrcoef(white.T) - np.eye(size)).max() < bound
    assert np.abs(np.corrcoef((white**2).T) - np.eye(size)).max() < bound
    # The far tails are there: 64 are expected beyond 4 standard deviations in every dimension.
    assert (np.abs(((np.abs(white) > 4).sum(axis=0)) - 63.3) < 5 * np.sqrt(63.3)).all()


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_seven_threads_draw_what_one_does(threads):
    g, condition = gaussian(51, 85), RNG.normal(size=(5003, 85)).astype(np.float32)
    alone = native.sample_conditional(condition, **g, seed=2, first_frame=2**63 - 100, threads=1)
    np.testing.assert_array_equal(
        alone, native.sample_conditional(condition, **g, seed=2, first_frame=2**63 - 100, threads=threads)
    )
