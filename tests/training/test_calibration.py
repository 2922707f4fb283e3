"""What a refiner's errors look like goes into its checkpoint, and comes out of a stream."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from refiner import Lifter, Refiner, StreamingRefiner, bundled
from refiner.cli.calibrate import main
from refiner.data.synthetic import synthetic_folder
from refiner.diffusion.uncertainty import JointUncertainty
from refiner.errors import UsageError
from refiner.model_files.checkpoint import load_checkpoint
from refiner.training import calibration
from refiner.training.calibration import errors_and_signs, fit_uncertainty, measured, write_uncertainty


def test_errors_corrections_and_speeds():
    rng = np.random.default_rng(0)
    refined, lifted, truth = rng.normal(size=(3, 5, 17, 3))
    error, correction, speed = errors_and_signs(refined, lifted, truth)
    assert error[3, 4] == pytest.approx(np.sqrt(((refined[3, 4] - truth[3, 4]) ** 2).sum()))
    assert correction[2, 9] == pytest.approx(np.sqrt(((refined[2, 9] - lifted[2, 9]) ** 2).sum()))
    assert (speed[0] == 0).all() and speed[4, 1] == pytest.approx(np.linalg.norm(refined[4, 1] - refined[3, 1]))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    folder = synthetic_folder(5, subjects=3, frames=60, actions=("Walking",))
    clips = [*folder.clips("train"), *folder.clips("validation")]
    lifter, refiner = Lifter.load("lifter"), Refiner.load("refiner", threads=1)
    found = fit_uncertainty(clips, lifter, refiner)
    path = tmp_path_factory.mktemp("calibrated") / "refiner.safetensors"
    write_uncertainty(bundled.checkpoint("refiner"), found, path)
    return found, path, clips, lifter, refiner


def test_the_people_it_was_fitted_to_are_covered(calibrated):
    found, _, clips, lifter, refiner = calibrated
    parts = [measured(clip, lifter, refiner) for clip in clips]
    error, correction, speed = (np.concatenate(column) for column in zip(*parts, strict=True))
    half, most = found.coverage(error, found.std(correction, speed))
    assert half == pytest.approx(0.5, abs=0.06) and most == pytest.approx(0.9, abs=0.04)


def test_the_checkpoint_is_the_same_but_for_it(calibrated):
    found, path, *_ = calibrated
    before, after = load_checkpoint(bundled.checkpoint("refiner")), load_checkpoint(path)
    again = JointUncertainty.from_config(after.config.pop("uncertainty"))
    np.testing.assert_allclose(again.coefficients, found.coefficients, atol=1e-6)
    before.config.pop("uncertainty", None)
    assert after.config == before.config
    for name, tensor in before.tensors.items():
        assert after.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(after.tensors[name], tensor)


def test_a_stream_gives_its_spread(calibrated):
    found, path, clips, lifter, _ = calibrated
    clip = clips[0]
    lifted = lifter.lift(clip.pose_2d, clip.image_size)
    live = StreamingRefiner.load(path, "window", threads=1, image_size=clip.image_size)
    frames = [frame for i in range(40) for frame in live.push(clip.pose_2d[i], lifted[i], i / 50)]
    last, before = frames[-1], frames[-2]
    moved = np.linalg.norm(last.pose_3d - lifted[39], axis=-1)
    speed = np.linalg.norm(last.pose_3d - before.pose_3d, axis=-1)
    np.testing.assert_allclose(last.std, found.std(moved, speed), rtol=1e-3)
    assert last.std[0] == 0 and len({tuple(frame.std) for frame in frames[-5:]}) == 5


def test_the_command(tmp_path, capsys, monkeypatch):
    folder = synthetic_folder(5, subjects=3, frames=40, actions=("Walking",))
    monkeypatch.setattr("refiner.data.clips.motion_folder_from_env", lambda: folder)
    out = tmp_path / "out.safetensors"
    words = ["--checkpoint", str(bundled.checkpoint("refiner")), "--output", str(out), "--quiet"]
    assert main(words) == 0
    assert "uncertainty" in load_checkpoint(out).config and "nine tenths within" in capsys.readouterr().out


def test_a_causal_refiner_of_rays_is_calibrated_on_what_a_stream_lifts(tmp_path, capsys, monkeypatch):
    folder = synthetic_folder(5, subjects=3, frames=40, actions=("Walking",))
    monkeypatch.setattr("refiner.data.clips.motion_folder_from_env", lambda: folder)
    measured = []

    def kept(clip, lifter, refiner):
        measured.append((clip, lifter.live, refiner.sees_rays))
        return calibration.errors_and_signs(clip.pose_3d + 0.01, clip.pose_3d, clip.pose_3d)

    monkeypatch.setattr(calibration, "measured", kept)
    out = tmp_path / "out.safetensors"
    assert main(["--checkpoint", "refiner-nano-rays-causal", "--output", str(out), "--quiet"]) == 0
    assert all(live and rays for _, live, rays in measured)
    cameras = {tuple(np.round(clip.lens.translation, 6)) for clip, _, _ in measured}
    assert len(cameras) > len(folder.cameras) and "uncertainty" in load_checkpoint(out).config


def test_nobody_to_calibrate_on():
    with pytest.raises(UsageError, match="no clips"):
        fit_uncertainty([], Lifter.load(), Refiner.load())
