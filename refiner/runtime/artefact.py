"""The base class of the engines that run window artefacts."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ArtefactError, UsageError
from refiner.runtime.engine import ModelDefaults, input_names, window_inputs
from refiner.runtime.manifest import Manifest


class ArtefactEngine(ModelDefaults):
    """Base class of the engines that run window artefacts. The manifest describes the model and its inputs.

    A subclass implements ``_run(*inputs)`` for contiguous float32 arrays whose shapes have been checked. It returns an
    array that no later call writes to. One ``_run`` happens at a time; calls from other threads wait for their turn. A
    subclass whose runtime takes several calls at once sets ``_turn`` to a `contextlib.nullcontext`.

    Args:
        manifest: the manifest of the artefact.
        file: the artefact.
        device: "cpu" or "cuda".

    Raises:
        ArtefactError: the inputs in the manifest do not fit the kind of its model.
    """

    def __init__(self, manifest: Manifest, file: Path, device: str = "cpu") -> None:
        self.file, self.manifest, self.device = file, manifest, device
        self.kind, self.engine = manifest.kind, manifest.engine
        self.frames, self.stride, self.fps = manifest.frames, manifest.stride, manifest.fps
        self.least_batch, self.largest_batch = manifest.batch.least, manifest.batch.most
        self.rays, self.steps, self.actions = manifest.rays, manifest.steps, manifest.actions
        self.uncertainty = manifest.uncertainty
        self.metadata = {**manifest.content, "device": device}
        self._turn: AbstractContextManager[Any] = threading.Lock()
        self.inputs = None
        self.reach = None
        # A mirrored pass would be inside the artefact. An artefact that takes an action can always guess it.
        self.flip_test, self.guesses_action, self.validation_curve = False, True, ()
        self._shapes = {name: tuple(int(size) for size in shape[1:]) for name, shape in manifest.inputs.items()}
        expected = window_inputs(self.kind, self.frames, self.rays)
        if list(self._shapes.items()) != list(expected.items()):
            inputs = manifest.content["inputs"]
            raise ArtefactError(f"the manifest of {file} contradicts itself: its inputs are {inputs}")

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Run one batch of windows. Any number of threads may call this at once.

        Args:
            inputs: the arrays that `refiner.runtime.engine.input_names` names, in order; see
                `refiner.runtime.engine.RefinerEngine` and `LifterEngine` for their shapes.

        Returns:
            ``(B, T, 17, 3)`` metres.

        Raises:
            UsageError: an array has another shape, or the artefact does not take the batch.
        """
        names = input_names(self.kind, self.rays)
        if len(inputs) != len(names):
            raise UsageError(f"a {self.kind} takes {', '.join(names)}; got {len(inputs)} arrays")
        batch = len(inputs[0])
        for name, array in zip(names, inputs, strict=True):
            if array.shape != (batch, *self._shapes[name]):
                raise UsageError(
                    f"{name} has shape {array.shape}; {self.file.name} takes (batch, "
                    f"{', '.join(str(size) for size in self._shapes[name])}), of {self.frames} frames a window"
                )
        if batch == 0:
            return np.zeros((0, *self._shapes[names[0]][:-1], 3), np.float32)
        if not self.least_batch <= batch <= self.largest_batch:
            allowed = f"{self.least_batch} to {self.largest_batch}"
            raise UsageError(
                f"a batch of {batch} windows lies outside of what {self.file.name} was built for ({allowed}); export "
                f"it with --batch {min(batch, self.least_batch)}:{batch}:{max(batch, self.largest_batch)}"
            )
        contiguous = [np.ascontiguousarray(array, dtype=np.float32) for array in inputs]
        with self._turn:
            return self._run(*contiguous)

    def _run(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        raise NotImplementedError
