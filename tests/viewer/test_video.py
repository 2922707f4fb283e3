"""A video holds the frames that it was given, at their rate."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from refiner.errors import LengthError, UsageError
from refiner.viewer.bones import bone_ends, rgb, upright
from refiner.viewer.video import write_video


def sequence(frames):
    rng = np.random.default_rng(0)
    body = rng.normal(0, 0.3, (17, 3)) + rng.normal(0, 0.01, (frames, 17, 3)).cumsum(axis=0)
    return body.astype(np.float32), (body + rng.normal(0, 0.02, (frames, 17, 3))).astype(np.float32)


def test_a_gif(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    told = []
    write_video(tmp_path / "a.gif", *sequence(6), fps=50.0, progress=told.append)
    with image.open(tmp_path / "a.gif") as read:
        assert read.n_frames == 3 and read.size == (800, 450)  # every second frame: 25 a second
        first = np.asarray(read.convert("RGB"))
        read.seek(2)
        last = np.asarray(read.convert("RGB"))
    assert told == [1, 3, 5] and np.abs(first.astype(int) - last).max() > 50
    colours = {tuple(pixel) for pixel in first.reshape(-1, 3)}
    for colour in ("#d1602b", "#1f6fb4"):
        assert min(np.abs(np.subtract(rgb(colour), pixel)).max() for pixel in colours) < 30


def test_an_mp4(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    write_video(tmp_path / "a.mp4", *sequence(7), fps=30.0)
    with av.open(str(tmp_path / "a.mp4")) as read:
        frames = [frame.to_ndarray(format="rgb24") for frame in read.decode(video=0)]
        assert read.streams.video[0].average_rate == 30
    assert len(frames) == 7 and frames[0].shape == (450, 800, 3) and np.abs(frames[0].astype(int) - 255).max() > 100


def test_what_is_refused(tmp_path):
    before, after = sequence(3)
    with pytest.raises(UsageError, match=r"\.mp4 or \.gif"):
        write_video(tmp_path / "a.avi", before, after, 30.0)
    with pytest.raises(LengthError):
        write_video(tmp_path / "a.gif", before, after[:2], 30.0)
    assert list(tmp_path.iterdir()) == []


def test_upright_bones():
    pose = np.zeros((17, 3), np.float32)
    pose[:] = (1.0, 2.0, 5.0)
    pose[10] += (0.1, -0.7, 0.2)  # the head: above the root is -y in camera axes
    standing = upright(pose)
    np.testing.assert_allclose(standing[10], [0.1, 0.2, 0.7], atol=1e-6)
    assert bone_ends(standing).shape == (16, 2, 3)
    np.testing.assert_allclose(bone_ends(standing)[9], [standing[9], standing[10]])
