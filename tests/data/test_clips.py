"""Camera clips from archives, and folders of motion."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refiner.camera import human36m_cameras
from refiner.data.archives import Detections
from refiner.data.clips import action_of, camera_clips, motion_folder_from_env, open_motion_folder
from refiner.data.detector import DetectorModel, detector_rng
from refiner.errors import ArchiveError, ConfigError, InputWarning, LengthError, MissingComponentError, UsageError
from refiner.skeleton import from_h36m17

CLIPS = {"fps": 50, "split": {"train": ["S5", "S6"], "test": ["S2"]}}
FRAMES = {"S5": {"Walking": 6}, "S6": {"Walking": 4, "Walking 1": 9}, "S2": {"Sitting Down 3": 5}}


def archive(seed=0):
    rng = np.random.default_rng(seed)
    return {
        subject: {
            key: np.concatenate(
                [rng.uniform(-1, 1, (frames, 17, 2)), rng.uniform(0, 2, (frames, 17, 1))], axis=-1
            ).astype(np.float32)
            for key, frames in clips.items()
        }
        for subject, clips in FRAMES.items()
    }


def detections(extra=0, cameras=4):
    """A few pixels off what the cameras see; frames beyond the archive's repeat the last one."""
    rng = np.random.default_rng(9)
    found = {subject: {key: [] for key in clips} for subject, clips in FRAMES.items()}
    for clip in camera_clips(archive(), human36m_cameras()[:cameras]):
        frames = np.minimum(np.arange(clip.frames + extra), clip.frames - 1)
        noise = rng.uniform(-3, 3, (len(frames), 17, 2))
        found[clip.subject][clip.key].append((clip.pose_2d_clean[frames] + noise).astype(np.float32))
    return Detections(found, {})


@pytest.fixture
def folder(tmp_path):
    np.savez_compressed(tmp_path / "data_3d_cmu.npz", positions_3d=archive())
    (tmp_path / "clips.json").write_text(json.dumps(CLIPS))
    return tmp_path


def test_every_clip_is_seen_by_every_camera():
    people, cameras = archive(), human36m_cameras()
    clips = camera_clips(people, cameras, ["S6", "S2"])
    assert [(c.subject, c.key, c.camera) for c in clips[:5]] == [
        *(("S6", "Walking", camera.id) for camera in cameras),
        ("S6", "Walking 1", cameras[0].id),
    ]
    assert [clip.action for clip in clips[::4]] == ["Walking", "Walking", "Sitting"]
    clip, camera, world = clips[6], cameras[2], people["S6"]["Walking 1"].astype(np.float64)
    points = world @ camera.rotation.T + camera.translation
    np.testing.assert_allclose(clip.pose_3d, points - points[:, :1], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(clip.pose_3d[:, 0], 0.0)
    np.testing.assert_allclose(clip.pose_2d_clean, camera.project(points), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(clip.pose_2d, clip.pose_2d_clean)
    assert (clip.image_size, clip.fps, clip.frames) == ((1000, 1000), 50.0, 9)
    assert {a.dtype for a in (clip.pose_2d, clip.pose_2d_clean, clip.pose_3d)} == {np.dtype(np.float32)}


def test_cameras_may_differ_from_person_to_person():
    people = archive()
    cameras = {subject: human36m_cameras(subject)[:2] for subject in ("S5", "S6")}
    clips = camera_clips(people, cameras, ["S5", "S6"])
    assert len(clips) == 6
    expected = cameras["S6"][1].project(cameras["S6"][1].to_camera(people["S6"]["Walking"]))
    np.testing.assert_allclose(clips[3].pose_2d, expected, rtol=0, atol=1e-2)
    with pytest.raises(ArchiveError, match="no cameras for 'S2'; there are for: S5, S6"):
        camera_clips(people, cameras)


def test_simulated_detections_follow_the_seed_rule():
    people, cameras, detector = archive(), human36m_cameras(), DetectorModel.default()
    clips = camera_clips(people, cameras, detector=detector, seed=4)
    clip = clips[7]
    assert (clip.subject, clip.key, clip.camera) == ("S6", "Walking", cameras[3].id)
    projected = cameras[3].project(cameras[3].to_camera(people["S6"]["Walking"].astype(np.float64)))
    expected = detector.detect(projected, detector_rng(4, "S6", "Walking", 3))
    np.testing.assert_array_equal(clip.pose_2d, expected.astype(np.float32))
    # Taking fewer people does not change anybody's detections; the model's own seed is the default.
    alone = camera_clips(people, cameras, ["S6"], detector=detector, seed=4)
    np.testing.assert_array_equal(alone[3].pose_2d, clip.pose_2d)
    default = camera_clips(people, cameras, detector=detector)
    own = camera_clips(people, cameras, detector=detector, seed=detector.seed)
    np.testing.assert_array_equal(default[0].pose_2d, own[0].pose_2d)


@pytest.mark.parametrize("extra", [0, 3])
def test_detections_are_cropped_to_the_3d_frames(extra):
    found = detections(extra)
    clips = camera_clips(archive(), human36m_cameras(), ["S6"], found)
    np.testing.assert_array_equal(clips[5].pose_2d, found.positions["S6"]["Walking 1"][1][:9])
    assert not np.array_equal(clips[5].pose_2d, clips[5].pose_2d_clean)


def test_detections_that_do_not_fit_are_refused():
    people, cameras, found = archive(), human36m_cameras(), detections().positions
    with pytest.raises(LengthError, match="camera 0: 5 frames of detections for 6 of 3D"):
        camera_clips(people, cameras, ["S5"], detections(-1))
    with pytest.raises(ArchiveError, match="detections of 3 cameras, expected 4"):
        camera_clips(people, cameras, ["S5"], detections(cameras=3))
    lacking = detections()
    del lacking.positions["S6"]["Walking 1"]
    with pytest.raises(ArchiveError, match="no clip 'Walking 1' of S6"):
        camera_clips(people, cameras, ["S6"], lacking)
    for wrong in (
        Detections({"S6": {k: [from_h36m17(v, "coco17") for v in views] for k, views in found["S6"].items()}}, {}),
        Detections({"S6": {k: views[::-1] for k, views in found["S6"].items()}}, {}, "data_2d_x.npz"),
    ):
        with pytest.raises(ArchiveError, match=f"^{wrong.source}.*detections of S6 .* Human3.6M's 17 joints"):
            camera_clips(people, cameras, ["S6"], wrong)
    with pytest.raises(ArchiveError, match="no person 'S99'; it has: S5, S6, S2"):
        camera_clips(people, cameras, ["S99"])
    with pytest.raises(UsageError, match="not both"):
        camera_clips(people, cameras, ["S5"], detections(), DetectorModel.default())


def test_actions_are_the_first_word():
    assert [action_of(key) for key in ("Walking", "Walking 12", "Walking 1.54138969")] == ["Walking"] * 3


def test_a_folder_opens_with_the_bundled_cameras_and_detector(folder):
    opened = open_motion_folder(folder)
    assert opened.description.train == ("S6",)
    assert [clip.subject for clip in opened.clips("validation")] == ["S5"] * 4
    assert {clip.subject for clip in opened.clips()} == {"S2", "S5", "S6"}
    assert [clip.key for clip in opened.clips("test", detected=False)] == ["Sitting Down 3"] * 4
    assert len(opened.clips("all", subjects=["S6"])) == 8
    clip = opened.clips("test")[0]
    assert not np.array_equal(clip.pose_2d, clip.pose_2d_clean)
    again = opened.clips("test", seed=opened.detector.seed)[0]
    np.testing.assert_array_equal(clip.pose_2d, again.pose_2d)
    assert not np.array_equal(clip.pose_2d, opened.clips("test", seed=1)[0].pose_2d)
    with pytest.raises(UsageError, match="no part 'dev'"):
        opened.clips("dev")


def test_a_folders_own_files_come_first(folder):
    row = {"id": "own", "res_w": 640, "res_h": 480, "focal_length": [500, 500], "center": [320, 240]}
    row |= {"radial_distortion": [0, 0, 0], "tangential_distortion": [0, 0]}
    row |= {"R": [[1, 0, 0], [0, 0, -1], [0, 1, 0]], "t": [0, 1, 5]}
    (folder / "cameras.json").write_text(json.dumps({"cameras": [row]}))
    opened = open_motion_folder(folder, validation=None)
    assert opened.description.train == ("S5", "S6")
    assert [(clip.camera, clip.image_size) for clip in opened.clips("test")] == [("own", (640, 480))]
    (folder / "detector_noise.json").write_text("{}")
    with pytest.raises(ConfigError, match="no detector model"):
        open_motion_folder(folder)


def test_detections_in_the_folder_are_used_unless_told_otherwise(folder):
    np.savez(folder / "data_2d_cmu_gt.npz", positions_2d=detections().positions)
    assert open_motion_folder(folder).detections is None
    found = detections(2)
    np.savez(folder / "data_2d_cmu_cpn.npz", positions_2d=found.positions)
    opened = open_motion_folder(folder)
    np.testing.assert_array_equal(opened.clips("test")[2].pose_2d, found.positions["S2"]["Sitting Down 3"][2][:5])
    clean = opened.clips("test", detected=False)[2]
    np.testing.assert_array_equal(clean.pose_2d, clean.pose_2d_clean)
    assert open_motion_folder(folder, detections="simulated").detections is None
    for name in ("cmu_gt", "data_2d_cmu_gt.npz"):
        assert open_motion_folder(folder, detections=name).detections is not None
    np.savez(folder / "data_2d_cmu_hrnet.npz", positions_2d=found.positions)
    with pytest.raises(UsageError, match="several detectors"):
        open_motion_folder(folder)
    with pytest.raises(ArchiveError, match=r"no detections 'alphapose'; found data_2d_cmu_cpn\.npz"):
        open_motion_folder(folder, detections="alphapose")


def by_key(folder):
    """Subject -> key -> the clips of all cameras."""
    found = {}
    for clip in folder.clips("all", detected=False):
        found.setdefault(clip.subject, {}).setdefault(clip.key, []).append(clip)
    return found


def test_human36m_is_chosen_by_name_only(tmp_path):
    people = archive()["S6"]
    np.savez(
        tmp_path / "data_3d_h36m.npz",
        positions_3d=dict.fromkeys(("S1", "S5", "S6", "S7", "S8", "S9", "S11"), people),
    )
    with pytest.raises(ArchiveError, match=r"no clips\.json"):
        open_motion_folder(tmp_path)
    opened = open_motion_folder(tmp_path, dataset="human36m")
    assert opened.description.test == ("S9", "S11")
    # Every person has their own extrinsics.
    clips = opened.clips("test", detected=False)
    expected = human36m_cameras("S11")[0].to_camera(people["Walking"])
    np.testing.assert_allclose(clips[8].pose_3d, expected - expected[:, :1], rtol=0, atol=1e-5)
    assert not np.allclose(clips[0].pose_3d, clips[8].pose_3d, atol=1e-3)
    # HumanEva's files lie beside Human3.6M's in VideoPose3D's folder.
    np.savez(tmp_path / "data_3d_humaneva15.npz", positions_3d={"Train/S1": {"Walking 1": np.ones((5, 15, 3))}})
    np.savez(tmp_path / "data_2d_humaneva15_gt_x.npz", positions_2d={"Train/S1": {"Walking 1": []}})
    found = {who: {k: [c.pose_2d for c in views] for k, views in keys.items()} for who, keys in by_key(opened).items()}
    np.savez(tmp_path / "data_2d_h36m_cpn.npz", positions_2d=found)
    with pytest.warns(InputWarning, match=r"data_3d_humaneva15\.npz is left out: .* has 15 joints"):
        beside = open_motion_folder(tmp_path, dataset="human36m")
    assert [archive.name for archive in beside.archives] == ["data_3d_h36m.npz"]
    np.testing.assert_array_equal(beside.clips("test")[8].pose_2d, opened.clips("test", detected=False)[8].pose_2d)
    with pytest.raises(UsageError, match="'humaneva' is not known"):
        open_motion_folder(tmp_path, dataset="humaneva")


def test_a_folder_that_lacks_something_is_refused(tmp_path, folder):
    with pytest.raises(ArchiveError, match="there is no folder"):
        open_motion_folder(folder / "none")
    (folder / "clips.json").write_text(json.dumps({"fps": 50, "split": {"train": ["S5", "S6"], "test": ["S77"]}}))
    with pytest.raises(ArchiveError, match=r"lacks S77 of the split"):
        open_motion_folder(folder)
    np.savez(folder / "data_3d_other.npz", positions_3d=archive())
    with pytest.raises(
        ArchiveError, match=r"everybody of the split .*S77.* none of data_3d_cmu\.npz, data_3d_other\.npz"
    ):
        open_motion_folder(folder)
    (folder / "clips.json").write_text(json.dumps(CLIPS))
    with pytest.raises(ArchiveError, match=r"S5 is in data_3d_cmu\.npz and in data_3d_other\.npz"):
        open_motion_folder(folder)
    for file in folder.glob("data_3d_*.npz"):
        file.unlink()
    with pytest.raises(ArchiveError, match=r"should hold one data_3d_\*\.npz or several; found none"):
        open_motion_folder(folder)


def test_the_environment_variable_names_the_folder(folder, monkeypatch):
    monkeypatch.setenv("REFINER_DATA", str(folder))
    assert motion_folder_from_env(validation="S6").description.validation == ("S6",)
    monkeypatch.delenv("REFINER_DATA")
    with pytest.raises(MissingComponentError, match="REFINER_DATA is not set"):
        motion_folder_from_env()
