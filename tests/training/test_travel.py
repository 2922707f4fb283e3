"""A run's state in small files: it goes on where it was, and what is damaged or missing is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from refiner.errors import CheckpointError, TrainingError
from refiner.model_files.build import load_module
from refiner.model_files.checkpoint import load_checkpoint, save_checkpoint
from refiner.models.weights import read_safetensors
from refiner.training.loop import LAST_FILE, STATE_FILE
from refiner.training.runs import train_lifter
from refiner.training.travel import (
    adopt_state,
    bytes_of_state,
    has_state,
    join_state,
    restart_from_weights,
    split_state,
)

LIMIT = 40_000


@pytest.fixture
def stopped(people, tiny, tmp_path):
    """A run that was stopped after its first step, and its configuration."""
    config = tiny("lifter", model={"blocks": 4}, optimiser={"name": "adamw"})
    train_lifter(config, people, tmp_path / "run", quiet=True, minutes=1e-9)
    return config, tmp_path / "run"


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_a_state_comes_back_and_is_gone_on_from(weights, stopped, people, tmp_path):
    config, run = stopped
    files = split_state(run, tmp_path / "out", "lifter", weights, LIMIT)
    assert [path.name for path in files[:2]] == ["lifter.safetensors", f"lifter.state-1-of-{len(files) - 1}"]
    assert len(files) > 2 and max(path.stat().st_size for path in files) <= LIMIT
    assert sorted((tmp_path / "out").iterdir()) == sorted(files)
    assert sum(path.stat().st_size for path in files[1:]) > bytes_of_state(run, weights)
    assert load_module(files[0]).frames == 9
    assert join_state([tmp_path / "out"], "lifter", tmp_path / "next") == 1
    before, after = (read_safetensors(folder / STATE_FILE)[0] for folder in (run, tmp_path / "next"))
    assert before.keys() == after.keys()
    exact = {"rtol": 0, "atol": 0}
    for name, value in before.items():
        bits = {"model": exact if weights == "float32" else {"rtol": 2**-11, "atol": 1e-7}, "optimiser": exact}
        close = {"average": {"rtol": 2**-11, "atol": 1e-7}, **bits}[name.split(".")[0]]
        if name.startswith("optimiser.") and value.dim():
            close = {"rtol": 2**-8, "atol": 0}
        torch.testing.assert_close(after[name], value, **close)
    train_lifter(config, people, tmp_path / "next", quiet=True)
    last = load_checkpoint(tmp_path / "next" / LAST_FILE).config["metrics"]
    assert last["step"] == 6 and [step for step, _ in last["validation_curve"]] == [1, 3, 6]


def test_the_latest_folder_with_a_state_counts(stopped, people, tmp_path):
    config, run = stopped
    split_state(run, tmp_path / "old", "lifter", limit=LIMIT)
    train_lifter(config, people, run, quiet=True, minutes=1e-9)
    split_state(run, tmp_path / "new", "lifter", limit=LIMIT)
    (tmp_path / "empty").mkdir()
    folders = [tmp_path / name for name in ("old", "new", "empty")]
    assert join_state(folders, "lifter", tmp_path / "next") == 2


def test_parts_of_an_earlier_split_are_replaced(stopped, tmp_path):
    _, run = stopped
    split_state(run, tmp_path / "out", "lifter", limit=LIMIT)
    files = split_state(run, tmp_path / "out", "lifter")
    assert [path.name for path in files] == ["lifter.safetensors", "lifter.state-1-of-1"]
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_what_does_not_belong_together_is_refused(stopped, people, tmp_path):
    config, run = stopped
    out = tmp_path / "out"
    files = split_state(run, out, "lifter", limit=LIMIT)
    kept = {path: path.read_bytes() for path in files}

    def refused(words):
        with pytest.raises(CheckpointError, match=words):
            join_state([out], "lifter", tmp_path / "next")
        assert not (tmp_path / "next" / STATE_FILE).exists()
        for path, content in kept.items():
            path.write_bytes(content)

    files[1].unlink()
    refused("bring all of one run together")
    files[-1].write_bytes(kept[files[-1]][:-5])
    refused("damaged")
    files[2].write_bytes(b"\x00\x01\n" + kept[files[2]])
    refused("is no part of a state")
    train_lifter(config, people, tmp_path / "other", quiet=True)
    other = split_state(tmp_path / "other", tmp_path / "elsewhere", "lifter", limit=LIMIT)
    files[0].write_bytes(other[0].read_bytes())
    refused("is not the checkpoint that the state beside it was written with")
    with pytest.raises(CheckpointError, match=r"no refiner\.state-1-of-N"):
        join_state([out], "refiner", tmp_path / "next")
    with pytest.raises(CheckpointError, match="holds no state"):
        split_state(tmp_path / "elsewhere", out, "lifter")
    with pytest.raises(CheckpointError, match="more than the limit"):
        split_state(run, out, "lifter", limit=1000)


def test_a_run_goes_on_from_its_weights_alone(stopped, people, tmp_path):
    config, run = stopped
    checkpoint, *parts = split_state(run, tmp_path / "out", "lifter", limit=LIMIT)
    assert has_state(tmp_path / "out", "lifter") and not has_state(tmp_path / "out", "refiner")
    for part in parts:
        part.unlink()
    assert not has_state(tmp_path / "out", "lifter")
    assert restart_from_weights(checkpoint, tmp_path / "next") == 1
    found, _ = read_safetensors(tmp_path / "next" / STATE_FILE)
    for name, value in load_checkpoint(checkpoint).state().items():
        for kind in ("model", "average"):
            torch.testing.assert_close(found[f"{kind}.{name}"], value.float(), rtol=0, atol=0)
    assert not any(name.startswith("optimiser.") for name in found)
    train_lifter(config, people, tmp_path / "next", quiet=True)
    last = load_checkpoint(tmp_path / "next" / LAST_FILE).config["metrics"]
    assert last["step"] == 6 and [step for step, _ in last["validation_curve"]] == [1, 3, 6]


def test_weights_that_do_not_say_their_step_are_refused(stopped, tmp_path):
    _, run = stopped
    whole = load_checkpoint(run / LAST_FILE)
    config = {key: value for key, value in whole.config.items() if key != "metrics"}
    save_checkpoint(tmp_path / "bare.safetensors", config, whole.tensors)
    with pytest.raises(CheckpointError, match="does not say how far it was trained"):
        restart_from_weights(tmp_path / "bare.safetensors", tmp_path / "next")
    assert not (tmp_path / "next").exists()


def test_a_run_goes_on_under_another_configuration_and_on_other_data(stopped, people, tiny, tmp_path):
    config, run = stopped
    other = tiny("lifter", model={"blocks": 4}, optimiser={"name": "adamw"}, training={"batch": 5})
    fewer = dataclasses.replace(people, description=dataclasses.replace(people.description, train=("S1",)))
    with pytest.raises(TrainingError, match="choose another --output, or remove it"):
        train_lifter(config, fewer, run, quiet=True)
    with pytest.raises(TrainingError, match="choose another --output, or remove it"):
        train_lifter(other, people, run, quiet=True)
    assert adopt_state(run, other) == 1
    train_lifter(other, fewer, run, quiet=True)
    last = load_checkpoint(run / LAST_FILE).config
    assert (
        last["metrics"]["step"] == 6 and last["training"]["batch"] == 5 and last["data_description"]["train"] == ["S1"]
    )
    with pytest.raises(CheckpointError, match="another network"):
        adopt_state(run, tiny("lifter"))
