"""The state that a causal refiner keeps for its streams: its layout, for models and engines, and its arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refiner.arguments import shown
from refiner.errors import ConfigError
from refiner.model_spec import FRAMES, HEADS, STEPS, WIDTHS
from refiner.ranges import Between

# The number of earlier frames that the convolution over time uses.
RECENT = 2
PER_MODULE = ("keys", "values", "recent")
# The name of this kind of model in a manifest.
CAUSAL = "causal-refiner"
PENDING = ("pending_2d", "pending_3d", "pending_root")


_RANGES = {
    "streams": Between(0, 1_000_000, whole=True),
    "frames": FRAMES,
    "steps": STEPS,
    "modules": Between(1, 1000, whole=True),
    "heads": HEADS,
    "width": WIDTHS,
    "joints": Between(1, 1000, whole=True),
}


@dataclass(frozen=True)
class StateLayout:
    """The names and shapes of the state tensors of a causal refiner.

    Every attention module of every denoising step has three state tensors:

    - ``keys`` and ``values``, ``(rows, J heads, T - 1, width)``: ring buffers of the temporal half of the module. Frame
      n of a stream lies in slot n mod (T - 1).
    - ``recent``, ``(rows, 2, J, C)``: the values of both halves for the last two frames, the older frame first.

    For a new frame, a module outputs an ``entry`` ``(rows J, 3 C)``. Its C columns from ``values_at`` on are the values
    of both halves, the spatial half first. Its C / 2 columns from ``keys_at`` on are the temporal keys.

    Attributes:
        streams: S, the number of streams that one pass processes.
        frames: T; a frame attends to itself and to the T - 1 frames before it.
        steps: K, the number of denoising steps.
        modules: The number of attention modules of the denoiser (its depth).
        heads: The attention heads of each half of a module.
        width: The channels of a head.
        pipelined: Whether the K steps of one pass process K consecutive frames. Every step then has its own row for
            every stream, and the frames between two steps are stored as ``pending``.
        joints: J.
        rays: Whether a frame consists of keypoints and a camera, and the network receives 6 numbers per joint
            (`refiner.models.canonical`).

    Raises:
        ConfigError: A number lies outside of its range; T is below 3, so that the ring buffers cannot show how many
            frames a stream has had; there is no stream; or a pipelined refiner has one step.
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
        for name, allowed in _RANGES.items():
            if not allowed.holds(getattr(self, name)):
                raise ConfigError(f"the state's {name}: expected {allowed}, got {shown(getattr(self, name))}")
        if self.frames < 3:
            raise ConfigError(f"a causal refiner of {self.frames} frames has no state; expected 3 or more frames")
        if self.streams < 1:
            raise ConfigError(f"there must be at least one stream, got {self.streams}")
        if self.pipelined and self.steps < 2:
            raise ConfigError("a refiner of one step has nothing to pipeline; leave pipelined out")

    @property
    def dim(self) -> int:
        """C, the channels of a module."""
        return 2 * self.heads * self.width

    @property
    def slots(self) -> int:
        """T - 1, the frames in a ring buffer."""
        return self.frames - 1

    @property
    def rows(self) -> int:
        """The rows of the tensors. If pipelined, row k S + s is step k of stream s; otherwise row s is stream s."""
        return self.streams * self.steps if self.pipelined else self.streams

    @property
    def delay(self) -> int:
        """The number of frames between an input and its result."""
        return self.steps - 1 if self.pipelined else 0

    @property
    def values_at(self) -> int:
        """The first column of the values in an entry."""
        return self.dim

    @property
    def keys_at(self) -> int:
        """The first column of the temporal keys in an entry."""
        return 2 * self.dim

    @property
    def cache_names(self) -> list[str]:
        """One name per cache, in the order of the computation: "0_3" is module 3 of step 0; "3" if pipelined."""
        if self.pipelined:
            return [str(module) for module in range(self.modules)]
        return [f"{step}_{module}" for step in range(self.steps) for module in range(self.modules)]

    def state(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every state tensor, in their order. All are float32."""
        shapes = {
            "keys": (self.rows, self.joints * self.heads, self.slots, self.width),
            "values": (self.rows, self.joints * self.heads, self.slots, self.width),
            "recent": (self.rows, RECENT, self.joints, self.dim),
        }
        caches = {f"{name}_{cache}": shapes[name] for cache in self.cache_names for name in PER_MODULE}
        return self.pending("") | caches

    def fresh(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every output of a pass except the refined poses, in their order."""
        entry = (self.rows * self.joints, 3 * self.dim)
        return self.pending("next_") | {f"entry_{cache}": entry for cache in self.cache_names}

    def pending(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of the tensors for frames between two steps; empty if not pipelined.

        They are the 2D input of the network, the root-relative pose after step k, and the root position.
        """
        if not self.pipelined:
            return {}
        waiting = self.rows - self.streams
        shapes = ((waiting, self.joints, 6 if self.rays else 2), (waiting, self.joints, 3), (waiting, 1, 3))
        return {f"{prefix}{name}": shape for name, shape in zip(PENDING, shapes, strict=True)}


def step_inputs(layout: StateLayout, carried: bool) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every input of a pass, in their order.

    ``carried`` says that the graph itself writes the state.
    """
    streams, rings = layout.streams, (layout.rows, layout.slots)
    numbers = 3 if layout.rays else 2
    pose_2d, lens = ("keypoints", "camera") if layout.rays else ("pose_2d", "image_size")
    poses = {
        pose_2d: (streams, layout.joints, numbers),
        "pose_3d": (streams, layout.joints, 3),
        lens: (streams, numbers),
    }
    masks = {"seen": rings, "write": rings} if carried else {"seen": rings}
    return poses | masks | layout.state()


def step_outputs(layout: StateLayout, carried: bool) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every output of a pass, in their order; arguments as for `step_inputs`."""
    refined = {"refined_pose_3d": (layout.streams, layout.joints, 3)}
    if carried:
        return refined | {f"next_{name}": shape for name, shape in layout.state().items()}
    return refined | layout.fresh()


class StreamCounts:
    """The number of frames that each row has processed, and the masks that a pass needs.

    Attributes:
        counts: ``(rows,)``, the frames that each row has processed since its stream was reset.
        seen: ``(rows, T - 1)``, an input of the pass: 1 for each ring-buffer slot that holds a frame of the stream.
    """

    def __init__(self, layout: StateLayout) -> None:
        self.layout = layout
        self.counts: NDArray[np.int64] = np.zeros(layout.rows, dtype=np.int64)
        self.seen: NDArray[np.float32] = _zeros(layout.rows, layout.slots)
        self._every_slot = np.arange(layout.slots)

    def rows_of(self, active: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the rows that have a frame in the next pass, ``(rows,)``.

        ``active`` ``(S,)`` marks the streams that have a new frame.
        """
        if not self.layout.pipelined:
            return active
        counts = self.counts.reshape(-1, self.layout.streams)
        # A step has a frame to process if the step before it has processed more frames.
        waiting = counts[:-1] > counts[1:]
        return np.concatenate([active, (waiting & active).ravel()])

    def writes(self, rows: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the input ``write`` ``(rows, T - 1)`` of a graph that writes the state itself.

        It is 1 in the slot that each row of ``rows`` writes next.
        """
        slots = self._every_slot == (self.counts % self.layout.slots)[:, None]
        writes: NDArray[np.float32] = (slots & rows[:, None]).astype(np.float32)
        return writes

    def advance(self, rows: NDArray[np.bool_]) -> None:
        """Count a pass in which ``rows`` ``(rows,)`` had a frame. The other rows keep their state."""
        active = np.flatnonzero(rows)
        self.seen[active, self.counts[active] % self.layout.slots] = 1.0
        self.counts[active] += 1

    def reset(self, stream: int) -> None:
        """Reset a stream, so that its next frame counts as its first."""
        rows = slice(stream, None, self.layout.streams)
        self.counts[rows], self.seen[rows] = 0, 0.0


class CausalState(StreamCounts):
    """The state tensors, in arrays whose memory addresses never change.

    An engine binds `tensors` as its inputs and `fresh` as its outputs once. After each pass, `advance` copies the new
    entries into the ring buffers.
    """

    def __init__(self, layout: StateLayout) -> None:
        super().__init__(layout)
        rows, caches, dim = layout.rows, len(layout.cache_names), layout.dim
        self._keys = _zeros(caches, rows, layout.joints, layout.heads, layout.slots, layout.width)
        self._values = np.zeros_like(self._keys)
        self._recent = _zeros(caches, rows, RECENT, layout.joints, dim)
        self._entries = _zeros(caches, rows, layout.joints, 3 * dim)
        # The same memory, split into halves: (spatial q, k, v | temporal v, k, q).
        halves = self._entries.reshape(caches, rows, layout.joints, 6, layout.heads, layout.width)
        self._new_values, self._new_keys = halves[:, :, :, 3], halves[:, :, :, 4]
        self._new_recent = self._entries[..., layout.values_at : layout.values_at + dim]
        self._pending = {name: _zeros(*shape) for name, shape in layout.pending("").items()}
        self._next = {name: _zeros(*shape) for name, shape in layout.pending("next_").items()}

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the state tensors by name, in the order and shapes of `StateLayout.state`."""
        shapes = self.layout.state()
        stacks = dict(zip(PER_MODULE, (self._keys, self._values, self._recent), strict=True))
        tensors = dict(self._pending)
        for index, cache in enumerate(self.layout.cache_names):
            for name, stack in stacks.items():
                tensors[f"{name}_{cache}"] = stack[index].reshape(shapes[f"{name}_{cache}"])
        return tensors

    def fresh(self) -> dict[str, NDArray[np.float32]]:
        """Return the output arrays of a pass by name, in the order and shapes of `StateLayout.fresh`."""
        shapes = self.layout.fresh()
        entries = {f"entry_{cache}": self._entries[index] for index, cache in enumerate(self.layout.cache_names)}
        return self._next | {name: entry.reshape(shapes[name]) for name, entry in entries.items()}

    def advance(self, rows: NDArray[np.bool_]) -> None:
        """Copy the outputs of the pass for ``rows`` ``(rows,)`` into the state, and count the pass."""
        slots = self.counts % self.layout.slots
        for slot in set(slots[rows].tolist()):
            same_slot = np.flatnonzero(rows & (slots == slot))
            first, last = int(same_slot[0]), int(same_slot[-1])
            # These rows are usually contiguous (all streams, or all streams of a step), and a slice is faster.
            contiguous = last - first + 1 == len(same_slot)
            self._write(slice(first, last + 1) if contiguous else same_slot, slot)
        for name, pending in self._pending.items():
            advancing = rows[: len(pending)]
            pending[advancing] = self._next[f"next_{name}"][advancing]
        super().advance(rows)

    def reset(self, stream: int) -> None:
        """Reset a stream and set its state to zero, so that no value of it remains, such as a NaN."""
        super().reset(stream)
        rows = slice(stream, None, self.layout.streams)
        for stack in (self._keys, self._values, self._recent):
            stack[:, rows] = 0.0
        for pending in self._pending.values():
            pending[rows] = 0.0

    def _write(self, rows: slice | NDArray[np.intp], slot: int) -> None:
        self._keys[..., slot, :][:, rows] = self._new_keys[:, rows]
        self._values[..., slot, :][:, rows] = self._new_values[:, rows]
        self._recent[:, rows, 0] = self._recent[:, rows, 1]
        self._recent[:, rows, 1] = self._new_recent[:, rows]


def _zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, dtype=np.float32)
