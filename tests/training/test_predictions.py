"""A refiner for somebody else's estimator, from a file of its predictions."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.cli.evaluate import main as evaluate
from refiner.cli.train import main
from refiner.errors import ArchiveError, ConfigError, InputError
from refiner.model_files.checkpoint import load_checkpoint, load_noise_model
from refiner.runtime import Refiner
from refiner.skeleton import flip_pose
from refiner.training.predictions import PredictionSampler, load_predictions
from refiner.training.runs import train_refiner_on_predictions

ROOT = np.array([0.2, -0.1, 4.0])


@pytest.fixture
def arrays(people):
    """Three people's clips as an estimator sees them: 12 mm of jitter, a lean to the right, roots anywhere."""
    generator = np.random.default_rng(2)
    rows = {name: [] for name in ("pose_2d", "pose_3d", "target_3d", "clip", "person")}
    for clip in people.clips("all"):
        frames = clip.frames
        error = generator.normal(scale=0.012, size=clip.pose_3d.shape) + np.array([0.03, 0.0, 0.0])
        error[:, 0] = 0.0
        rows["pose_2d"].append(clip.pose_2d)
        rows["pose_3d"].append(clip.pose_3d + error + ROOT)
        rows["target_3d"].append(clip.pose_3d - ROOT)
        rows["clip"].append(np.full(frames, f"{clip.key} {clip.camera}"))
        rows["person"].append(np.full(frames, clip.subject))
    size = people.clips("all")[0].image_size
    return {name: np.concatenate(value) for name, value in rows.items()} | {"image_size": np.array(size), "fps": 50.0}


@pytest.fixture
def write(arrays, tmp_path):
    def to_file(**changes):
        file = tmp_path / "mine.npz"
        np.savez(file, **{name: value for name, value in (arrays | changes).items() if value is not None})
        return file

    return to_file


def test_clips_are_told_apart_and_root_relative(write, people):
    predictions = load_predictions(write())
    clips = people.clips("all")
    assert predictions.people == ["S1", "S2", "S5"] and len(predictions.clips) == len(clips)
    for found, clip in zip(predictions.clips, clips, strict=True):
        np.testing.assert_allclose(found.truth, clip.pose_3d, atol=1e-5)
        assert (found.lifted[:, 0] == 0).all() and abs((found.lifted - found.truth)[:, 1:, 0].mean() - 0.03) < 0.01


def test_batches_are_windows_of_one_clip_and_half_of_them_mirrored(write):
    predictions = load_predictions(write())
    sampler = PredictionSampler(predictions, ["S1", "S2"], 9, 64, 0, flip=0.5)
    windows = sampler.batch(3)
    assert set(windows.subjects) == {"S1", "S2"} and windows.lifted.shape == (64, 9, 17, 3)
    plain = PredictionSampler(predictions, ["S1", "S2"], 9, 64, 0, flip=0.0).batch(3)
    same = np.array([np.array_equal(a, b) for a, b in zip(windows.lifted, plain.lifted, strict=True)])
    assert 0.3 < same.mean() < 0.7
    for name in ("lifted", "pose_3d", "pose_2d"):
        np.testing.assert_array_equal(getattr(windows, name)[~same], flip_pose(getattr(plain, name)[~same]))
    np.testing.assert_array_equal(windows.pose_2d, sampler.batch(3).pose_2d)


def test_a_refiner_learns_what_the_estimator_does_wrong(write, tiny, tmp_path, capsys):
    """The lean to the right is the noise model's mean; the whole command runs and the checkpoint loads."""
    file, output = write(), tmp_path / "run"
    overrides = ["frames=9", "model.dim=16", "model.blocks=1", "model.heads=4", "model.mlp_ratio=2"]
    overrides += ["training.steps=4", "training.validate_every=2", "noise.fit_frames=3000", "training.threads=1"]
    options = [option for value in overrides for option in ("--set", value)]
    arguments = ["refiner", "--config", "refiner-small", "--from-predictions", str(file), "--output", str(output)]
    assert main([*arguments, "--validation-person", "S5", "--quiet", *options]) == 0
    assert "best checkpoint" in capsys.readouterr().out
    noise = load_noise_model(output / "best.safetensors")
    lean = noise.mean_error.reshape(17, 3)[1:]
    np.testing.assert_allclose(np.abs(lean[:, 0]).mean(), 0.0, atol=0.012)  # mirrored windows lean the other way
    stored = load_checkpoint(output / "best.safetensors").config["data_description"]
    assert (stored["train"], stored["validation"], stored["name"]) == (["S1", "S2"], ["S5"], "mine.npz")
    clip = load_predictions(file).clips[0]
    refined = Refiner.load(output / "best.safetensors").refine(
        (clip.pose_2d + 1.0) * 500, clip.lifted, image_size=(1000, 1000)
    )
    assert np.isfinite(refined).all() and refined.shape == clip.lifted.shape


def test_who_validates_must_be_there_and_not_alone(write, tiny, tmp_path):
    with pytest.raises(ConfigError, match="must be one of at least two people of the file: S1, S2, S5"):
        train_refiner_on_predictions(tiny("refiner"), load_predictions(write()), "S9", tmp_path / "run")
    alone = load_predictions(write(person=np.full(len(load_rows(write)), "Ann")))
    with pytest.raises(ConfigError, match="at least two people"):
        train_refiner_on_predictions(tiny("refiner"), alone, "Ann", tmp_path / "run")


def load_rows(write):
    return np.load(write())["clip"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"target_3d": None}, ArchiveError, "lacks target_3d"),
        ({"clip": np.zeros(3)}, ArchiveError, "clip has shape"),
        ({"fps": 0.0}, ArchiveError, "fps is 0"),
        ({"image_size": np.array([0, 5])}, InputError, "clip .* of S1: image_size"),
    ],
)
def test_files_that_do_not_fit_are_refused(write, changes, error, words):
    with pytest.raises(error, match=words):
        load_predictions(write(**changes))


def test_poses_that_cannot_be_are_named_with_their_clip(write, arrays):
    with pytest.raises(InputError, match=r"mine.npz, clip .* of S1: .*metres"):
        load_predictions(write(pose_3d=arrays["pose_3d"] * 1000))
    spoilt = arrays["target_3d"].copy()
    spoilt[5, 3, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        load_predictions(write(target_3d=spoilt))


def test_options_that_do_not_go_together(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("REFINER_DATA", raising=False)
    base = ["--config", "refiner-small", "--output", str(tmp_path / "run")]
    assert main(["refiner", *base, "--from-predictions", "a.npz", "--lifter", "b"]) == 2
    for option in (["--dataset", "human36m"], ["--detections", "cpn"], ["--weight", "idle=0.1"]):
        assert main(["refiner", *base, "--from-predictions", "a.npz", *option]) == 2
        assert "are of archives" in capsys.readouterr().err
    # Without predictions it is a training person of an archive, which must be there.
    assert main(["refiner", *base, "--validation-person", "Ann"]) == 3
    assert "REFINER_DATA is not set" in capsys.readouterr().err


def test_the_command_scores_a_file(write, people, capsys):
    file = write()
    assert evaluate(["--predictions", str(file)]) == 0
    table = {line.split("  ")[0]: line.split()[-2:] for line in capsys.readouterr().out.splitlines()[2:]}
    before, after = (float(value) for value in table["MPJPE (mm)"])
    # 12 mm of jitter in each coordinate and a lean of 30 mm, which the root, the 17th joint, does not have.
    assert 16 / 17 * 30 < before < 16 / 17 * (30 + 12 * np.sqrt(3)) and 0 < after < 200
    assert evaluate(["--predictions", str(file), "--detections", "cpn"]) == 2
    assert "--detections: not for --predictions" in capsys.readouterr().err
    assert evaluate(["--predictions", str(file), "--synthetic", "1"]) == 2
    assert evaluate(["--predictions", str(write(pose_3d=None))]) == 5
    assert "lacks pose_3d" in capsys.readouterr().err
