"""Packages of PyTorch's AOTInductor as an engine: code compiled ahead of time for the CPU or for a CUDA device."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.engines import EngineOptions
from refiner.errors import ArtefactError, MissingComponentError, UsageError
from refiner.runtime.artefact import ArtefactEngine
from refiner.runtime.manifest import Manifest, open_manifest
from refiner.runtime.replay import on_arrays


def architecture(device: str) -> str:
    """The hardware that PyTorch compiles for on this machine: the instruction set, or the GPU's compute capability."""
    import torch

    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability()
        return f"compute capability {major}.{minor}"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


class AotiEngine(ArtefactEngine):
    """Runs a ``.pt2`` package. On a CUDA device it runs as CUDA graphs, one for each batch size.

    Args:
        path: the file.
        role: "lifter" or "refiner".
        threads: PyTorch's threads during a call on the CPU; None is `refiner.runtime.replay.default_threads`.

    Raises:
        ArtefactError: the file cannot be used, or another PyTorch or processor made it.
        MissingComponentError: PyTorch or the device is missing.
    """

    def __init__(self, path: str | os.PathLike[str], role: str, threads: int | None = None) -> None:
        file = Path(path)
        package, manifest, device = open_package(file, role)
        self._call = on_arrays(package, device, threads)
        super().__init__(manifest, file, str(device))

    @classmethod
    def open(cls, file: Path, role: str, options: EngineOptions) -> AotiEngine:
        """Open a package; `refiner.engines` calls this. Raises UsageError where it was compiled for another device."""
        opened = cls(file, role, options.threads)
        check_device(opened.device, file, options.device)
        return opened

    def _run(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._call(*inputs)


def check_device(device: str, file: Path, requested: str | None) -> None:
    """Raises UsageError where a package was compiled for another device than the requested one."""
    if requested not in (None, device):
        raise UsageError(f"{file} was compiled for {device}; export it again for {requested}")


def open_package(file: Path, role: str) -> tuple[Any, Manifest, Any]:
    """Load a package. Returns it as a function of tensors, its manifest and its device.

    The errors are those of `AotiEngine`.
    """
    manifest = open_manifest(file, role, ("aoti",))
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingComponentError(f"running {file} needs PyTorch: pip install 'pose-refiner[train]'") from error
    compiled_by = manifest.versions.get("torch", "?")
    if compiled_by.split("+")[0] != torch.__version__.split("+")[0]:
        raise ArtefactError(
            f"{file} was compiled by PyTorch {compiled_by}, this is {torch.__version__}; compile it again here: "
            "refiner-export --engine aoti"
        )
    build = manifest.build
    if build is None or build.device is None:
        raise ArtefactError(f"the manifest of {file} does not say what it was compiled for; compile it again")
    device = torch.device(build.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError(f"{file} was compiled for a CUDA device, and PyTorch sees none here")
    # On another processor the code would end in an illegal instruction.
    built, here = build.architecture, architecture(str(device))
    if built != here:
        raise ArtefactError(
            f"{file} was compiled for {built}, this is {here}; compile it again here: refiner-export --engine aoti"
        )
    on_gpu = device.type == "cuda"
    try:
        # A CUDA graph cannot record the package's own thread synchronisation. It is not needed, because `GraphReplay`
        # runs one call at a time.
        package = torch._inductor.aoti_load_package(str(file), run_single_threaded=on_gpu)
    except Exception as error:  # C++ exceptions of many kinds
        raise ArtefactError(f"PyTorch cannot load {file}: {error}; export it again") from error
    return package, manifest, device
