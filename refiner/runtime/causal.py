"""Engines of causal refiners. They take one frame of each stream, refine it, and keep the state of the streams."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refiner.causal_state import CAUSAL, StateLayout, StreamCounts, step_inputs
from refiner.diffusion.uncertainty import JointUncertainty
from refiner.errors import ArtefactError, ConfigError, NonFiniteError, UsageError
from refiner.runtime.engine import Model, ModelDefaults, input_names
from refiner.runtime.manifest import Manifest

Array = NDArray[np.float32]
Active = NDArray[np.bool_]


class CausalEngine(Model, Protocol):
    """Refines the frames of several streams as they come.

    Several threads may call it, each for streams of its own (``active``): calls run one after the other.

    Attributes:
        streams: the number of streams, S.
        delay: the number of frames between an input and its result; 0 unless the K steps are pipelined.
        frames: T. The result of a frame depends on this frame and the T - 1 frames before it.
    """

    streams: int
    delay: int

    def step(
        self, pose_2d: Array, pose_3d: Array, image_size: Array, active: Active | None = None, out: Array | None = None
    ) -> Array:
        """Refine the next frame of each active stream.

        Args:
            pose_2d: ``(S, 17, 2)`` pixels. With `rays` ``(S, 17, 3)``, pixels and confidence; a missing joint has the
                confidence 0 and any finite x and y.
            pose_3d: ``(S, 17, 3)`` metres in camera axes. The root may lie anywhere and is kept.
            image_size: ``(S, 2)`` width and height in pixels. With `rays` ``(S, 3)``, with the focal length; all three
                above 0.
            active: ``(S,)``, the streams that have a frame; by default all. The others keep their state, and their rows
                of the arrays are ignored.
            out: a float32 array ``(S, 17, 3)`` to write to, instead of a new one.

        Returns:
            The refined poses, ``(S, 17, 3)`` metres. Rows without a result are NaN: those of streams that are not
            active, and those before the first ``delay`` frames have passed.

        Raises:
            UsageError: an array has a wrong shape or type.
            NonFiniteError: an active stream has a NaN or an infinite value. After an error the state is unchanged.
        """
        ...

    def reset(self, stream: int) -> None:
        """Forget a stream: its next frame is its first. Raises UsageError for a stream that does not exist."""
        ...

    def claim(self, owner: object) -> None:
        """Give all streams to one owner, and forget what they held.

        Raises UsageError while the owner before it exists: two owners would mix their people.
        """
        ...


@dataclasses.dataclass(frozen=True)
class StreamFacts:
    """The description of a model besides the layout of its state; see `refiner.runtime.engine.Model` for the fields."""

    engine: str
    device: str
    fps: float
    uncertainty: JointUncertainty | None
    metadata: Mapping[str, Any]

    @classmethod
    def of_manifest(cls, manifest: Manifest, device: str) -> StreamFacts:
        """The description of an artefact's model."""
        metadata = {**manifest.content, "device": device}
        return cls(manifest.engine, device, manifest.fps, manifest.uncertainty, metadata)


class StreamEngine(ModelDefaults):
    """Base class of the causal engines. It checks the inputs and copies them to arrays that never move in memory.

    A subclass implements ``_pass(rows)``: it runs the model once over ``inputs`` and writes the result to ``refined``.
    ``rows`` ``(rows,)`` marks the rows that have a frame. The state may only change after everything that can fail.

    Args:
        layout: of the state.
        counts: the `StreamCounts` of the engine, or its whole `CausalState`.
        facts: the description of the model.
    """

    def __init__(self, layout: StateLayout, counts: StreamCounts, facts: StreamFacts) -> None:
        self.layout, self.counts, self.metadata = layout, counts, facts.metadata
        self.engine, self.device, self.kind = facts.engine, facts.device, CAUSAL
        self.frames, self.streams, self.delay = layout.frames, layout.streams, layout.delay
        self.rays, self.steps = layout.rays, layout.steps
        self.fps, self.uncertainty = facts.fps, facts.uncertainty
        shapes = step_inputs(layout, carried=False)
        self._names = input_names(CAUSAL, layout.rays)
        self.inputs: dict[str, Array] = {name: np.zeros(shapes[name], np.float32) for name in self._names}
        # Pixels are divided by image size and focal length, so both must not be 0 for streams that have not begun.
        self.inputs[self._names[-1]].fill(1.0)
        self.inputs["seen"] = counts.seen
        self.refined: Array = np.zeros((self.streams, layout.joints, 3), np.float32)
        # Inputs, outputs and state have one place in memory, so only one call runs at a time.
        self._turn = threading.Lock()
        self._owner: weakref.ref[object] | None = None
        self._all: Active = np.ones(self.streams, dtype=np.bool_)

    def step(
        self, pose_2d: Array, pose_3d: Array, image_size: Array, active: Active | None = None, out: Array | None = None
    ) -> Array:
        """See `CausalEngine.step`."""
        arrays = dict(zip(self._names, (pose_2d, pose_3d, image_size), strict=True))
        chosen = self._all if active is None else self._checked_active(active)
        for name, array in arrays.items():
            if np.shape(array) != self.inputs[name].shape:
                raise UsageError(
                    f"{name} has shape {np.shape(array)}, expected {self.inputs[name].shape}: one frame of each of "
                    f"{self.streams} streams"
                )
            finite = np.isfinite(array)
            if not finite.all():
                wrong = chosen & ~finite.reshape(self.streams, -1).all(axis=1)
                if wrong.any():
                    raise NonFiniteError(
                        f"{name} holds NaN or infinite values in stream {int(np.flatnonzero(wrong)[0])}; fill them in, "
                        "or leave the stream out of active"
                    )
        if out is None:
            out = np.empty_like(self.refined)
        elif out.shape != self.refined.shape or out.dtype != np.float32:
            raise UsageError(f"out is {out.dtype} {out.shape}, expected float32 {self.refined.shape}")
        with self._turn:
            everybody = chosen.all()
            for name, array in arrays.items():
                target = self.inputs[name]
                where = True if everybody else chosen.reshape(-1, *(1,) * (target.ndim - 1))
                np.copyto(target, array, where=where, casting="same_kind")
            rows = self.counts.rows_of(chosen)
            self._pass(rows)
            answered = rows[-self.streams :]
            np.copyto(out, self.refined)
            if not answered.all():
                out[~answered] = np.nan
        return out

    def reset(self, stream: int) -> None:
        """Forget a stream: its next frame is its first. Raises UsageError for a stream that does not exist."""
        if not 0 <= stream < self.streams:
            raise UsageError(f"there is no stream {stream}; expected 0 to {self.streams - 1}")
        with self._turn:
            self.counts.reset(stream)

    def claim(self, owner: object) -> None:
        """See `CausalEngine.claim`."""
        with self._turn:
            if self._owner is not None and self._owner() is not None:
                raise UsageError(
                    "another stream uses this engine, which holds the memory of its people; open an engine for each "
                    "stream, or one StreamingRefiner for several people"
                )
            self._owner = weakref.ref(owner)
            for stream in range(self.streams):
                self.counts.reset(stream)

    def _pass(self, rows: Active) -> None:
        raise NotImplementedError

    def _checked_active(self, active: Active) -> Active:
        array = np.asarray(active)
        if array.shape != (self.streams,) or array.dtype != np.bool_:
            raise UsageError(f"active is {array.dtype} {array.shape}, expected bool ({self.streams},)")
        return array


def layout_entry(layout: StateLayout) -> dict[str, Any]:
    """The entry ``layout`` in the ``state`` of a manifest."""
    return dataclasses.asdict(layout)


def layout_of(manifest: Manifest, file: Path) -> StateLayout:
    """The layout of the state in a manifest. Raises ArtefactError where the manifest does not describe it."""
    state = manifest.content.get("state")
    try:
        layout = StateLayout(**({} if manifest.state is None else manifest.state.layout))
    except (TypeError, ConfigError) as error:
        raise ArtefactError(f"the manifest of {file} does not describe the state: {error}; export it again") from error
    declared = (manifest.batch.most, manifest.frames, manifest.rays)
    if (layout.streams, layout.frames, layout.rays) != declared:
        raise ArtefactError(f"the manifest of {file} contradicts itself: its state is {state}; export it again")
    return layout


def check_tensors(actual: dict[str, tuple[int | str, ...]], expected: dict[str, tuple[int, ...]], file: Path) -> None:
    """Raises ArtefactError unless the tensors of a graph have the names, order and shapes that its state requires.

    ``actual`` and ``expected``: the shapes by name, in order.
    """
    if list(actual) != list(expected):
        missing = [name for name in expected if name not in actual]
        raise ArtefactError(
            f"{file} does not have the tensors of its state; missing or misplaced: {', '.join(missing) or 'the order'}"
        )
    for name, shape in actual.items():
        if tuple(shape) != expected[name]:
            raise ArtefactError(f"{file} has {name} of shape {tuple(shape)}, its manifest says {expected[name]}")
