"""TensorRT and TensorRT for RTX as engines, on an NVIDIA GPU. The same code runs both."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import math
import os
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner import bundled
from refiner.engines import EngineOptions
from refiner.errors import ArtefactError, DTypeError, MissingComponentError, UsageError
from refiner.files import sha256_of
from refiner.runtime.artefact import ArtefactEngine
from refiner.runtime.cuda import checked, compute_capability, current_device, load_cuda
from refiner.runtime.device_arrays import DeviceArray, read_device_array, stream_handle
from refiner.runtime.engine import OUTPUTS, input_names
from refiner.runtime.manifest import Manifest, open_manifest
from refiner.runtime.recent import Recent

# The name of the engine in a manifest, and the Python module that runs it.
MODULES = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}
PRODUCTS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
# TensorRT reads and writes at addresses that are a multiple of this; cudaMalloc gives no others.
ALIGNMENT = 256
# Batch sizes that keep a context and a CUDA graph: those that were used last.
KEPT_BATCHES = 8


class TensorRtEngine(ArtefactEngine):
    """Runs an engine plan (``.engine``) on the current CUDA device.

    A plan is native code, so it is only deserialised where its hash is the one in the manifest. One call runs at a
    time. `close`, or the end of the object, frees the memory on the device.

    Args:
        path: the plan, with its manifest beside it.
        role: "lifter" or "refiner".
        cuda_graphs: at the second use of a batch size, capture its copies and launches as a CUDA graph, which is
            replayed from then on. Contexts and graphs are kept for the 8 batch sizes that were used last.

    Raises:
        ArtefactError: the plan was built for another version of TensorRT or another GPU, or cannot be used.
        MissingComponentError: the module, cuda-python or a device is missing.
    """

    def __init__(self, path: str | os.PathLike[str], role: str, cuda_graphs: bool = True) -> None:
        file = Path(path)
        manifest = open_manifest(file, role, tuple(MODULES))
        module = MODULES[manifest.engine]
        trt = load_tensorrt(module)
        cuda = load_cuda()
        self._cuda = cuda
        self._device = current_device(cuda)
        _check_build(manifest, file, trt.__version__, module, compute_capability(cuda, self._device))
        super().__init__(manifest, file, "cuda")
        self._names, self._output = input_names(self.kind, self.rays), OUTPUTS[self.kind]
        self._shapes[self._output] = tuple(int(size) for size in manifest.outputs[self._output][1:])
        self._graphs = cuda_graphs
        self._lock = threading.Lock()
        release, plan = contextlib.ExitStack(), None
        try:
            self._stream = _take(
                cuda, release, "cudaStreamCreateWithFlags", "cudaStreamDestroy", cuda.cudaStreamNonBlocking
            )
            self._plan = plan = _open_plan(trt, cuda, module, file, manifest)
            _check_tensors(trt, plan.engine, self)
            self._buffers = {name: self._buffer(release, name) for name in (*self._names, self._output)}
            # All contexts share this memory for their activations, because they run one after the other.
            self._scratch_bytes = max(int(plan.engine.device_memory_size_v2), ALIGNMENT)
            self._scratch = _take(cuda, release, "cudaMalloc", "cudaFree", self._scratch_bytes)
            no_timing = cuda.cudaEventDisableTiming
            self._ready = _take(cuda, release, "cudaEventCreateWithFlags", "cudaEventDestroy", no_timing)
            self._done = _take(cuda, release, "cudaEventCreateWithFlags", "cudaEventDestroy", no_timing)
        except BaseException:
            if plan is not None:
                plan.clear()
            release.close()
            raise
        # Contexts and engine must be freed before the memory that they use.
        release.callback(plan.clear)
        # The arguments must not refer to this object, or it would never be freed.
        self._finalizer = weakref.finalize(self, _free, cuda, self._stream, release)

    def close(self) -> None:
        """Free the memory on the GPU. The engine cannot run any more. Closing it again does nothing."""
        with self._lock:
            self._finalizer()

    def __enter__(self) -> TensorRtEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run_on_device(self, *inputs: Any, out: Any, stream: Any = None) -> Any:
        """Run windows that are on the GPU already, without a copy.

        This does not wait for the GPU: work that is put into ``stream`` afterwards finds the output there.

        Args:
            inputs: like those of a call, each a contiguous float32 array on this engine's device, at an address that is
                a multiple of 256, with ``__dlpack__`` or ``__cuda_array_interface__`` (PyTorch, CuPy, JAX, Numba).
            out: an array of the same kind for the output, ``(B, T, J, 3)``. It must share no memory with the inputs.
            stream: the CUDA stream that made the inputs and uses the output: a handle, or an object with
                ``cuda_stream``, ``ptr`` or ``__cuda_stream__``. None is the default stream.

        Returns:
            ``out``.

        Raises:
            UsageError, DTypeError: an array cannot be used.
        """
        if len(inputs) != len(self._names):
            raise UsageError(f"a {self.kind} takes {', '.join(self._names)}; got {len(inputs)} arrays")
        handle = stream_handle(stream)
        with self._lock:
            self._begin()
            arrays = {
                name: read_device_array(value, name, int(self._stream), self._cuda)
                for name, value in zip((*self._names, self._output), (*inputs, out), strict=True)
            }
            batch = arrays[self._names[0]].shape[0] if arrays[self._names[0]].shape else 0
            for name, array in arrays.items():
                self._check_array(name, array, batch)
            if arrays[self._output].readonly:
                raise UsageError(f"{self._output} (out=) is read-only")
            if batch == 0:
                return out
            for producer in {handle, *(array.stream for array in arrays.values() if array.stream is not None)}:
                self._do("cudaEventRecord", self._ready, producer)
                self._do("cudaStreamWaitEvent", self._stream, self._ready, 0)
            if self._plan.free_context is None:
                self._plan.free_context = self._new_context()
            context = self._plan.free_context
            self._bind(context, batch, {name: array.address for name, array in arrays.items()})
            self._enqueue(context)
            self._do("cudaEventRecord", self._done, self._stream)
            self._do("cudaStreamWaitEvent", handle, self._done, 0)
        return out

    @classmethod
    def open(cls, file: Path, role: str, options: EngineOptions) -> TensorRtEngine:
        """Open a plan; `refiner.engines` calls this. Raises UsageError for the CPU."""
        if options.device == "cpu":
            raise UsageError(f"{file} runs on an NVIDIA GPU alone; for the CPU export with --engine onnx or openvino")
        return cls(file, role)

    def _run(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        batch = len(inputs[0])
        with self._lock:
            self._begin()
            for name, array in zip(self._names, inputs, strict=True):
                self._buffers[name].host[:batch] = array
            prepared = self._plan.prepared.get(batch)
            if prepared is None:
                prepared = self._prepare(batch)
            elif self._graphs and prepared.graph is None and prepared.capturable:
                self._capture(prepared)
            if prepared.graph is None:
                self._launch(prepared)
            else:
                self._do("cudaGraphLaunch", prepared.graph, self._stream)
            self._do("cudaStreamSynchronize", self._stream)
            # The stream is idle here, so that a graph that is dropped for it is in use no more.
            self._plan.prepared.keep(batch, prepared)
            result: NDArray[np.float32] = self._buffers[self._output].host[:batch].copy()
        return result

    def _prepare(self, batch: int) -> _Prepared:
        """Make a context for a batch size. It must be its own: the context of a captured graph must not change."""
        context = self._new_context()
        self._bind(context, batch, {name: buffer.device for name, buffer in self._buffers.items()})
        return _Prepared(context, batch)

    def _launch(self, prepared: _Prepared) -> None:
        """Copy the inputs to the GPU, run the network and copy the output back, all in the engine's stream."""
        kinds = self._cuda.cudaMemcpyKind
        for name in self._names:
            buffer = self._buffers[name]
            size = prepared.batch * buffer.bytes_per_window
            self._do("cudaMemcpyAsync", buffer.device, buffer.address, size, kinds.cudaMemcpyHostToDevice, self._stream)
        self._enqueue(prepared.context)
        buffer = self._buffers[self._output]
        size = prepared.batch * buffer.bytes_per_window
        self._do("cudaMemcpyAsync", buffer.address, buffer.device, size, kinds.cudaMemcpyDeviceToHost, self._stream)

    def _capture(self, prepared: _Prepared) -> None:
        """Record one launch as a CUDA graph. The context must have run once; TensorRT requires this."""
        cuda, context = self._cuda, prepared.context
        # TensorRT for RTX may allocate memory while it runs, which a graph cannot record. The context tells.
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(int(self._stream)):
            prepared.capturable = False
            return
        self._do("cudaStreamBeginCapture", self._stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            self._launch(prepared)
        except BaseException:
            # The stream cannot be used again before its capture has ended.
            _, unfinished = cuda.cudaStreamEndCapture(self._stream)
            if unfinished is not None:
                cuda.cudaGraphDestroy(unfinished)
            raise
        graph = self._do("cudaStreamEndCapture", self._stream)
        try:
            prepared.graph = self._do("cudaGraphInstantiate", graph, 0)
        finally:
            cuda.cudaGraphDestroy(graph)

    def _new_context(self) -> Any:
        context = self._plan.new_context()
        if context is None:
            raise self._plan.error("TensorRT cannot run", self.file)
        context.set_device_memory(int(self._scratch), self._scratch_bytes)
        return context

    def _bind(self, context: Any, batch: int, addresses: dict[str, int]) -> None:
        for name in self._names:
            if not context.set_input_shape(name, (batch, *self._shapes[name])):
                raise self._plan.error(f"TensorRT takes no batch of {batch} windows in", self.file)
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._plan.error(f"TensorRT takes no {name} at address {address:#x} in", self.file)

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(int(self._stream)):
            raise self._plan.error("TensorRT could not run", self.file)

    def _buffer(self, release: contextlib.ExitStack, name: str) -> _Buffer:
        shape = (self.largest_batch, *self._shapes[name])
        size = math.prod(shape) * np.dtype(np.float32).itemsize
        device = int(_take(self._cuda, release, "cudaMalloc", "cudaFree", size))
        # This memory is page-locked. For other memory the driver would copy twice.
        address = int(_take(self._cuda, release, "cudaMallocHost", "cudaFreeHost", size))
        memory: Any = (ctypes.c_char * size).from_address(address)
        host: NDArray[np.float32] = np.frombuffer(memory, np.float32).reshape(shape)
        return _Buffer(device, address, host, size // self.largest_batch)

    def _begin(self) -> None:
        """Check that a run is possible. Raises UsageError for a closed engine, and where another device is current."""
        if not self._finalizer.alive:
            raise UsageError(f"the engine of {self.file} is closed; load it again")
        here = self._do("cudaGetDevice")
        if here != self._device:
            raise UsageError(
                f"{self.file.name} was loaded on CUDA device {self._device}, and this thread's current device is "
                f"{here}; make that one current before the call"
            )
        self._plan.logger.forget()

    def _check_array(self, name: str, array: DeviceArray, batch: int) -> None:
        expected = (batch, *self._shapes[name])
        if batch and array.device != self._device:
            where = "in the CPU's memory" if array.device is None else f"on CUDA device {array.device}"
            raise UsageError(f"{name} lies {where}; expected it on CUDA device {self._device}, where the engine is")
        if array.dtype != "float32":
            raise DTypeError(f"{name} is {array.dtype}; expected float32")
        if array.shape != expected:
            raise UsageError(f"{name} has shape {array.shape}; expected {expected}")
        if batch and not self.least_batch <= batch <= self.largest_batch:
            raise UsageError(
                f"a batch of {batch} windows lies outside of what {self.file.name} was built for "
                f"({self.least_batch} to {self.largest_batch})"
            )
        if not array.contiguous:
            raise UsageError(f"{name} is not contiguous; make a contiguous copy of it")
        if array.address % ALIGNMENT:
            raise UsageError(
                f"{name} starts at address {array.address:#x}, which TensorRT cannot use: it is no multiple of "
                f"{ALIGNMENT}; a copy of its own has one that is"
            )

    def _do(self, function: str, *arguments: Any) -> Any:
        return checked(self._cuda, function, *arguments)


@dataclass
class _Buffer:
    """The memory of one tensor for the largest batch, on the GPU (``device``) and page-locked on the CPU.

    ``address`` is that of the memory on the CPU, and ``host`` its array.
    """

    device: int
    address: int
    host: NDArray[np.float32]
    bytes_per_window: int


@dataclass
class _Prepared:
    """A context for one batch size, and the CUDA graph that was captured from it."""

    context: Any
    batch: int
    graph: Any = None
    capturable: bool = True

    def free(self, cuda: Any) -> None:
        """Free the graph, and then the context. Errors are ignored; nobody could do anything about them."""
        if self.graph is not None:
            with contextlib.suppress(Exception):
                cuda.cudaGraphExecDestroy(self.graph)
        self.graph = self.context = None


@dataclass
class _Plan:
    """The objects of TensorRT. ``clear`` frees them in the order that TensorRT requires."""

    logger: Any
    runtime: Any
    engine: Any
    # The argument for new contexts: a strategy, or for TensorRT for RTX a configuration.
    setting: Any
    prepared: Recent[int, _Prepared]
    # The kernels that TensorRT for RTX compiled on this GPU. All contexts share them.
    kernels: Any = None
    free_context: Any = None

    def new_context(self) -> Any:
        return self.engine.create_execution_context(self.setting)

    def error(self, what: str, file: Path) -> ArtefactError:
        return ArtefactError(f"{what} {file}: {self.logger.reasons()}")

    def clear(self) -> None:
        self.prepared.clear()
        self.free_context = None
        self.setting = self.kernels = None
        self.engine = None
        self.runtime = None


def load_tensorrt(module: str) -> Any:
    """Import "tensorrt" or "tensorrt_rtx". Raises MissingComponentError where it is not installed."""
    try:
        return import_module(module)
    # A library that the module needs may also be missing.
    except ImportError as error:
        raise MissingComponentError(
            f"{PRODUCTS[module]} is not installed here (import {module}: {error}); pip install "
            f"'pose-refiner[{module.replace('_', '-')}]'. No other engine is used in its place"
        ) from error


@functools.cache
def collecting_logger(trt: Any) -> Any:
    """The only ILogger of the process for ``trt``. It prints nothing and keeps the last ``warnings`` and ``errors``.

    There is only one, because TensorRT uses its first logger for all later objects, whatever logger they get.
    """

    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.warnings: deque[str] = deque(maxlen=100)
            self.errors: deque[str] = deque(maxlen=100)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.errors.append(message.strip())
            elif int(severity) == int(trt.ILogger.Severity.WARNING):
                self.warnings.append(message.strip())

        def forget(self) -> None:
            self.warnings.clear()
            self.errors.clear()

        def reasons(self) -> str:
            return "; ".join(self.errors) or "it gave no reason"

    return Collector()


def _take(cuda: Any, release: contextlib.ExitStack, take: str, give_back: str, *arguments: Any) -> Any:
    """Call a CUDA function that allocates; ``release`` frees the result when it closes, and ignores errors then."""
    taken = checked(cuda, take, *arguments)
    release.callback(getattr(cuda, give_back), taken)
    return taken


def _free(cuda: Any, stream: Any, release: contextlib.ExitStack) -> None:
    """Wait for the stream and free everything. This runs at garbage collection, where nothing may be raised."""
    with contextlib.suppress(Exception):
        cuda.cudaStreamSynchronize(stream)
    with contextlib.suppress(Exception):
        release.close()


def _open_plan(trt: Any, cuda: Any, module: str, file: Path, manifest: Manifest) -> _Plan:
    logger = collecting_logger(trt)
    logger.forget()
    try:
        runtime = trt.Runtime(logger)
    except TypeError as error:  # a null pointer in C++ becomes this in Python
        raise MissingComponentError(f"{PRODUCTS[module]} cannot start here: {logger.reasons()}") from error
    plan_bytes = file.read_bytes()
    # The bytes in memory are hashed again, because the file may have been exchanged since the first check.
    if hashlib.sha256(plan_bytes).hexdigest() != manifest.files[file.name]:
        raise ArtefactError(f"{file} changed while it was being opened; open it again, or export it again")
    engine = runtime.deserialize_cuda_engine(plan_bytes)
    if engine is None:
        raise ArtefactError(
            f"{PRODUCTS[module]} cannot load {file}: {logger.reasons()}. Build it again here: {_rebuild(manifest)}"
        )
    prepared: Recent[int, _Prepared] = Recent(KEPT_BATCHES, lambda dropped: dropped.free(cuda))
    plan = _Plan(logger, runtime, engine, trt.ExecutionContextAllocationStrategy.USER_MANAGED, prepared)
    if module == "tensorrt_rtx":
        _configure(trt, plan)
    return plan


def _configure(trt: Any, plan: _Plan) -> None:
    """Configure TensorRT for RTX, which compiles its kernels on this GPU."""
    setting = plan.engine.create_runtime_config()
    setting.set_execution_context_allocation_strategy(plan.setting)
    # Kernels for a shape are compiled at once. A CUDA graph that is captured earlier would keep the general kernels.
    setting.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    plan.kernels = setting.create_runtime_cache()
    setting.set_runtime_cache(plan.kernels)
    plan.setting = setting


def _check_build(manifest: Manifest, file: Path, version: str, module: str, capability: str) -> None:
    """Raises ArtefactError for a plan of another TensorRT or another GPU, which cannot be deserialised."""
    build = manifest.build
    made_by = None if build is None else build.tensorrt
    if build is None or not isinstance(made_by, str):
        raise ArtefactError(f"the manifest of {file} does not say what built it; build it again: {_rebuild(manifest)}")
    same = made_by.split(".")[:2] == version.split(".")[:2]
    if not same and not build.version_compatible:
        raise ArtefactError(
            f"{file} was built by {PRODUCTS[module]} {made_by}, this is {version}; build it again here: "
            f"{_rebuild(manifest)}"
        )
    made_for = build.compute_capability
    if made_for is not None and made_for != capability:
        raise ArtefactError(
            f"{file} was built for GPUs of compute capability {made_for}, this one has {capability}; build it again "
            f"here: {_rebuild(manifest, capability)}"
        )


def _rebuild(manifest: Manifest, capability: str | None = None) -> str:
    """The command that builds the artefact again."""
    words = ["refiner-export", "--engine", manifest.engine, "--precision", manifest.precision]
    defaults = {
        "checkpoint": bundled.default_refiner(with_lifter=manifest.lifter is not None),
        "lifter": bundled.default_checkpoint("lifter"),
    }
    made_from = {"--checkpoint": (manifest.checkpoint, "checkpoint"), "--with-lifter": (manifest.lifter, "lifter")}
    for flag, (entry, key) in made_from.items():
        if entry is not None:
            default = defaults[key]
            if not default.is_file() or sha256_of(default) != entry.sha256:
                words += [flag, entry.name]
            elif key == "lifter":
                words.append(flag)
    if manifest.trained_frames not in (None, manifest.frames):
        words += ["--frames", str(manifest.frames)]
    if manifest.steps is not None:
        words += ["--steps", str(manifest.steps)]
    batch = manifest.batch
    words += ["--batch", str(batch.most) if batch.least == batch.most else f"{batch.least}:{batch.best}:{batch.most}"]
    if manifest.mirrored_pass:
        words.append("--flip-test")
    capability = capability or (manifest.build.compute_capability if manifest.build is not None else None)
    if manifest.engine == "trt-rtx" and capability:
        words += ["--compute-capability", capability]
    return " ".join(words)


def _check_tensors(trt: Any, engine: Any, of: ArtefactEngine) -> None:
    """Raises ArtefactError unless the plan has the inputs, output and batches that the manifest declares."""
    declared = {**of.manifest.inputs, **of.manifest.outputs}
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    if sorted(names) != sorted(declared):
        raise ArtefactError(
            f"{of.file} is no exported {of.kind}: it has {', '.join(names)} where its manifest says "
            f"{', '.join(declared)}"
        )
    for name in names:
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        batch, *rest = engine.get_tensor_shape(name)
        expected = list(declared[name][1:])
        kind = engine.get_tensor_dtype(name)
        if is_input != (name in of.manifest.inputs) or kind != trt.DataType.FLOAT or rest != expected:
            raise ArtefactError(
                f"{of.file} has the {'input' if is_input else 'output'} {name} of {kind} and {(batch, *rest)}; its "
                f"manifest says float32 and {list(declared[name])}; export it again"
            )
        if not is_input:
            continue
        least = most = batch
        if batch == -1:
            (least, *_), _, (most, *_) = engine.get_tensor_profile_shape(name, 0)
        if least > of.least_batch or most < of.largest_batch:
            raise ArtefactError(
                f"{of.file} was built for {least} to {most} windows, its manifest says {of.least_batch} to "
                f"{of.largest_batch}; export it again"
            )
