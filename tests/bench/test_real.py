"""The real take: its file, today's figures, what is skipped and what is refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from refiner_bench.cli import main
from refiner_bench.real.scores import truth_quality
from refiner_bench.real.take import CLIP, TAKE, load_clip, load_take, longest_stretch, save_take

from refiner.errors import ArchiveError

# MPJPE, N-MPJPE, P-MPJPE, acceleration of the default models, mean of the four cameras, in mm.
FIGURES = {
    "MediaPipe's own 3D": (147.4, 141.3, 96.7, 35.8),
    "MediaPipe's own 3D, refined": (91.7, 90.1, 65.7, 5.4),
    "lifter": (83.2, 80.4, 56.4, 5.6),
    "lifter, refined": (84.3, 82.4, 58.8, 5.3),
}
# The same of the models of screen coordinates.
FIGURES_OF_SCREEN = {
    "MediaPipe's own 3D": (147.4, 141.3, 96.7, 35.8),
    "MediaPipe's own 3D, refined": (138.6, 128.8, 88.0, 13.5),
    "lifter": (180.7, 131.9, 87.9, 15.8),
    "lifter, refined": (177.1, 128.5, 82.9, 12.8),
}
OF_SCREEN = ["--lifter", "lifter", "--refiner", "refiner"]


def test_the_files_are_small_and_need_no_pickle():
    assert TAKE.stat().st_size + CLIP.stat().st_size < 400_000
    for path in (TAKE, CLIP):
        with np.load(path, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype.kind in "fiu" for name in arrays)


def test_the_truth_is_as_good_as_it_is_said_to_be():
    take = load_take()
    assert [view.name for view in take.views if view.fitted] == ["cam03"]
    assert {view.name: int(view.swapped.sum()) for view in take.views} == {
        "cam01": 0,
        "cam02": 29,
        "cam03": 0,
        "cam04": 0,
    }
    quality = truth_quality(take)
    assert quality.bone_spread < 16.5
    assert max(quality.pixels[name] for name in ("cam01", "cam02", "cam04")) < 7.5


def test_a_take_comes_back_as_it_was_saved(tmp_path):
    take = load_take()
    save_take(tmp_path / "take.npz", take)
    again = load_take(tmp_path / "take.npz")
    np.testing.assert_array_equal(again.truth, take.truth)
    for old, new in zip(take.views, again.views, strict=True):
        np.testing.assert_array_equal(old.detections.keypoints, new.detections.keypoints)
        np.testing.assert_array_equal(old.camera.rotation, new.camera.rotation)


def test_the_longest_stretch_of_the_clip():
    assert longest_stretch(load_clip()) == slice(3, 169)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("truth"), "no numbers 'truth'"),
        (lambda arrays: arrays.pop("cam02/rotation"), "cam02/rotation"),
        (lambda arrays: arrays.update({"cam01/keypoints": np.zeros((99, 33, 2))}), "expected \\(100, 33, 2\\)"),
        (lambda arrays: arrays.update({"truth": np.full((100, 17, 3), np.nan)}), "not finite"),
    ],
)
def test_a_broken_take_is_refused(tmp_path, change, message):
    with np.load(TAKE) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(tmp_path / "take.npz", **arrays)
    with pytest.raises(ArchiveError, match=message):
        load_take(tmp_path / "take.npz")


def test_options_that_do_not_go_together(tmp_path):
    assert main(["real", "--save", str(tmp_path)]) == 2
    assert main(["real", "--rebuild", "--take", str(TAKE)]) == 2


@pytest.mark.parametrize(
    ("models", "expected"), [([], FIGURES), (OF_SCREEN, FIGURES_OF_SCREEN)], ids=["default", "screen"]
)
def test_todays_figures(tmp_path, capsys, models, expected):
    pytest.importorskip("torch")
    path = tmp_path / "real.json"
    assert main(["real", *models, "--json", str(path), "--markdown", str(tmp_path / "real.md")]) == 0
    assert (tmp_path / "real.md").read_text() == capsys.readouterr().out
    means = json.loads(path.read_text())["mean"]
    for method, figures in expected.items():
        found = [means[method][name] for name in ("mpjpe", "n_mpjpe", "p_mpjpe", "acceleration_error")]
        assert found == pytest.approx(figures, abs=0.5), method


def test_without_a_registry_what_ships_is_scored(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    rebuild = ["real", "--rebuild", "--cache", str(tmp_path / "cache")]
    assert main(rebuild) == 0
    told = capsys.readouterr()
    assert told.err.count("skipped: ") == 2 and "registry cannot be reached" in told.err
    assert "pose2sim==0.10.40, as bundled" in told.out and "Skipped: the clip of sports2d==0.8.29" in told.out
    assert main([*rebuild, "--save", str(tmp_path / "saved")]) == 3
    assert not (tmp_path / "saved").exists()
