"""The table of engines, one row per engine. All code that opens, exports, lists or tests engines reads this table.

A new engine is one module and one row (CONTRIBUTING.md describes the steps). The table holds the names of the modules
and does not import them, so that the packages of an engine are needed only when the engine is used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner.arguments import check_choice, check_flag, check_threads, check_whole
from refiner.errors import UsageError

if TYPE_CHECKING:
    from refiner.runtime.causal import StreamEngine
    from refiner.runtime.engine import WindowEngine

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DEVICES = ("cpu", "cuda")
GOALS = ("latency", "throughput")
# No schedule has more timesteps. The model's own schedule is checked when its file is read.
MOST_STEPS = 10_000
MOST_STREAMS = 4096
# The suffix of checkpoints. They need no export, because PyTorch runs them.
CHECKPOINT_SUFFIX = ".safetensors"
# The engine that runs bundled models on a CPU, if no other is asked for.
NATIVE = "native"


@dataclass(frozen=True)
class EngineOptions:
    """The options for opening a model. None means the default of the file or of the engine.

    Attributes:
        engine: A name of `ENGINES`.
        steps: K, the number of denoising steps, instead of the checkpoint's. An exported artefact has a fixed K.
        threads: The number of threads of each call, from 1 to `refiner.arguments.most_threads`.
        device: "cpu" or "cuda".
        goal: "latency" or "throughput", for an engine that can be tuned for either.
        streams: The number of streams that a causal refiner processes at once.
        pipelined: Whether a causal refiner runs its K steps on K consecutive frames in one pass.
        precision: A name of `PRECISIONS` that the engine runs checkpoints in (`EngineSpec.precisions`); by default
            "fp32". The precision of an artefact is fixed.
    """

    engine: str | None = None
    steps: int | None = None
    threads: int | None = None
    device: str | None = None
    goal: str = "latency"
    streams: int | None = None
    pipelined: bool | None = None
    precision: str | None = None

    def checked(self) -> EngineOptions:
        """Check the values, and return the options with plain Python values. All engines are opened with the result.

        Raises UsageError for a value that no engine supports.
        """
        return replace(
            self,
            engine=None if self.engine is None else check_choice(self.engine, "engine", ENGINES),
            steps=None if self.steps is None else check_whole(self.steps, "steps", 1, MOST_STEPS),
            threads=None if self.threads is None else check_threads(self.threads),
            device=None if self.device is None else check_choice(self.device, "device", DEVICES),
            goal=check_choice(self.goal, "goal", GOALS),
            streams=None if self.streams is None else check_whole(self.streams, "streams", 1, MOST_STREAMS),
            pipelined=None if self.pipelined is None else check_flag(self.pipelined, "pipelined"),
            precision=None if self.precision is None else check_choice(self.precision, "precision", PRECISIONS),
        )


@dataclass(frozen=True)
class EngineSpec:
    """The description of one engine.

    Attributes:
        name: The name of the engine for ``--engine`` and in manifests.
        title: The name of the product, for messages.
        suffix: The suffix of the engine's files.
        window: "module:class" of the class that runs windows. Its classmethod ``open(file, role, options)`` returns the
            engine (`refiner.runtime.engine`).
        causal: "module:class" of the class that runs a causal refiner frame by frame (`refiner.runtime.causal`). None:
            the engine does not run causal refiners.
        compiler: The module that exports files for the engine (`refiner_export.engines`). None: refiner-export has no
            export for it.
        precisions: The precisions that refiner-export supports, fp32 first; for an engine without an export those in
            which it runs checkpoints.
        devices: The devices that run the engine's files; the first is the default.
        takes_module: Whether the compiler takes the PyTorch module instead of its ONNX graph.
        built_elsewhere: Whether refiner-export writes the ONNX graph for the target machine if the compiler cannot run
            on this machine.
        packages: The packages that the engine needs, by their names in the package index.
        extra: The extra of this package that installs them.
    """

    name: str
    title: str
    suffix: str
    window: str
    causal: str | None = None
    compiler: str | None = None
    precisions: tuple[str, ...] = ("fp32",)
    devices: tuple[str, ...] = ("cpu",)
    takes_module: bool = False
    built_elsewhere: bool = False
    packages: tuple[str, ...] = ()
    extra: str = ""

    @property
    def on_gpu_alone(self) -> bool:
        """Whether its files need a GPU to run."""
        return "cpu" not in self.devices

    def open_window(self, file: Path, role: str, options: EngineOptions) -> WindowEngine:
        """Open a file with the engine's class for windows."""
        engine: WindowEngine = _class_of(self.window).open(file, role, options)
        return engine

    def open_causal(self, file: Path, options: EngineOptions) -> StreamEngine:
        """Open a causal refiner's file for streams. Raises UsageError if the engine does not run causal refiners."""
        if self.causal is None:
            others = " or ".join(f"--engine {name}" for name, spec in ENGINES.items() if spec.causal and spec.compiler)
            if self.suffix == CHECKPOINT_SUFFIX:
                raise UsageError(f"{self.name} runs no causal refiner; for compiled code: refiner-export {others}")
            raise UsageError(
                f"{file} has its state as inputs and outputs, which no {self.title} engine of ours binds yet: run it "
                f"with {self.title}'s own interface, or export the checkpoint with {others}"
            )
        engine: StreamEngine = _class_of(self.causal).open(file, options)
        return engine


def _class_of(name: str) -> Any:
    module, attribute = name.split(":")
    return getattr(import_module(module), attribute)


def _tensorrt(name: str, title: str, package: str) -> EngineSpec:
    return EngineSpec(
        name=name,
        title=title,
        suffix=".engine",
        window="refiner.runtime.tensorrt_engine:TensorRtEngine",
        compiler="refiner_export.engines.trt",
        precisions=PRECISIONS,
        devices=("cuda",),
        built_elsewhere=True,
        packages=(package, "cuda-python"),
        extra=package,
    )


_ROWS = (
    EngineSpec(
        name="torch",
        title="PyTorch",
        suffix=CHECKPOINT_SUFFIX,
        window="refiner.runtime.torch_engine:TorchEngine",
        causal="refiner.runtime.causal_torch:TorchCausalEngine",
        compiler="refiner_export.engines.torch",
        devices=DEVICES,
        takes_module=True,
        packages=("torch", "safetensors"),
        extra="train",
    ),
    EngineSpec(
        name=NATIVE,
        title="the native engine",
        suffix=CHECKPOINT_SUFFIX,
        window="refiner.runtime.native.window:NativeEngine",
        causal="refiner.runtime.native.causal:NativeCausalEngine",
        # "fp16" is that of windows on a CUDA device, and the others are those of the CPU.
        precisions=("fp32", "bf16", "fp16"),
        devices=DEVICES,
    ),
    EngineSpec(
        name="torch-compile",
        title="PyTorch",
        suffix=CHECKPOINT_SUFFIX,
        window="refiner.runtime.torch_engine:TorchEngine",
        devices=DEVICES,
        packages=("torch", "safetensors"),
        extra="train",
    ),
    EngineSpec(
        name="onnx",
        title="ONNX Runtime",
        suffix=".onnx",
        window="refiner.runtime.onnx_engine:OnnxEngine",
        causal="refiner.runtime.causal_onnx:OnnxCausalEngine",
        compiler="refiner_export.engines.onnx",
        # The other precisions are for CUDA: on a CPU, ONNX Runtime adds conversions, which makes the graph slower.
        precisions=PRECISIONS,
        devices=DEVICES,
        packages=("onnxruntime",),
        extra="cpu",
    ),
    EngineSpec(
        name="openvino",
        title="OpenVINO",
        suffix=".xml",
        window="refiner.runtime.openvino_engine:OpenVinoEngine",
        causal="refiner.runtime.causal_openvino:OpenVinoCausalEngine",
        compiler="refiner_export.engines.openvino",
        precisions=("fp32", "bf16", "int8"),
        packages=("openvino",),
        extra="openvino",
    ),
    _tensorrt("trt", "TensorRT", "tensorrt"),
    _tensorrt("trt-rtx", "TensorRT for RTX", "tensorrt-rtx"),
    EngineSpec(
        name="aoti",
        title="AOTInductor",
        suffix=".pt2",
        window="refiner.runtime.aoti_engine:AotiEngine",
        causal="refiner.runtime.causal_torch:AotiCausalEngine",
        compiler="refiner_export.engines.aoti",
        precisions=("fp32", "bf16", "fp16"),
        devices=DEVICES,
        takes_module=True,
        packages=("torch",),
        extra="train",
    ),
)
ENGINES: dict[str, EngineSpec] = {spec.name: spec for spec in _ROWS}


def engines_of(suffix: str) -> tuple[EngineSpec, ...]:
    """Return the engines for files of this suffix, the default engine first; empty for an unknown suffix."""
    return tuple(spec for spec in ENGINES.values() if spec.suffix == suffix)


def exporting_engines() -> tuple[EngineSpec, ...]:
    """Return the engines that refiner-export exports to. PyTorch comes last, because its file is the checkpoint."""
    exporting = [spec for spec in ENGINES.values() if spec.compiler is not None]
    return tuple(sorted(exporting, key=lambda spec: spec.suffix == CHECKPOINT_SUFFIX))
