"""OpenVINO for causal refiners. Its tensors share the memory of the arrays of the state."""

from __future__ import annotations

import os
from pathlib import Path

from refiner.causal_state import CAUSAL, CausalState, step_inputs, step_outputs
from refiner.engines import EngineOptions
from refiner.runtime.causal import Active, StreamEngine, StreamFacts, check_tensors, layout_of
from refiner.runtime.openvino_engine import open_model, refuse_cuda


class OpenVinoCausalEngine(StreamEngine):
    """Runs an exported causal refiner in OpenVINO's format (``.xml`` and ``.bin``) on the CPU.

    Args:
        path: the ``.xml`` file.
        threads: None leaves OpenVINO's default.

    Raises:
        ArtefactError: the file cannot be used.
        MissingComponentError: OpenVINO is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        file = Path(path)
        compiled, manifest = open_model(file, CAUSAL, threads, "latency")
        import openvino  # after open_model, which says what to install where it is missing

        layout = layout_of(manifest, file)
        for ports, expected in (
            (compiled.inputs, step_inputs(layout, carried=False)),
            (compiled.outputs, step_outputs(layout, carried=False)),
        ):
            check_tensors({port.any_name: tuple(port.shape) for port in ports}, expected, file)
        state = CausalState(layout)
        super().__init__(layout, state, StreamFacts.of_manifest(manifest, "cpu"))
        self._request = compiled.create_infer_request()
        for name, array in (self.inputs | state.tensors()).items():
            self._request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        # The request only knows addresses, so the arrays must be kept alive.
        self._outputs = {"refined_pose_3d": self.refined} | state.fresh()
        for name, array in self._outputs.items():
            self._request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

    @classmethod
    def open(cls, file: Path, options: EngineOptions) -> OpenVinoCausalEngine:
        """Open a model; `refiner.engines` calls this. Raises UsageError for a CUDA device."""
        refuse_cuda(options.device)
        return cls(file, options.threads)

    def _pass(self, rows: Active) -> None:
        self._request.infer()
        self.counts.advance(rows)
