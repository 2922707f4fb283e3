"""The action prompts of a lifter: the index of each action in the lifter's list, and one more for "unknown"."""

from __future__ import annotations

from collections.abc import Sequence

from refiner.arguments import check_choice

UNKNOWN_ACTION = "unknown"
# The action number that asks a lifter to guess the action.
GUESS = -1


def action_number(actions: Sequence[str], action: str) -> int:
    """Return the index of an action in ``actions``, or ``len(actions)`` for the unknown action.

    Raises UsageError if the lifter does not know the action.
    """
    return [*actions, UNKNOWN_ACTION].index(check_choice(action, "action", [*actions, UNKNOWN_ACTION]))


def action_for_lifter(mode: str | None, label: str, actions: Sequence[str]) -> str | None:
    """Choose the argument ``action`` of `Lifter.lift` for a clip.

    Args:
        mode: "label": use the label, or "unknown" if the lifter has no prompt for it. "unknown": use "unknown".
            "guess" or None: let the lifter guess.
        label: The action of the clip.
        actions: The actions that the lifter knows.
    """
    if not mode or mode == "guess":
        return None
    return label if mode == "label" and label in actions else UNKNOWN_ACTION
