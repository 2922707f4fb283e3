"""Stand-ins for TensorRT, TensorRT for RTX and CUDA's runtime, for the calls that need a GPU.

They keep the rules that the documentation of the real ones states: what raises, what returns None or False, what runs
only when a stream is waited for. Every call is put into `World.calls`. A "plan" is JSON, an "engine" computes
0.9 pose_3d + 0.05 sum(pose_2d / image_size); of a camera-aware one the sum is that of keypoints / camera. A test
compares all names and the enumerations' numbers with the real modules where those are installed.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

# What is in TensorRT 10 and nowhere else: the API of weakly typed networks and of implicit batches, removed in 11.
ONLY_IN_TENSORRT_10 = {
    "BuilderFlag.FP16",
    "BuilderFlag.BF16",
    "BuilderFlag.INT8",
    "IBuilderConfig.int8_calibrator",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
}


@dataclass
class World:
    """One machine: its calls so far, its GPU (None: no driver), and what is to go wrong."""

    gpu: str | None = "9.0"
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    # For the builder: what its logger gets to hear instead of a plan, and how many steps a build takes.
    build_error: str | None = None
    steps: int = 3
    # For CUDA: the code that a function returns, and the number of its calls that still succeed before.
    failing: dict[str, tuple[int, int]] = field(default_factory=dict)
    capturable: bool = True
    device: int = 0
    memory: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    pinned: dict[int, Any] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.streams[0] = Stream(0)

    def note(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def at(self, address: int, size: int) -> NDArray[np.uint8]:
        """The device's memory; what was freed or never allocated is an error, as on a GPU."""
        for base, block in self.memory.items():
            if base <= address and address + size <= base + len(block):
                return block[address - base : address - base + size]
        raise AssertionError(f"illegal address {address:#x} + {size}")

    def floats(self, address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return self.at(address, 4 * int(np.prod(shape))).view(np.float32).reshape(shape)


@dataclass
class Stream:
    """Work is done when someone waits for it. ``capture``: what is recorded instead, while a graph is captured."""

    number: int
    queue: list[Callable[[], None]] = field(default_factory=list)
    finished: int = 0
    capture: list[Callable[[], None]] | None = None

    def put(self, work: Callable[[], None]) -> None:
        (self.queue if self.capture is None else self.capture).append(work)

    def run_until(self, end: int) -> None:
        while self.finished < end:
            work, self.queue[self.finished] = self.queue[self.finished], _nothing
            self.finished += 1
            work()

    def __int__(self) -> int:
        return self.number


def _nothing() -> None:
    """In the place of work that is done, which then holds on to nothing."""


class PybindEnum(enum.Enum):
    """Converts to an integer and is none, as pybind11's do."""

    def __int__(self) -> int:
        return int(self.value)

    def __index__(self) -> int:
        return int(self.value)


def _enum(name: str, members: dict[str, int]) -> Any:
    return PybindEnum(name, members)


FLAGS = {"GPU_FALLBACK": 3, "REFIT": 4, "TF32": 6}
BuilderFlag = _enum("BuilderFlag", FLAGS)
BuilderFlag10 = _enum("BuilderFlag", {"FP16": 0, "INT8": 1, **FLAGS, "BF16": 25})
BuilderFlagRtx = _enum("BuilderFlag", {**FLAGS, "REQUIRE_USER_ALLOCATION": 28})
NetworkDefinitionCreationFlag10 = _enum("NetworkDefinitionCreationFlag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1})
NetworkDefinitionCreationFlag11 = _enum("NetworkDefinitionCreationFlag", {})
NetworkDefinitionCreationFlagRtx = _enum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 0})
MemoryPoolType = _enum("MemoryPoolType", {"WORKSPACE": 0, "TACTIC_DRAM": 4})
DataType = _enum("DataType", {"FLOAT": 0, "HALF": 1, "INT32": 3})
TensorIOMode = _enum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
ExecutionContextAllocationStrategy = _enum(
    "ExecutionContextAllocationStrategy", {"STATIC": 0, "ON_PROFILE_CHANGE": 1, "USER_MANAGED": 2}
)
DynamicShapesKernelSpecializationStrategy = _enum(
    "DynamicShapesKernelSpecializationStrategy", {"LAZY": 0, "EAGER": 1, "NONE": 2}
)
ComputeCapability = _enum(
    "ComputeCapability",
    {"NONE": 0, "CURRENT": 1, "SM75": 75, "SM80": 80, "SM86": 86, "SM89": 89, "SM120": 120, "SM121": 121},
)
Severity = _enum("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4})


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError

    def _error(self, message: str) -> None:
        self.log(Severity.ERROR, message)


class IProgressMonitor:
    def __init__(self) -> None:
        self._made = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class _Made:
    """What is made by a module: knows the world and the module's version."""

    _world: World
    _version: str
    _rtx: bool


class IHostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class ITensor:
    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self._name, self._shape, self._dtype = name, shape, dtype

    @property
    def name(self) -> str:
        return self._name

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> Any:
        return self._dtype


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._layers = 0

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return self._layers

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


class OnnxParser(_Made):
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger, self._errors = network, logger, list[str]()

    def parse(self, model: bytes) -> bool:
        import onnx

        self._world.note("parse", len(model))
        graph = onnx.load_from_string(model).graph
        for index, node in enumerate(graph.node):
            if not onnx.defs.has(node.op_type, node.domain):
                self._errors.append(
                    f"In node {index} with name: {node.name} and operator: {node.op_type} "
                    '(checkFallbackPluginImporter): INVALID_NODE: creator && "Plugin not found"'
                )
        if self._errors:
            self._logger._error("While parsing")
            return False
        self._logger.log(Severity.WARNING, "one warning of the parser's")
        kinds = {onnx.TensorProto.FLOAT: DataType.FLOAT, onnx.TensorProto.FLOAT16: DataType.HALF}
        for entries, into in ((graph.input, self._network._inputs), (graph.output, self._network._outputs)):
            for entry in entries:
                tensor = entry.type.tensor_type
                shape = tuple(-1 if axis.dim_param else axis.dim_value for axis in tensor.shape.dim)
                into.append(ITensor(entry.name, shape, kinds[tensor.elem_type]))
        self._network._layers = len(graph.node)
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return ParserError(self._errors[index])


class IOptimizationProfile(_Made):
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        self._world.note("set_shape", input, min, opt, max)
        if not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise ValueError("inconsistent shapes")
        self._shapes[input] = (min, opt, max)


class ITimingCache:
    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(b"timings" + json.dumps(self._content).encode())


class IBuilderConfig(_Made):
    builder_optimization_level = 3
    progress_monitor: IProgressMonitor | None = None
    num_compute_capabilities = 0

    def __init__(self) -> None:
        self._flags = {FLAGS["TF32"]}
        self._pools = {0: 10**9}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self._target: Any = None

    def set_flag(self, flag: Any) -> None:
        self._world.note("set_flag", flag.name)
        self._flags.add(int(flag))

    def clear_flag(self, flag: Any) -> None:
        self._world.note("clear_flag", flag.name)
        self._flags.discard(int(flag))

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._world.note("set_memory_pool_limit", pool.name, pool_size)
        self._pools[int(pool)] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools[int(pool)]

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._world.note("add_optimization_profile")
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        self._world.note("create_timing_cache", len(serialized_timing_cache))
        if not serialized_timing_cache:
            return ITimingCache({"version": self._version, "gpu": self._world.gpu, "timed": 0})
        if not serialized_timing_cache.startswith(b"timings"):
            return None
        return ITimingCache(json.loads(serialized_timing_cache[7:]))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._world.note("set_timing_cache", ignore_mismatch)
        if (cache._content["version"], cache._content["gpu"]) != (self._version, self._world.gpu):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        self._world.note("set_compute_capability", compute_capability.name, index)
        if index >= self.num_compute_capabilities:
            return False
        self._target = compute_capability
        return True


class IBuilderConfig10(IBuilderConfig):
    """With what a strongly typed network must be left without."""

    @property
    def int8_calibrator(self) -> Any:
        return None

    @int8_calibrator.setter
    def int8_calibrator(self, calibrator: Any) -> None:
        raise AssertionError("a calibrator was set")


class Builder(_Made):
    def __init__(self, logger: ILogger) -> None:
        if self._world.gpu is None and not self._rtx:
            logger._error("CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        self._world.note("create_network", flags)
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return _bind(IBuilderConfig10 if self._version.startswith("10.") else IBuilderConfig, self)()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return _bind(IOptimizationProfile, self)()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        self._world.note("build_serialized_network")
        if self._world.build_error is not None:
            self._logger._error(self._world.build_error)
            return None
        free = [tensor.name for tensor in network._inputs if tensor.shape[0] == -1]
        if free and not (config._profiles and set(free) <= set(config._profiles[0]._shapes)):
            self._logger._error("Network has dynamic or shape inputs, but no optimization profile has been defined.")
            return None
        if not self._steps(config.progress_monitor):
            self._logger._error("Build canceled by user")
            return None
        if config._cache is not None:
            config._cache._content["timed"] += 1
        shapes = config._profiles[0]._shapes if config._profiles else {}
        batch = [shape[0] for shape in shapes[free[0]]] if free else [network._inputs[0].shape[0]] * 3
        target = None if config._target is None else f"{int(config._target) // 10}.{int(config._target) % 10}"
        return IHostMemory(
            plan_bytes(
                {tensor.name: list(tensor.shape) for tensor in network._inputs},
                {tensor.name: list(tensor.shape) for tensor in network._outputs},
                batch,
                target or self._world.gpu,
                self._version,
            )
        )

    def _steps(self, monitor: IProgressMonitor | None) -> bool:
        if monitor is None:
            return True
        monitor.phase_start("Building engine", None, 1)
        monitor.phase_start("Timing tactics", "Building engine", self._world.steps)
        goes_on = all(monitor.step_complete("Timing tactics", step) for step in range(self._world.steps))
        monitor.phase_finish("Timing tactics")
        monitor.phase_finish("Building engine")
        return goes_on


def plan_bytes(
    inputs: dict[str, list[int]], outputs: dict[str, list[int]], batch: list[int], gpu: str | None, version: str
) -> bytes:
    """What the stand-in builds and loads."""
    content = {"inputs": inputs, "outputs": outputs, "batch": batch, "gpu": gpu, "version": version}
    return b"plan" + json.dumps(content).encode()


class IRuntimeCache:
    pass


class IRuntimeConfig(_Made):
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def __init__(self) -> None:
        self._strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._world.note("set_runtime_cache")
        return True


class Runtime(_Made):
    def __init__(self, logger: ILogger) -> None:
        if self._world.gpu is None:
            logger._error("CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        self._world.note("deserialize_cuda_engine")
        if not serialized_engine.startswith(b"plan"):
            self._logger._error("Serialization assertion magicTag failed")
            return None
        return _bind(ICudaEngine, self)(json.loads(serialized_engine[4:]), self._logger)


class ICudaEngine(_Made):
    def __init__(self, plan: dict[str, Any], logger: ILogger) -> None:
        self._plan, self._logger = plan, logger
        self._io = {**plan["inputs"], **plan["outputs"]}
        self._world.alive.add("engine")

    def __del__(self) -> None:
        self._world.note("engine deleted")
        self._world.alive.discard("engine")

    @property
    def num_io_tensors(self) -> int:
        return len(self._io)

    @property
    def device_memory_size_v2(self) -> int:
        return 4096

    def get_tensor_name(self, index: int) -> str:
        return list(self._io)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self._plan["inputs"] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType.HALF if name in self._plan.get("half", ()) else DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._io[name])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [(size, *self._io[name][1:]) for size in self._plan["batch"]]

    def create_runtime_config(self) -> IRuntimeConfig:
        return _bind(IRuntimeConfig, self)()

    def create_execution_context(self, strategy: Any = ExecutionContextAllocationStrategy.STATIC) -> IExecutionContext:
        self._world.note("create_execution_context")
        if isinstance(strategy, IRuntimeConfig):
            assert strategy.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
            strategy = strategy._strategy
        return _bind(IExecutionContextRtx if self._rtx else IExecutionContext, self)(self, strategy)


class IExecutionContext(_Made):
    def __init__(self, engine: ICudaEngine, strategy: Any) -> None:
        self._engine, self._managed = engine, strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        self._scratch: tuple[int, int] | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        # A captured graph must not be launched after its context has changed.
        self._changes = 0
        self._runs = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0 and size >= self._engine.device_memory_size_v2
        self._scratch, self._changes = (memory, size), self._changes + 1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._changes += 1
        least, _, most = self._engine._plan["batch"]
        declared = self._engine._plan["inputs"].get(name)
        if declared is None or list(shape[1:]) != declared[1:] or not least <= shape[0] <= most:
            self._engine._logger._error(f"IExecutionContext::setInputShape: {name} {shape} is out of its range")
            return False
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._changes += 1
        if name not in self._engine._io or memory % 256:
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        self._world.note("execute_async_v3", stream_handle)
        ready = set(self._addresses) == set(self._engine._io) and set(self._shapes) == set(self._engine._plan["inputs"])
        if not ready or (self._managed and self._scratch is None):
            self._engine._logger._error("IExecutionContext::enqueueV3: not everything is set")
            return False
        world, stream = self._world, self._world.streams[stream_handle]
        capturing, changes = stream.capture is not None, self._changes
        assert self._runs or not capturing, "a context has to run once before it is captured"
        self._runs += 1
        shapes, addresses, scratch = dict(self._shapes), dict(self._addresses), self._scratch
        (output,) = self._engine._plan["outputs"]

        def work() -> None:
            assert not capturing or self._changes == changes, "the context of a captured graph was changed"
            if scratch is not None:
                world.at(*scratch)[:] = 255
            given = {name: world.floats(addresses[name], shape) for name, shape in shapes.items()}
            batch, *rest = next(iter(shapes.values()))
            world.floats(addresses[output], (batch, *rest[:-1], 3))[:] = formula(given)

        stream.put(work)
        return True


class IExecutionContextRtx(IExecutionContext):
    def is_stream_capturable(self, stream: int) -> bool:
        return self._world.capturable


def formula(given: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """What every engine computes."""
    seen, lens = (given["keypoints"], given["camera"]) if "camera" in given else (given["pose_2d"], given["image_size"])
    screen = (seen / lens[:, None, None, :]).sum(axis=-1, keepdims=True)
    base = 0.9 * given["pose_3d"] if "pose_3d" in given else np.zeros((*screen.shape[:-1], 3))
    return np.asarray(base + 0.05 * screen, np.float32)


def _bind(base: Any, of: Any) -> Any:
    """``base`` as a class of the module that ``of`` comes from."""
    return type(base.__name__, (base,), {"_world": of._world, "_version": of._version, "_rtx": of._rtx})


COMMON = (
    ILogger,
    IProgressMonitor,
    IHostMemory,
    ITensor,
    INetworkDefinition,
    ParserError,
    OnnxParser,
    IOptimizationProfile,
    ITimingCache,
    IBuilderConfig,
    Builder,
    Runtime,
    ICudaEngine,
    IExecutionContext,
    MemoryPoolType,
    DataType,
    TensorIOMode,
    ExecutionContextAllocationStrategy,
)
OF_RTX = (BuilderFlagRtx, NetworkDefinitionCreationFlagRtx, ComputeCapability, IRuntimeConfig, IRuntimeCache)
OF_RTX += (DynamicShapesKernelSpecializationStrategy,)
OF_10 = (BuilderFlag10, NetworkDefinitionCreationFlag10)
OF_11 = (BuilderFlag, NetworkDefinitionCreationFlag11)


def make_tensorrt(world: World, version: str = "10.16.1.11") -> ModuleType:
    """The module ``tensorrt`` of a version, or ``tensorrt_rtx`` for a version that begins with 1."""
    major = version.split(".")[0]
    module = ModuleType("tensorrt_rtx" if major == "1" else "tensorrt")
    maker = _Made()
    maker._world, maker._version, maker._rtx = world, version, major == "1"
    for found in COMMON + {"1": OF_RTX, "10": OF_10, "11": OF_11}[major]:
        name = found.__name__
        setattr(module, name, _bind(found, maker) if isinstance(found, type) and issubclass(found, _Made) else found)
    module.__version__ = version  # type: ignore[attr-defined]
    return module


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


class cudaDeviceAttr(enum.IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class cudaMemoryType(enum.IntEnum):
    cudaMemoryTypeHost = 1
    cudaMemoryTypeDevice = 2
    cudaMemoryTypeManaged = 3


@dataclass
class Attributes:
    type: cudaMemoryType
    device: int


@dataclass
class Event:
    """``after``: the stream and how much of its work, at the last record."""

    after: tuple[Stream, int] | None = None


def make_cuda(world: World) -> ModuleType:
    """``cuda.bindings.runtime``: every function returns a tuple that begins with an error code."""
    module = ModuleType("cuda.bindings.runtime")
    enums = (cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode, cudaDeviceAttr, cudaMemoryType)
    for found in enums:
        setattr(module, found.__name__, found)
    constants = {"cudaStreamNonBlocking": 1, "cudaEventDisableTiming": 2}
    for name, value in constants.items():
        setattr(module, name, value)
    for function, outputs in ((getattr(_Cuda, name), name in _Cuda.WITH_OUTPUT) for name in _Cuda.FUNCTIONS):
        setattr(module, function.__name__, _guarded(world, function, outputs))
    return module


def _guarded(world: World, function: Any, outputs: bool) -> Callable[..., tuple[Any, ...]]:
    name = function.__name__

    def call(*arguments: Any) -> tuple[Any, ...]:
        # Graphs hold on to contexts, which must be able to end.
        world.note(name, *("graph" if isinstance(value, list) else value for value in arguments))
        code, remaining = world.failing.get(name, (0, 1))
        if world.gpu is None and not name.startswith("cudaGetError"):
            code, remaining = cudaError_t.cudaErrorInsufficientDriver, 0
        if code and remaining == 0:
            return (cudaError_t(code), None) if outputs else (cudaError_t(code),)
        if code:
            world.failing[name] = (code, remaining - 1)
        result = function(world, *arguments)
        return (cudaError_t.cudaSuccess, result) if outputs else (cudaError_t.cudaSuccess,)

    call.__name__ = name
    return call


class _Cuda:
    """The functions; the first argument of each is the world."""

    numbers = itertools.count(1)

    def cudaGetDeviceCount(world: World) -> int:
        return 2

    def cudaGetDevice(world: World) -> int:
        return world.device

    def cudaDeviceGetAttribute(world: World, attr: cudaDeviceAttr, device: int) -> int:
        assert world.gpu is not None
        return int(world.gpu.split(".")[attr - cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor])

    def cudaGetErrorString(world: World, error: cudaError_t) -> bytes:
        return f"words of {error.name}".encode()

    def cudaMalloc(world: World, size: int) -> int:
        # Addresses that nothing on this machine has: the host cannot use them by mistake.
        address = (1 << 60) + (next(_Cuda.numbers) << 28)
        world.memory[address] = np.full(size, 255, np.uint8)
        return address

    def cudaFree(world: World, devPtr: int) -> None:
        del world.memory[devPtr]

    def cudaMallocHost(world: World, size: int) -> int:
        block = ctypes.create_string_buffer(size)
        world.pinned[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def cudaFreeHost(world: World, ptr: int) -> None:
        del world.pinned[ptr]

    def cudaMemcpyAsync(world: World, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: Any) -> None:
        def work() -> None:
            if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
                world.at(dst, count)[:] = np.frombuffer(ctypes.string_at(src, count), np.uint8)
            else:
                ctypes.memmove(dst, world.at(src, count).tobytes(), count)

        world.streams[int(stream)].put(work)

    def cudaStreamCreateWithFlags(world: World, flags: int) -> Stream:
        stream = Stream(next(_Cuda.numbers) + 1000)
        world.streams[stream.number] = stream
        return stream

    def cudaStreamDestroy(world: World, stream: Stream) -> None:
        del world.streams[stream.number]
        stream.queue, stream.capture = [], None

    def cudaStreamSynchronize(world: World, stream: Any) -> None:
        found = world.streams[int(stream)]
        assert found.capture is None
        found.run_until(len(found.queue))

    def cudaStreamBeginCapture(world: World, stream: Stream, mode: cudaStreamCaptureMode) -> None:
        assert stream.capture is None
        stream.capture = []

    def cudaStreamEndCapture(world: World, stream: Stream) -> list[Callable[[], None]]:
        assert stream.capture is not None
        graph, stream.capture = stream.capture, None
        world.alive.add(f"graph {id(graph)}")
        return graph

    def cudaGraphInstantiate(world: World, graph: list[Callable[[], None]], flags: int) -> list[Callable[[], None]]:
        launched = list(graph)
        world.alive.add(f"instance {id(launched)}")
        return launched

    def cudaGraphLaunch(world: World, graphExec: list[Callable[[], None]], stream: Stream) -> None:
        for work in graphExec:
            stream.put(work)

    def cudaGraphDestroy(world: World, graph: list[Callable[[], None]]) -> None:
        world.alive.remove(f"graph {id(graph)}")

    def cudaGraphExecDestroy(world: World, graphExec: list[Callable[[], None]]) -> None:
        world.alive.remove(f"instance {id(graphExec)}")

    def cudaEventCreateWithFlags(world: World, flags: int) -> Event:
        event = Event()
        world.alive.add(f"event {id(event)}")
        return event

    def cudaEventDestroy(world: World, event: Event) -> None:
        world.alive.remove(f"event {id(event)}")

    def cudaEventRecord(world: World, event: Event, stream: Any) -> None:
        found = world.streams[int(stream)]
        event.after = (found, len(found.queue))

    def cudaStreamWaitEvent(world: World, stream: Any, event: Event, flags: int) -> None:
        if event.after is not None:
            other, end = event.after
            world.streams[int(stream)].put(lambda: other.run_until(end))

    def cudaPointerGetAttributes(world: World, ptr: int) -> Attributes:
        if any(base <= ptr < base + len(block) for base, block in world.memory.items()):
            return Attributes(cudaMemoryType.cudaMemoryTypeDevice, world.device)
        return Attributes(cudaMemoryType.cudaMemoryTypeHost, 0)

    FUNCTIONS = tuple(name for name in dict(locals()) if name.startswith("cuda"))
    WITH_OUTPUT: ClassVar = {
        "cudaGetDeviceCount",
        "cudaGetDevice",
        "cudaDeviceGetAttribute",
        "cudaGetErrorString",
        "cudaMalloc",
        "cudaMallocHost",
        "cudaStreamCreateWithFlags",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaEventCreateWithFlags",
        "cudaPointerGetAttributes",
    }
