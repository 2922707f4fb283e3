"""The real clip as a picture: drawn where it can be downloaded, and else left out by name."""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

import av
from PIL import Image
from refiner_bench.real.clip import clip_detections, draw_clip, main

from refiner.formats import follow


def test_the_keypoints_that_ship_show_one_person_at_a_time():
    seen = clip_detections()
    assert len(seen.frames) == 230 and seen.fps == 30 and seen.image_size == (1768, 994)
    tracks = follow(seen)
    assert [int(track.seen.sum()) for track in tracks] == [166, 31, 25]


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_a_clip_becomes_a_video_and_a_picture(tmp_path):
    from dataclasses import replace

    seen = clip_detections()
    seen = replace(seen, frames=seen.frames[40:50], image_size=(1768.0, 994.0))
    file = tmp_path / "clip.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 1768, 994, "yuv420p"
        for _ in seen.frames:
            grey = np.full((994, 1768, 3), 128, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    video, picture = draw_clip(file, seen, tmp_path / "out")
    with av.open(str(video)) as read:
        assert len(list(read.decode(video=0))) == 10
    with Image.open(picture) as drawn:
        image = np.asarray(drawn.convert("RGB")).astype(int)
    assert image.shape[0] == 720
    blue = (np.abs(image - [0x56, 0xB4, 0xE9]) < 40).all(axis=-1)
    assert blue[:, :1280].sum() > 200 and blue[:, 1280:].sum() > 1000


def test_without_a_registry_it_is_left_out(tmp_path, capsys, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert main([str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 0
    told = capsys.readouterr().out
    assert "real clip: left out" in told and "registry cannot be reached" in told and "built-in motion" in told
    assert not (tmp_path / "out").exists()
