"""Names of actions as the numbers that a lifter is told: their places in its list, behind them the unknown action."""

from __future__ import annotations

from collections.abc import Sequence

from refiner.errors import UsageError

UNKNOWN_ACTION = "unknown"
# What a lifter is told where it is to guess.
GUESS = -1


def action_number(actions: Sequence[str], action: str) -> int:
    """The place of a name among the actions, or behind them for the unknown action. Raises UsageError."""
    if action == UNKNOWN_ACTION:
        return len(actions)
    if action not in actions:
        raise UsageError(
            f"the model knows no action {action!r}; choose {UNKNOWN_ACTION} or one of {', '.join(actions)}"
        )
    return list(actions).index(action)


def told_action(mode: str | None, label: str, actions: Sequence[str]) -> str | None:
    """What a lifter with ``actions`` is told of a clip whose action is ``label``, for `Lifter.lift`.

    ``mode`` "label": the label, or that the action is unknown where it has no prompt; "unknown": that it is; "guess" or
    none: nothing, so that it guesses.
    """
    if not mode or mode == "guess":
        return None
    return label if mode == "label" and label in actions else UNKNOWN_ACTION
