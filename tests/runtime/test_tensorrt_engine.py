"""TensorRT as an engine, against stand-ins of TensorRT and of CUDA, whose work is done when a stream is waited for."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from refiner.errors import ArtefactError, DTypeError, MissingComponentError, RefinerError, UsageError
from refiner.files import sha256_of
from refiner.runtime import Refiner
from refiner.runtime.device_arrays import read_device_array, stream_handle
from refiner.runtime.manifest import manifest_path
from refiner.runtime.tensorrt_engine import KEPT_BATCHES, TensorRtEngine
from refiner.skeleton import JOINT_NAMES

_SPEC = importlib.util.spec_from_file_location(
    "fake_tensorrt", Path(__file__).parent.parent / "export" / "fake_tensorrt.py"
)
assert _SPEC is not None and _SPEC.loader is not None
fake = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = fake
_SPEC.loader.exec_module(fake)

FRAMES = 9
VERSIONS = ("10.16.1.11", "11.4.0.106", "1.7.1.116")
SHAPES = {"pose_2d": (FRAMES, 17, 2), "pose_3d": (FRAMES, 17, 3), "image_size": (2,)}
OF_RAYS = {"keypoints": (FRAMES, 17, 3), "pose_3d": (FRAMES, 17, 3), "camera": (3,)}
OUTPUT = "refined_pose_3d"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``machine(version, gpu=...)``: put the stand-ins in the place of their modules; returns their world."""

    def install(version: str = "10.16.1.11", gpu: str | None = "9.0", **changes: Any) -> Any:
        world = fake.World(gpu, **changes)
        trt = fake.make_tensorrt(world, version)
        monkeypatch.setitem(sys.modules, trt.__name__, trt)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake.make_cuda(world))
        return world

    return install


@pytest.fixture
def write_plan(tmp_path: Path) -> Callable[..., Path]:
    """``write_plan(version, batch, ...)``: a plan and its manifest; keywords change the manifest."""

    def write(
        version: str = "10.16.1.11",
        batch: tuple[int, int, int] = (1, 2, 4),
        plan: bytes | None = None,
        shapes: dict[str, tuple[int, ...]] = SHAPES,
        **changes: Any,
    ) -> Path:
        first: Any = batch[2] if batch[0] == batch[2] else -1
        inputs = {name: [first, *shape] for name, shape in shapes.items()}
        outputs = {OUTPUT: [first, *SHAPES["pose_3d"]]}
        file = tmp_path / "small.engine"
        made = fake.plan_bytes(inputs, outputs, list(batch), "9.0", version)
        file.write_bytes(made if plan is None else plan)

        def declared(shapes: dict[str, list[int]]) -> dict[str, Any]:
            named = {name: ["batch" if size == -1 else size for size in shape] for name, shape in shapes.items()}
            return {name: {"type": "float32", "shape": shape} for name, shape in named.items()}

        manifest = {
            "schema": 2,
            "kind": "refiner",
            "engine": "trt-rtx" if version.startswith("1.") else "trt",
            "precision": "fp16",
            "frames": FRAMES,
            "fps": 50.0,
            "steps": 2,
            "batch": dict(zip(("min", "opt", "max"), batch, strict=True)),
            "joints": {"names": list(JOINT_NAMES)},
            "checkpoint": {"name": "my.safetensors", "sha256": "00"},
            "inputs": declared(inputs),
            "outputs": declared(outputs),
            "build": {"tensorrt": version, "compute_capability": "9.0"},
            "files": {file.name: sha256_of(file)},
        }
        manifest_path(file).write_text(json.dumps({**manifest, **changes}), encoding="utf-8")
        return file

    return write


def windows(batch: int, seed: int = 0, shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    given = {name: rng.uniform(1, 2, (batch, *shape)) for name, shape in shapes.items()}
    return {name: array.astype(np.float32) for name, array in given.items()}


def check(engine: TensorRtEngine, batch: int, seed: int = 0) -> None:
    given = windows(batch, seed)
    result = engine(*given.values())
    assert result.dtype == np.float32 and result.shape == (batch, *SHAPES["pose_3d"])
    np.testing.assert_array_equal(result, fake.formula(given))


def calls_of(world: Any, run: Callable[[], object]) -> list[str]:
    world.calls.clear()
    run()
    return world.names()


# Runs.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_batches_in_any_order(machine, write_plan, version, cuda_graphs):
    world = machine(version)
    engine = TensorRtEngine(write_plan(version), "refiner", cuda_graphs)
    taken = [len(world.memory), len(world.pinned)]
    assert taken == [5, 4], "one buffer for each tensor and the scratch memory"
    for seed, batch in enumerate((1, 4, 1, 2, 2, 4, 4, 2, 1, 3, 3, 1, 3)):
        check(engine, batch, seed)
    assert [len(world.memory), len(world.pinned)] == taken
    assert engine.metadata["device"] == "cuda" and engine.largest_batch == 4
    assert engine(*windows(0).values()).shape == (0, *SHAPES["pose_3d"])
    with pytest.raises(UsageError, match="--batch 1:5:5"):
        engine(*windows(5).values())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_few_batch_sizes_are_kept(machine, write_plan, version, cuda_graphs):
    """However many batch sizes come, the contexts and graphs of the last ones alone are there."""
    world = machine(version)
    engine = TensorRtEngine(write_plan(version, (1, 4, 12)), "refiner", cuda_graphs)
    for seed, batch in enumerate((*range(1, 13), 3, *range(1, 13))):
        check(engine, batch, seed)
        check(engine, batch, seed + 100)
    gc.collect()
    # By type: isinstance would ask every object for its class, and some warn when they are asked.
    contexts = [made for made in gc.get_objects() if issubclass(type(made), fake.IExecutionContext)]
    assert sum(made._engine is engine._plan.engine for made in contexts) == KEPT_BATCHES
    del contexts
    made, destroyed = (world.names().count(name) for name in ("cudaGraphInstantiate", "cudaGraphExecDestroy"))
    assert made - destroyed == (KEPT_BATCHES if cuda_graphs else 0) and made >= (12 if cuda_graphs else 0)
    # One that is used often stays.
    world.calls.clear()
    for batch in (5, 12, 5, *range(1, 5), 5, 11, 10, 12, 5):
        check(engine, batch)
    assert world.names().count("create_execution_context") == 4
    engine.close()
    assert_given_back(world)


def test_a_fixed_batch(machine, write_plan):
    machine()
    engine = TensorRtEngine(write_plan(batch=(3, 3, 3)), "refiner")
    for seed in range(4):
        check(engine, 3, seed)


def test_a_camera_aware_plan(machine, write_plan):
    machine()
    assert not TensorRtEngine(write_plan(), "refiner").rays
    engine = TensorRtEngine(write_plan(shapes=OF_RAYS), "refiner")
    assert engine.rays
    for seed, batch in enumerate((1, 3, 3, 3, 1)):
        given = windows(batch, seed, OF_RAYS)
        np.testing.assert_array_equal(engine(*given.values()), fake.formula(given))
    assert engine(*windows(0, 0, OF_RAYS).values()).shape == (0, FRAMES, 17, 3)
    with pytest.raises(UsageError, match=r"keypoints has shape \(1, 9, 17, 2\)"):
        engine(*windows(1).values())
    with pytest.raises(UsageError, match="takes keypoints, pose_3d, camera; got 1"):
        engine(given["keypoints"])


def test_a_result_is_the_callers_to_keep(machine, write_plan):
    machine()
    engine = TensorRtEngine(write_plan(), "refiner")
    given = windows(2)
    first = engine(*given.values())
    engine(*windows(2, 1).values())
    np.testing.assert_array_equal(first, fake.formula(given))


def test_the_order_of_calls(machine, write_plan):
    """Launched at the first use of a batch size, captured at the second, replayed from then on."""
    world = machine()
    engine = TensorRtEngine(write_plan(), "refiner")
    run = ["cudaMemcpyAsync"] * 3 + ["execute_async_v3", "cudaMemcpyAsync"]
    first = ["cudaGetDevice", "create_execution_context", *run, "cudaStreamSynchronize"]
    assert calls_of(world, lambda: check(engine, 2)) == first
    capture = ["cudaStreamBeginCapture", *run, "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy"]
    replay = ["cudaGraphLaunch", "cudaStreamSynchronize"]
    assert calls_of(world, lambda: check(engine, 2, 1)) == ["cudaGetDevice", *capture, *replay]
    # Another batch size has a context of its own, and leaves the captured one alone.
    assert calls_of(world, lambda: check(engine, 4, 2)) == first
    for seed in range(3):
        assert calls_of(world, lambda seed=seed: check(engine, 2, seed)) == ["cudaGetDevice", *replay]


def test_copies_are_of_the_batch_alone_and_in_the_engines_stream(machine, write_plan):
    world = machine()
    engine = TensorRtEngine(write_plan(), "refiner")
    world.calls.clear()
    check(engine, 3)
    copies = [call for call in world.calls if call[0] == "cudaMemcpyAsync"]
    assert [call[3] for call in copies] == [
        4 * 3 * int(np.prod(shape)) for shape in (*SHAPES.values(), (FRAMES, 17, 3))
    ]
    assert [call[4].name[10:] for call in copies] == ["HostToDevice"] * 3 + ["DeviceToHost"]
    (stream,) = (number for number in world.streams if number)
    assert {int(call[5]) for call in copies} == {stream}
    assert ("execute_async_v3", stream) in world.calls


def test_rtx_compiles_a_shapes_kernels_before_they_are_captured(machine, write_plan):
    """The stand-in's context insists on EAGER; here, that a context which cannot be captured runs without."""
    world = machine("1.7.1.116", capturable=False)
    engine = TensorRtEngine(write_plan("1.7.1.116"), "refiner")
    assert "set_runtime_cache" in world.names()
    for seed in range(3):
        check(engine, 2, seed)
    assert "cudaStreamBeginCapture" not in world.names()


def test_calls_from_several_threads_take_turns(machine, write_plan, monkeypatch):
    machine()
    # A stand-in that lets the other threads go on wherever a GPU would be waited for.
    cuda = sys.modules["cuda.bindings.runtime"]
    wait = cuda.cudaStreamSynchronize
    monkeypatch.setattr(cuda, "cudaStreamSynchronize", lambda stream: (time.sleep(0.001), wait(stream))[1])
    engine = TensorRtEngine(write_plan(), "refiner")
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for step in range(10):
                check(engine, 1 + (seed + step) % 4, seed)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_loads_by_its_name(machine, write_plan, clip):
    machine()
    pose = clip(40)
    refined = Refiner.load(write_plan()).refine(*pose, image_size=(1000, 1002))
    assert refined.shape == (40, 17, 3) and np.isfinite(refined).all()


def test_needs_no_pytorch():
    code = "import sys, refiner.runtime.tensorrt_engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Plans that do not belong here.


def test_another_versions_plan(machine, write_plan):
    world = machine("11.4.0.106")
    file = write_plan("10.16.1.11")
    command = r"refiner-export --engine trt --precision fp16 --checkpoint my\.safetensors --steps 2 --batch 1:2:4$"
    with pytest.raises(ArtefactError, match=rf"built by TensorRT 10\.16\.1\.11, this is 11\.4\.0\.106; .*{command}"):
        TensorRtEngine(file, "refiner")
    assert "deserialize_cuda_engine" not in world.names() and not world.memory
    build = {"tensorrt": "10.16.1.11", "compute_capability": "9.0", "version_compatible": True}
    check(TensorRtEngine(write_plan("10.16.1.11", build=build), "refiner"), 1)


@pytest.mark.parametrize(("version", "made_by"), [("10.16.1.11", "10.16.0.3"), ("1.7.1.116", "1.7.0.5")])
def test_a_patch_of_the_same_version_fits(machine, write_plan, version, made_by):
    machine(version)
    build = {"tensorrt": made_by, "compute_capability": "9.0"}
    check(TensorRtEngine(write_plan(version, build=build), "refiner"), 1)
    other = {**build, "tensorrt": "10.1.6" if version.startswith("10") else "1.17.1"}
    with pytest.raises(ArtefactError, match="build it again here"):
        TensorRtEngine(write_plan(version, build=other), "refiner")


@pytest.mark.parametrize(("version", "flag"), [("11.4.0.106", ""), ("1.7.1.116", " --compute-capability 8.9")])
def test_another_gpus_plan(machine, write_plan, version, flag):
    world = machine(version, gpu="8.9")
    with pytest.raises(
        ArtefactError, match=r"GPUs of compute capability 9\.0, this one has 8\.9; build it again"
    ) as caught:
        TensorRtEngine(write_plan(version), "refiner")
    assert str(caught.value).endswith(f"--batch 1:2:4{flag}")
    assert "deserialize_cuda_engine" not in world.names()


def test_the_command_names_what_the_manifest_names(machine, write_plan):
    machine("11.4.0.106")
    changes = {"lifter": {"name": "l.safetensors", "sha256": "00"}, "mirrored_pass": True, "trained_frames": 27}
    with pytest.raises(ArtefactError) as caught:
        TensorRtEngine(write_plan(batch=(4, 4, 4), **changes), "refiner")
    assert str(caught.value).endswith(
        "refiner-export --engine trt --precision fp16 --checkpoint my.safetensors --with-lifter l.safetensors "
        "--frames 9 --steps 2 --batch 4 --flip-test"
    )


@pytest.mark.parametrize("build", [None, {}, {"tensorrt": 10}])
def test_a_manifest_without_the_builder(machine, write_plan, build):
    world = machine()
    with pytest.raises(ArtefactError, match="does not say what built it; build it again: refiner-export --engine trt "):
        TensorRtEngine(write_plan(build=build), "refiner")
    assert "deserialize_cuda_engine" not in world.names()


@pytest.mark.parametrize("change", ["truncated", "changed", "unnamed"])
def test_other_bytes_are_never_deserialised(machine, write_plan, change):
    world = machine()
    file = write_plan(**({"files": {}} if change == "unnamed" else {}))
    plan = file.read_bytes()
    if change == "truncated":
        file.write_bytes(plan[:-1])
    elif change == "changed":
        file.write_bytes(plan[:-1] + b" ")
    with pytest.raises(ArtefactError, match=r"sha256|does not name it"):
        TensorRtEngine(file, "refiner")
    assert world.calls == []


def test_another_role_and_another_engine(machine, write_plan):
    world = machine()
    with pytest.raises(ArtefactError, match="expected a lifter"):
        TensorRtEngine(write_plan(), "lifter")
    with pytest.raises(ArtefactError, match="made for the engine 'onnx'"):
        TensorRtEngine(write_plan(engine="onnx"), "refiner")
    assert world.calls == []


def test_bytes_that_are_no_plan(machine, write_plan):
    world = machine()
    with pytest.raises(
        ArtefactError, match=r"cannot load .*small\.engine: .*magicTag.*Build it again here: refiner-export"
    ):
        TensorRtEngine(write_plan(plan=b"nothing of TensorRT's"), "refiner")
    assert list(world.streams) == [0]


@pytest.mark.parametrize(
    ("inputs", "outputs", "batch", "words"),
    [
        ({"x": [-1, 2]}, {OUTPUT: [-1, 9, 17, 3]}, [1, 2, 4], "is no exported refiner: it has x, refined_pose_3d"),
        (None, {OUTPUT: [-1, 8, 17, 3]}, [1, 2, 4], r"output refined_pose_3d of .*\(-1, 8, 17, 3\)"),
        (None, None, [1, 2, 3], "built for 1 to 3 windows, its manifest says 1 to 4"),
        (None, None, [2, 2, 4], "built for 2 to 4 windows"),
    ],
)
def test_a_plan_of_something_else(machine, write_plan, inputs, outputs, batch, words):
    world = machine()
    inputs = inputs or {name: [-1, *shape] for name, shape in SHAPES.items()}
    plan = fake.plan_bytes(inputs, outputs or {OUTPUT: [-1, 9, 17, 3]}, batch, "9.0", "10.16.1.11")
    with pytest.raises(ArtefactError, match=words):
        TensorRtEngine(write_plan(plan=plan), "refiner")
    assert not world.memory and list(world.streams) == [0]


def test_a_plan_of_another_type(machine, write_plan):
    machine()
    file = write_plan()
    content = json.loads(file.read_bytes()[4:])
    with pytest.raises(ArtefactError, match=r"input pose_2d of DataType.HALF .*says float32"):
        TensorRtEngine(write_plan(plan=b"plan" + json.dumps({**content, "half": ["pose_2d"]}).encode()), "refiner")


# What is missing.


def test_without_a_driver(machine, write_plan):
    world = machine(gpu=None)
    with pytest.raises(MissingComponentError, match=r"none can be used here \(cudaErrorInsufficientDriver\)") as caught:
        TensorRtEngine(write_plan(), "refiner")
    assert caught.value.exit_code == 3 and "deserialize_cuda_engine" not in world.names()


def test_without_a_device(machine, write_plan):
    machine(failing={"cudaGetDeviceCount": (100, 0)})
    with pytest.raises(MissingComponentError, match=r"cudaErrorNoDevice.*CUDA_VISIBLE_DEVICES"):
        TensorRtEngine(write_plan(), "refiner")


@pytest.mark.parametrize(
    ("module", "version", "words"),
    [
        ("tensorrt", "10.16.1.11", r"'pose-refiner\[tensorrt\]'"),
        ("tensorrt_rtx", "1.7.1.116", r"'pose-refiner\[tensorrt-rtx\]'"),
        ("cuda.bindings.runtime", "10.16.1.11", "cuda-python"),
    ],
)
def test_without_a_module(machine, write_plan, monkeypatch, module, version, words):
    machine(version)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingComponentError, match=words):
        TensorRtEngine(write_plan(version), "refiner")


def assert_given_back(world: Any) -> None:
    assert not world.memory and not world.pinned and list(world.streams) == [0] and not world.alive


# CUDA's return codes.


def everything(file: Path) -> None:
    """Every function of CUDA's that a call needs, but those that give something back."""
    with TensorRtEngine(file, "refiner") as engine:
        for _ in range(3):
            check(engine, 2)


FALLIBLE = [
    "cudaGetDevice",
    "cudaDeviceGetAttribute",
    "cudaStreamCreateWithFlags",
    "cudaMalloc",
    "cudaMallocHost",
    "cudaEventCreateWithFlags",
    "cudaMemcpyAsync",
    "cudaStreamSynchronize",
    "cudaStreamBeginCapture",
    "cudaStreamEndCapture",
    "cudaGraphInstantiate",
    "cudaGraphLaunch",
]


@pytest.mark.parametrize("function", FALLIBLE)
def test_every_code_becomes_an_error(machine, write_plan, function):
    world = machine()
    file = write_plan()
    everything(file)
    # The last wait is that of closing, which raises nothing.
    calls = world.names().count(function) - (function == "cudaStreamSynchronize")
    assert calls > 0
    for succeeding in range(calls):
        world.failing = {function: (700, succeeding)}
        with pytest.raises(ArtefactError, match=rf"^{function}: words of .* \(cudaErrorIllegalAddress\)"):
            everything(file)
        world.failing = {}
        gc.collect()
        assert_given_back(world)


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMallocHost", "cudaGraphInstantiate"])
def test_too_little_memory(machine, write_plan, function):
    machine(failing={function: (2, 0)})
    with pytest.raises(MissingComponentError, match=r"cudaErrorMemoryAllocation.*smaller batches"):
        everything(write_plan())


@pytest.mark.parametrize("function", ["cudaMemcpyAsync", "cudaGraphInstantiate", "cudaStreamEndCapture"])
def test_after_a_failed_capture_the_engine_still_runs(machine, write_plan, function):
    world = machine()
    engine = TensorRtEngine(write_plan(), "refiner")
    check(engine, 2)
    world.failing[function] = (900, 2 if function == "cudaMemcpyAsync" else 0)
    with pytest.raises(ArtefactError, match=r"cudaErrorStreamCaptureUnsupported.*cuda_graphs=False"):
        check(engine, 2)
    world.failing.clear()
    if function == "cudaStreamEndCapture":
        # The stand-in's code came in place of the call: the capture goes on.
        next(stream for number, stream in world.streams.items() if number).capture = None
    for seed in range(3):
        check(engine, 2, seed)
    engine.close()
    assert_given_back(world)


def test_a_refused_launch_has_tensorrts_words(machine, write_plan, monkeypatch):
    machine()
    engine = TensorRtEngine(write_plan(), "refiner")
    monkeypatch.setattr(fake.IExecutionContext, "set_tensor_address", lambda self, name, memory: True)
    for _ in range(2):
        with pytest.raises(ArtefactError, match=r"could not run .*small\.engine: [^;]*not everything is set$"):
            check(engine, 1)


def test_another_current_device(machine, write_plan):
    world = machine()
    engine = TensorRtEngine(write_plan(), "refiner")
    world.device = 1
    with pytest.raises(UsageError, match=r"loaded on CUDA device 0, and this thread's current device is 1"):
        check(engine, 1)


# Giving back.


def used(world: Any, file: Path) -> TensorRtEngine:
    engine = TensorRtEngine(file, "refiner")
    for batch in (1, 1, 2, 2, 1):
        check(engine, batch)
    assert world.memory and world.pinned and len(world.streams) == 2 and "engine" in world.alive
    return engine


@pytest.mark.parametrize("version", VERSIONS)
def test_closing_gives_everything_back(machine, write_plan, version):
    world = machine(version)
    with used(world, write_plan(version)) as engine:
        world.calls.clear()
    assert_given_back(world)
    # First what could still use the memory.
    names = world.names()
    assert names[0] == "cudaStreamSynchronize" and names[-1] == "cudaStreamDestroy"
    assert names.index("cudaGraphExecDestroy") < names.index("engine deleted") < names.index("cudaFree")
    world.calls.clear()
    engine.close()
    assert world.calls == []
    with pytest.raises(UsageError, match=r"small\.engine is closed; load it again"):
        check(engine, 1)


def test_the_end_of_the_object_gives_everything_back(machine, write_plan):
    world = machine()
    engine = used(world, write_plan())
    del engine
    gc.collect()
    assert_given_back(world)


def test_giving_back_raises_nothing(machine, write_plan):
    world = machine()
    engine = used(world, write_plan())
    codes = ("cudaFree", "cudaStreamSynchronize", "cudaGraphExecDestroy", "cudaEventDestroy", "cudaStreamDestroy")
    world.failing |= dict.fromkeys(codes, (700, 0))
    engine.close()
    assert not world.pinned


# Arrays on the GPU.


class OnDevice:
    """An array on the stand-in's GPU, made and read in ``stream``."""

    def __init__(self, world: Any, shape: tuple[int, ...], stream: int = 0, offset: int = 0) -> None:
        self.world, self.shape, self.stream = world, shape, stream
        size = 4 * int(np.prod(shape)) + offset
        self.address = fake._Cuda.cudaMalloc(world, max(size, 1)) + offset

    def write_later(self, values: NDArray[np.float32]) -> OnDevice:
        self.world.streams[self.stream].put(lambda: self.now().__setitem__(..., values))
        return self

    def now(self) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.world.floats(self.address, self.shape)
        return found

    def read_in_stream(self) -> NDArray[np.float32]:
        stream, read = self.world.streams[self.stream], []
        stream.put(lambda: read.append(self.now().copy()))
        stream.run_until(len(stream.queue))
        return read[0]


class ByInterface(OnDevice):
    """As of Numba's or PyTorch's."""

    changes: Any = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        plain = {"shape": self.shape, "typestr": "<f4", "data": (self.address, False), "strides": None, "version": 3}
        return {**plain, **(self.changes or {})}


class ByDlpack(OnDevice):
    """As of CuPy's or JAX's: lets the reader's stream wait for its own."""

    device = 0
    code = (2, 32)
    strides: tuple[int, ...] | None = None

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    def __dlpack__(self, stream: int | None = None) -> Any:
        assert stream is not None
        own = self.world.streams[self.stream]
        end = len(own.queue)
        self.world.streams[stream].put(lambda: own.run_until(end))
        return capsule_of(self)


class Managed(ctypes.Structure):
    """DLPack's DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_uint8 * 2),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


def capsule_of(array: Any) -> Any:
    axes = len(array.shape)
    shape = (ctypes.c_int64 * axes)(*array.shape)
    strides = None if array.strides is None else (ctypes.c_int64 * axes)(*array.strides)
    where = None if strides is None else ctypes.addressof(strides)
    device, dtype = (ctypes.c_int32 * 2)(2, array.device), (ctypes.c_uint8 * 2)(*array.code)
    made = Managed(array.address - 256, device, axes, dtype, 1, ctypes.addressof(shape), where, 256)
    array.kept = (shape, strides, made)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return new(ctypes.addressof(made), b"dltensor", None)


@pytest.mark.parametrize("kind", [ByInterface, ByDlpack])
@pytest.mark.parametrize("own_stream", [False, True])
def test_arrays_on_the_gpu_are_neither_copied_nor_waited_for(machine, write_plan, kind, own_stream):
    world = machine()
    engine = TensorRtEngine(write_plan(), "refiner")
    number = int(fake._Cuda.cudaStreamCreateWithFlags(world, 1)) if own_stream else 0
    stream = number if own_stream else None
    for seed, batch in enumerate((2, 4, 2, 1)):
        given = windows(batch, seed)
        # The inputs are not there yet when the engine is called.
        arrays = [kind(world, array.shape, number).write_later(array) for array in given.values()]
        out = kind(world, (batch, *SHAPES["pose_3d"]), number)
        world.calls.clear()
        assert engine.run_on_device(*arrays, out=out, stream=stream) is out
        assert "cudaMemcpyAsync" not in world.names() and "cudaStreamSynchronize" not in world.names()
        # Between two calls of it, the engine's own buffers and scratch memory are used.
        if seed % 2:
            check(engine, batch, seed + 10)
        np.testing.assert_array_equal(out.read_in_stream(), fake.formula(given))
    assert world.names().count("create_execution_context") <= 1


def test_two_calls_in_different_streams_take_turns(machine, write_plan):
    world = machine()
    engine = TensorRtEngine(write_plan(), "refiner")
    numbers = [int(fake._Cuda.cudaStreamCreateWithFlags(world, 1)) for _ in range(2)]
    outs = []
    for seed, number in enumerate(numbers):
        arrays = [ByInterface(world, a.shape, number).write_later(a) for a in windows(2, seed).values()]
        outs.append(engine.run_on_device(*arrays, out=ByInterface(world, (2, 9, 17, 3), number), stream=number))
    for seed, out in reversed(list(enumerate(outs))):
        np.testing.assert_array_equal(out.read_in_stream(), fake.formula(windows(2, seed)))


def test_the_stream_that_an_array_names_is_waited_for(machine, write_plan):
    world = machine()
    engine = TensorRtEngine(write_plan(), "refiner")
    number = int(fake._Cuda.cudaStreamCreateWithFlags(world, 1))
    given = windows(2)
    arrays = [ByInterface(world, array.shape, number).write_later(array) for array in given.values()]
    for array in arrays:
        array.changes = {"stream": number}
    out = engine.run_on_device(*arrays, out=ByInterface(world, (2, 9, 17, 3)))
    np.testing.assert_array_equal(out.read_in_stream(), fake.formula(given))


def spoilt(world: Any, kind: str) -> Any:
    """A second input that does not fit, and what the error says of it."""
    shape = (2, *SHAPES["pose_3d"])
    if kind == "list":
        return [1.0]
    if kind == "numpy":
        return windows(2)["pose_3d"]
    if kind == "offset":
        return ByInterface(world, shape, offset=4)
    if kind.startswith("dlpack"):
        array = ByDlpack(world, shape)
        if kind == "dlpack device":
            array.device = 1
        elif kind == "dlpack half":
            array.code = (2, 16)
        else:
            array.strides = (1, 2, 36, 612)
        return array
    array = ByInterface(world, (2, 9, 17, 2) if kind == "shape" else shape)
    changes = {
        "double": {"typestr": "<f8"},
        "big endian": {"typestr": ">f4"},
        "strided": {"strides": (4, 8, 144, 2448)},
        "host": {"data": (id(world), False)},
    }
    array.changes = changes.get(kind)
    return array


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("list", UsageError, "pose_3d is a list; expected an array on the GPU"),
        ("numpy", UsageError, "pose_3d lies in the CPU's memory"),
        ("host", UsageError, "pose_3d lies in the CPU's memory"),
        ("offset", UsageError, "no multiple of 256"),
        ("shape", UsageError, r"pose_3d has shape \(2, 9, 17, 2\); expected \(2, 9, 17, 3\)"),
        ("double", DTypeError, "pose_3d is float64; expected float32"),
        ("big endian", DTypeError, "pose_3d is >f4"),
        ("strided", UsageError, "pose_3d is not contiguous"),
        ("dlpack device", UsageError, "pose_3d lies on CUDA device 1; expected it on CUDA device 0"),
        ("dlpack half", DTypeError, "pose_3d is float16"),
        ("dlpack strided", UsageError, "pose_3d is not contiguous"),
    ],
)
def test_arrays_that_do_not_fit(machine, write_plan, kind, error, words):
    world = machine()
    engine = TensorRtEngine(write_plan(), "refiner")
    given = windows(2)
    arrays = {name: ByInterface(world, array.shape) for name, array in given.items()}
    arrays["pose_3d"] = spoilt(world, kind)
    with pytest.raises(error, match=words):
        engine.run_on_device(*arrays.values(), out=ByInterface(world, (2, 9, 17, 3)))
    assert "execute_async_v3" not in world.names()


def test_an_output_and_a_batch_that_do_not_fit(machine, write_plan):
    world = machine()
    engine = TensorRtEngine(write_plan(), "refiner")

    def run(batch: int, out: Any) -> Any:
        return engine.run_on_device(*(ByInterface(world, a.shape) for a in windows(batch).values()), out=out)

    fixed = ByInterface(world, (2, 9, 17, 3))
    fixed.changes = {"data": (fixed.address, True)}
    with pytest.raises(UsageError, match=r"\(out=\) is read-only"):
        run(2, fixed)
    with pytest.raises(UsageError, match=r"refined_pose_3d has shape \(3, 9, 17, 3\)"):
        run(2, ByInterface(world, (3, 9, 17, 3)))
    with pytest.raises(UsageError, match="a batch of 5 windows lies outside"):
        run(5, ByInterface(world, (5, 9, 17, 3)))
    with pytest.raises(UsageError, match="takes pose_2d, pose_3d, image_size; got 1"):
        engine.run_on_device(fixed, out=fixed)
    empty = ByInterface(world, (0, 9, 17, 3))
    assert run(0, empty) is empty
    engine.close()
    with pytest.raises(UsageError, match="closed"):
        run(2, ByInterface(world, (2, 9, 17, 3)))


def test_dlpack_is_read_as_its_maker_means_it():
    cuda: Any = None
    whole = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = read_device_array(whole, "x", 0, cuda)
    assert (found.address, found.shape, found.dtype) == (whole.ctypes.data, (2, 3, 4), "float32")
    assert found.contiguous and found.device is None
    part = read_device_array(whole[:, 1:], "x", 0, cuda)
    assert part.address == whole.ctypes.data + 16 and part.shape == (2, 2, 4) and not part.contiguous
    assert read_device_array(whole[:1, 1:2], "x", 0, cuda).contiguous
    assert read_device_array(np.zeros(3, np.int64), "x", 0, cuda).dtype == "int64"


def test_pytorchs_tensors_are_read():
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(2, 3)
    found = read_device_array(tensor[1:], "x", 0, None)
    assert (found.address, found.shape, found.dtype) == (tensor.data_ptr() + 12, (1, 3), "float32")
    assert read_device_array(tensor.bfloat16(), "x", 0, None).dtype == "bfloat16"
    with pytest.raises(UsageError, match=r"x cannot be read where it lies: .*grad"):
        read_device_array(tensor.requires_grad_(), "x", 0, None)


class Named:
    def __init__(self, **names: Any) -> None:
        self.__dict__.update(names)


def test_streams():
    of_core = type("Stream", (), {"__cuda_stream__": lambda self: (0, 9)})()
    assert [stream_handle(s) for s in (None, 7, Named(cuda_stream=5), Named(ptr=6), of_core)] == [0, 7, 5, 6, 9]
    with pytest.raises(RefinerError, match="a str is no CUDA stream"):
        stream_handle("first")
