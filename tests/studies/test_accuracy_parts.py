"""The parts of the accuracy study: its table, the filters, the variants of the data, what is pooled and compared."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from refiner_bench.accuracy.filters import one_euro, tune
from refiner_bench.accuracy.scores import Scores, score_clips

from refiner.data import DetectorModel
from refiner.data.synthetic import synthetic_folder
from refiner.errors import ConfigError, UsageError
from refiner.evaluation.protocol import SequenceScore
from refiner.smoothing import savitzky_golay
from refiner.training.config import load_config
from studies.accuracy.clips import Variant, scaled_detector, study_clips
from studies.accuracy.gains import pooled
from studies.accuracy.report import at_plateau
from studies.accuracy.skeletons import middling
from studies.accuracy.spec import Spec, claim_folder
from studies.accuracy.table import TABLE, load_table

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def folder():
    return synthetic_folder(5, subjects=6, frames=60, actions=("Walking",))


@pytest.mark.parametrize("quick", [False, True])
def test_every_row_of_the_study_has_a_configuration_that_loads(quick):
    table = load_table(quick=quick)
    for row in table.rows:
        if row.trained:
            config = load_config(row.config, table.overrides(row))
            assert config.kind == row.kind and (config.model.dim == 16) == quick
    assert table.row("full").set == ()  # the published method changes nothing


def test_rows_come_after_what_they_need():
    table = load_table()
    names = [row.name for row in table.select(["cross-fitted", "linear"])]
    assert set(names) == {"cross-fitted", "linear", "full", "lifter", *(f"lifter-fold-{i}" for i in range(3))}
    assert names.index("lifter") < names.index("full") < names.index("linear")
    assert names.index("lifter-fold-2") < names.index("cross-fitted")
    with pytest.raises(ConfigError, match="no row nobody"):
        table.select(["nobody"])


ROW = '[[row]]\nname = "a"\ntitle = "t"\ngroup = "g"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no rows"),
        (ROW + 'kind = "lifter"\n' + ROW + 'kind = "lifter"\n', "named twice: a"),
        (ROW + 'kind = "refiner"\n', "names no lifter"),
        (ROW + 'kind = "refiner"\nlifter = "b"\n', "needs b"),
        (ROW + 'kind = "score"\nlifter = "a"\n', "row `of`"),
        (ROW + 'kind = "lifter"\nwidth = 3\n', "unknown width"),
        (ROW + 'kind = "lifter"\nflip_test = true\n', "rows of the kind score"),
        (ROW + 'kind = "lifter"\ncheckpoint = "lifter"\nstart_from = "a"\n', "expected a row to train"),
        (ROW + 'kind = "lifter"\ndata = "moon"\n', "variant 'moon'"),
        (ROW + 'kind = "lifter"\nsmooth = true\n', "rows that score a refiner"),
        (ROW + 'kind = "lifter"\nshape_of = "person"\n', "clip, camera, person, with pool_shape"),
        (ROW + 'kind = "lifter"\npool_shape = true\nshape_of = "family"\n', "has shape_of 'family'"),
        ("[[row", "cannot read"),
    ],
)
def test_a_table_that_does_not_hold_together_is_refused(text, words, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_table(file)


def test_rows_that_need_each_other_are_refused(tmp_path):
    file = tmp_path / "study.toml"
    row = '[[row]]\nname = "{}"\ntitle = "t"\ngroup = "g"\nkind = "refiner"\nlifter = "{}"\n'
    file.write_text(row.format("a", "b") + row.format("b", "a"))
    with pytest.raises(ConfigError, match="in a circle: a -> b -> a"):
        load_table(file).select([])


def test_one_euro_is_its_definition():
    """Casiez et al., written once more for one number."""
    signal = np.cumsum(RNG.normal(size=50)) * 0.05
    rate, low, beta = 50.0, 1.5, 2.0

    def alpha(cutoff):
        tau = 1.0 / (2 * np.pi * cutoff)
        return 1.0 / (1.0 + tau * rate)

    expected, derivative = [signal[0]], 0.0
    for value in signal[1:]:
        raw = (value - expected[-1]) * rate
        derivative = alpha(1.0) * raw + (1 - alpha(1.0)) * derivative
        weight = alpha(low + beta * abs(derivative))
        expected.append(weight * value + (1 - weight) * expected[-1])
    found = one_euro(signal.reshape(50, 1, 1), rate, low, beta)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-12)


def test_savitzky_golay_keeps_parabolas_and_short_clips():
    time = np.arange(40.0)
    parabola = (0.3 + 0.1 * time - 0.01 * time**2).reshape(40, 1, 1)
    np.testing.assert_allclose(savitzky_golay(parabola, 50.0, 9, 2), parabola, atol=1e-10)
    short = RNG.normal(size=(3, 17, 3))
    assert savitzky_golay(short, 50.0, 35, 3).shape == short.shape
    # At a low rate as many frames as it takes to smooth at all.
    noise = RNG.normal(size=(60, 17, 3))
    assert np.diff(savitzky_golay(noise, 10.0), axis=0).std() < 0.95 * np.diff(noise, axis=0).std()


@pytest.mark.parametrize("name", ["one-euro", "savitzky-golay"])
def test_tuning_finds_a_filter_that_helps(name):
    time = np.arange(300)[:, None, None] / 50
    truth = 0.3 * np.sin(2 * np.pi * 0.5 * time + RNG.uniform(0, 6, (1, 17, 3)))
    noisy = truth + RNG.normal(scale=0.02, size=truth.shape)
    smooth, settings, error = tune(name, [(noisy, truth, 50.0)])
    before = 1000 * np.linalg.norm(noisy - truth, axis=-1).mean()
    after = 1000 * np.linalg.norm(smooth(noisy, 50.0) - truth, axis=-1).mean()
    assert settings and after < 0.8 * before
    np.testing.assert_allclose(after, error)


def test_variants_change_what_they_name(folder):
    usual = study_clips(folder, "test", Variant())
    clean = study_clips(folder, "test", Variant(detections="ground-truth"))
    double = study_clips(folder, "test", Variant(noise=2.0))
    errors = [
        np.mean([np.linalg.norm(clip.pose_2d - clip.pose_2d_clean, axis=-1).mean() for clip in clips])
        for clips in (clean, usual, double)
    ]
    assert errors[0] == 0.0 and 1.3 < errors[2] / errors[1] < 2.2
    new = study_clips(folder, "test", Variant(cameras="random"))
    assert len(new) == len(usual) and {clip.camera for clip in new} == {f"random {i}" for i in range(4)}
    assert not np.allclose(new[0].pose_3d, usual[0].pose_3d)
    again = study_clips(folder, "test", Variant(cameras="random"))
    np.testing.assert_array_equal(new[0].pose_2d, again[0].pose_2d)
    half = study_clips(folder, "test", Variant(fps=25.0))
    np.testing.assert_array_equal(half[0].pose_2d, usual[0].pose_2d[::2])
    slower = study_clips(folder, "test", Variant(fps=30.0))
    assert slower[0].fps == 30.0 and slower[0].frames == 36


def test_a_scaled_detector_keeps_its_rates():
    detector = DetectorModel.default()
    twice = scaled_detector(detector, 2.0)
    np.testing.assert_array_equal(twice.slow_sigma, 2 * detector.slow_sigma)
    assert twice.rho == detector.rho and twice.swap_probability == detector.swap_probability


def test_scores_are_of_the_refined_and_of_the_lifted_poses(folder):
    clips = study_clips(folder, "test", Variant())
    lifted = [clip.pose_3d + RNG.normal(scale=0.03, size=clip.pose_3d.shape).astype(np.float32) for clip in clips]
    for pose in lifted:
        pose[:, 0] = 0.0
    perfect = score_clips(clips, lifted, [clip.pose_3d for clip in clips], "test", "default")
    assert perfect.result.frame_mean("mpjpe") == 0.0
    assert perfect.distributions.below_30 == 1.0 and perfect.distributions.histogram[0] == perfect.result.frames
    alone = score_clips(clips, lifted, None, "test", "default")
    assert perfect.before == alone.sequences == alone.before
    found = alone.distributions
    np.testing.assert_allclose(np.mean(found.by_joint), alone.result.frame_mean("mpjpe"), rtol=1e-6)
    assert sum(found.histogram) == alone.result.frames and found.below_30 + found.above_35 <= 1.0
    # Lifted in another way: the lifter's own poses are what comes before.
    other = score_clips(clips, [clip.pose_3d for clip in clips], None, "test", "default", before=lifted)
    assert other.sequences == perfect.sequences and other.before == alone.before


def test_seeds_are_pooled_frame_by_frame(folder):
    clips = study_clips(folder, "test", Variant())
    results = [
        score_clips(clips, [clip.pose_3d + np.float32(shift) for clip in clips], None, "test", "default").result
        for shift in (0.0, 0.01)
    ]
    both = pooled(results)
    assert both.frames == 2 * results[0].frames and len(both.sequences) == len(clips)
    means = [result.frame_mean("mpjpe") for result in results]
    np.testing.assert_allclose(both.frame_mean("mpjpe"), np.mean(means))


@pytest.mark.parametrize(
    ("errors", "expected"),
    [([90, 80, 70, 65], False), ([90, 80, 70, 69.9], True), ([90, 80, 70, 75], True), ([90, 80], False)],
)
def test_a_plateau_is_where_the_last_quarter_gains_nothing(errors, expected):
    assert at_plateau([[100 * (i + 1), error] for i, error in enumerate(errors)]) is expected


def test_the_clip_that_is_drawn_has_the_median_gain():
    def scored(errors):
        return tuple(
            SequenceScore(str(place), "S1", "Walking", "1", 10, {"mpjpe": 10 * error}, {"mpjpe": 10})
            for place, error in enumerate(errors)
        )

    # Gains of -50, 40, 20, 10 and 0 percent.
    scores = Scores("test", "default", scored([75, 30, 40, 45, 50]), scored([50] * 5), None)
    assert middling(scores) == 3


def test_a_folder_of_runs_is_of_one_archive(tmp_path):
    def spec(data, quick=False):
        return Spec(TABLE, data, tmp_path / "runs", quick, 1)

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"data_3d_{name}.npz").touch()
    claim_folder(spec(tmp_path / "a"))
    claim_folder(spec(tmp_path / "a"))
    with pytest.raises(UsageError, match=r"runs on data_3d_a.npz; choose another --output"):
        claim_folder(spec(tmp_path / "b"))
    with pytest.raises(UsageError, match=r"data_3d_a.npz"):
        claim_folder(spec(None, quick=True))


ROW = """
[[row]]
name = "lifter"
title = "a lifter"
group = "x"
kind = "lifter"
config = "CONFIG"
[[row]]
name = "told"
title = "told"
group = "x"
kind = "score"
method = "none"
lifter = "lifter"
action = "ACTION"
"""


@pytest.mark.parametrize(
    ("config", "action", "error"),
    [("finepose-small", "labels", "expected unknown or label"), ("mixste-small", "label", "its lifter no prompts")],
)
def test_an_action_is_for_a_lifter_with_prompts(tmp_path, config, action, error):
    file = tmp_path / "table.toml"
    file.write_text(ROW.replace("CONFIG", "finepose-small").replace("ACTION", "label"))
    assert load_table(file).row("told").action == "label"
    file.write_text(ROW.replace("CONFIG", config).replace("ACTION", action))
    with pytest.raises(ConfigError, match=error):
        load_table(file)
