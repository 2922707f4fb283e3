"""``refiner-refine --trajectory``: people in their place, in arrays and in the files of other programs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refiner.camera import look_at_camera
from refiner.cli.refine import main
from refiner.data.synthetic import synthetic_motion
from refiner.trajectory import ANKLE_M, root_trajectory

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
SIZE, FOCAL, FRAMES = (1280, 720), 900.0, 60
# BODY_25 by Human3.6M's joints; the face and the feet were not found.
ORDER = {0: 9, 1: 8, 2: 14, 3: 15, 4: 16, 5: 11, 6: 12, 7: 13, 8: 0, 9: 1, 10: 2, 11: 3, 12: 4, 13: 5, 14: 6}
MODELS = ["--lifter", "lifter-nano-rays", "--checkpoint", "refiner-nano-rays"]
LENS = ["--image-size", "1280", "720", "--focal-length", "900", "--fps", "50"]


@pytest.fixture(scope="module")
def seen():
    """A walk, as a camera sees it that stands 1.6 m high and looks down by 8 degrees."""
    world = np.asarray(synthetic_motion(7, "Walking", FRAMES), dtype=np.float64)
    camera = look_at_camera((5.0, 0.0, 1.6), (0.0, 0.0, 1.6 - 5 * np.tan(np.radians(8))), FOCAL, *SIZE)
    return camera.project(camera.to_camera(world)), camera.to_camera(world)


@pytest.fixture
def folder(seen, tmp_path):
    pixels, _ = seen
    (tmp_path / "json").mkdir()
    for frame, row in enumerate(pixels):
        values = np.zeros((25, 3))
        for joint, source in ORDER.items():
            values[joint] = [*row[source], 0.8]
        people = [] if 20 <= frame < 23 else [{"pose_keypoints_2d": values.ravel().tolist()}]
        (tmp_path / "json" / f"clip_{frame:012d}_keypoints.json").write_text(
            json.dumps({"version": 1.3, "people": people})
        )
    np.save(tmp_path / "2d.npy", pixels)
    return tmp_path


def markers(path):
    """The positions ``(F, 17, 3)`` of a TRC file, by its columns: no code of ours."""
    rows = [line.split("\t")[2:] for line in path.read_text().splitlines()[6:]]
    return np.array([[float(cell) for cell in row] for row in rows]).reshape(len(rows), 17, 3)


def hips_of_bvh(path):
    lines = path.read_text().split("Frame Time:")[1].splitlines()[1:]
    return np.array([[float(word) for word in line.split()[:3]] for line in lines]) / 100.0


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_a_detector_s_people_are_in_their_place(folder, seen, capsys):
    _, truth = seen
    words = [str(folder / "json"), *LENS, *MODELS, "--trajectory", "--output", str(folder / "out")]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "m in front of the camera; the axes are those of the camera, which need not be level" in told
    with np.load(folder / "out" / "person0.npz") as stored:
        root, poses, guessed = stored["root"], stored["refined_pose_3d"], stored["root_guessed"]
        assert stored["body_scale"] == 1.0 and "level_pose_3d" not in stored
    np.testing.assert_array_equal(root, poses[:, 0])
    assert np.flatnonzero(guessed).tolist() == [20, 21, 22]
    # Detected hips lie elsewhere than those of Human3.6M, and the size is the lifter's guess.
    assert np.linalg.norm(root[:, :2] - truth[:, 0, :2], axis=-1).mean() < 0.2
    assert np.abs(root[:, 2] / truth[:, 0, 2] - 1).mean() < 0.15
    # Other programs have y upwards and z towards the camera.
    flipped = poses * [1.0, -1.0, -1.0]
    np.testing.assert_allclose(markers(folder / "out" / "person0.trc"), flipped, atol=1e-5)
    np.testing.assert_allclose(hips_of_bvh(folder / "out" / "person0.bvh"), flipped[:, 0], atol=1e-5)


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_with_the_floor_the_files_are_level(folder, capsys):
    known = ["--camera-pitch", "8", "--camera-height", "1.6", "--person-height", "1.8"]
    words = [str(folder / "json"), *LENS, *MODELS, "--trajectory", *known, "--output", str(folder / "out")]
    assert main(words) == 0
    assert "the floor is 1." in capsys.readouterr().out
    with np.load(folder / "out" / "person0.npz") as stored:
        level, poses, ground = stored["level_pose_3d"], stored["refined_pose_3d"], stored["camera_ground"]
    assert ground[:2].tolist() == [8.0, 0.0] and ground[2] == pytest.approx(1.6, abs=0.15)
    room = markers(folder / "out" / "person0.trc")
    np.testing.assert_allclose(room, level * [1.0, -1.0, -1.0], atol=1e-5)
    assert np.median(room[:, [3, 6], 1].min(axis=1)) == pytest.approx(ANKLE_M, abs=0.03)
    assert (room[:, 10, 1] > 1.4).all() and np.linalg.norm(level[:, 0] - level[:, 8], axis=-1).std() < 0.05
    np.testing.assert_allclose(hips_of_bvh(folder / "out" / "person0.bvh"), room[:, 0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(np.diff(level[0], axis=0), axis=-1).sum(), _length(poses[0]), rtol=1e-4)


def _length(pose):
    return np.linalg.norm(np.diff(pose, axis=0), axis=-1).sum()


def test_arrays_get_their_place(folder, seen, capsys):
    pixels, truth = seen
    np.save(folder / "3d.npy", truth - truth[:, :1])
    words = ["--pose-2d", str(folder / "2d.npy"), *LENS, *MODELS[2:], "--pose-3d", str(folder / "3d.npy")]
    assert main([*words, "--output", str(folder / "plain.npy")]) == 0
    assert main([*words, "--trajectory", "--output", str(folder / "placed.npy")]) == 0
    assert main([*words, "--trajectory", "--camera-pitch", "8", "--output", str(folder / "placed.npz")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "m in front of the camera" not in told[0] and "the axes are those of the camera" in told[1]
    assert "the floor is 1." in told[2]
    relative, placed = np.load(folder / "plain.npy"), np.load(folder / "placed.npy")
    expected = root_trajectory(pixels, relative, SIZE, 50.0, focal_length=FOCAL)
    np.testing.assert_allclose(placed, expected.place(relative), atol=1e-5)
    assert np.linalg.norm(placed[:, 0] - truth[:, 0], axis=-1).mean() < 0.15
    with np.load(folder / "placed.npz") as stored:
        assert set(stored) == {
            "refined_pose_3d",
            "root",
            "root_guessed",
            "body_scale",
            "camera_ground",
            "level_pose_3d",
            "status",
            "reasons",
            "std",
            "guessed",
        }
        np.testing.assert_array_equal(stored["root"], stored["refined_pose_3d"][:, 0])
        assert np.median(stored["level_pose_3d"][:, [3, 6], 1].max(axis=1)) == pytest.approx(-ANKLE_M, abs=0.03)
    # Such a file is a recording of the same person, too.
    assert main([*words, "--same-person", str(folder / "placed.npz"), "--output", str(folder / "shape.npy")]) == 0


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_without_the_lens_the_distance_is_called_a_guess(folder, capsys):
    words = ["--pose-2d", str(folder / "2d.npy"), "--image-size", "1280", "720", *MODELS, "--trajectory"]
    assert main([*words, "--output", str(folder / "placed.npy")]) == 0
    assert "in front of the camera, a guess as long as --focal-length is not given" in capsys.readouterr().out


def test_lifted_arrays_get_their_place(folder, seen):
    words = ["--pose-2d", str(folder / "2d.npy"), *LENS, *MODELS, "--trajectory", "--person-height", "1.8"]
    assert main([*words, "--output", str(folder / "placed.npy")]) == 0
    placed, truth = np.load(folder / "placed.npy"), seen[1]
    assert np.abs(placed[:, 0, 2] / truth[:, 0, 2] - 1).mean() < 0.15


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--person-height", "1.8"], 2, "--person-height belong to --trajectory"),
        (["--camera-pitch", "8", "--camera-roll", "1"], 2, "--camera-pitch, --camera-roll belong to --trajectory"),
        (["--trajectory", "--camera-height", "1.6"], 2, "need --camera-pitch"),
        (["--trajectory", "--camera-roll", "2"], 2, "need --camera-pitch"),
        (["--trajectory", "--camera-pitch", "95"], 5, "pitch is 95"),
        (["--trajectory", "--camera-pitch", "8", "--camera-height", "1600"], 5, "height is 1600"),
        (["--trajectory", "--person-height", "180"], 5, "divide centimetres by 100"),
        (["--trajectory", "--camera-pitch", "-25", "--camera-height", "1.6"], 5, "a positive pitch where the camera"),
    ],
)
def test_what_does_not_go_together(folder, capsys, words, code, message):
    arrays = ["--pose-2d", str(folder / "2d.npy"), *LENS, *MODELS, *words, "--output", str(folder / "never.npy")]
    assert main(arrays) == code
    assert message in capsys.readouterr().err and not (folder / "never.npy").exists()


def test_a_person_without_a_place_is_left_out(folder, capsys):
    wrong = ["--camera-pitch", "-25", "--camera-height", "1.6"]
    given = [str(folder / "json"), *LENS, *MODELS, "--trajectory", *wrong, "--output", str(folder / "out")]
    assert main(given) == 5
    assert "person 0 has no place and is left out: a pitch of -25 degrees puts the feet" in capsys.readouterr().err
    assert not list((folder / "out").iterdir())


def test_a_height_in_centimetres_is_refused_before_the_work_begins(folder, capsys):
    given = [str(folder / "json"), *LENS, "--trajectory", "--person-height", "180", "--output", str(folder / "out")]
    assert main(given) == 5
    assert "divide centimetres by 100" in capsys.readouterr().err and not (folder / "out").exists()
