"""MPI-INF-3DHP's protocol: an example by hand, brute force on random data, the bound itself."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.data.mpi_inf_3dhp import Sequence3dhp
from refiner.errors import EmptySequenceError, InputError, LengthError, NonFiniteError, ShapeError
from refiner.evaluation.mpi_inf_3dhp import Result3dhp, evaluate_3dhp, format_3dhp, score_sequence
from refiner.skeleton import MPI_INF_3DHP, from_h36m17, to_h36m17

PELVIS, SPINE, HEAD = 14, 15, 16


def sequence(name="TS1", seed=0, frames=20, annotation="annot3", valid=None):
    rng = np.random.default_rng([seed, frames])
    pose_3d = rng.normal([0.1, 0.2, 4.0], 0.4, (frames, 17, 3)).astype(np.float32)
    pose_2d = rng.uniform(200, 1800, (frames, 17, 2)).astype(np.float32)
    scored = rng.random(frames) < 0.7 if valid is None else np.asarray(valid)
    return Sequence3dhp(name, annotation, pose_2d, pose_3d, scored, (2048, 2048))


def off_by(truth, millimetres):
    """The poses with each joint moved by its number of millimetres along x."""
    moved = truth.pose_3d.astype(np.float64)
    moved[..., 0] += np.asarray(millimetres, dtype=np.float64) / 1000.0
    return moved


def test_an_example_worked_by_hand():
    truth = sequence(valid=[True] * 4 + [False] * 16)
    errors = np.zeros(17)
    errors[[2, 5, 9]] = 40.0, 160.0, 100.0
    errors[SPINE] = errors[HEAD] = 300.0
    score = score_sequence(truth, off_by(truth, errors))
    assert score.frames == 4
    # 13 of the 14 joints are below 150 mm; spine and head do not count.
    assert score.pck == pytest.approx(100 * 13 / 14)
    # Bounds above the error, of 31: 30 for each of the eleven exact joints, and 22 above 40 mm, 10 above 100 mm.
    assert score.auc == pytest.approx(100 * (11 * 30 + 22 + 10) / (14 * 31), abs=1e-3)
    assert score.mpjpe_mm == pytest.approx((40 + 160 + 100 + 300 + 300) / 17, abs=1e-3)


def test_brute_force_on_random_data():
    rng = np.random.default_rng(3)
    truth = sequence(seed=4, frames=60)
    prediction = truth.pose_3d + rng.normal(0, 0.09, truth.pose_3d.shape)
    below = joints = area = distances = frames = 0.0
    for frame in np.flatnonzero(truth.valid):
        frames += 1
        for joint in range(17):
            p = prediction[frame, joint] - prediction[frame, PELVIS]
            t = truth.pose_3d[frame, joint].astype(float) - truth.pose_3d[frame, PELVIS]
            distance = 1000.0 * float(np.sqrt(((p - t) ** 2).sum()))
            distances += distance / 17
            if joint in (PELVIS, SPINE, HEAD):
                continue
            joints += 1
            below += distance < 150
            area += sum(distance < bound for bound in range(0, 151, 5)) / 31
    score = score_sequence(truth, prediction)
    assert 20 < 100 * below / joints < 99
    assert score.pck == pytest.approx(100 * below / joints)
    assert score.auc == pytest.approx(100 * area / joints)
    assert score.mpjpe_mm == pytest.approx(distances / frames)


def test_exactly_150_mm_is_not_below_150_mm():
    # Whole numbers of millimetres that floats hold exactly: the distance is 150.0 to the last bit.
    pose = np.zeros((1, 17, 3), np.float32)
    moved = pose.astype(np.float64)
    moved[0, :PELVIS, 1] = 0.15
    truth = Sequence3dhp("TS1", "annot3", np.ones((1, 17, 2), np.float32), pose, np.array([True]), (2048, 2048))
    assert score_sequence(truth, moved).pck == 0.0
    assert score_sequence(truth, moved).auc == 0.0
    moved[0, :PELVIS, 1] = np.nextafter(0.15, 0)
    assert score_sequence(truth, moved).pck == 100.0
    assert score_sequence(truth, moved).auc == pytest.approx(100 / 31)


def test_the_bound_0_counts():
    truth = sequence()
    perfect = score_sequence(truth, truth.pose_3d)
    assert (perfect.pck, perfect.mpjpe_mm) == (100.0, 0.0)
    assert perfect.auc == pytest.approx(100 * 30 / 31)


def test_the_root_may_lie_anywhere_and_invalid_frames_do_not_count():
    truth = sequence(seed=5)
    rng = np.random.default_rng(6)
    prediction = truth.pose_3d + rng.normal(0, 0.08, truth.pose_3d.shape)
    before = score_sequence(truth, prediction)
    moved = prediction + rng.normal(0, 3, (len(prediction), 1, 3))
    moved[~truth.valid] = 99.0
    after = score_sequence(truth, moved)
    assert (after.pck, after.frames) == (before.pck, before.frames)
    assert after.mpjpe_mm == pytest.approx(before.mpjpe_mm)


def test_the_result_is_the_mean_of_the_sequences_not_of_the_frames():
    sequences = [sequence(f"TS{n}", seed=n, frames=5 * n, valid=[True] * 5 * n) for n in range(1, 7)]
    errors = {len(s.valid): 20.0 * n for n, s in enumerate(sequences, start=1)}

    def lift(pose_2d, size):
        truth = next(s for s in sequences if len(s.valid) == len(pose_2d))
        assert size == (2048, 2048)
        joints = np.full(17, errors[len(pose_2d)])
        joints[PELVIS] = 0.0
        return to_h36m17(off_by(truth, joints), MPI_INF_3DHP)

    result = evaluate_3dhp(sequences, lift)["lifter"]
    assert result.complete and result.annotation == "annot3"
    assert result.mpjpe_mm == pytest.approx(np.mean([20.0 * n * 16 / 17 for n in range(1, 7)]), rel=1e-5)
    assert result.pck == 100.0
    assert not Result3dhp(result.sequences[:5]).complete


def test_a_lifter_sees_human36m_s_joints():
    truth = sequence()
    seen = []

    def lift(pose_2d, size):
        seen.append(pose_2d)
        return np.concatenate([pose_2d, np.ones((len(pose_2d), 17, 1))], axis=-1) / 1000.0

    result = evaluate_3dhp([truth], lift)["lifter"]
    np.testing.assert_allclose(from_h36m17(seen[0], MPI_INF_3DHP), truth.pose_2d, rtol=1e-5, atol=1e-3)
    expected = np.concatenate([truth.pose_2d, np.ones((20, 17, 1))], axis=-1) / 1000.0
    assert result.sequences[0].mpjpe_mm == pytest.approx(score_sequence(truth, expected).mpjpe_mm, rel=1e-5)


def test_what_cannot_be_scored_is_named():
    truth = sequence()
    with pytest.raises(LengthError, match="TS1: 19 predicted frames, the sequence has 20"):
        score_sequence(truth, truth.pose_3d[1:])
    with pytest.raises(ShapeError, match=r"TS1: the prediction has shape \(20, 16, 3\)"):
        score_sequence(truth, truth.pose_3d[:, 1:])
    with pytest.raises(NonFiniteError, match="TS1"):
        score_sequence(truth, np.where(np.arange(20)[:, None, None] < 20, np.nan, truth.pose_3d))
    with pytest.raises(EmptySequenceError, match="TS1 has no valid frame"):
        score_sequence(sequence(valid=[False] * 20), truth.pose_3d)
    with pytest.raises(EmptySequenceError, match="nothing to evaluate"):
        evaluate_3dhp([], lambda pose_2d, size: pose_2d)

    def lift(pose_2d, size):
        return np.ones((len(pose_2d), 17, 3))

    with pytest.raises(InputError, match="TS1 comes twice"):
        evaluate_3dhp([truth, truth], lift)
    with pytest.raises(InputError, match="annotation differs"):
        evaluate_3dhp([truth, sequence("TS2", annotation="univ_annot3")], lift)


def test_a_refiner_behind_the_lifter_and_the_table():
    sequences = [sequence(f"TS{n}", seed=n, valid=[True] * 20) for n in range(1, 7)]
    place = {s.pose_2d.tobytes(): s for s in sequences}

    def lift(pose_2d, size):
        truth = place[from_h36m17(pose_2d, MPI_INF_3DHP).tobytes()]
        return to_h36m17(off_by(truth, [40.0] * 14 + [0.0, 40.0, 40.0]), MPI_INF_3DHP)

    def refine(pose_2d, pose_3d, size):
        moved = pose_3d.copy()
        moved[:, 1:, 0] -= 0.01
        return moved

    scored = evaluate_3dhp(sequences, lift, refine)
    assert [round(scored[label].mpjpe_mm, 2) for label in ("lifter", "refined")] == [37.65, 28.24]
    text = format_3dhp(scored)
    assert "annot3" in text and "MPJPE mm, refined" in text and "37.6" in text and "28.2" in text
    assert "Not all of" in format_3dhp(evaluate_3dhp(sequences[:2], lift), markdown=True)
