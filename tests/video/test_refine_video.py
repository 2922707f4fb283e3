"""``refiner-refine VIDEO``: people, files and an overlay from a video."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

import av
from coded_video import FOCAL, SIZE, WALK, write

from refiner import Lifter, Refiner
from refiner.cli.refine import main

CODED = ["--detector", "coded_video:CodedDetector", "--focal-length", str(FOCAL)]


@pytest.fixture
def models():
    """The small models as ONNX graphs, which run with PyTorch and without."""
    from refiner import bundled

    folder = bundled.default_checkpoint("refiner").parent
    return ["--lifter", str(folder / "lifter-nano-rays.onnx"), "--checkpoint", str(folder / "refiner-nano-rays.onnx")]


def frames_of(file):
    with av.open(str(file)) as read:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in read.decode(video=0)]


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_a_video_becomes_people_and_an_overlay(tmp_path, capsys, models):
    counts = [0] * 3 + [1] * 10 + [2] * 20 + [1] * 7
    file = write(tmp_path / "film.mp4", counts, fps=50)
    words = [str(file), "--detector", "coded_video:ReversedDetector", "--focal-length", str(FOCAL), *models]
    assert main([*words, "--output", str(tmp_path / "people")]) == 0
    told = capsys.readouterr().out
    assert "film.mp4: 40 frames, 3 of them without a person" in told
    assert "person 0: 37 frames refined" in told and "person 1: 20 frames refined" in told
    names = [f"person{number}.{ending}" for number in (0, 1) for ending in ("bvh", "npz", "trc")]
    assert sorted(path.name for path in (tmp_path / "people").iterdir()) == ["overlay.mp4", *names]
    with np.load(tmp_path / "people" / "person0.npz") as stored:
        refined, fps, seen = stored["refined_pose_3d"], float(stored["fps"]), stored["pose_2d"]
        assert tuple(stored["image_size"]) == SIZE
    assert fps == pytest.approx(50)
    np.testing.assert_allclose(seen[3:], WALK[0][3:40], atol=1e-9)
    # As from the arrays themselves.
    lens = {"fps": fps, "focal_length": FOCAL, "confidence": np.full((37, 17), 0.9)}
    lifted = Lifter.load(models[1]).lift(WALK[0][3:40], SIZE, **lens)
    expected = Refiner.load(models[3]).refine(WALK[0][3:40], lifted, SIZE, **lens)
    np.testing.assert_allclose(refined[3:], expected, atol=1e-4)
    assert np.isnan(refined[:3]).all()
    drawn = frames_of(tmp_path / "people" / "overlay.mp4")
    assert len(drawn) == 40 and all(image.std() > 20 for _, image in drawn)
    np.testing.assert_allclose([second for second, _ in drawn], np.arange(40) / 50, atol=1e-4)


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_the_last_line_says_how_the_time_was_shared(tmp_path, capsys, models):
    file = write(tmp_path / "film.mp4", [1] * 12, fps=50)
    assert main([str(file), *CODED, *models, "--output", str(tmp_path / "people")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    parts = dict(part.split(" ")[:2] for part in last.split(": ", 1)[1].split(";")[0].split(", "))
    assert list(parts) == ["read", "detect", "lift", "refine", "draw", "other"]
    assert sum(map(float, parts.values())) == pytest.approx(float(last.split(" s")[0]), abs=0.35)
    assert "the refinement took" in last and last.endswith("of the time without the detector")


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_one_person_is_chosen_and_nothing_is_drawn(tmp_path, models):
    file = write(tmp_path / "film.mkv", [2] * 12)
    words = [str(file), *CODED, *models, "--person", "1", "--no-overlay", "--output", str(tmp_path / "people")]
    assert main(words) == 0
    assert {path.name for path in (tmp_path / "people").iterdir()} == {
        f"person1.{end}" for end in ("npz", "trc", "bvh")
    }


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_a_variable_frame_rate_is_interpolated(tmp_path, capsys, models):
    stamps = np.cumsum([0] + [20] * 10 + [60] + [20] * 10)  # two frames were dropped
    file = write(tmp_path / "film.mkv", [1] * 22, stamps.tolist())
    assert main([str(file), *CODED, *models, "--output", str(tmp_path / "people")]) == 0
    assert "its frame rate varies: the people are interpolated to 50.00 frames/s" in capsys.readouterr().out
    with np.load(tmp_path / "people" / "person0.npz") as stored:
        seen, refined = stored["pose_2d"], stored["refined_pose_3d"]
    assert len(seen) == len(refined) == 24 and np.isfinite(refined).all()
    np.testing.assert_allclose(seen[11], WALK[0][10] * 2 / 3 + WALK[0][11] / 3, atol=1e-6)
    drawn = frames_of(tmp_path / "people" / "overlay.mp4")
    np.testing.assert_allclose([second for second, _ in drawn], stamps / 1000, atol=1e-4)


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_a_slow_motion_video_has_the_rate_that_was_filmed(tmp_path, models):
    file = write(tmp_path / "film.mp4", [1] * 20, fps=25)
    assert main([str(file), *CODED, *models, "--fps", "100", "--output", str(tmp_path / "people")]) == 0
    with np.load(tmp_path / "people" / "person0.npz") as stored:
        assert float(stored["fps"]) == 100
    # The overlay is played like the video.
    drawn = frames_of(tmp_path / "people" / "overlay.mp4")
    np.testing.assert_allclose([second for second, _ in drawn], np.arange(20) / 25, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["FILM", "--image-size", "640", "480"], 2, "have 320 x 240 pixels"),
        (["FILM", "--name", "a"], 2, "--name chooses"),
        (["FILM", "--joints", "coco17"], 2, "--joints belongs to arrays"),
        (["FILM", "--pose-3d", "a.npy"], 2, "--pose-3d belong to arrays"),
        (["FILM", "--fps", "0"], 2, "--fps"),
        (["FILM", "--detector", "salad"], 2, "there is no detector 'salad'"),
        (["FILM", "--detector", "mediapipe"], 3, "pip install 'pose-refiner[mediapipe]'"),
        (["FILM", "--person", "3"], 2, "there is no person 3"),
        (["EMPTY"], 5, "show nobody"),
        (["NO VIDEO.mp4"], 5, "NO VIDEO.mp4 cannot be read as a video: it is broken, truncated or no video"),
        (["CUT.mp4"], 5, "cannot be read as a video: it is broken, truncated"),
        (["a.json", "--detector", "mediapipe"], 2, "belong to an INPUT that is a video"),
        (["a.json", "--no-overlay"], 2, "belong to an INPUT that is a video"),
    ],
)
@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_what_does_not_go(tmp_path, monkeypatch, capsys, models, words, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    monkeypatch.delitem(sys.modules, "refiner.video.mediapipe_detector", raising=False)
    whole = write(tmp_path / "FILM.mp4", [1] * 5).rename("FILM").read_bytes()
    write(tmp_path / "EMPTY.mp4", [0] * 5).rename("EMPTY")
    (tmp_path / "NO VIDEO.mp4").write_text("salad")
    (tmp_path / "CUT.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a.json").write_text("{}")
    chosen = [] if "--detector" in words else CODED
    assert main([*words, *chosen, *models, "--output", str(tmp_path / "people")]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("people/*"))


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_people_of_a_video_are_placed(tmp_path, capsys, models):
    file = write(tmp_path / "film.mp4", [1] * 20, fps=50)
    words = [str(file), *CODED, *models, "--trajectory", "--output", str(tmp_path / "people")]
    assert main([*words, "--person-height", "1.75"]) == 0
    with np.load(tmp_path / "people" / "person0.npz") as stored:
        root = stored["root"]
    # The person walks five metres in front of the camera.
    assert root.shape == (20, 3) and np.abs(root[:, 2] - 5).max() < 1.0
    assert main([str(file), *CODED, "--person-height", "1.75", "--output", str(tmp_path / "others")]) == 2
    assert "belong to --trajectory" in capsys.readouterr().err and not (tmp_path / "others").exists()
