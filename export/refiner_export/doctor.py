"""Find out which engines this machine can build and run, and what must be installed for the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from refiner.engines import EngineSpec, exporting_engines
from refiner_export.gpu import device_at_hand
from refiner_export.versions import version_of

EXPORT = ("torch", "onnx", "onnxscript", "safetensors", "onnxruntime")


def examine() -> list[dict[str, Any]]:
    """Examine this machine.

    Returns:
        A row for every engine: ``engine``, ``version``, ``build`` and ``run`` ("yes" or "no"), and a ``note`` about
        missing parts.
    """
    missing = [name for name in EXPORT if find_spec(name) is None]
    base = f"exporting needs {', '.join(missing)}: pip install 'pose-refiner[export,cpu]'" if missing else ""
    return [_EXAMINERS.get(spec.name, _examine_packages)(spec, base) for spec in exporting_engines()]


def gpu() -> str | None:
    """The GPU in words; None where there is none."""
    device = device_at_hand()
    return None if device is None else f"a GPU of compute capability {device.compute_capability}"


def _entry(engine: str, version: str | None, build: bool, run: bool, note: str) -> dict[str, Any]:
    words = {True: "yes", False: "no"}
    return {"engine": engine, "version": version, "build": words[build], "run": words[run], "note": note}


def _onnx(spec: EngineSpec, base: str) -> dict[str, Any]:
    version = version_of("onnxruntime-gpu") or version_of("onnxruntime")
    if version is None or find_spec("onnxruntime") is None:
        return _entry("onnx", None, False, False, base or "pip install 'pose-refiner[cpu]' (or gpu, never both)")
    import onnxruntime

    devices = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    both = version_of("onnxruntime") is not None and version_of("onnxruntime-gpu") is not None
    clash = "; onnxruntime and onnxruntime-gpu are both installed and hold the same module: uninstall both, install one"
    return _entry(
        "onnx", version, not base, True, base or f"ONNX Runtime {version}: {', '.join(devices)}{clash * both}"
    )


def _openvino(spec: EngineSpec, base: str) -> dict[str, Any]:
    version = version_of("openvino")
    if version is None:
        return _entry("openvino", None, False, False, "pip install 'pose-refiner[openvino]'")
    from refiner.runtime.openvino_engine import open_core

    able = open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    note = f"OpenVINO {version}: CPU, {', '.join(str(name) for name in able)}"
    return _entry("openvino", version, not base, True, base or note)


def _tensorrt(spec: EngineSpec, base: str) -> dict[str, Any]:
    engine, package = spec.name, spec.extra
    version, device = version_of(package), gpu()
    if version is None:
        return _entry(engine, None, False, False, f"pip install 'pose-refiner[{package}]'" + _without(device))
    if version_of("cuda-python") is None:
        base = base or f"running it needs cuda-python: pip install 'pose-refiner[{package}]'"
    if engine == "trt":
        return _entry(engine, version, not base and device is not None, device is not None, base or _without(device))
    note = base or (f"TensorRT for RTX {version}: builds for any --compute-capability" + _without(device))
    return _entry(engine, version, not base, device is not None, note)


def _without(device: str | None) -> str:
    return "" if device else "; no CUDA driver or GPU here"


def _aoti(spec: EngineSpec, base: str) -> dict[str, Any]:
    compiler = next((name for name in ("g++", "c++", "clang++") if shutil.which(name)), None)
    note = f"PyTorch {version_of('torch')} and {compiler}" if compiler else "install g++ or clang++"
    return _entry(
        "aoti", version_of("torch"), not base and compiler is not None, find_spec("torch") is not None, base or note
    )


def _torch(spec: EngineSpec, base: str) -> dict[str, Any]:
    version = version_of("torch")
    note = f"PyTorch {version}" if version else "pip install 'pose-refiner[train]'"
    return _entry("torch", version, version is not None, version is not None, note)


def _examine_packages(spec: EngineSpec, base: str) -> dict[str, Any]:
    """Examine an engine that needs nothing but packages."""
    missing = [name for name in spec.packages if version_of(name) is None]
    if missing:
        needed = f"pip install 'pose-refiner[{spec.extra}]'" if spec.extra else f"pip install {' '.join(missing)}"
        return _entry(spec.name, None, False, False, needed)
    version = version_of(spec.packages[0]) if spec.packages else None
    return _entry(spec.name, version, not base, True, base or spec.title)


# The engines that need more than packages, such as a compiler or a GPU, or that need one of two packages.
_EXAMINERS: dict[str, Callable[[EngineSpec, str], dict[str, Any]]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "trt": _tensorrt,
    "trt-rtx": _tensorrt,
    "aoti": _aoti,
    "torch": _torch,
}
