"""One body shape for a sequence: lengths replaced, directions and the root kept."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.data.synthetic import synthetic_folder
from refiner.errors import EmptySequenceError, InputError, ShapeError
from refiner.shape import bone_lengths, pool_shape, pool_together, pooled_lengths
from refiner.skeleton import H36M17

RNG = np.random.default_rng(8)


@pytest.fixture(scope="module")
def truth():
    """The poses of one person, whose bones keep their lengths."""
    return synthetic_folder(4, subjects=3, frames=80).clips("all")[0].pose_3d.astype(np.float64)


def directions(pose):
    return np.stack([pose[:, joint] - pose[:, parent] for parent, joint in H36M17.bones], 1)


def test_lengths_are_pooled_and_directions_kept(truth):
    noisy = truth + RNG.normal(0, 0.02, truth.shape) + [5.0, -2.0, 30.0]
    pooled = pool_shape(noisy)
    lengths = bone_lengths(pooled)
    assert pooled.dtype == np.float32 and np.ptp(lengths, axis=0).max() < 2e-5  # float32 at 30 m
    for left, right in zip(H36M17.left, H36M17.right, strict=True):
        assert lengths[0, left] == pytest.approx(lengths[0, right], abs=2e-5)
    expected = np.median(np.linalg.norm(directions(noisy), axis=-1), axis=0)
    order = {joint: index for index, (_, joint) in enumerate(H36M17.bones)}
    for joint, index in order.items():
        mirrored = order[H36M17.flip_order[joint]]
        assert lengths[0, joint] == pytest.approx((expected[index] + expected[mirrored]) / 2, abs=2e-5)
    before, after = directions(noisy), directions(pooled.astype(np.float64))
    cosine = (before * after).sum(-1) / np.linalg.norm(before, axis=-1) / np.linalg.norm(after, axis=-1)
    assert cosine.min() > 1 - 1e-6
    np.testing.assert_allclose(pooled[:, 0], noisy[:, 0], atol=4e-6)


def test_a_body_that_keeps_its_lengths_is_left_alone(truth):
    symmetric = pool_shape(truth).astype(np.float64)
    np.testing.assert_allclose(pool_shape(symmetric), symmetric, atol=1e-6)


def test_known_lengths_bring_back_scaled_bones(truth):
    lengths = bone_lengths(truth)[0]
    scaled = truth * RNG.uniform(0.8, 1.2, (len(truth), 1, 1))
    np.testing.assert_allclose(pool_shape(scaled, lengths), truth, atol=1e-5)
    # The median of what was scaled around 1 is nearly the truth, too.
    assert (
        np.linalg.norm(pool_shape(scaled) - truth, axis=-1).mean() < np.linalg.norm(scaled - truth, axis=-1).mean() / 2
    )


def test_one_frame_and_coincident_joints():
    pose = RNG.normal(0, 0.3, (1, 17, 3))
    pose[0, 2] = pose[0, 1]  # a thigh without a direction
    pooled = pool_shape(pose)
    assert np.isfinite(pooled).all()
    np.testing.assert_allclose(pooled[0, 2], pooled[0, 1], atol=1e-6)
    # Alone in its frame only the left and the right side have something to agree on.
    np.testing.assert_allclose(bone_lengths(pooled)[0, 7:11], bone_lengths(pose)[0, 7:11], atol=1e-6)


def test_one_bad_frame_does_not_matter(truth):
    spoilt = truth.copy()
    spoilt[3] = RNG.normal(0, 0.5, (17, 3))
    assert np.abs(pooled_lengths(spoilt) - pooled_lengths(truth)).max() < 1e-3


def test_wrong_input():
    with pytest.raises(ShapeError):
        pool_shape(np.zeros((4, 16, 3)))
    with pytest.raises(EmptySequenceError):
        pool_shape(np.zeros((0, 17, 3)))
    with pytest.raises(InputError):
        pool_shape(np.full((4, 17, 3), np.nan))


def test_sequences_of_a_person_share_one_shape(truth):
    """Each person's own, whatever the order; one sequence alone is pooled as by itself."""
    scales = (0.8, 1.3, 1.2, 0.9, 1.0)
    people = ("a", "b", "a", "b", "c")
    poses = [(scale * truth[: 20 + 5 * place]).astype(np.float32) for place, scale in enumerate(scales)]
    pooled = pool_together(poses, people)
    assert [len(pose) for pose in pooled] == [20, 25, 30, 35, 40]
    lengths = [bone_lengths(pose) for pose in pooled]
    for members in ((0, 2), (1, 3), (4,)):
        expected = pooled_lengths(np.concatenate([poses[place] for place in members]))
        for place in members:
            np.testing.assert_allclose(lengths[place], np.tile(expected, (len(poses[place]), 1)), atol=1e-6)
    np.testing.assert_allclose(pooled[4], pool_shape(poses[4]), atol=1e-6)
    assert np.abs(lengths[0][0] - lengths[1][0]).max() > 0.01
    assert pool_together([], []) == []


@pytest.mark.parametrize(
    ("poses", "people", "words"),
    [
        ([np.ones((4, 17, 3))] * 3, "Ann", "a name for each of 3 sequences"),
        ([np.ones((4, 17, 3))] * 3, ["Ann"], "a name for each of 3 sequences"),
        ([np.ones((4, 16, 3))], ["Ann"], r"\(frames, 17, 3\) metres"),
        ([np.ones((0, 17, 3))], ["Ann"], r"\(frames, 17, 3\) metres"),
    ],
)
def test_sequences_of_people_are_checked(poses, people, words):
    with pytest.raises(InputError, match=words):
        pool_together(poses, people)


@pytest.mark.parametrize("lengths", [np.ones(16), np.full(17, np.nan), -np.ones(17), np.ones((2, 17)), ["a"] * 17])
def test_what_are_no_bone_lengths_is_refused(truth, lengths):
    with pytest.raises(InputError, match="17 bone lengths in metres"):
        pool_shape(truth, lengths)
