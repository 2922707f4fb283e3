"""Whether a stored configuration is the one that is asked for."""

from __future__ import annotations

import dataclasses
import json

import pytest

from refiner.training.config import load_config, same_configuration


def stored(name, *overrides):
    """As a run's state and a checkpoint have it."""
    return json.loads(json.dumps(dataclasses.asdict(load_config(name, list(overrides)))))


def test_it_is_the_same_after_json_and_with_what_a_checkpoint_adds():
    config = load_config("refiner-small-correlated")
    assert same_configuration(stored("refiner-small-correlated") | {"metrics": {"step": 1}}, config)


def test_what_the_format_has_gained_since_has_its_default():
    older = stored("refiner-small")
    del older["training"]["distinct_batches"], older["loss"]
    assert same_configuration(older, load_config("refiner-small"))
    assert not same_configuration(older, load_config("refiner-small", ["training.distinct_batches=800"]))


@pytest.mark.parametrize("change", ["training.seed=1", "model.dim=32", "noise.time=full", "lifter=other.safetensors"])
def test_every_other_difference_counts(change):
    assert not same_configuration(stored("refiner-small", change), load_config("refiner-small"))


def test_a_file_of_another_time_is_another_configuration():
    unknown = stored("refiner-small")
    unknown["training"]["gone"] = 1
    assert not same_configuration(unknown, load_config("refiner-small"))


def test_what_training_fills_in_of_the_text_side_does_not_count():
    trained = stored("finepose-small", 'text.actions=["Walking"]')
    assert same_configuration(trained, load_config("finepose-small"))
    assert not same_configuration(trained, load_config("finepose-small", ['text.actions=["Boxing"]']))
