"""What a causal refiner remembers of its streams: the layout, for models and engines alike, and the arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError

# Frames before the current one that the convolution over time takes.
RECENT = 2
PER_MODULE = ("keys", "values", "recent")
# What a manifest calls such a model.
CAUSAL = "causal-refiner"
PENDING = ("pending_2d", "pending_3d", "pending_root")


@dataclass(frozen=True)
class StateLayout:
    """The state of S ``streams``.

    Args:
        frames: T; a frame sees itself and T - 1 frames before it. steps: K.
        modules: attention modules of the denoiser (its depth). heads, width: of each half of a module.
        pipelined: the K steps of a pass belong to K neighbouring frames; each step has a row of its own for every
            stream, and the frames between two steps are kept as ``pending``.
        rays: frames come as keypoints and cameras, and the network sees 6 numbers of a joint
            (`refiner.models.canonical`).

    Raises ConfigError for fewer than 3 frames, whose rings could not tell how much of a stream has been.

    A module of a step keeps ``keys`` and ``values`` ``(rows, J heads, T - 1, width)``, rings of the temporal half in
    which frame n of a stream lies in slot n mod (T - 1), and ``recent`` ``(rows, 2, J, C)``, the values of both halves
    of the last two frames, older first. For a frame it gives an ``entry`` ``(rows J, 3 C)``: its C columns from
    ``values_at`` on are the values of both halves, spatial first, its C / 2 from ``keys_at`` on the temporal keys.
    """

    streams: int
    frames: int
    steps: int
    modules: int
    heads: int
    width: int
    pipelined: bool = False
    joints: int = 17
    rays: bool = False

    def __post_init__(self) -> None:
        if self.frames < 3:
            raise ConfigError(f"a refiner that sees {self.frames} frames has no state; expected 3 or more")
        if self.streams < 1:
            raise ConfigError(f"there must be at least one stream, got {self.streams}")
        if self.pipelined and self.steps < 2:
            raise ConfigError("a refiner of one step has nothing to pipeline; leave pipelined out")

    @property
    def dim(self) -> int:
        """C."""
        return 2 * self.heads * self.width

    @property
    def slots(self) -> int:
        """T - 1, the frames in a ring."""
        return self.frames - 1

    @property
    def rows(self) -> int:
        """Rows of the tensors: row k S + s is step k of stream s where pipelined, otherwise row s is stream s."""
        return self.streams * self.steps if self.pipelined else self.streams

    @property
    def delay(self) -> int:
        """Frames between an input and its result."""
        return self.steps - 1 if self.pipelined else 0

    @property
    def values_at(self) -> int:
        return self.dim

    @property
    def keys_at(self) -> int:
        return 2 * self.dim

    @property
    def places(self) -> list[str]:
        """Where there is a cache, in the order of the computation: "0_3" is step 0, module 3; "3" where pipelined."""
        if self.pipelined:
            return [str(module) for module in range(self.modules)]
        return [f"{step}_{module}" for step in range(self.steps) for module in range(self.modules)]

    def state(self) -> dict[str, tuple[int, ...]]:
        """The tensors of the state in their order, all float32."""
        shapes = {
            "keys": (self.rows, self.joints * self.heads, self.slots, self.width),
            "values": (self.rows, self.joints * self.heads, self.slots, self.width),
            "recent": (self.rows, RECENT, self.joints, self.dim),
        }
        caches = {f"{name}_{place}": shapes[name] for place in self.places for name in PER_MODULE}
        return self.pending("") | caches

    def fresh(self) -> dict[str, tuple[int, ...]]:
        """What a step gives beside the refined poses, in its order."""
        entry = (self.rows * self.joints, 3 * self.dim)
        return self.pending("next_") | {f"entry_{place}": entry for place in self.places}

    def pending(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Frames between two steps: what the network sees in 2D, the pose after step k less its root, the root."""
        if not self.pipelined:
            return {}
        waiting = self.rows - self.streams
        shapes = ((waiting, self.joints, 6 if self.rays else 2), (waiting, self.joints, 3), (waiting, 1, 3))
        return {f"{prefix}{name}": shape for name, shape in zip(PENDING, shapes, strict=True)}


def step_inputs(layout: StateLayout, carried: bool) -> dict[str, tuple[int, ...]]:
    """Everything that a step takes, by name in its order; ``carried``: one that writes the state itself."""
    streams, rings = layout.streams, (layout.rows, layout.slots)
    numbers = 3 if layout.rays else 2
    seen, lens = ("keypoints", "camera") if layout.rays else ("pose_2d", "image_size")
    poses = {
        seen: (streams, layout.joints, numbers),
        "pose_3d": (streams, layout.joints, 3),
        lens: (streams, numbers),
    }
    masks = {"seen": rings, "write": rings} if carried else {"seen": rings}
    return poses | masks | layout.state()


def step_outputs(layout: StateLayout, carried: bool) -> dict[str, tuple[int, ...]]:
    """Everything that a step gives, by name in its order."""
    refined = {"refined_pose_3d": (layout.streams, layout.joints, 3)}
    if carried:
        return refined | {f"next_{name}": shape for name, shape in layout.state().items()}
    return refined | layout.fresh()


class StreamCounts:
    """How many frames of each stream each row has taken in, and what follows from it for a pass.

    ``counts`` ``(rows,)``; ``seen`` ``(rows, T - 1)`` is a step's input that says which slots are of the stream.
    """

    def __init__(self, layout: StateLayout) -> None:
        self.layout = layout
        self.counts: NDArray[np.int64] = np.zeros(layout.rows, dtype=np.int64)
        self.seen: NDArray[np.float32] = _zeros(layout.rows, layout.slots)
        self._every_slot = np.arange(layout.slots)

    def rows_of(self, active: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which rows the next pass has a frame for, given the streams ``(S,)`` that have one: ``(rows,)``."""
        if not self.layout.pipelined:
            return active
        counts = self.counts.reshape(-1, self.layout.streams)
        # A step has a frame where the one before it has had one more.
        waiting = counts[:-1] > counts[1:]
        return np.concatenate([active, (waiting & active).ravel()])

    def writes(self, rows: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The input ``write`` of a step that writes the state itself: 1 in the slots of ``rows``, ``(rows, T - 1)``."""
        slots = self._every_slot == (self.counts % self.layout.slots)[:, None]
        writes: NDArray[np.float32] = (slots & rows[:, None]).astype(np.float32)
        return writes

    def advance(self, rows: NDArray[np.bool_]) -> None:
        """Count a pass in which ``rows`` ``(rows,)`` had a frame; the others keep their state."""
        active = np.flatnonzero(rows)
        self.seen[active, self.counts[active] % self.layout.slots] = 1.0
        self.counts[active] += 1

    def reset(self, stream: int) -> None:
        """Forget a stream: its next frame is its first."""
        rows = slice(stream, None, self.layout.streams)
        self.counts[rows], self.seen[rows] = 0, 0.0


class CausalState(StreamCounts):
    """The state itself, in arrays whose places in memory never change.

    An engine binds `tensors` as its inputs and `fresh` as its outputs once; after each pass `advance` writes what is
    new into the rings.
    """

    def __init__(self, layout: StateLayout) -> None:
        super().__init__(layout)
        rows, places, dim = layout.rows, len(layout.places), layout.dim
        self._keys = _zeros(places, rows, layout.joints, layout.heads, layout.slots, layout.width)
        self._values = np.zeros_like(self._keys)
        self._recent = _zeros(places, rows, RECENT, layout.joints, dim)
        self._entries = _zeros(places, rows, layout.joints, 3 * dim)
        # The same memory in halves: (spatial q, k, v | temporal v, k, q).
        halves = self._entries.reshape(places, rows, layout.joints, 6, layout.heads, layout.width)
        self._new_values, self._new_keys = halves[:, :, :, 3], halves[:, :, :, 4]
        self._new_recent = self._entries[..., layout.values_at : layout.values_at + dim]
        self._pending = {name: _zeros(*shape) for name, shape in layout.pending("").items()}
        self._next = {name: _zeros(*shape) for name, shape in layout.pending("next_").items()}

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The state by name, in the order and shapes of `StateLayout.state`."""
        shapes = self.layout.state()
        stacks = dict(zip(PER_MODULE, (self._keys, self._values, self._recent), strict=True))
        found = dict(self._pending)
        for index, place in enumerate(self.layout.places):
            for name, stack in stacks.items():
                found[f"{name}_{place}"] = stack[index].reshape(shapes[f"{name}_{place}"])
        return found

    def fresh(self) -> dict[str, NDArray[np.float32]]:
        """Where a pass leaves what is new, in the order and shapes of `StateLayout.fresh`."""
        shapes = self.layout.fresh()
        entries = {f"entry_{place}": self._entries[index] for index, place in enumerate(self.layout.places)}
        return self._next | {name: entry.reshape(shapes[name]) for name, entry in entries.items()}

    def advance(self, rows: NDArray[np.bool_]) -> None:
        """Take in what the pass left for ``rows`` ``(rows,)``, and count it."""
        slots = self.counts % self.layout.slots
        for slot in set(slots[rows].tolist()):
            found = np.flatnonzero(rows & (slots == slot))
            first, last = int(found[0]), int(found[-1])
            # Mostly neighbours: all streams, or all of a step.
            together = last - first + 1 == len(found)
            self._write(slice(first, last + 1) if together else found, slot)
        for name, kept in self._pending.items():
            going_on = rows[: len(kept)]
            kept[going_on] = self._next[f"next_{name}"][going_on]
        super().advance(rows)

    def reset(self, stream: int) -> None:
        """Forget a stream, so that nothing of it is left, not even what was not finite."""
        super().reset(stream)
        rows = slice(stream, None, self.layout.streams)
        for stack in (self._keys, self._values, self._recent):
            stack[:, rows] = 0.0
        for kept in self._pending.values():
            kept[rows] = 0.0

    def _write(self, rows: Any, slot: int) -> None:
        self._keys[..., slot, :][:, rows] = self._new_keys[:, rows]
        self._values[..., slot, :][:, rows] = self._new_values[:, rows]
        self._recent[:, rows, 0] = self._recent[:, rows, 1]
        self._recent[:, rows, 1] = self._new_recent[:, rows]


def _zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, dtype=np.float32)
