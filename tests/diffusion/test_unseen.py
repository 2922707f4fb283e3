"""The spread of joints that are not seen: how it grows, how it is stored, and that it covers the errors."""

from __future__ import annotations

import numpy as np
import pytest

from refiner import StreamingRefiner
from refiner.data.synthetic import synthetic_folder
from refiner.diffusion.uncertainty import JointUncertainty
from refiner.diffusion.unseen import DEFAULT_UNSEEN, UnseenSpread
from refiner.errors import CheckpointError
from refiner.runtime.report import seconds_to_sight

LEGS = [2, 3, 5, 6]
FRAMES = 120


def test_it_grows_with_the_time_and_most_for_what_was_never_seen():
    times = np.concatenate([[0.0], np.geomspace(0.005, 20, 60), [np.inf]])
    added = DEFAULT_UNSEEN.added(np.repeat(times[:, None], 17, axis=1))
    assert (added[0] == 0).all() and (added[:, 0] == 0).all()
    assert (np.diff(added, axis=0) >= -1e-12).all() and (added[1:, 1:] > 0.02).all()
    np.testing.assert_allclose(added[-1], DEFAULT_UNSEEN.metres[:, -1])
    knot = np.full(17, DEFAULT_UNSEEN.seconds[1])
    np.testing.assert_allclose(DEFAULT_UNSEEN.added(knot), DEFAULT_UNSEEN.metres[:, 1])
    # Independent errors: their variances add up.
    np.testing.assert_allclose(
        DEFAULT_UNSEEN.widened(np.full(17, 0.03), knot),
        np.hypot(0.03, added[0] * 0 + DEFAULT_UNSEEN.metres[:, 1]),
        rtol=1e-6,
    )


def test_it_is_stored_with_the_calibration():
    own = UnseenSpread(np.array([0.1, 0.5]), np.linspace(0, 0.2, 51).reshape(17, 3))
    plain = JointUncertainty.from_config(None)
    assert "unseen" not in plain.to_config()
    assert JointUncertainty.from_config(plain.to_config()).unseen is DEFAULT_UNSEEN
    read = JointUncertainty.from_config(JointUncertainty(plain.coefficients, plain.radii, own).to_config())
    np.testing.assert_allclose(read.unseen.metres, own.metres, atol=1e-4)
    np.testing.assert_array_equal(read.unseen.seconds, own.seconds)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"seconds": [0.1], "metres": [[0, 0]] * 17},
        {"seconds": [0.5, 0.1], "metres": [[0, 0, 0]] * 17},
        {"seconds": [0.0, 0.1], "metres": [[0, 0, 0]] * 17},
        {"seconds": [0.1, 0.5], "metres": [[0, 0, 0]] * 16},
        {"seconds": [0.1, 0.5], "metres": [[0, -1, 0]] * 17},
        {"seconds": [0.1, 0.5], "metres": [[0, float("nan"), 0]] * 17},
        {"seconds": "soon", "metres": 3},
    ],
)
def test_another_form_is_refused(config):
    with pytest.raises(CheckpointError, match="unseen joints"):
        UnseenSpread.from_config(config)


def test_the_time_to_the_nearest_sight():
    missing = np.zeros((6, 17), dtype=bool)
    missing[1:4, 2], missing[:, 5], missing[:2, 7] = True, True, True
    found = seconds_to_sight(missing, 50.0)
    np.testing.assert_allclose(found[:, 2] * 50, [0, 1, 2, 1, 0, 0])
    np.testing.assert_allclose(found[:, 7] * 50, [2, 1, 0, 0, 0, 0])
    assert np.isinf(found[:, 5]).all() and (found[:, 0] == 0).all()


@pytest.mark.parametrize("begin", [0, 50])
def test_it_covers_the_errors_of_guessed_joints(begin):
    """Legs that were never seen, or lost: about nine of ten errors lie within 2.5 standard deviations."""
    inside, without = [], []
    for clip in synthetic_folder(3, subjects=3, frames=FRAMES, actions=("Walking", "Waving", "Boxing")).clips("test")[
        ::4
    ]:
        pixels = clip.pose_2d.astype(np.float64)
        pixels[begin:, LEGS] = np.nan
        live = StreamingRefiner.load(image_size=clip.image_size, camera=clip.lens, lifter=True, threads=1)
        found = [frame for index in range(FRAMES) for frame in live.push(pixels[index], None, index / 50)]
        pose = np.stack([frame.pose_3d for frame in found])
        error = np.linalg.norm(pose - pose[:, :1] - clip.pose_3d, axis=-1)[max(begin, 30) :, LEGS]
        std = np.stack([frame.std for frame in found])[max(begin, 30) :, LEGS]
        seen = np.stack([frame.std for frame in found])[max(begin, 30) :, [12, 13, 15, 16]]
        inside.append(error < 2.5 * std)
        without.append(error < 2.5 * seen.mean())
    assert 0.8 <= np.mean(inside) <= 1.0
    assert np.mean(without) < np.mean(inside)
