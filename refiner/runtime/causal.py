"""Engines of causal refiners: a frame of every stream in, a better frame out, the state inside."""

from __future__ import annotations

import dataclasses
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
    """Refines the frames of ``streams`` streams as they come, at ``fps`` frames/s; ``metadata`` says what model it is.

    ``frames``: T; a frame sees itself and T - 1 frames before it. ``delay``: frames between an input and its result,
    0 unless the K steps are pipelined. ``rays``: the model is camera-aware and takes keypoints (x, y, confidence) and
    cameras (width, height, focal length) where others take 2D poses and image sizes. One call at a time.
    """

    streams: int
    delay: int

    def step(
        self, pose_2d: Array, pose_3d: Array, image_size: Array, active: Active | None = None, out: Array | None = None
    ) -> Array:
        """``(S, 17, 2)`` pixels, ``(S, 17, 3)`` metres, (width, height) ``(S, 2)`` -> refined ``(S, 17, 3)`` metres.

        With `rays`, ``pose_2d`` is ``(S, 17, 3)``: pixels and confidence (0: missing, x and y any finite numbers), and
        ``image_size`` is ``(S, 3)``: width, height and focal length, in pixels above 0.

        ``active`` ``(S,)``: which streams have a frame, by default all; the others keep their state, and what is given
        for them is not looked at. ``out`` ``(S, 17, 3)`` float32 is written and returned instead of a new array. NaN
        where there is no result: for streams that are not active, and before the first ``delay`` frames have passed.
        Raises UsageError for arrays that do not fit and NonFiniteError for a NaN in an active stream; the state is
        then untouched.
        """
        ...

    def reset(self, stream: int) -> None:
        """Forget a stream: its next frame is its first. Raises UsageError for a stream that is not there."""
        ...


@dataclasses.dataclass(frozen=True)
class StreamFacts:
    """What a causal engine knows of its model besides the layout of the state; see `refiner.runtime.engine.Model`."""

    engine: str
    device: str
    fps: float
    uncertainty: JointUncertainty | None
    metadata: Mapping[str, Any]

    @classmethod
    def of_manifest(cls, manifest: Manifest, device: str) -> StreamFacts:
        """Those of an artefact."""
        metadata = {**manifest.content, "device": device}
        return cls(manifest.engine, device, manifest.fps, manifest.uncertainty, metadata)


class StreamEngine(ModelDefaults):
    """Base of the engines: checks what comes, keeps it in arrays that never move, gives out what has a result.

    Args:
        layout: of the state. counts: a `StreamCounts`, or the whole `CausalState`, of the engine.
        facts: what the checkpoint or the artefact says of the model.

    A subclass implements ``_pass(rows)``: one pass over ``inputs`` for the rows ``(rows,)`` that have a frame, which
    leaves its result in ``refined``; it must not change the state before nothing can go wrong any more.
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
        # Of streams that have not begun: any size and focal length but 0, by which pixels are divided.
        self.inputs[self._names[-1]].fill(1.0)
        self.inputs["seen"] = counts.seen
        self.refined: Array = np.zeros((self.streams, layout.joints, 3), np.float32)
        self._all: Active = np.ones(self.streams, dtype=np.bool_)

    def step(
        self, pose_2d: Array, pose_3d: Array, image_size: Array, active: Active | None = None, out: Array | None = None
    ) -> Array:
        """One frame; see `CausalEngine.step`."""
        given = dict(zip(self._names, (pose_2d, pose_3d, image_size), strict=True))
        chosen = self._all if active is None else self._checked_active(active)
        for name, array in given.items():
            if np.shape(array) != self.inputs[name].shape:
                raise UsageError(
                    f"{name} has shape {np.shape(array)}, expected {self.inputs[name].shape}: one frame of each of "
                    f"{self.streams} streams"
                )
            finite: Active = np.isfinite(array).reshape(self.streams, -1).all(axis=1)  # type: ignore[assignment]
            if not finite[chosen].all():
                raise NonFiniteError(
                    f"{name} holds NaN or infinite values in stream {int(np.flatnonzero(chosen & ~finite)[0])}; fill "
                    "them in, or leave the stream out of active"
                )
        if out is None:
            out = np.empty_like(self.refined)
        elif out.shape != self.refined.shape or out.dtype != np.float32:
            raise UsageError(f"out is {out.dtype} {out.shape}, expected float32 {self.refined.shape}")
        for name, array in given.items():
            held = self.inputs[name]
            np.copyto(held, array, where=chosen.reshape(-1, *(1,) * (held.ndim - 1)), casting="same_kind")
        rows = self.counts.rows_of(chosen)
        self._pass(rows)
        out.fill(np.nan)
        np.copyto(out, self.refined, where=rows[-self.streams :, None, None])
        return out

    def reset(self, stream: int) -> None:
        """Forget a stream: its next frame is its first. Raises UsageError for a stream that is not there."""
        if not 0 <= stream < self.streams:
            raise UsageError(f"there is no stream {stream}; expected 0 to {self.streams - 1}")
        self.counts.reset(stream)

    def _pass(self, rows: Active) -> None:
        raise NotImplementedError

    def _checked_active(self, active: Active) -> Active:
        array = np.asarray(active)
        if array.shape != (self.streams,) or array.dtype != np.bool_:
            raise UsageError(f"active is {array.dtype} {array.shape}, expected bool ({self.streams},)")
        return array


def layout_entry(layout: StateLayout) -> dict[str, Any]:
    """A layout for a manifest's ``state``."""
    return dataclasses.asdict(layout)


def layout_of(manifest: Manifest, file: Path) -> StateLayout:
    """The layout that a manifest's ``state`` describes. Raises ArtefactError."""
    state = manifest.content.get("state")
    try:
        layout = StateLayout(**({} if manifest.state is None else manifest.state.layout))
    except (TypeError, ConfigError) as error:
        raise ArtefactError(f"the manifest of {file} does not describe the state: {error}; export it again") from error
    said = (manifest.batch.most, manifest.frames, manifest.rays)
    if (layout.streams, layout.frames, layout.rays) != said:
        raise ArtefactError(f"the manifest of {file} contradicts itself: its state is {state}; export it again")
    return layout


def check_tensors(found: dict[str, tuple[Any, ...]], expected: dict[str, tuple[int, ...]], file: Path) -> None:
    """Raises ArtefactError unless a graph's tensors have the names, order and shapes that its state asks for."""
    if list(found) != list(expected):
        missing = [name for name in expected if name not in found]
        raise ArtefactError(
            f"{file} does not have the tensors of its state; missing or misplaced: {', '.join(missing) or 'the order'}"
        )
    for name, shape in found.items():
        if tuple(shape) != expected[name]:
            raise ArtefactError(f"{file} has {name} of shape {tuple(shape)}, its manifest says {expected[name]}")
