"""The table of engines: one row for each. Whatever opens, exports, lists or tests engines reads it.

A new engine is one module and one row (CONTRIBUTING.md walks through it). The modules are named, not imported: their
packages are needed where the engine is used, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from refiner.errors import UsageError

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DEVICES = ("cpu", "cuda")
GOALS = ("latency", "throughput")
# Checkpoints need no export; PyTorch runs them.
CHECKPOINT_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class EngineOptions:
    """How a model is opened. None takes the default of the file or of the engine.

    Attributes:
        engine: a name of `ENGINES`.
        steps: K, the denoising steps, instead of the checkpoint's; an artefact has its own.
        threads: threads of the engine, at least 1.
        device: "cpu" or "cuda".
        goal: "latency" or "throughput", for an engine that can be tuned for either.
        streams: how many streams a causal refiner takes at once.
        pipelined: whether a causal refiner runs its K steps on K neighbouring frames in one pass.
    """

    engine: str | None = None
    steps: int | None = None
    threads: int | None = None
    device: str | None = None
    goal: str = "latency"
    streams: int | None = None
    pipelined: bool | None = None

    def check(self) -> None:
        """Raises UsageError for an option that no engine has."""
        if self.engine not in (None, *ENGINES):
            raise UsageError(f"there is no engine {self.engine!r}; choose one of {', '.join(ENGINES)}")
        if self.device not in (None, *DEVICES):
            raise UsageError(f"there is no device {self.device!r}; choose one of {', '.join(DEVICES)}")
        if self.goal not in GOALS:
            raise UsageError(f"there is no goal {self.goal!r}; choose one of {', '.join(GOALS)}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, got {self.threads}")


@dataclass(frozen=True)
class EngineSpec:
    """One engine.

    Attributes:
        name: how ``--engine`` and manifests name it.
        title: the product's own name, for messages.
        suffix: what the names of its files end with.
        window: "module:class" that runs windows. Its classmethod ``open(file, role, options)`` returns the engine
            (`refiner.runtime.engine`).
        causal: the same for a causal refiner, frame by frame (`refiner.runtime.causal`); None: it runs none.
        compiler: the module that makes its files (`refiner_export.engines`); None: refiner-export makes none.
        precisions: what refiner-export can make, fp32 first.
        devices: where its files run; the first is the default.
        takes_module: the compiler takes the PyTorch module, not its ONNX graph.
        built_elsewhere: where the compiler cannot run, refiner-export writes the ONNX graph for the target machine.
        packages: what must be installed to run it, by their names in the package index.
        extra: the extra of this package that installs them.
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

    def open_window(self, file: Path, role: str, options: EngineOptions) -> Any:
        """The engine of a file for windows."""
        return _class_of(self.window).open(file, role, options)

    def open_causal(self, file: Path, options: EngineOptions) -> Any:
        """The engine of a causal refiner's file for streams. Raises UsageError where it runs none."""
        if self.causal is None:
            others = " or ".join(f"--engine {name}" for name, spec in ENGINES.items() if spec.causal and spec.compiler)
            if self.suffix == CHECKPOINT_SUFFIX:
                raise UsageError(f"{self.name} runs no causal refiner; for compiled code: refiner-export {others}")
            raise UsageError(
                f"{file} has its state as inputs and outputs, which no {self.title} engine of ours binds yet: run it "
                f"by {self.title}'s own interface, or export the checkpoint with {others}"
            )
        return _class_of(self.causal).open(file, options)


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
        # On a CPU, ONNX Runtime runs a graph of another precision with conversions, slower: those are for CUDA.
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
    """The engines of files whose names end with ``suffix``; the first is the default. Empty for another suffix."""
    return tuple(spec for spec in ENGINES.values() if spec.suffix == suffix)


def exporting_engines() -> tuple[EngineSpec, ...]:
    """The engines that refiner-export makes files for; PyTorch, whose file is the checkpoint itself, comes last."""
    makes = [spec for spec in ENGINES.values() if spec.compiler is not None]
    return tuple(sorted(makes, key=lambda spec: spec.suffix == CHECKPOINT_SUFFIX))
