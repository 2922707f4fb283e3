"""PyTorch for causal refiners: it runs a checkpoint, or a package of AOTInductor."""

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
from refiner.runtime.replay import Recorder, record_cuda_graph, torch_threads
from refiner.runtime.torch_engine import open_module

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Step = Callable[..., "tuple[Tensor, ...]"]


class TensorStreamEngine(StreamEngine):
    """Runs a step that is a function of tensors.

    On the CPU the tensors share the memory of the arrays of the state. On a CUDA device the state stays on the device,
    and a pass is recorded as one CUDA graph. The graph also copies the new state over the old one.

    Args:
        function: a `refiner.models.causal.CausalStep` on the CPU, a `CarriedStep` on a CUDA device; or a package of one
            of them.
        layout: of the state.
        facts: the description of the model.
        device: the device.
        record: records a pass on a CUDA device; `record_cuda_graph`, or a stand-in in tests.
        threads: PyTorch's threads during a pass on the CPU; None is `refiner.runtime.replay.default_threads`.
    """

    def __init__(
        self,
        function: Step,
        layout: StateLayout,
        facts: StreamFacts,
        device: torch.device,
        record: Recorder | None = None,
        threads: int | None = None,
    ) -> None:
        import torch

        self._function, self._threads = function, threads
        self._recorded = device.type != "cpu" or record is not None
        super().__init__(layout, StreamCounts(layout) if self._recorded else CausalState(layout), facts)
        if not self._recorded:
            assert isinstance(self.counts, CausalState)
            arrays = (self.inputs | self.counts.tensors()).values()
            self._inputs = [torch.from_numpy(array) for array in arrays]
            self._outputs = [torch.from_numpy(array) for array in (self.refined, *self.counts.fresh().values())]
            return
        write = np.zeros((layout.rows, layout.slots), np.float32)
        # `write` is zero, so that the runs before the recording change no state.
        self._device_inputs = {
            name: torch.from_numpy(array.copy()).to(device) for name, array in (self.inputs | {"write": write}).items()
        }
        self._state = [torch.zeros(shape, device=device) for shape in layout.state().values()]
        with torch.inference_mode():
            self._replay, self._refined = (record or record_cuda_graph)(self._on_device)

    def _on_device(self) -> Tensor:
        refined, *state = self._function(*self._device_inputs.values(), *self._state)
        for old, new in zip(self._state, state, strict=True):
            old.copy_(new)
        return refined

    def _pass(self, rows: Active) -> None:
        import torch

        with torch.inference_mode(), torch_threads(self._threads):
            if self._recorded:
                for name, array in (self.inputs | {"write": self.counts.writes(rows)}).items():
                    self._device_inputs[name].copy_(torch.from_numpy(array))
                self._replay()
                np.copyto(self.refined, self._refined.float().cpu().numpy())
            else:
                for output, new in zip(self._outputs, self._function(*self._inputs), strict=True):
                    output.copy_(new)
        self.counts.advance(rows)


class TorchCausalEngine(TensorStreamEngine):
    """Runs a causal checkpoint in PyTorch.

    Args:
        path: a ``.safetensors`` checkpoint.
        streams: the number of streams.
        pipelined: run the K steps of K neighbouring frames in one pass, with K - 1 frames of delay.
        steps: the number of denoising steps K; None is the checkpoint's K.
        threads: PyTorch's threads during a call on the CPU; None is `refiner.runtime.replay.default_threads`.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: the checkpoint is not causal.
        CheckpointError, MissingComponentError: like `refiner.runtime.torch_engine.TorchEngine`.
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
        module, _ = open_module(path, "refiner", steps, device)
        import torch

        from refiner.models.causal import CarriedStep, CausalStep

        step = CausalStep(module, streams, pipelined).to(device)
        spec = ModelSpec.of_config(module.config)
        metadata = {**module.config, "engine": "torch", "device": device, "steps": module.steps, "fps": spec.fps}
        facts = StreamFacts("torch", device, spec.fps, spec.joint_uncertainty, metadata)
        function = step if device == "cpu" else CarriedStep(step)
        super().__init__(function, step.layout, facts, torch.device(device), threads=threads)

    @classmethod
    def open(cls, file: Path, options: EngineOptions) -> TorchCausalEngine:
        """Open a checkpoint; `refiner.engines` calls this."""
        streams = 1 if options.streams is None else options.streams
        return cls(file, streams, bool(options.pipelined), options.steps, options.threads, options.device or "cpu")


class AotiCausalEngine(TensorStreamEngine):
    """Runs an exported causal refiner, a ``.pt2`` package of AOTInductor.

    Args:
        path: the file.
        threads: PyTorch's threads during a call on the CPU; None is `refiner.runtime.replay.default_threads`.

    Raises:
        ArtefactError, MissingComponentError: like `refiner.runtime.aoti_engine.AotiEngine`.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        file = Path(path)
        package, manifest, device = open_package(file, CAUSAL)
        facts = StreamFacts.of_manifest(manifest, str(device))
        super().__init__(package, layout_of(manifest, file), facts, device, threads=threads)

    @classmethod
    def open(cls, file: Path, options: EngineOptions) -> AotiCausalEngine:
        """Open a package; `refiner.engines` calls this. Raises UsageError where it was compiled for another device."""
        opened = cls(file, options.threads)
        check_device(opened.device, file, options.device)
        return opened
