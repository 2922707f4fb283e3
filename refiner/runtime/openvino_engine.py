"""OpenVINO as an engine, on the CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.engines import EngineOptions
from refiner.errors import ArtefactError, MissingComponentError, UsageError
from refiner.runtime.artefact import ArtefactEngine
from refiner.runtime.engine import input_names
from refiner.runtime.manifest import Manifest, open_manifest


class OpenVinoEngine(ArtefactEngine):
    """A model in OpenVINO's representation (``.xml`` and ``.bin``).

    Args:
        path: the ``.xml`` file. role: "lifter" or "refiner".
        threads: None leaves OpenVINO's default. goal: "latency" or "throughput".

    Raises ArtefactError, MissingComponentError without OpenVINO.
    """

    def __init__(
        self, path: str | os.PathLike[str], role: str, threads: int | None = None, goal: str = "latency"
    ) -> None:
        file = Path(path)
        compiled, manifest = open_model(file, role, threads, goal)
        super().__init__(manifest, file)
        for port in compiled.inputs:
            found = [axis.get_length() for axis in list(port.partial_shape)[1:]]
            if tuple(found) != self._shapes.get(port.any_name):
                raise ArtefactError(f"{file} takes {port.any_name} of {found}, its manifest disagrees; export it again")
        self._names = input_names(self.kind, self.rays)
        self._request = compiled.create_infer_request()

    @classmethod
    def open(cls, file: Path, role: str, options: EngineOptions) -> OpenVinoEngine:
        """For `refiner.engines`. Raises UsageError for a CUDA device."""
        refuse_cuda(options.device)
        return cls(file, role, options.threads, options.goal)

    def _run(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        feeds = dict(zip(self._names, inputs, strict=True))
        # The request owns its output and overwrites it in the next call.
        result: NDArray[np.float32] = np.array(self._request.infer(feeds)[0], dtype=np.float32)
        return result


def refuse_cuda(device: str | None) -> None:
    """Raises UsageError for a CUDA device."""
    if device == "cuda":
        raise UsageError("OpenVINO runs on the CPU here; for CUDA export with --engine onnx, trt or aoti")


def open_model(file: Path, role: str, threads: int | None, goal: str) -> tuple[Any, Manifest]:
    """The compiled model and its manifest. Raises as `OpenVinoEngine`."""
    manifest = open_manifest(file, role, ("openvino",))
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingComponentError(f"running {file} needs OpenVINO: pip install 'refiner[openvino]'") from error
    settings: dict[str, Any] = {
        # What the graph's own types say. The plugin's bf16 hint takes the poses between the steps to bf16 too: half
        # as much error again, and no faster.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": goal.upper(),
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(file), "CPU", settings)
    except RuntimeError as error:
        raise ArtefactError(f"OpenVINO cannot load {file}: {str(error).splitlines()[0]}; export it again") from error
    return compiled, manifest
