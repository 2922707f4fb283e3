"""ONNX Runtime as an engine for graphs that refiner-export wrote, on the CPU or on a CUDA device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.engines import EngineOptions
from refiner.errors import ArtefactError, MissingComponentError
from refiner.json_text import JsonError, parse_json
from refiner.machine import physical_processors
from refiner.runtime.artefact import ArtefactEngine
from refiner.runtime.engine import OUTPUTS, input_names
from refiner.runtime.manifest import (
    Manifest,
    check_files,
    check_role,
    manifest_path,
    parse_manifest,
    read_manifest,
)
from refiner.runtime.onnx_file import check_graph_file
from refiner.runtime.recent import Recent

# A graph holds its manifest in ONNX's metadata under this key, so that the one file is enough.
METADATA_KEY = "refiner"

# Batch sizes that have a CUDA graph. ONNX Runtime never frees one, so that the first sizes have them.
GRAPHS = 8
# Batch sizes beyond those that keep their buffers: those that were used last.
KEPT_BATCHES = 4
# The number of a graph that tells ONNX Runtime to capture none.
NO_GRAPH = -1

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxEngine(ArtefactEngine):
    """Runs an exported graph in ONNX Runtime.

    On a CUDA device every batch size has its own input and output buffers. Data is copied in and out on the session's
    stream. From the second call of a batch size on, its launches are replayed as one CUDA graph. This holds for the
    first 8 batch sizes that an engine meets; beyond them it runs without graphs, and keeps the buffers of 4 sizes.

    Args:
        path: the ``.onnx`` file.
        role: "lifter" or "refiner".
        device: "cpu" or "cuda"; None is the device that the graph was exported for. The graph never runs on another
            device.
        threads: threads inside an operator; None is one for each processor.

    Raises:
        ArtefactError: the file is truncated, no graph of refiner-export, of another kind or of another version.
        MissingComponentError: ONNX Runtime is missing, or its provider for the device did not load.
    """

    def __init__(
        self, path: str | os.PathLike[str], role: str, device: str | None = "cpu", threads: int | None = None
    ) -> None:
        file = Path(path)
        self._session, manifest, device = open_graph(file, role, device, threads)
        super().__init__(manifest, file, device)
        _check_graph(self._session, file, self)
        if device == "cpu":
            self._turn = nullcontext()  # a session runs calls of several threads at once
        self._names, self._output = input_names(self.kind, self.rays), OUTPUTS[self.kind]
        self._with_graph: dict[int, _CudaBinding] = {}
        self._without_graph: Recent[int, _CudaBinding] = Recent(KEPT_BATCHES)

    @classmethod
    def open(cls, file: Path, role: str, options: EngineOptions) -> OnnxEngine:
        """Open a graph; `refiner.engines` calls this."""
        return cls(file, role, options.device, options.threads)

    def _run(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        feeds = dict(zip(self._names, inputs, strict=True))
        if self.device == "cpu":
            result: NDArray[np.float32] = self._session.run([self._output], feeds)[0]
            return result
        batch = len(inputs[0])
        binding = self._with_graph.get(batch) or self._without_graph.get(batch)
        if binding is None:
            shape = (batch, *self._shapes[self._names[0]][:-1], 3)
            graph = len(self._with_graph) + 1
            if graph <= GRAPHS:
                binding = self._with_graph[batch] = _CudaBinding(self._session, feeds, self._output, shape, graph)
            else:
                binding = _CudaBinding(self._session, feeds, self._output, shape, NO_GRAPH)
                self._without_graph.keep(batch, binding)
        return binding.run(feeds)


class _CudaBinding:
    """The device buffers of one batch size, and the CUDA graph that was captured on them."""

    def __init__(
        self, session: Any, feeds: dict[str, NDArray[np.float32]], output: str, shape: tuple[int, ...], graph: int
    ) -> None:
        import onnxruntime as ort

        self._session = session
        self._inputs = {name: ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0) for name, array in feeds.items()}
        self._output = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_ortvalue_output(output, self._output)
        self._options = ort.RunOptions()
        # ONNX Runtime captures one CUDA graph for each set of addresses.
        self._options.add_run_config_entry("gpu_graph_id", str(graph))

    def run(self, feeds: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        for name, array in feeds.items():
            self._inputs[name].update_inplace(array)
        # The copies run on another stream. Without this call, the run may read a buffer before it is written.
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()
        result: NDArray[np.float32] = self._output.numpy()
        return result


def open_graph(file: Path, role: str, device: str | None, threads: int | None) -> tuple[Any, Manifest, str]:
    """Open a graph. Returns its session, its manifest and its device. The errors are those of `OnnxEngine`."""
    if not file.is_file():
        raise ArtefactError(f"there is no graph at {file}; write one with: refiner-export --engine onnx")
    if manifest_path(file).is_file():
        beside = read_manifest(file)
        check_files(beside, file)
        device = device or (beside.build.device if beside.build is not None else None)
    device = device or "cpu"
    check_graph_file(file)
    session = _open_session(file, device, threads)
    manifest = embedded_manifest(session.get_modelmeta().custom_metadata_map, file)
    check_role(manifest, file, role, ("onnx",))
    return session, manifest, device


def _open_session(file: Path, device: str, threads: int | None) -> Any:
    try:
        import onnxruntime as ort
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            "running an .onnx file needs ONNX Runtime: pip install 'pose-refiner[cpu]' (or 'pose-refiner[gpu]', never "
            "both)"
        ) from error
    provider = PROVIDERS[device]
    available = ort.get_available_providers()
    if provider not in available:
        raise MissingComponentError(
            f"ONNX Runtime here has no {provider}, only {', '.join(available)}; the GPU ones come with "
            "'pose-refiner[gpu]' in place of 'pose-refiner[cpu]'"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Without a number, ONNX Runtime ties its threads to single processors. Such threads, and threads that keep their
    # processors busy while they wait, are slower than one thread beside another busy program (`refiner-bench busy`).
    options.intra_op_num_threads = threads or physical_processors()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings = {"enable_cuda_graph": "1", "use_tf32": "0"} if device == "cuda" else {}
    try:
        session = ort.InferenceSession(str(file), options, providers=[(provider, settings)])
    # ONNX Runtime's exceptions have no common base class other than Exception.
    except Exception as error:
        raise ArtefactError(
            f"ONNX Runtime cannot load {file}: {_first_line(error)}. It may be truncated or foreign: export it again"
        ) from error
    # Where the libraries of a provider are missing, ONNX Runtime gives no error and falls back to the CPU.
    loaded = session.get_providers()
    if provider not in loaded:
        raise MissingComponentError(
            f"ONNX Runtime could not load {provider} and fell back to {', '.join(loaded)}: are the CUDA "
            "libraries installed that this ONNX Runtime was built for?"
        )
    session.disable_fallback()
    return session


def embedded_manifest(metadata: Mapping[str, str], file: Path) -> Manifest:
    """Read the manifest in the metadata of a graph. Raises ArtefactError; ``file`` is for its message."""
    stored = metadata.get(METADATA_KEY)
    if stored is None:
        raise ArtefactError(
            f"{file} carries no refiner metadata: it is a graph of something else; expected one that "
            "refiner-export wrote"
        )
    try:
        content = parse_json(stored)
    except JsonError as error:
        raise ArtefactError(f"the metadata of {file} cannot be read ({error!r}); export it again") from error
    return parse_manifest(content, file)


def _check_graph(session: Any, file: Path, engine: ArtefactEngine) -> None:
    """Raises ArtefactError unless the graph has the inputs and the output that its manifest declares."""
    for entries, declared in (
        (session.get_inputs(), engine.manifest.inputs),
        (session.get_outputs(), engine.manifest.outputs),
    ):
        if [entry.name for entry in entries] != list(declared):
            raise ArtefactError(
                f"{file} is no exported {engine.kind}: it has {[entry.name for entry in entries]} where its manifest "
                f"says {list(declared)}"
            )
        for entry in entries:
            batch, *rest = entry.shape
            expected = list(declared[entry.name])
            static = engine.least_batch == engine.largest_batch
            fits = batch == engine.largest_batch if static else not isinstance(batch, int)
            if entry.type != "tensor(float)" or rest != expected[1:] or not fits:
                raise ArtefactError(
                    f"{file} has {entry.name} of type {entry.type} and shape {entry.shape}; its manifest says float32 "
                    f"and {expected}; export it again"
                )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
