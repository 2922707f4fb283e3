"""Batches that come again: lifted once, the same for every pass, and a refiner that trains and resumes on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refiner.errors import ConfigError
from refiner.model_files.checkpoint import load_checkpoint
from refiner.training import runs
from refiner.training.config import DataConfig
from refiner.training.repeated import RepeatedBatches, stored_poses
from refiner.training.runs import train_lifter, train_refiner
from refiner.training.windows import WindowSampler


def test_every_batch_is_lifted_once_and_comes_again(people):
    sampler = WindowSampler(people, DataConfig(), 9, 4, 0, ("S1", "S2"))
    lifts = []

    def lift(windows):
        lifts.append(windows)
        return windows.pose_3d + np.float32(0.01)

    kept = RepeatedBatches(sampler, lift, 3)
    first = [kept.batch(step) for step in (2, 0, 1)]
    assert len(lifts) == 3
    for step, windows in zip((2, 0, 1), first, strict=True):
        np.testing.assert_array_equal(windows.pose_2d, sampler.batch(step).pose_2d)
        np.testing.assert_array_equal(stored_poses(windows), windows.pose_3d + np.float32(0.01))
        assert kept.batch(step + 300) is windows and kept.batch(2**40 // 3 * 3 + step) is windows
    assert len(lifts) == 3


def test_a_refiner_trains_on_few_batches(people, tiny, tmp_path, monkeypatch):
    lifter = train_lifter(tiny("lifter"), people, tmp_path / "lifter", quiet=True)
    lifted = []
    plain = runs._plain_lift

    def counted(lift):
        inner = plain(lift)
        return lambda windows: lifted.append(len(windows.pose_2d)) or inner(windows)

    monkeypatch.setattr(runs, "_plain_lift", counted)
    config = tiny("refiner", lifter=str(lifter), training={"distinct_batches": 12, "steps": 24, "validate_every": 12})
    path = train_refiner(config, people, tmp_path / "refiner", quiet=True)
    # The fit of the noise model sees the same batches of 36 frames as the 24 steps.
    assert lifted == 12 * [4]
    assert load_checkpoint(path).config["training"]["distinct_batches"] == 12


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(people, tiny, tmp_path, monkeypatch):
    lifter = train_lifter(tiny("lifter"), people, tmp_path / "lifter", quiet=True)
    settings = {"distinct_batches": 12, "steps": 24, "validate_every": 12}
    config = tiny("refiner", lifter=str(lifter), training=settings)
    whole = load_checkpoint(train_refiner(config, people, tmp_path / "whole", quiet=True).with_name("last.safetensors"))
    batch = RepeatedBatches.batch

    def interrupted(self, step):
        if step == 15:
            raise KeyboardInterrupt
        return batch(self, step)

    monkeypatch.setattr(RepeatedBatches, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_refiner(config, people, tmp_path / "parts", quiet=True)
    monkeypatch.setattr(RepeatedBatches, "batch", batch)
    parts = load_checkpoint(train_refiner(config, people, tmp_path / "parts", quiet=True).with_name("last.safetensors"))
    assert whole.tensors.keys() == parts.tensors.keys()
    assert all(torch.equal(whole.tensors[name], parts.tensors[name]) for name in whole.tensors)


# Two batches are 72 frames, and the noise model is fitted on 400.
@pytest.mark.parametrize(("kind", "number"), [("lifter", 12), ("refiner", 2)])
def test_what_cannot_be_kept_is_refused(people, tiny, tmp_path, kind, number):
    config = tiny(kind, training={"distinct_batches": number})
    with pytest.raises(ConfigError, match="distinct_batches"):
        (train_lifter if kind == "lifter" else train_refiner)(config, people, tmp_path, quiet=True)
