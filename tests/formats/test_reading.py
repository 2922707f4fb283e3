"""Files of detectors: each layout is recognised by its content, and what is malformed is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refiner.errors import ArchiveError, UnitError, UsageError
from refiner.formats import read_detections

FRAMES = 6


def pose(joints, frame=0, seed=0):
    """(J, 2) pixels and (J,) confidences that differ for every frame."""
    rng = np.random.default_rng([seed, frame])
    points, sure = rng.uniform(10, 900, (joints, 2)).round(3), rng.uniform(0.2, 1.0, joints).round(3)
    if joints == 18:  # the neck lies between the shoulders
        points[1] = points[[2, 5]].mean(axis=0)
    return points, sure


def flat(joints, frame=0, seed=0):
    points, sure = pose(joints, frame, seed)
    return [float(value) for value in np.concatenate([points, sure[:, None]], axis=1).ravel()]


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def openpose_folder(folder, joints=25):
    folder.mkdir()
    for frame in range(FRAMES):
        people = [{"person_id": [-1], "pose_keypoints_2d": flat(joints, frame)}] if frame != 2 else []
        write(folder / f"walk_{frame:012d}_keypoints.json", {"version": 1.3, "people": people})
    return folder


def results(joints=17):
    people = [
        {"image_id": f"{frame}.jpg", "category_id": 1, "keypoints": flat(joints, frame), "score": 2.0, "idx": [3]}
        for frame in range(FRAMES)
        if frame != 2
    ]
    return people[::-1]  # the order of the entries is not that of the frames


def of_images(form, joints=18):
    """AlphaPose's --format open and cmu, with the neck between the shoulders."""
    name = {"people": "pose_keypoints_2d", "bodies": "joints"}[form]
    images = {}
    for frame in range(FRAMES):
        if frame != 2:
            images[f"{frame}.jpg"] = {"version": "AlphaPose v0.3", form: [{name: flat(joints, frame)}]}
    return images


def annotations():
    images = [{"id": 7 + f, "file_name": f"x_{f:04d}.png", "width": 640, "height": 480} for f in range(FRAMES)]
    people = []
    for frame in range(FRAMES):
        if frame != 2:
            points, _ = pose(17, frame)
            marks = np.full(17, 2.0)
            people.append({"image_id": 7 + frame, "keypoints": np.c_[points, marks].ravel().tolist(), "track_id": 3})
    return {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}


def mmpose(headed=True):
    frames = []
    for frame in range(FRAMES):
        points, sure = pose(17, frame)
        instance = {"keypoints": points.tolist(), "keypoint_scores": sure.tolist(), "track_id": 3}
        frames.append({"frame_id": frame, "instances": [instance] if frame != 2 else []})
    return {"meta_info": {"dataset_name": "coco"}, "instance_info": frames} if headed else frames


def mediapipe():
    frames = []
    for frame in range(FRAMES):
        points, sure = pose(33, frame)
        landmarks = [
            {"x": x / 1000, "y": y / 1000, "z": 0.1, "visibility": c} for (x, y), c in zip(points, sure, strict=True)
        ]
        frames.append({"pose_landmarks": {"landmark": landmarks}} if frame != 2 else {"pose_landmarks": None})
    return frames


def custom(path, layout="coco", videos=("walk.mp4",), changes=None, **video):
    poses = np.stack([pose(17, frame)[0] for frame in range(FRAMES)])
    metadata = {
        "layout_name": layout,
        "num_joints": 17,
        "video_metadata": {name: {"w": 640, "h": 480} | video for name in videos},
    } | (changes or {})
    np.savez(path, positions_2d={name: {"custom": [poses]} for name in videos}, metadata=metadata)
    return path


CASES = {
    "OpenPose, BODY_25": (lambda tmp: openpose_folder(tmp / "frames"), "body25", None, False),
    "OpenPose, COCO": (lambda tmp: openpose_folder(tmp / "frames", 18), "coco18", None, False),
    "AlphaPose, COCO": (lambda tmp: write(tmp / "a.json", results()), "coco17", None, False),
    "AlphaPose, Halpe": (lambda tmp: write(tmp / "a.json", results(26)), "halpe26", None, False),
    "AlphaPose, open": (lambda tmp: write(tmp / "a.json", of_images("people")), "coco18", None, False),
    "AlphaPose, cmu": (lambda tmp: write(tmp / "a.json", of_images("bodies")), "coco18", None, False),
    "COCO annotations": (lambda tmp: write(tmp / "a.json", annotations()), "coco17", (640.0, 480.0), False),
    "MMPose": (lambda tmp: write(tmp / "a.json", mmpose()), "coco17", None, False),
    "MMPose, no header": (lambda tmp: write(tmp / "a.json", mmpose(headed=False)), "coco17", None, False),
    "MediaPipe": (lambda tmp: write(tmp / "a.json", mediapipe()), "mediapipe33", None, True),
    "VideoPose3D": (lambda tmp: custom(tmp / "a.npz"), "coco17", (640.0, 480.0), False),
}


@pytest.mark.parametrize("case", CASES)
def test_every_layout_is_recognised_by_its_content(tmp_path, case):
    make, joints, size, shares = CASES[case]
    path = make(tmp_path)
    if path.is_file():  # the name says nothing
        path = path.rename(tmp_path / "poses.dat")
    found = read_detections(path)
    assert (found.joints.name, found.image_size, found.shares) == (joints, size, shares)
    assert len(found.frames) == FRAMES
    for frame, people in enumerate(found.frames):
        if frame == 2 and case != "VideoPose3D":
            assert people == ()
            continue
        (person,) = people
        points, sure = pose(found.joints.joints, frame)
        np.testing.assert_allclose(person.keypoints, points / (1000 if shares else 1))
        if case not in ("COCO annotations", "VideoPose3D"):
            np.testing.assert_allclose(person.confidence, sure)
        if not case.startswith(("OpenPose", "MediaPipe", "AlphaPose, open", "AlphaPose, cmu")):
            assert person.track in (0, 3)


def test_joints_that_were_not_found_are_missing(tmp_path):
    values = flat(25)
    values[:3], values[3:6], values[6:9] = [0.0, 0.0, 0.0], [-1.0, -1.0, 0.4], [5.0, 6.0, 0.0]
    content = {"version": 1.3, "people": [{"pose_keypoints_2d": values}]}
    (person,) = read_detections(write(tmp_path / "a.json", content)).frames[0]
    assert np.isnan(person.keypoints[:3]).all() and (person.confidence[:3] == 0).all()
    assert np.isfinite(person.keypoints[3:]).all() and (person.confidence[3:] > 0).all()


def test_shares_become_pixels_by_the_size_of_the_image(tmp_path):
    found = read_detections(write(tmp_path / "a.json", mediapipe()))
    pixels = found.in_pixels((640, 480))
    points, _ = pose(33, 1)
    np.testing.assert_allclose(pixels.frames[1][0].keypoints, points / 1000 * [640, 480])
    assert pixels.image_size == (640, 480) and not pixels.shares
    with pytest.raises(UnitError, match="give the image's size"):
        found.in_pixels()
    with pytest.raises(UnitError, match="640 x 480 pixels, not 480 x 640"):
        read_detections(write(tmp_path / "b.json", annotations())).in_pixels((480, 640))


def test_a_video_is_chosen_by_its_name(tmp_path):
    path = custom(tmp_path / "a.npz", videos=("one.mp4", "two.mp4"))
    with pytest.raises(UsageError, match=r"one\.mp4, two\.mp4"):
        read_detections(path)
    assert len(read_detections(path, "two.mp4").frames) == FRAMES


def broken_annotation():
    content = annotations()
    content["annotations"][1]["image_id"] = 99
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "layout of no detector"),
        ([], "layout of no detector"),
        ([1, 2, 3], "layout of no detector"),
        ({"version": 1.3, "people": []}, "broken.json: OpenPose saw nobody"),
        ({"version": 1.3, "people": [{"pose_keypoints_2d": [1.0] * 30}]}, "10 joints, expected 25"),
        ({"version": 1.3, "people": [{"pose_keypoints_2d": ["a"] * 75}]}, "expected numbers"),
        ({"version": 1.3, "people": [{"pose_keypoints_2d": ["7"] * 75}]}, "expected numbers, got '7'"),
        ([{"image_id": 1, "keypoints": [5.0, 6.0, True] * 17}], "expected numbers, got 'True'"),
        (
            [{"instances": [{"keypoints": [[1.0, 2.0]] * 17, "keypoint_scores": ["1"] * 17}]}],
            "expected numbers, got '1'",
        ),
        ({"version": 1.3, "people": [{}]}, "person 0: there is no 'pose_keypoints_2d'"),
        ({"version": 1.3, "people": [7]}, "person 0: there is no"),
        ([{"image_id": "a.jpg", "keypoints": [1.0] * 51}], "no number that would order"),
        ([{"image_id": 1, "keypoints": [1.0] * 50}], "x, y, confidence"),
        ([{"image_id": 1, "keypoints": [1.0] * 30}], "10 joints, expected 16 .MPII., 17"),
        ([{"image_id": 1, "keypoints": [1.0] * 51}, {"image_id": 2, "keypoints": [1.0] * 78}], "as before"),
        ([{"image_id": 1, "keypoints": [1.0] * 51}, {"image_id": 10**9, "keypoints": [1.0] * 51}], "numbers from 1 to"),
        ({"meta_info": {"dataset_name": "ap10k"}, "instance_info": [{"instances": []}]}, "keypoints of ap10k"),
        ([{"instances": [{"keypoints": [[1.0, 2.0]] * 17, "keypoint_scores": [1.0] * 16}]}], r"shape \(16,\)"),
        ([{"instances": []}], "shows nobody"),
        (broken_annotation(), "no image 99"),
    ],
)
def test_what_is_malformed_is_refused_by_name(tmp_path, content, message):
    path = write(tmp_path / "broken.json", content)
    with pytest.raises(ArchiveError, match=message):
        read_detections(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 5000 + b"]",
        b"9" * 400,
        b'{"people": [], "people": []}',
        b"\0" * 9,
    ],
)
def test_what_is_no_json_is_refused(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="is no JSON"):
        read_detections(path)


def test_other_names_of_keypoints_are_refused(tmp_path):
    content = annotations() | {"categories": [{"keypoints": ["tail"] * 17}]}
    with pytest.raises(ArchiveError, match="has the keypoints tail"):
        read_detections(write(tmp_path / "a.json", content))


def test_folders_and_archives_of_something_else(tmp_path):
    with pytest.raises(ArchiveError, match="there is no file or folder"):
        read_detections(tmp_path / "none")
    with pytest.raises(ArchiveError, match="holds no NAME_"):
        read_detections(tmp_path)
    folder = openpose_folder(tmp_path / "frames")
    write(folder / "jump_000000000000_keypoints.json", {"version": 1.3, "people": []})
    with pytest.raises(ArchiveError, match="several videos: jump, walk"):
        read_detections(folder)
    np.savez(tmp_path / "a.npz", poses=np.zeros(3))
    with pytest.raises(ArchiveError, match="holds poses; expected"):
        read_detections(tmp_path / "a.npz")
    with pytest.raises(ArchiveError, match="layout 'openpose'"):
        read_detections(custom(tmp_path / "b.npz", "openpose"))


@pytest.mark.parametrize(
    "names",
    [
        [f"frame_{i:04d}_1080p.jpg" for i in range(5, 9)],
        [f"frame{i:03d}_v2.jpg" for i in range(5, 9)],
        [f"frame_{i:04d}_jpg.rf.{'9a7b3c1d'[i - 5 :]}.jpg" for i in range(5, 9)],
        list(range(5, 9)),
    ],
)
def test_frames_are_ordered_by_the_number_that_differs(tmp_path, names):
    people = [{"image_id": name, "keypoints": flat(17, frame)} for frame, name in enumerate(names)]
    found = read_detections(write(tmp_path / "a.json", people[::-1]))
    assert found.first_frame == 5 and [len(people) for people in found.frames] == [1, 1, 1, 1]
    for frame, (person,) in enumerate(found.frames):
        np.testing.assert_allclose(person.keypoints, pose(17, frame)[0])


@pytest.mark.parametrize(
    "names", [["a1_x2.jpg", "a1_y2.jpg"], ["1" * 19 + ".jpg", "2" * 19 + ".jpg"], ["left.jpg", "right.jpg"]]
)
def test_names_without_an_order_are_refused(tmp_path, names):
    people = [{"image_id": name, "keypoints": flat(17)} for name in names]
    with pytest.raises(ArchiveError, match=r"frame number|no number that would order"):
        read_detections(write(tmp_path / "a.json", people))


def test_openpose_says_which_frame_is_the_first(tmp_path):
    folder = openpose_folder(tmp_path / "frames")
    for file in sorted(folder.iterdir())[:2]:
        file.unlink()  # frames 0 and 1; frame 2 shows nobody
    assert read_detections(folder).first_frame == 2


def test_mediapipe_with_several_people(tmp_path):
    one, two = mediapipe()[0]["pose_landmarks"]["landmark"], mediapipe()[1]["pose_landmarks"]["landmark"]
    found = read_detections(write(tmp_path / "a.json", [{"landmarks": [one]}, {"landmarks": [one, two]}, []]))
    assert [len(people) for people in found.frames] == [1, 2, 0]


@pytest.mark.parametrize(
    "content",
    [
        annotations() | {"categories": 3},
        annotations() | {"images": [{"id": 7, "width": 10**400, "height": 2}]},
        [{"image_id": 1, "keypoints": [1e200] * 51}, {"image_id": 2, "keypoints": [[1]] * 51}],
        [{"instances": 3}],
    ],
)
def test_damage_of_any_kind_is_an_error_of_ours(tmp_path, content):
    text = json.dumps(content)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ArchiveError):
        read_detections(tmp_path / "a.json")


COCO_PAIRS = [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]]
H36M_PAIRS = [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]


def test_what_videopose3d_says_of_its_file_is_obeyed_or_refused(tmp_path):
    found = read_detections(custom(tmp_path / "a.npz", changes={"keypoints_symmetry": COCO_PAIRS}, fps=24))
    assert (found.joints.name, found.fps) == ("coco17", 24.0)
    own = custom(tmp_path / "a.npz", "h36m", changes={"keypoints_symmetry": H36M_PAIRS})
    assert read_detections(own).joints.name == "h36m17"
    for layout, changes, video, words in (
        ("coco", {"keypoints_symmetry": H36M_PAIRS}, {}, "layout 'coco', whose left joints .* one of them is wrong"),
        ("h36m", {"keypoints_symmetry": COCO_PAIRS}, {}, "one of them is wrong"),
        ("coco", {"keypoints_symmetry": "none"}, {}, "one of them is wrong"),
        ("coco", {"num_joints": 16}, {}, "has 16 joints in the layout 'coco'"),
        ("coco", {}, {"w": 0}, "image_size is"),
        ("coco", {}, {"h": "tall"}, "image_size is"),
        ("coco", {}, {"fps": 0}, "frame rate is 0"),
    ):
        with pytest.raises(ArchiveError, match=words):
            read_detections(custom(tmp_path / "b.npz", layout, changes=changes, **video))


def test_the_body_of_a_whole_body_is_read(tmp_path):
    for count, kept, name in ((133, 17, "coco17"), (136, 26, "halpe26"), (16, 16, "mpii16")):
        people = [{"image_id": frame, "keypoints": flat(count, frame)} for frame in range(3)]
        points, sure = pose(count, 1)
        instances = [{"instances": [{"keypoints": points.tolist(), "keypoint_scores": sure.tolist()}]}]
        for content, frame in ((people, 1), (instances, 0)):
            found = read_detections(write(tmp_path / "a.json", content))
            assert found.joints.name == name
            np.testing.assert_allclose(found.frames[frame][0].keypoints, points[:kept])
            np.testing.assert_allclose(found.frames[frame][0].confidence, sure[:kept])


def numbered(*numbers):
    frames = []
    for number in numbers:
        points, sure = pose(17, 0 if number is None else hash(number) % 100)
        frame = {"instances": [{"keypoints": points.tolist(), "keypoint_scores": sure.tolist()}]}
        frames.append(frame if number is None else frame | {"frame_id": number})
    return frames


def test_mmpose_frames_go_where_their_numbers_say(tmp_path):
    found = read_detections(write(tmp_path / "a.json", numbered(7, 4, 5)))
    assert found.first_frame == 4 and [len(people) for people in found.frames] == [1, 1, 0, 1]
    np.testing.assert_allclose(found.frames[3][0].keypoints, pose(17, 7)[0])
    assert read_detections(write(tmp_path / "a.json", numbered(None, None))).first_frame == 0
    for numbers, words in (
        ((1, 2, 1), "two frames with the frame_id 1"),
        ((1, None), "frame 1: there is no 'frame_id'"),
        ((1, "2"), "'frame_id' is str"),
        ((-1, 2), "no number from 0 upwards"),
        ((0, 10**9), "numbers from 0 to"),
    ):
        with pytest.raises(ArchiveError, match=words):
            read_detections(write(tmp_path / "a.json", numbered(*numbers)))


@pytest.mark.parametrize(
    ("dataset", "count", "joints"),
    [("aic", 14, "aic14"), ("crowdpose", 14, "crowdpose14"), ("mpii", 16, "mpii16"), ("h36m", 17, "h36m17")],
)
def test_mmpose_s_header_names_the_joints(tmp_path, dataset, count, joints):
    points, sure = pose(count)
    frames = [{"frame_id": 0, "instances": [{"keypoints": points.tolist(), "keypoint_scores": sure.tolist()}]}]
    content = {"meta_info": {"dataset_name": dataset}, "instance_info": frames}
    found = read_detections(write(tmp_path / "a.json", content))
    assert found.joints.name == joints
    names = {str(index): name for index, name in enumerate(found.joints.joint_names)}
    if dataset == "h36m":  # MMPose writes right_foot for RFoot
        sides = {"L": "left_", "R": "right_"}
        names = {n: sides[t[0]] + t[1:].lower() if t[0] in sides else t.lower() for n, t in names.items()}
    content["meta_info"]["keypoint_id2name"] = names
    assert read_detections(write(tmp_path / "a.json", content)).joints.name == joints
    limb = next(index for index, name in names.items() if "elbow" in name.lower())
    content["meta_info"]["keypoint_id2name"] = names | {limb: "left_eye"}
    with pytest.raises(ArchiveError, match=f"expected those of {joints}"):
        read_detections(write(tmp_path / "a.json", content))
    if count == 14:  # two sets have 14 joints
        with pytest.raises(ArchiveError, match="14 joints, expected"):
            read_detections(write(tmp_path / "a.json", frames))


def test_alphapose_s_necks_that_are_heads_are_refused(tmp_path):
    content = of_images("people")
    for image in content.values():
        image["people"][0]["pose_keypoints_2d"][4] += 400.0
    with pytest.raises(ArchiveError, match="necks that do not lie between the shoulders"):
        read_detections(write(tmp_path / "a.json", content))
    with pytest.raises(ArchiveError, match="17 joints, expected 18"):
        read_detections(write(tmp_path / "a.json", of_images("people", 17)))


def test_what_the_user_says_must_not_contradict_the_file(tmp_path):
    found = read_detections(custom(tmp_path / "a.npz", fps=29.97))
    assert (found.rate(), found.rate(30.0)) == (29.97, 30.0)
    with pytest.raises(UsageError, match=r"29\.97 frames a second, not 25"):
        found.rate(25.0)
    unstated = read_detections(write(tmp_path / "a.json", mmpose()))
    assert (unstated.rate(), unstated.rate(25.0)) == (None, 25.0)


@pytest.mark.parametrize("size", [(320.0, 240.0), (900.0, 120.0)])
def test_keypoints_outside_of_the_image_are_refused(tmp_path, size):
    found = read_detections(write(tmp_path / "a.json", mmpose()))  # up to 900 pixels
    assert found.in_pixels((960.0, 960.0)).image_size == (960.0, 960.0)
    with pytest.raises(UnitError, match=f"outside of the image.*pixels of an image of {size[0]:g} x {size[1]:g}"):
        found.in_pixels(size)


def test_landmarks_that_are_no_shares_are_refused(tmp_path):
    content = mediapipe()
    for frame in content:
        for landmark in (frame["pose_landmarks"] or {}).get("landmark", ()):
            landmark["x"], landmark["y"] = 1000 * landmark["x"], 1000 * landmark["y"]
    with pytest.raises(UnitError, match="shares of the image from 0 to 1"):
        read_detections(write(tmp_path / "a.json", content)).in_pixels((1000, 1000))
