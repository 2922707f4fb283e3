"""What `Lifter` and `Refiner` share: an engine for windows of a fixed length, and how they follow each other."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from refiner.runtime.engine import LifterEngine, RefinerEngine
from refiner.runtime.stitching import DEFAULT_BATCH, check_hop

EngineT = TypeVar("EngineT", LifterEngine, RefinerEngine)


class WindowModel(Generic[EngineT]):
    """A model that runs over sequences of any length in overlapping windows.

    Args:
        engine: what runs its windows.
        hop: frames from one window to the next; half a window by default. Raises UsageError outside of 1 to
            the window's length.
        batch: windows that run at a time, at most as many as the engine takes.
    """

    def __init__(self, engine: EngineT, hop: int | None = None, batch: int = DEFAULT_BATCH) -> None:
        self._engine: EngineT = engine
        self.hop = check_hop(hop, engine.frames)
        self.batch = min(batch, engine.largest_batch)

    @property
    def frames(self) -> int:
        """The length of a window."""
        return self._engine.frames

    @property
    def fps(self) -> float:
        """The frame rate that the model was trained at."""
        return self._engine.fps

    @property
    def metadata(self) -> dict[str, Any]:
        """The checkpoint's configuration or the artefact's manifest, and ``engine``."""
        return self._engine.metadata
