"""The models that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from refiner import Lifter, Refiner, bundled
from refiner.model_files.checkpoint import load_checkpoint
from refiner.runtime.loading import open_causal_engine


def test_every_role_has_a_model_that_fits_it():
    for role, name in bundled.DEFAULTS.items():
        config = load_checkpoint(bundled.checkpoint(name), "lifter" if "lifter" in role else "refiner").config
        assert config["model"]["input"] == "rays", role
        assert bool(config["model"].get("causal")) is (role == "causal-refiner")
    assert Lifter.load().sees_rays and Refiner.load().sees_rays and open_causal_engine().rays


def test_models_that_run_in_one_window_see_the_same_frames():
    """In one graph and in a stream of windows the refiner takes the frames of the lifter."""
    of = {role: load_checkpoint(bundled.default_checkpoint(role)).config for role in bundled.DEFAULTS}
    for role in ("lifter", "live-lifter"):
        for name in ("frames", "stride"):
            assert of[role][name] == of["window-refiner"][name]


def test_refiners_of_streams_say_how_far_they_may_be_off():
    for role in ("window-refiner", "causal-refiner"):
        assert "uncertainty" in load_checkpoint(bundled.default_checkpoint(role)).config


def test_a_name_is_that_of_a_bundled_model_and_a_file_goes_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bundled.by_name(Path("lifter")) == bundled.checkpoint("lifter")
    (tmp_path / "lifter").mkdir()  # a folder is no model
    assert bundled.by_name(Path("lifter")) == bundled.checkpoint("lifter")
    (tmp_path / "refiner").touch()
    assert bundled.by_name(Path("refiner")) == Path("refiner")
    for short, name in bundled.SHORT_NAMES.items():
        assert bundled.by_name(Path(short)) == bundled.checkpoint(name)
        assert bundled.checkpoint(name).is_file()
        assert not bundled.checkpoint(short).exists()  # else the short name would hide a checkpoint
    for other in ("nobody", "lifter.safetensors", "runs/lifter"):
        assert bundled.by_name(Path(other)) == Path(other)
