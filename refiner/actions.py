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
