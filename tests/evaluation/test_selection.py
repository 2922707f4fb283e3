"""Which people and clips are scored."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.errors import UsageError
from refiner.evaluation.selection import describe_people, limit_clips, select_people

SPLIT = {"train": ["S6", "S9"], "validation": ["S5"], "test": ["S2", "S14"]}
POSITIONS = {
    name: {key: np.full((3, 17, 3), index) for index, key in enumerate(["Walking", "Walking 1", "Sitting"])}
    for name in ("S2", "S5", "S6", "S9", "S14", "S60")
}


def test_the_split_comes_from_the_description():
    assert select_people("test", SPLIT, POSITIONS) == ["S2", "S14"]
    assert select_people("validation", SPLIT, POSITIONS) == ["S5"]
    assert select_people("S14, S9,S14", SPLIT, POSITIONS) == ["S14", "S9"]


@pytest.mark.parametrize("choice", ["", " , ", "S99", "S2,Nobody", "Test"])
def test_nobody_of_that_name(choice):
    with pytest.raises(UsageError, match="S60"):
        select_people(choice, SPLIT, POSITIONS)


def test_an_empty_part_of_the_split():
    with pytest.raises(UsageError, match="nobody for validation"):
        select_people("validation", SPLIT | {"validation": []}, POSITIONS)


def test_training_people_are_marked():
    assert describe_people(["S2", "S14"], SPLIT) == "test people S2, S14"
    text = describe_people(["S14", "S9", "S60"], SPLIT)
    assert "train people S9 (seen in training)" in text
    assert "test people S14" in text and "outside the split S60" in text


def test_a_limit_spreads_over_the_archive():
    everything = limit_clips(POSITIONS, ["S2", "S14"], None)
    assert {name: list(clips) for name, clips in everything.items()} == {
        "S2": ["Walking", "Walking 1", "Sitting"],
        "S14": ["Walking", "Walking 1", "Sitting"],
    }
    two = limit_clips(POSITIONS, ["S2", "S14"], 2)
    assert {name: list(clips) for name, clips in two.items()} == {"S2": ["Walking"], "S14": ["Walking"]}
    assert limit_clips(POSITIONS, ["S2"], 9).keys() == {"S2"}
    with pytest.raises(UsageError, match="at least 1"):
        limit_clips(POSITIONS, ["S2"], 0)
