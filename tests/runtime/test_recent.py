"""A bounded number of kept values."""

from __future__ import annotations

from refiner.runtime.recent import Recent


def test_the_least_recently_used_is_dropped():
    dropped = []
    recent = Recent(2, dropped.append)
    recent.keep("a", 1)
    recent.keep("b", 2)
    assert recent.get("a") == 1 and recent.get("c") is None
    recent.keep("c", 3)
    assert dropped == [2] and list(recent) == ["a", "c"]
    recent.keep("a", 4)
    assert dropped == [2] and recent.get("a") == 4 and len(recent) == 2
    recent.clear()
    assert dropped == [2, 3, 4] and len(recent) == 0
