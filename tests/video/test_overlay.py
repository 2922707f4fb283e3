"""The overlay holds the frames of the video, the skeletons where the people are, and the 3D poses beside them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

import av
from coded_video import SIZE, WALK, picture, write

from refiner.data.synthetic import synthetic_motion
from refiner.runtime.people import RefinedPerson
from refiner.skeleton import H36M17
from refiner.video import Video, VideoFrame
from refiner.viewer.bones import rgb
from refiner.viewer.overlay import COLOURS, OverlayPainter, OverlayPoses, overlay_poses, write_overlay

BODY = np.asarray(synthetic_motion(3, "Walking", 256))[..., [0, 2, 1]] * [1, -1, 1]


def poses(number, frames, hidden=(), person=None):
    pose_2d, pose_3d = WALK[number if person is None else person][:frames].copy(), BODY[:frames] - BODY[:frames, :1]
    pose_2d[list(hidden)], pose_3d[list(hidden)] = np.nan, np.nan
    return OverlayPoses(number, pose_2d, pose_3d)


def has(picture, colour, tolerance=12):
    """Where a picture has a colour, ``(height, width)``."""
    return (np.abs(picture.astype(int) - np.array(rgb(colour))) <= tolerance).all(axis=-1)


def painted(people, index=0, damaged=False):
    painter = OverlayPainter(SIZE, people)
    height, width = round(SIZE[1] * painter.scale), round(SIZE[0] * painter.scale)
    image = np.full((height, width, 3), 90, np.uint8)
    drawn = painter.draw(VideoFrame(image, 0.0, damaged), index)
    return painter.scale, drawn[:, :width], drawn[:, width:]


def test_people_are_drawn_where_they_are_each_in_a_colour():
    scale, seen, panel = painted([poses(0, 3), poses(1, 3)])
    for person in (0, 1):
        spots = has(seen, COLOURS[person])
        for joint in (3, 8, 16):  # of the right side or the middle, which have the full colour
            x, y = np.round(WALK[person][0, joint] * scale).astype(int)
            assert spots[y - 2 : y + 3, x - 2 : x + 3].any(), (person, joint)
        assert has(panel, COLOURS[person]).sum() > 300
    # Both have a part of the 3D picture of their own.
    columns = [np.flatnonzero(has(panel, COLOURS[person])[60:-60].any(axis=0)) for person in (0, 1)]
    rows = [np.flatnonzero(has(panel, COLOURS[person]).any(axis=1)) for person in (0, 1)]
    apart = [first.max() < second.min() or second.max() < first.min() for first, second in (columns, rows)]
    assert any(apart)


def test_left_and_right_differ():
    _, seen, panel = painted([poses(0, 1)])
    lighter = "#" + "".join(f"{round(part + 0.6 * (255 - part)):02x}" for part in rgb(COLOURS[0]))
    for part in (seen, panel):
        assert has(part, lighter).sum() > 100 and has(part, COLOURS[0]).sum() > 100


def test_a_frame_without_a_person_says_so():
    empty, full = painted([poses(0, 3, hidden=[1])], 1), painted([poses(0, 3, hidden=[1])], 2)
    assert not has(empty[1], COLOURS[0]).any() and not has(empty[2], COLOURS[0]).any()
    # The words behind the time: light letters in the corner, where nothing else is.
    words = [(part[1][:34, 60:] > 210).all(axis=-1).sum() for part in (empty, full)]
    assert words[0] > 60 and words[1] == 0
    marked, plain = painted([], damaged=True)[1], painted([])[1]
    assert (marked > 210).all(axis=-1).sum() > (plain > 210).all(axis=-1).sum() + 60


def test_people_who_are_never_there_together_share_a_place():
    one, two = poses(0, 40, hidden=range(20, 40)), poses(1, 40, hidden=range(20))
    both = poses(1, 40)

    def height_of(people, index, number):
        rows = np.flatnonzero(has(painted(people, index)[2], COLOURS[number]).any(axis=1))
        return rows[rows > 60].max() - rows[rows > 60].min()

    assert height_of([one, two], 30, 1) > 1.3 * height_of([one, both], 30, 1)


def test_the_lowest_joint_stands_on_the_floor():
    def bottom(pose_3d):
        people = [OverlayPoses(0, WALK[0][:1], pose_3d)]
        panel = painted(people)[2]
        lighter = has(panel, "#bbe1f6", 14) | has(panel, COLOURS[0])
        return np.flatnonzero(lighter.any(axis=1)).max()

    pose = BODY[:1] - BODY[:1, :1]
    lifted = pose - np.array([0, 0.3, 0])
    assert abs(bottom(pose) - bottom(lifted)) <= 1


def test_a_video_keeps_its_frames_and_its_time_stamps(tmp_path):
    stamps = [0, 40, 80, 160, 170, 300, 340]
    video = Video(write(tmp_path / "in.mkv", [1] * 7, stamps))
    told = []
    write_overlay(tmp_path / "out.mp4", video, [poses(0, 7)], told.append)
    with av.open(str(tmp_path / "out.mp4")) as read:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in read.decode(video=0)]
    np.testing.assert_allclose([second for second, _ in frames], np.array(stamps) / 1000, atol=1e-4)
    assert frames[0][1].shape == (360, 480 + 288, 3) and told == list(range(1, 8))
    assert all(has(image, COLOURS[0], 60).sum() > 300 for _, image in frames)


def test_poses_lie_at_the_time_stamps_of_the_frames():
    seconds = np.array([0.0, 0.03, 0.1, 0.15, 0.2])
    instants = np.arange(6) * 0.04
    pose_2d = np.linspace(0, 1, 6)[:, None, None] + np.zeros((6, 17, 2))
    pose_3d = (pose_2d[..., [0, 0, 0]] * 2).astype(np.float32)
    pose_2d[0] = np.nan
    person = RefinedPerson(3, pose_2d, pose_3d, pose_3d, np.ones(6, bool), np.zeros((6, 17), bool), ((0, 6),))
    drawn = overlay_poses(person, H36M17, instants, seconds)
    np.testing.assert_allclose(drawn.pose_3d[:, 0, 0], 2 * seconds / 0.2, atol=1e-6)
    np.testing.assert_allclose(drawn.pose_2d[1:, 0, 0], [0.2, *(seconds[2:] / 0.2)], atol=1e-6)
    assert np.isnan(drawn.pose_2d[0]).all() and drawn.number == 3
    same = overlay_poses(person, H36M17, instants, instants)
    np.testing.assert_array_equal(same.pose_2d, pose_2d)


def test_portrait_and_tiny_videos_have_an_even_size(tmp_path):
    tall = np.ascontiguousarray(picture(0).swapaxes(0, 1))
    video = Video(write(tmp_path / "in.mp4", [], images=[tall] * 2))
    write_overlay(tmp_path / "out.mp4", video, [])
    with av.open(str(tmp_path / "out.mp4")) as read:
        assert len(list(read.decode(video=0))) == 2
        assert read.streams.video[0].width % 2 == read.streams.video[0].height % 2 == 0
