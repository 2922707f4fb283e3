"""Training on real detections: what windows hold, what is refused, and a run by the command."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from refiner.camera import normalise_screen
from refiner.cli.train import main
from refiner.data import Detections, camera_clips
from refiner.data.folder_files import ArchiveFile
from refiner.errors import ArchiveError, ConfigError
from refiner.model_files.checkpoint import load_checkpoint
from refiner.training.config import DataConfig
from refiner.training.runs import train_lifter, train_refiner
from refiner.training.windows import WindowSampler


@pytest.fixture
def detected(people):
    """The people with detections three pixels off the truth."""
    found = {}
    for person, clips in people.positions.items():
        found[person] = {
            key: [c.pose_2d + np.float32(3) for c in camera_clips({person: {key: world}}, people.cameras)]
            for key, world in clips.items()
        }
    return dataclasses.replace(people, detections=Detections(found, {}))


def batch(folder, **data):
    return WindowSampler(folder, DataConfig(**data), 9, 64, 0, ("S1", "S2")).batch(3)


def real_rows(folder, windows, flipped=False):
    """Which windows are cut from the detections as they are."""
    screens = [
        normalise_screen(view, camera.image_size).astype(np.float32)
        for clips in folder.detections.positions.values()
        for views in clips.values()
        for view, camera in zip(views, folder.cameras, strict=True)
    ]
    starts = np.concatenate([screen[:, 5] for screen in screens])
    return [np.abs(starts - window[0, 5]).max(axis=1).min() < 1e-6 for window in windows]


def test_a_share_of_the_windows_has_real_detections(detected):
    still = {"flip": 0.0}
    every = batch(detected, detected=1.0, **still, turn=1.0, stature=0.3, recombine=1.0, new_cameras=1.0)
    assert all(real_rows(detected, every.pose_2d)) and set(every.subjects) == {"S1", "S2"}
    share = np.mean(real_rows(detected, batch(detected, detected=0.5, **still).pose_2d))
    assert 0.3 < share < 0.7
    assert not any(real_rows(detected, batch(detected, **still).pose_2d))


def test_2d_and_3d_stay_together(detected):
    """Whatever is done to a window, its 2D lies three pixels (and no lens) from its 3D."""
    plain, mirrored, reversed_ = (
        batch(detected, detected=1.0, **option)
        for option in ({"flip": 0.0}, {"flip": 1.0}, {"flip": 0.0, "reverse": 1.0})
    )
    for field in ("pose_2d", "pose_3d"):
        np.testing.assert_array_equal(getattr(reversed_, field), getattr(plain, field)[:, ::-1])
        np.testing.assert_allclose(getattr(mirrored, field)[..., 4, 0], -getattr(plain, field)[..., 1, 0], atol=1e-7)
    seen = [clip for person in ("S1", "S2") for clip in camera_clips(detected.positions, detected.cameras, [person])]
    for screen, pose in zip(plain.pose_2d, plain.pose_3d, strict=True):
        distance = min(
            np.abs(clip.pose_3d[start : start + 9] - pose).max()
            + np.abs(normalise_screen(clip.pose_2d[start : start + 9] + np.float32(3), clip.image_size) - screen).max()
            for clip in seen
            for start in [int(np.abs(clip.pose_3d[:112] - pose[0]).max(axis=(1, 2)).argmin())]
        )
        assert distance < 1e-5


def test_windows_that_cannot_be_are_refused(people, detected):
    with pytest.raises(ArchiveError, match="no real detections beside the archive"):
        batch(people, detected=0.5)
    with pytest.raises(ConfigError, match="expected a share"):
        batch(detected, detected=1.5)
    with pytest.raises(ConfigError, match="mixes real detections with simulated"):
        batch(detected, detected=0.5, detections="ground-truth")
    del detected.detections.positions["S2"]["Walking"]
    with pytest.raises(ArchiveError, match="no clip 'Walking' of S2"):
        batch(detected, detected=0.5)


def test_archives_weigh_and_free_ones_have_random_cameras(people):
    files = tuple(
        ArchiveFile(name, {person: people.positions[person]}, cameras, source, weight)
        for name, person, cameras, source, weight in (
            ("a", "S1", people.cameras, "own", 1.0),
            ("b", "S2", (), "random", 0.1),
        )
    )
    cameras = {"S1": people.cameras, "S2": ()}
    windows = batch(dataclasses.replace(people, cameras=cameras, archives=files), detections="ground-truth")
    assert 0 < np.mean(windows.subjects == "S2") < 0.25
    assert np.isfinite(windows.pose_2d).all()


def test_a_lifter_and_a_refiner_train_on_real_detections(detected, tiny, tmp_path):
    data = {"detected": 0.5}
    lifter = train_lifter(tiny("lifter", data=data), detected, tmp_path / "lifter", quiet=True)
    refiner = train_refiner(tiny("refiner", data=data, lifter=str(lifter)), detected, tmp_path / "refiner", quiet=True)
    assert load_checkpoint(refiner).config["data"]["detected"] == 0.5
    nobody = dataclasses.replace(detected.description, validation=())
    with pytest.raises(ConfigError, match="nobody for validation"):
        train_lifter(tiny("lifter"), dataclasses.replace(detected, description=nobody), tmp_path / "none", quiet=True)
    del detected.detections.positions["S5"]
    with pytest.raises(ArchiveError, match="no person 'S5'"):
        train_lifter(tiny("lifter", data=data), detected, tmp_path / "lacking", quiet=True)


def test_the_command_names_what_it_trains_on(detected, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    np.savez(folder / "data_3d_lab.npz", positions_3d=detected.positions)
    np.savez(folder / "data_2d_cpn.npz", positions_2d=detected.detections.positions)
    split = {"train": ["S1", "S2"], "test": ["S5"]}
    (folder / "clips.json").write_text(json.dumps({"fps": 50, "split": split}))
    small = ["model.dim=16", "model.blocks=1", "model.heads=4", "frames=9", "training.steps=2", "training.batch=4"]
    options = [part for value in (*small, "training.threads=1") for part in ("--set", value)]
    common = ["lifter", "--config", "lifter-small", "--data", str(folder), "--validation-person", "S2", *options]
    assert main([*common, "--detections", "cpn", "--output", str(tmp_path / "s1")]) == 5
    assert "the folder names none" in capsys.readouterr().err
    assert main([*common, "--output", str(tmp_path / "plain")]) == 0
    told = capsys.readouterr().err
    assert "data_3d_lab.npz: 3 people" in told and "note: data_2d_cpn.npz validates" in told
    rows = [
        {"id": c.id, "res_w": c.width, "res_h": c.height, "focal_length": c.focal_length.tolist()}
        | {"center": c.center.tolist(), "radial_distortion": c.radial.tolist(), "R": c.rotation.tolist()}
        | {"tangential_distortion": c.tangential.tolist(), "t": c.translation.tolist()}
        for c in detected.cameras
    ]
    (folder / "cameras.json").write_text(json.dumps(rows))
    assert main([*common, "--detections", "cpn", "--output", str(tmp_path / "real")]) == 0
    stored = load_checkpoint(tmp_path / "real" / "best.safetensors").config
    assert stored["data"]["detected"] == 1.0
    assert stored["data_description"]["archives"][0]["detections"] == "data_2d_cpn.npz"
    assert main([*common, "--detections", "hrnet", "--output", str(tmp_path / "x")]) == 5
    assert "no detections 'hrnet'" in capsys.readouterr().err
    for weight, words in (("idle", "expected ARCHIVE=X"), ("idle=0.1", "no archive 'idle'")):
        assert main([*common, "--weight", weight, "--output", str(tmp_path / "x")]) == 2
        assert words in capsys.readouterr().err
