"""Actions as numbers, and the action that a lifter receives for a clip."""

from __future__ import annotations

import pytest

from refiner.actions import action_for_lifter, action_number
from refiner.errors import UsageError

ACTIONS = ("Boxing", "Walking")


def test_the_unknown_action_comes_behind_all_others():
    assert [action_number(ACTIONS, name) for name in ("Boxing", "Walking", "unknown")] == [0, 1, 2]
    with pytest.raises(UsageError, match="no action 'Waving'; choose one of Boxing, Walking, unknown"):
        action_number(ACTIONS, "Waving")


@pytest.mark.parametrize(
    ("mode", "label", "told"),
    [
        ("label", "Walking", "Walking"),
        ("label", "Waving", "unknown"),
        ("unknown", "Walking", "unknown"),
        ("guess", "Walking", None),
        (None, "Walking", None),
    ],
)
def test_a_clip_is_told_as_its_mode_says(mode, label, told):
    assert action_for_lifter(mode, label, ACTIONS) == told
