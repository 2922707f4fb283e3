"""OpenVINO as an engine, on the CPU."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.engines import EngineOptions
from refiner.errors import ArtefactError, MissingComponentError, UsageError
from refiner.runtime.artefact import ArtefactEngine
from refiner.runtime.engine import input_names
from refiner.runtime.manifest import Manifest, open_manifest

_cores: list[Any] = []
_cores_lock = threading.Lock()


class OpenVinoEngine(ArtefactEngine):
    """Runs a model in OpenVINO's format (``.xml`` and ``.bin``) on the CPU.

    Args:
        path: the ``.xml`` file.
        role: "lifter" or "refiner".
        threads: None leaves OpenVINO's default.
        goal: "latency" or "throughput".

    Raises:
        ArtefactError: the file cannot be used.
        MissingComponentError: OpenVINO is not installed.
    """

    def __init__(
        self, path: str | os.PathLike[str], role: str, threads: int | None = None, goal: str = "latency"
    ) -> None:
        file = Path(path)
        compiled, manifest = open_model(file, role, threads, goal)
        super().__init__(manifest, file)
        for port in compiled.inputs:
            shape = [axis.get_length() for axis in list(port.partial_shape)[1:]]
            if tuple(shape) != self._shapes.get(port.any_name):
                raise ArtefactError(f"{file} takes {port.any_name} of {shape}, its manifest disagrees; export it again")
        self._names = input_names(self.kind, self.rays)
        self._turn = nullcontext()  # every call has a request of its own
        self._compiled = compiled
        # Requests that no call uses at the moment. `list.append` and `list.pop` are atomic.
        self._free: list[Any] = [compiled.create_infer_request()]

    @classmethod
    def open(cls, file: Path, role: str, options: EngineOptions) -> OpenVinoEngine:
        """Open a model; `refiner.engines` calls this. Raises UsageError for a CUDA device."""
        refuse_cuda(options.device)
        return cls(file, role, options.threads, options.goal)

    def _run(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            request = self._free.pop()
        except IndexError:  # more calls at once than ever before
            request = self._compiled.create_infer_request()
        # The request owns its output and overwrites it in the next call, so the result is a copy.
        result: NDArray[np.float32] = np.array(
            request.infer(dict(zip(self._names, inputs, strict=True)))[0], dtype=np.float32
        )
        self._free.append(request)
        return result


def refuse_cuda(device: str | None) -> None:
    """Raises UsageError for a CUDA device."""
    if device == "cuda":
        raise UsageError("OpenVINO runs on the CPU here; for CUDA export with --engine onnx, trt or aoti")


def open_core() -> Any:
    """The `openvino.Core` of this process, which lives as long as the process. Raises ModuleNotFoundError without it.

    OpenVINO's CPU plugin gives the thread that loads it a stack for signal handlers. It frees this stack when the last
    user of the plugin is dropped. If another thread drops it, the first thread still points to the freed stack, and the
    next signal that it handles ends the process with a segmentation fault. This core keeps the plugin loaded.
    """
    import openvino

    with _cores_lock:
        if not _cores:
            _cores.append(openvino.Core())
        return _cores[0]


def open_model(file: Path, role: str, threads: int | None, goal: str) -> tuple[Any, Manifest]:
    """Compile a model. Returns it and its manifest. The errors are those of `OpenVinoEngine`."""
    manifest = open_manifest(file, role, ("openvino",))
    try:
        core = open_core()
    except ModuleNotFoundError as error:
        raise MissingComponentError(f"running {file} needs OpenVINO: pip install 'pose-refiner[openvino]'") from error
    settings: dict[str, Any] = {
        # This keeps the types of the graph. The bf16 hint of OpenVINO would also round the poses between the steps to
        # bf16, with half as much error again and no gain in speed.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": goal.upper(),
        # A thread that is tied to a processor waits while another program uses it.
        "ENABLE_CPU_PINNING": False,
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = core.compile_model(core.read_model(file), "CPU", settings)
    except RuntimeError as error:
        raise ArtefactError(f"OpenVINO cannot load {file}: {str(error).splitlines()[0]}; export it again") from error
    return compiled, manifest
