"""Motion made of other motion: what stays and what changes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from refiner.data.synthetic import synthetic_motion
from refiner.skeleton import LEFT, PARENTS, RIGHT
from refiner.training import augment

LEGS, UPPER = range(7), range(7, 17)


@pytest.fixture
def motion():
    """Eight windows of walking and waving."""
    clips = [synthetic_motion(seed, action, 40) for seed in range(4) for action in ("Walking", "Waving")]
    return np.stack([clip[:20] for clip in clips]).astype(np.float64)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def lengths(world):
    return np.stack([np.linalg.norm(world[..., j, :] - world[..., p, :], axis=-1) for j, p in enumerate(PARENTS) if j])


def test_recombined_people_have_their_own_legs_and_bones_and_the_donor_s_upper_body(motion, rng):
    spins = Rotation.from_rotvec(rng.uniform(0, 2 * np.pi, (len(motion), 1)) * [0.0, 0.0, 1.0])
    donors = np.stack([window @ spin.as_matrix().T for window, spin in zip(motion[::-1], spins, strict=True)])
    donors += rng.normal(size=(len(motion), 1, 1, 3))
    found = augment.recombine(motion, donors, 1.0, rng)
    np.testing.assert_array_equal(found[:, :, LEGS], motion[:, :, LEGS])
    np.testing.assert_allclose(lengths(found), lengths(motion), rtol=1e-9)
    # The donor's bones, seen from its hips, are the new person's, seen from theirs.
    for window in (0, 3, 7):
        for frame in (0, 19):
            seen = []
            for world in (found[window, frame], donors[window, frame]):
                axis = world[4] - world[1]
                turned = Rotation.from_euler("z", -np.arctan2(axis[1], axis[0])).apply(world)
                bones = turned[UPPER] - turned[[PARENTS[joint] for joint in UPPER]]
                seen.append(bones / np.linalg.norm(bones, axis=-1, keepdims=True))
            np.testing.assert_allclose(seen[0], seen[1], atol=1e-9)


def test_a_window_that_lends_itself_its_upper_body_stays(motion, rng):
    np.testing.assert_allclose(augment.recombine(motion, motion, 1.0, rng), motion, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_shares_are_of_windows(motion, rng, share):
    many = np.concatenate([motion] * 100)
    assert len(many) == 800
    backwards = augment.reverse(many, share, rng)
    changed = (backwards != many).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(backwards[changed], many[changed][:, ::-1])
    assert abs(changed.mean() - share) < 0.06
    combined = augment.recombine(many, np.roll(many, 1, axis=0), share, rng)
    assert abs((np.abs(combined - many) > 1e-9).any(axis=(1, 2, 3)).mean() - share) < 0.06
    turned = augment.turn(many, share, rng)
    assert abs((np.abs(turned - many) > 1e-9).any(axis=(1, 2, 3)).mean() - share) < 0.06
    np.testing.assert_allclose(turned[..., 2], many[..., 2])
    np.testing.assert_allclose(lengths(turned), lengths(many), rtol=1e-9)


def test_bodies_change_their_bones_alike_on_both_sides_and_keep_directions(motion, rng):
    found = augment.reshape_bodies(motion, 0.1, 0.1, rng)
    factor = (lengths(found) / lengths(motion)).T  # (F, B, bones)
    assert factor.std(axis=(0, 2)).max() > 0.01
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:1], factor.shape), rtol=1e-9)
    left, right = [joint - 1 for joint in LEFT], [joint - 1 for joint in RIGHT]
    np.testing.assert_allclose(factor[..., left], factor[..., right], rtol=1e-9)
    assert augment.reshape_bodies(motion, 0.0, 0.0, rng) is motion
