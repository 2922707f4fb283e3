"""The configurations of the papers train as their authors do: nothing of ours is on."""

from __future__ import annotations

import dataclasses

import pytest

from refiner.model_files.build import build_model
from refiner.training.config import CONFIG_FOLDER, DataConfig, load_config
from refiner.training.schedule import learning_rate

PAPERS = sorted(file.stem for file in CONFIG_FOLDER.glob("*-paper*.toml"))
# What each code says: frames, stride, windows of a step, steps of an epoch, epochs, first rate, its factor per epoch.
PUBLISHED = {
    "lifter-paper": (27, 3, 128 // 3, 24758, 79, 1e-3, 0.96),
    "mixste-paper": (243, 1, 1024 // 243, 3360, 120, 4e-5, 0.99),
    "d3dp-paper": (243, 1, 1024 // 243, 3360, 400, 6e-5, 0.993),
    "finepose-paper": (243, 1, 1024 // 243, 3360, 100, 6e-5, 0.993),
}


def test_every_paper_has_its_configuration():
    assert set(PAPERS) == {*PUBLISHED, "refiner-paper", "smoothnet-paper"}


@pytest.mark.parametrize("name", PAPERS)
def test_augmentations_of_ours_and_the_moving_average_are_off(name):
    config = load_config(name)
    assert config.training.ema == 0.0
    flip = 0.0 if name == "smoothnet-paper" else 0.5
    assert config.data == dataclasses.replace(DataConfig(), balance=False, turn=0.0, flip=flip)
    assert config.optimiser.warmup == 0 and config.optimiser.clip_norm == 0.0
    assert config.optimiser.schedule == "exponential" and config.training.precision == "float32"
    assert not config.model.joint_embedding


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_schedule_is_the_authors(name):
    frames, stride, batch, epoch, epochs, rate, factor = PUBLISHED[name]
    config = load_config(name)
    training, optimiser = config.training, config.optimiser
    assert (config.frames, config.stride, training.batch) == (frames, stride, batch)
    assert training.steps == epoch * epochs
    for number in (0, 1, epochs - 1):
        expected = rate * factor**number
        assert learning_rate(epoch * number, training.steps, optimiser) == pytest.approx(expected)
        assert learning_rate(epoch * (number + 1) - 1, training.steps, optimiser) == pytest.approx(expected)
    assert config.model.root == "zeroed"


def test_epochs_are_those_of_human36m():
    """1,559,752 training frames in 600 clips, each window as it is and mirrored."""
    frames, clips = 1_559_752, 600
    stcformer = load_config("lifter-paper")
    assert stcformer.optimiser.epoch_steps == pytest.approx(2 * frames / 3 / stcformer.training.batch, rel=1e-3)
    # The last window of a clip is filled up.
    windows = 2 * (frames / 243 + clips / 2)
    assert load_config("mixste-paper").optimiser.epoch_steps == pytest.approx(windows / 4, rel=1e-3)


def test_stcformer_s_dropout_is_in_its_network():
    config = load_config("lifter-paper")
    network = build_model(dataclasses.asdict(config))
    blocks = network.stcformer.stc_block
    assert {block.mlp.dropout for block in blocks} == {0.1}
    assert {block.stc_att.drop_part for block in blocks} == {0.5}
    assert sum(value.numel() for value in network.parameters()) == 4_748_000
    for name in ("mixste-paper", "d3dp-paper", "finepose-paper"):
        assert load_config(name).model.drop_path == 0.1
    for file in CONFIG_FOLDER.glob("lifter-*.toml"):
        if file.stem != "lifter-paper":
            assert load_config(file.stem).model.dropout == load_config(file.stem).model.drop_path == 0.0
