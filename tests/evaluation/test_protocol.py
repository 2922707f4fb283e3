"""The protocol on examples small enough to compute by hand."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.errors import EmptySequenceError, InputError, LengthError, NonFiniteError, UsageError
from refiner.evaluation import Evaluator, Sequence, evaluate_sequences
from refiner.evaluation.metrics import acceleration_error, mpjve
from refiner.evaluation.protocol import METRICS


def shifted(name: str, frames: int, error_mm: float, subject: str = "S2", camera: str = "0", seed: int = 0) -> Sequence:
    """A random motion whose every joint but the root is off by ``error_mm`` along x."""
    rng = np.random.default_rng([seed, frames])
    target = rng.normal(0.0, 0.3, (frames, 17, 3))
    prediction = target.copy()
    prediction[:, 1:, 0] += error_mm / 1000.0
    return Sequence(name, subject, name.split(" ")[0], camera, prediction, target)


def test_action_wise_and_frame_wise_means_differ():
    # Walking: 30 frames at 17 mm on 16 of 17 joints -> 16 mm. Sitting: 10 frames -> 32 mm, 20 frames -> 8 mm.
    result = evaluate_sequences(
        [
            shifted("Walking", 30, 17.0),
            shifted("Sitting", 10, 34.0),
            shifted("Sitting 1", 20, 8.5, subject="S14"),
        ]
    )
    per_action = result.per_action("mpjpe")
    assert list(per_action) == ["Sitting", "Walking"]
    assert per_action["Walking"] == pytest.approx(16.0)
    assert per_action["Sitting"] == pytest.approx((10 * 32.0 + 20 * 8.0) / 30)
    assert result.action_mean("mpjpe") == pytest.approx((16.0 + 16.0) / 2)
    assert result.frame_mean("mpjpe") == pytest.approx((30 * 16.0 + 10 * 32.0 + 20 * 8.0) / 60)

    unequal = evaluate_sequences([shifted("Walking", 30, 17.0), shifted("Sitting", 10, 34.0)])
    assert unequal.action_mean("mpjpe") == pytest.approx(24.0)
    assert unequal.frame_mean("mpjpe") == pytest.approx((30 * 16.0 + 10 * 32.0) / 40)
    assert unequal.frames == 40


def test_both_poses_are_made_root_relative():
    rng = np.random.default_rng(1)
    base = shifted("Walking", 12, 17.0)
    moved = Sequence(
        "Walking",
        "S2",
        "Walking",
        "0",
        base.prediction + rng.normal(size=(12, 1, 3)),
        base.target + rng.normal(size=(12, 1, 3)),
    )
    for metric in METRICS:
        assert evaluate_sequences([moved]).frame_mean(metric) == pytest.approx(
            evaluate_sequences([base]).frame_mean(metric), abs=1e-4
        )


def test_another_root():
    base = shifted("Walking", 12, 17.0)
    assert evaluate_sequences([base], root=7).frame_mean("mpjpe") == pytest.approx(1.0)


def test_velocity_is_not_taken_across_clips():
    # Each clip has a constant error, so no frame step inside it has a velocity error; between the two clips the
    # error jumps by 900 mm.
    clips = [shifted("Walking", 8, 0.0), shifted("Walking 1", 9, 900.0)]
    result = evaluate_sequences(clips)
    assert result.frame_mean("mpjve") == pytest.approx(0.0, abs=1e-9)
    assert result.frame_mean("acceleration_error") == pytest.approx(0.0, abs=1e-9)
    joined = [np.concatenate([getattr(clip, side) for clip in clips]) * 1000 for side in ("prediction", "target")]
    assert mpjve(*joined).max() > 800.0 and acceleration_error(*joined).max() > 800.0
    assert [score.counts["mpjve"] for score in result.sequences] == [7, 8]
    assert [score.counts["acceleration_error"] for score in result.sequences] == [6, 7]


def test_motion_metrics_are_weighted_by_frame_steps():
    rng = np.random.default_rng(2)
    clips = []
    for name, frames in (("Walking", 5), ("Walking 1", 20)):
        target = rng.normal(0.0, 0.3, (frames, 17, 3))
        clips.append(Sequence(name, "S2", "Walking", "0", target + rng.normal(0.0, 0.01, target.shape), target))
    result = evaluate_sequences(clips)

    def relative(pose: np.ndarray) -> np.ndarray:
        return 1000.0 * (pose - pose[:, :1])

    every = np.concatenate([mpjve(relative(c.prediction), relative(c.target)) for c in clips])
    assert len(every) == 4 + 19
    assert result.frame_mean("mpjve") == pytest.approx(every.mean())


def test_sequences_too_short_for_a_metric_leave_it_unmeasured():
    result = evaluate_sequences([shifted("Jumping", 1, 17.0), shifted("Walking", 10, 17.0)])
    assert np.isnan(result.per_action("mpjve")["Jumping"])
    assert result.action_mean("mpjve") == pytest.approx(0.0, abs=1e-9)
    alone = evaluate_sequences([shifted("Jumping", 2, 17.0)])
    assert alone.frame_mean("mpjpe") == pytest.approx(16.0)
    assert np.isnan(alone.frame_mean("acceleration_error")) and np.isnan(alone.action_mean("acceleration_error"))


def test_cameras_of_a_clip_are_one_clip():
    views = [shifted("Walking 1", 6, 10.0, camera=str(camera), seed=camera) for camera in range(4)]
    result = evaluate_sequences(views)
    assert result.clips == [("S2", "Walking 1")]
    assert result.frames == 24


def test_errors_are_reported_in_millimetres():
    base = shifted("Walking", 6, 17.0)
    float32 = Sequence(
        "Walking", "S2", "Walking", "0", base.prediction.astype(np.float32), base.target.astype(np.float32)
    )
    assert evaluate_sequences([float32]).frame_mean("mpjpe") == pytest.approx(16.0, abs=1e-3)


def test_a_clip_and_camera_counts_once():
    with pytest.raises(InputError, match="S2 / Walking / camera 0 is given twice"):
        evaluate_sequences([shifted("Walking", 6, 10.0), shifted("Walking", 6, 10.0)])


def test_bad_sequences_are_named():
    base = shifted("Walking", 6, 10.0)
    with pytest.raises(LengthError, match="S2 / Walking / camera 0: 5 predicted frames, 6 target frames"):
        Evaluator().add(Sequence("Walking", "S2", "Walking", "0", base.prediction[:5], base.target))
    broken = base.prediction.copy()
    broken[2, 3, 1] = np.nan
    with pytest.raises(NonFiniteError, match="S2 / Walking / camera 0: pred"):
        Evaluator().add(Sequence("Walking", "S2", "Walking", "0", broken, base.target))
    with pytest.raises(EmptySequenceError, match="nothing to evaluate"):
        evaluate_sequences([])
    with pytest.raises(UsageError, match="unknown metric 'mpjp'"):
        evaluate_sequences([base]).frame_mean("mpjp")


def test_a_generator_is_enough():
    result = evaluate_sequences(shifted(f"Walking {n}", 5, 17.0) for n in range(3))
    assert result.frames == 15 and result.frame_mean("mpjpe") == pytest.approx(16.0)
