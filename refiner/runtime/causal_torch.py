"""PyTorch for causal refiners: the checkpoint itself, or a package of AOTInductor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from refiner.causal_state import CAUSAL, CausalState, StateLayout, StreamCounts
from refiner.engines import EngineOptions
from refiner.model_spec import ModelSpec
from refiner.runtime.aoti_engine import check_device, open_package
from refiner.runtime.causal import Active, StreamEngine, StreamFacts, layout_of
from refiner.runtime.replay import Recorder, record_cuda_graph
from refiner.runtime.torch_engine import open_module

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Step = Callable[..., "tuple[Tensor, ...]"]


class TensorStreamEngine(StreamEngine):
    """A step that is a function of tensors.

    Args:
        function: a `refiner.models.causal.CausalStep` on the CPU, a `CarriedStep` elsewhere; or a package of one.
        layout, facts: what it is. device: where it runs.
        record: how a pass is recorded on another device than the CPU; `record_cuda_graph`, or a stand-in.

    On the CPU the tensors lie in the arrays of the state. Elsewhere the state is kept on the device, and a pass, the
    copies of the new state over the old among it, is recorded as one CUDA graph.
    """

    def __init__(
        self,
        function: Step,
        layout: StateLayout,
        facts: StreamFacts,
        device: torch.device,
        record: Recorder | None = None,
    ) -> None:
        import torch

        self._function = function
        self._recorded = device.type != "cpu" or record is not None
        super().__init__(layout, StreamCounts(layout) if self._recorded else CausalState(layout), facts)
        if not self._recorded:
            assert isinstance(self.counts, CausalState)
            given = (self.inputs | self.counts.tensors()).values()
            self._inputs = [torch.from_numpy(array) for array in given]
            self._outputs = [torch.from_numpy(array) for array in (self.refined, *self.counts.fresh().values())]
            return
        write = np.zeros((layout.rows, layout.slots), np.float32)
        # Nothing is written before the first frame: what is recorded runs a few times first.
        self._given = {
            name: torch.from_numpy(array.copy()).to(device) for name, array in (self.inputs | {"write": write}).items()
        }
        self._state = [torch.zeros(shape, device=device) for shape in layout.state().values()]
        with torch.inference_mode():
            self._replay, self._refined = (record or record_cuda_graph)(self._on_device)

    def _on_device(self) -> Tensor:
        refined, *state = self._function(*self._given.values(), *self._state)
        for held, new in zip(self._state, state, strict=True):
            held.copy_(new)
        return refined

    def _pass(self, rows: Active) -> None:
        import torch

        with torch.inference_mode():
            if self._recorded:
                for name, array in (self.inputs | {"write": self.counts.writes(rows)}).items():
                    self._given[name].copy_(torch.from_numpy(array))
                self._replay()
                np.copyto(self.refined, self._refined.float().cpu().numpy())
            else:
                for held, new in zip(self._outputs, self._function(*self._inputs), strict=True):
                    held.copy_(new)
        self.counts.advance(rows)


class TorchCausalEngine(TensorStreamEngine):
    """A causal checkpoint run by PyTorch.

    Args:
        path: a ``.safetensors`` checkpoint. streams: how many at once. pipelined: the K steps of K neighbouring frames
            in one pass, at K - 1 frames of delay. steps: K instead of the checkpoint's. device: "cpu" or "cuda".
        threads: PyTorch's threads (a setting of the whole process); None leaves them.

    Raises as `refiner.runtime.torch_engine.TorchEngine`, and ConfigError for a checkpoint that is not causal.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        streams: int = 1,
        pipelined: bool = False,
        steps: int | None = None,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        module, _ = open_module(path, "refiner", steps, threads, device)
        import torch

        from refiner.models.causal import CarriedStep, CausalStep

        step = CausalStep(module, streams, pipelined).to(device)
        spec = ModelSpec.of_config(module.config)
        metadata = {**module.config, "engine": "torch", "device": device, "steps": module.steps, "fps": spec.fps}
        facts = StreamFacts("torch", device, spec.fps, spec.joint_uncertainty, metadata)
        function = step if device == "cpu" else CarriedStep(step)
        super().__init__(function, step.layout, facts, torch.device(device))

    @classmethod
    def open(cls, file: Path, options: EngineOptions) -> TorchCausalEngine:
        """For `refiner.engines`."""
        streams = 1 if options.streams is None else options.streams
        return cls(file, streams, bool(options.pipelined), options.steps, options.threads, options.device or "cpu")


class AotiCausalEngine(TensorStreamEngine):
    """An exported causal refiner as a ``.pt2`` package of AOTInductor.

    Args:
        path: the file. threads: PyTorch's threads (a setting of the whole process).

    Raises as `refiner.runtime.aoti_engine.AotiEngine`.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        file = Path(path)
        package, manifest, device = open_package(file, CAUSAL, threads)
        facts = StreamFacts.of_manifest(manifest, str(device))
        super().__init__(package, layout_of(manifest, file), facts, device)

    @classmethod
    def open(cls, file: Path, options: EngineOptions) -> AotiCausalEngine:
        """For `refiner.engines`. Raises UsageError for another device than that of the package."""
        opened = cls(file, options.threads)
        check_device(opened.device, file, options.device)
        return opened
