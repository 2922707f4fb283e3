"""ONNX Runtime for causal refiners. Inputs, outputs and state are bound once, at addresses that never change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from refiner.causal_state import CAUSAL, CausalState, StreamCounts, step_inputs, step_outputs
from refiner.engines import EngineOptions
from refiner.runtime.causal import Active, StreamEngine, StreamFacts, check_tensors, layout_of
from refiner.runtime.onnx_engine import open_graph


class OnnxCausalEngine(StreamEngine):
    """Runs an exported causal refiner in ONNX Runtime.

    A graph of the form "entries" (`refiner.runtime.manifest.StateEntry`) runs on the CPU, on the arrays of a
    `CausalState`. A graph of the form "carried" keeps its state on its device, in two sets of buffers that take turns
    as input and output.

    Args:
        path: the ``.onnx`` file.
        device: "cpu" or "cuda"; None is the device that the graph was exported for.
        threads: threads inside an operator; None is one for each processor.

    Raises:
        ArtefactError, MissingComponentError: like `refiner.runtime.onnx_engine.OnnxEngine`.
    """

    def __init__(self, path: str | os.PathLike[str], device: str | None = None, threads: int | None = None) -> None:
        file = Path(path)
        session, manifest, device = open_graph(file, CAUSAL, device, threads)
        layout = layout_of(manifest, file)
        carried = manifest.state is not None and manifest.state.form == "carried"
        for tensors, expected in (
            (session.get_inputs(), step_inputs(layout, carried)),
            (session.get_outputs(), step_outputs(layout, carried)),
        ):
            check_tensors({entry.name: tuple(entry.shape) for entry in tensors}, expected, file)
        facts = StreamFacts.of_manifest(manifest, device)
        super().__init__(layout, StreamCounts(layout) if carried else CausalState(layout), facts)
        binding = _CarriedBinding if carried else _EntriesBinding
        self._binding = binding(session, self, device)

    @classmethod
    def open(cls, file: Path, options: EngineOptions) -> OnnxCausalEngine:
        """Open a graph; `refiner.engines` calls this."""
        return cls(file, options.device, options.threads)

    def _pass(self, rows: Active) -> None:
        self._binding.run(rows)
        self.counts.advance(rows)


class _EntriesBinding:
    """Binds a graph of the form "entries" to NumPy arrays. It reads the ring buffers and writes the new entries."""

    def __init__(self, session: Any, engine: StreamEngine, device: str) -> None:
        assert isinstance(engine.counts, CausalState)
        self._session, self._binding = session, session.io_binding()
        for name, array in (engine.inputs | engine.counts.tensors()).items():
            self._binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        outputs = {"refined_pose_3d": engine.refined} | engine.counts.fresh()
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        # The binding only knows addresses, so the arrays must be kept alive.
        self._outputs = outputs

    def run(self, rows: Active) -> None:
        self._session.run_with_iobinding(self._binding)


class _CarriedBinding:
    """Binds a graph of the form "carried" to two sets of buffers: one pass writes a set, the next pass reads it."""

    def __init__(self, session: Any, engine: StreamEngine, device: str) -> None:
        import onnxruntime as ort

        self._session, self._engine, self._turn = session, engine, 0
        layout = engine.layout
        # The state begins with zeros: values that are not used must be finite nevertheless.
        sets = [
            {name: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32), device, 0) for name, shape in state}
            for state in (layout.state().items(), layout.state().items())
        ]
        self._write = np.zeros((layout.rows, layout.slots), np.float32)
        arrays = engine.inputs | {"write": self._write}
        self._inputs = {name: ort.OrtValue.ortvalue_from_numpy(array, device, 0) for name, array in arrays.items()}
        self._refined = ort.OrtValue.ortvalue_from_numpy(engine.refined, device, 0)
        self._on_cpu = device == "cpu"
        self._bindings, self._options = [], []
        for turn in (0, 1):
            binding = session.io_binding()
            for name, value in (self._inputs | sets[turn]).items():
                binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output("refined_pose_3d", self._refined)
            for name, value in sets[1 - turn].items():
                binding.bind_ortvalue_output(f"next_{name}", value)
            options = ort.RunOptions()
            # ONNX Runtime captures one CUDA graph for each set of addresses.
            options.add_run_config_entry("gpu_graph_id", str(turn + 1))
            self._bindings.append(binding)
            self._options.append(options)

    def run(self, rows: Active) -> None:
        engine = self._engine
        np.copyto(self._write, engine.counts.writes(rows))
        binding = self._bindings[self._turn]
        if not self._on_cpu:  # on the CPU the bound values share the memory of the arrays
            for name, array in (engine.inputs | {"write": self._write}).items():
                self._inputs[name].update_inplace(array)
            # The copies run on another stream. Without this call, the run may read a buffer before it is written.
            binding.synchronize_inputs()
        self._session.run_with_iobinding(binding, self._options[self._turn])
        if not self._on_cpu:
            binding.synchronize_outputs()
            np.copyto(engine.refined, self._refined.numpy())
        self._turn = 1 - self._turn
