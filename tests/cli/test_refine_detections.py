"""``refiner-refine INPUT``: a detector's file in, a folder of people out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refiner import Lifter
from refiner.cli.refine import main
from refiner.data.synthetic import synthetic_motion
from refiner.skeleton import BODY25

pytest.importorskip("torch", reason="PyTorch is not installed")
SIZE, FOCAL = (1280, 720), 900.0
# BODY_25 by Human3.6M's joints; the face and the feet were not found.
ORDER = {0: 9, 1: 8, 2: 14, 3: 15, 4: 16, 5: 11, 6: 12, 7: 13, 8: 0, 9: 1, 10: 2, 11: 3, 12: 4, 13: 5, 14: 6}
MODELS = ["--lifter", "lifter-nano-rays", "--checkpoint", "refiner-nano-rays"]


def seen(frames=40):
    motion = np.asarray(synthetic_motion(3, "Walking", frames), dtype=np.float64)
    body = motion[..., [0, 2, 1]] * [1, -1, 1]
    body += [0, 0, 5] - body[:, :1].mean(axis=0)
    return (FOCAL * body[..., :2] / body[..., 2:] + np.array(SIZE) / 2).round(3)


def person(pose, shift=0.0, drop=()):
    values = np.zeros((25, 3))
    for joint, source in ORDER.items():
        values[joint] = [*(pose[source] + [shift, 0]), 0.8]
    values[list(drop)] = 0
    return {"person_id": [-1], "pose_keypoints_2d": [float(value) for value in values.ravel()]}


@pytest.fixture
def openpose(tmp_path):
    """40 frames: nobody in two of them, one joint lost for a while, somebody else first in the list for a while."""
    folder, pose = tmp_path / "json", seen()
    folder.mkdir()
    for frame, row in enumerate(pose):
        people = [] if frame in (20, 21) else [person(row, drop=(4,) if 25 <= frame < 30 else ())]
        if 10 <= frame < 15:
            people.insert(0, person(pose[0], -400))
        file = folder / f"video_{frame:012d}_keypoints.json"
        file.write_text(json.dumps({"version": 1.3, "people": people}))
    return folder


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_openpose_s_folder_becomes_people(openpose, tmp_path, capsys):
    words = [str(openpose), "--image-size", "1280", "720", "--fps", "50", "--focal-length", "900", *MODELS]
    assert main([*words, "--output", str(tmp_path / "people")]) == 0
    told = capsys.readouterr().out
    assert "OpenPose: 40 frames, body25" in told and "person 0: 40 frames refined" in told
    assert sorted(file.name for file in (tmp_path / "people").iterdir()) == [
        f"person{number}.{ending}" for number in (0, 1) for ending in ("bvh", "npz", "trc")
    ]
    with np.load(tmp_path / "people" / "person0.npz") as stored:
        found, guessed = stored["refined_pose_3d"], stored["guessed"]
    # As from the arrays themselves, with what was lost left out.
    keypoints, sure = np.full((40, 25, 2), np.nan), np.zeros((40, 25))
    for frame, row in enumerate(seen()):
        for joint, source in ORDER.items():
            if frame not in (20, 21) and not (joint == 4 and 25 <= frame < 30):
                keypoints[frame, joint], sure[frame, joint] = row[source], 0.8
    lens = {"fps": 50.0, "focal_length": FOCAL, "confidence": sure, "joints": BODY25.name}
    lifted = Lifter.load("lifter-nano-rays").lift(keypoints, SIZE, **lens)
    assert np.isfinite(found).all() and np.linalg.norm(found - lifted, axis=-1).mean() < 0.05
    assert guessed[20:22].all() and guessed[25:30, 16].all() and not guessed[:20, 1:9].any()
    # The one who was there for five frames.
    with np.load(tmp_path / "people" / "person1.npz") as stored:
        assert stored["parts"].tolist() == [[10, 15]] and np.isnan(stored["refined_pose_3d"][15:]).all()


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_one_person_is_chosen(openpose, tmp_path):
    words = [str(openpose), "--image-size", "1280", "720", "--fps", "50", *MODELS, "--person", "1"]
    assert main([*words, "--output", str(tmp_path / "people")]) == 0
    assert {file.stem for file in (tmp_path / "people").iterdir()} == {"person1"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "either INPUT (a video, a detector's file) or --pose-2d"),
        (["FOLDER", "--pose-2d", "a.npy"], 2, "one of them alone"),
        (["FOLDER", "--fps", "50"], 2, "give --image-size"),
        (["FOLDER", "--image-size", "1280", "720"], 2, "give --fps"),
        (["FOLDER", "--image-size", "1280", "720", "--fps", "50", "--confidence", "a"], 2, "--confidence belong to"),
        (["FOLDER", "--image-size", "1280", "720", "--fps", "50", "--person", "7"], 2, "there is no person 7"),
        (["FOLDER", "--image-size", "1280", "720", "--fps", "0"], 2, "--fps: expected 1 to 1000"),
        (["FOLDER", "--image-size", "1280", "720", "--fps", "50", "--joints", "coco17"], 2, "--joints belongs to"),
        (["none.json", "--image-size", "1280", "720", "--fps", "50"], 5, "there is no file or folder"),
        (["--pose-2d", "a.npy"], 2, "needs --image-size"),
        (["--pose-2d", "a.npy", "--image-size", "1", "1", "--person", "0"], 2, "choose from INPUT"),
    ],
)
@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_what_does_not_go_together(openpose, tmp_path, capsys, words, code, message):
    words = [str(openpose) if word == "FOLDER" else word for word in words]
    assert main([*words, *MODELS, "--output", str(tmp_path / "out")]) == code
    assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_ghosts_do_not_end_the_run_and_results_are_not_mixed(openpose, tmp_path, capsys):
    """Feet alone, a body at the edge of the world and one in a corner pixel: the person is refined all the same."""
    far, corner = np.zeros((25, 3)), np.zeros((25, 3))
    far[:, :] = [1e5, 1e5, 0.5]
    corner[:, :] = [1.2, 1.3, 0.5]
    feet = np.zeros((25, 3))
    feet[19:25] = [[300 + 9 * i, 600, 0.7] for i in range(6)]
    for file in sorted(openpose.iterdir()):
        content = json.loads(file.read_text())
        content["people"] += [{"pose_keypoints_2d": ghost.ravel().tolist()} for ghost in (far, corner, feet)]
        file.write_text(json.dumps(content))
    words = [str(openpose), "--image-size", "1280", "720", "--fps", "50", "--focal-length", "900", *MODELS]
    assert main([*words, "--output", str(tmp_path / "people")]) == 0
    told = capsys.readouterr()
    assert "40 frames refined" in told.out
    assert main([*words, "--output", str(tmp_path / "people")]) == 2
    assert "people of another run" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
@pytest.mark.parametrize(
    ("kept", "message"), [((2, 3, 4), "show nobody"), ((0, 1, 2, 5, 15, 16, 17, 18), "shows nobody well enough")]
)
def test_a_file_whose_people_are_all_left_out_is_bad_input(openpose, tmp_path, capsys, kept, message):
    """Three joints are no person; a head and shoulders are no pose."""
    for file in openpose.iterdir():
        content = json.loads(file.read_text())
        for entry in content["people"]:
            values = np.zeros((25, 3))
            values[list(kept)] = [[300 + 9 * joint, 200 + 4 * joint, 0.8] for joint in kept]
            entry["pose_keypoints_2d"] = values.ravel().tolist()
        file.write_text(json.dumps(content))
    words = [str(openpose), "--image-size", "1280", "720", "--fps", "50", "--focal-length", "900", *MODELS]
    assert main([*words, "--output", str(tmp_path / "people")]) == 5
    assert message in capsys.readouterr().err
