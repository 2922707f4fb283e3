"""Videos are recognised by their content and read upright, in square pixels, with their own time-stamps."""

from __future__ import annotations

import json
import sys
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")

import av
from coded_video import SIZE, picture, read_code, write

from refiner.errors import InputWarning, MissingComponentError, VideoError
from refiner.video import Video, is_video
from refiner.video.reader import _Clock, upright

CONTAINERS = [
    ("a.mp4", "libx264"),
    ("a.mov", "libx264"),
    ("a.mkv", "libx264"),
    ("a.webm", "libvpx"),
    ("a.avi", "mpeg4"),
]
CONTAINERS += [("a.ts", "libx264"), ("a.mpg", "mpeg2video"), ("a.flv", "libx264"), ("a.wmv", "wmv2")]


@pytest.mark.parametrize(("name", "codec"), CONTAINERS, ids=[name for name, _ in CONTAINERS])
def test_containers_are_recognised_and_read(tmp_path, name, codec):
    file = write(tmp_path / name, [1] * 12, codec=codec).rename(tmp_path / "without a suffix")
    assert is_video(file)
    video = Video(file)
    frames = list(video.frames())
    assert video.image_size == SIZE and video.fps == 25
    assert [read_code(frame.image) for frame in frames] == [(number, 1) for number in range(12)]
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(12) / 25, atol=1.1e-3)
    assert not any(frame.damaged for frame in frames)


def test_what_is_no_video(tmp_path):
    files = {
        "a.json": json.dumps([{"a": 1}]).encode(),
        "b.mp4": b"",
        "c.mp4": b"salad",
        "d.npz": b"PK\x03\x04" + bytes(99),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert not any(is_video(tmp_path / name) for name in files)
    assert not is_video(tmp_path) and not is_video(tmp_path / "missing.mp4")


CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
ONE = 1 << 16
# The matrix of the container, and the corners of the image as it must be shown, from the top left, line by line.
TURNS = {
    "as it is": ((ONE, 0, 0, ONE), "RGBW"),
    "a quarter clockwise": ((0, ONE, -ONE, 0), "BRWG"),
    "a quarter counter-clockwise": ((0, -ONE, ONE, 0), "GWRB"),
    "upside down": ((-ONE, 0, 0, -ONE), "WBGR"),
    "mirrored": ((-ONE, 0, 0, ONE), "GRWB"),
    "mirrored and turned": ((0, ONE, ONE, 0), "RBGW"),
}


@pytest.mark.parametrize(("matrix", "corners"), TURNS.values(), ids=TURNS)
def test_the_orientation_of_the_metadata_is_obeyed(tmp_path, matrix, corners):
    image = CORNERS.repeat(48, axis=0).repeat(64, axis=1)
    a, b, c, d = matrix
    file = write(tmp_path / "a.mp4", [], images=[image] * 3, matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30))
    video = Video(file)
    sideways = a == 0
    assert video.image_size == ((96, 128) if sideways else (128, 96))
    for frame in video.frames():
        height, width = frame.image.shape[:2]
        seen = ""
        for y in (height // 4, 3 * height // 4):
            for x in (width // 4, 3 * width // 4):
                colours = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "W": (255, 255, 255)}
                seen += min(
                    colours, key=lambda name: np.abs(np.subtract(colours[name], frame.image[y, x], dtype=int)).sum()
                )
        assert seen == corners


def test_a_turn_that_is_no_quarter_goes_to_the_nearest():
    image = CORNERS.copy()
    nearly = round(ONE * np.cos(0.1)), round(ONE * np.sin(0.1))
    np.testing.assert_array_equal(upright(image, (nearly[0], nearly[1], -nearly[1], nearly[0])), image)


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    file = write(tmp_path / "a.mp4", [1] * 3, pixel_shape=Fraction(4, 3))
    assert Video(file).image_size == (427, 240)
    scaled = [frame.image.shape for frame in Video(file).frames(scale=0.5)]
    assert scaled == [(120, 214, 3)] * 3


def test_a_variable_frame_rate_keeps_its_time_stamps(tmp_path):
    stamps = [0, 40, 80, 160, 170, 300, 340]
    video = Video(write(tmp_path / "a.mkv", [1] * 7, stamps))
    np.testing.assert_allclose([frame.seconds for frame in video.frames()], np.array(stamps) / 1000, atol=1e-9)


def test_the_first_frame_has_the_time_zero(tmp_path):
    video = Video(write(tmp_path / "a.mkv", [1] * 3, [700, 740, 780]))
    np.testing.assert_allclose([frame.seconds for frame in video.frames()], [0, 0.04, 0.08], atol=1e-9)


def test_without_its_index_an_mp4_is_named(tmp_path):
    file = write(tmp_path / "a.mp4", [1] * 30)
    file.write_bytes(file.read_bytes()[:2000])
    assert is_video(file)
    with pytest.raises(VideoError, match=r"a\.mp4 cannot be read as a video: it is broken, truncated"):
        Video(file)


@pytest.mark.parametrize("name", ["a.mkv", "a.ts"])
def test_the_frames_before_a_cut_are_read(tmp_path, name):
    file = write(tmp_path / name, [1] * 60)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    frames = list(Video(file).frames())
    assert 10 < len(frames) < 55
    assert [read_code(frame.image)[0] for frame in frames if not frame.damaged][:10] == list(range(10))


def test_an_mp4_with_its_index_first_says_that_frames_are_lacking(tmp_path):
    moved = tmp_path / "b.mp4"
    first = {"movflags": "faststart"}
    original = write(tmp_path / "a.mp4", [1] * 60)
    with av.open(str(original)) as source, av.open(str(moved), "w", options=first) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole = moved.read_bytes()
    assert whole.find(b"moov") < whole.find(b"mdat")
    moved.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.warns(InputWarning, match=r"b\.mp4 is truncated or broken: its header states 60 frames, \d+ can be"):
        frames = list(Video(moved).frames())
    assert 5 < len(frames) < 58


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mp4"])
def test_damaged_frames_are_marked_until_the_next_key_frame(tmp_path, name):
    rng = np.random.default_rng(1)
    images = [picture(number) for number in range(40)]
    for image in images:  # something to damage
        image[100:] = rng.integers(0, 60, (140, 320, 3))
    file = write(tmp_path / name, [], images=images)
    with av.open(str(file)) as container:
        key = [packet for packet in container.demux(video=0) if packet.is_keyframe][2]
    with av.open(str(file)) as container:
        keys = [number for number, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    content = bytearray(file.read_bytes())
    content[key.pos + key.size // 4 : key.pos + key.size // 2] = rng.bytes(key.size // 4)
    file.write_bytes(content)
    with pytest.warns(InputWarning, match="frames are damaged"):
        frames = list(Video(file).frames())
    assert [number for number, frame in enumerate(frames) if frame.damaged] == [*range(keys[2], keys[3])]
    assert all(read_code(frame.image)[0] == number for number, frame in enumerate(frames) if not frame.damaged)


def test_time_stamps_that_go_back_are_replaced():
    class Stamped:
        def __init__(self, pts):
            self.pts, self.time_base = pts, Fraction(1, 100)

    clock = _Clock(25.0)
    found = [clock.seconds(Stamped(pts)) for pts in (50, 54, None, 62, 10, 14, 14, 999_999, 1_000_003)]
    np.testing.assert_allclose(found, [0, 0.04, 0.08, 0.12, 0.16, 0.20, 0.24, 0.28, 0.32])
    assert clock.jumps == 4


def test_what_holds_no_picture_is_named(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match=r"holds no picture, only audio"):
        Video(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="there is no video"):
        Video(tmp_path / "missing.mp4")


def test_without_pyav(tmp_path, monkeypatch):
    file = write(tmp_path / "a.mp4", [1] * 3)
    monkeypatch.setitem(sys.modules, "av", None)
    assert is_video(file)
    with pytest.raises(MissingComponentError, match=r"pip install 'pose-refiner\[video\]'"):
        Video(file)
