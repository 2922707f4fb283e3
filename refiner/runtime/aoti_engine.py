"""A package of PyTorch's AOTInductor as an engine: compiled ahead of time for the CPU or for a CUDA device."""

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
    """What code that PyTorch compiles here runs on: the instruction set, or the GPU's compute capability."""
    import torch

    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability()
        return f"compute capability {major}.{minor}"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


class AotiEngine(ArtefactEngine):
    """A ``.pt2`` package; on a CUDA device replayed as a CUDA graph, one for each batch size.

    Args:
        path: the file. role: "lifter" or "refiner". threads: PyTorch's threads (a setting of the whole process).

    Raises ArtefactError, also for a package of another PyTorch; MissingComponentError without PyTorch or the device.
    """

    def __init__(self, path: str | os.PathLike[str], role: str, threads: int | None = None) -> None:
        file = Path(path)
        package, manifest, device = open_package(file, role, threads)
        self._call = on_arrays(package, device)
        super().__init__(manifest, file, str(device))

    @classmethod
    def open(cls, file: Path, role: str, options: EngineOptions) -> AotiEngine:
        """For `refiner.engines`. Raises UsageError for another device than that of the package."""
        opened = cls(file, role, options.threads)
        check_device(opened.device, file, options.device)
        return opened

    def _run(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._call(*inputs)


def check_device(device: str, file: Path, wanted: str | None) -> None:
    """Raises UsageError where a package was compiled for another device than the one that is wanted."""
    if wanted not in (None, device):
        raise UsageError(f"{file} was compiled for {device}; export it again for {wanted}")


def open_package(file: Path, role: str, threads: int | None) -> tuple[Any, Manifest, Any]:
    """The loaded package, a function of tensors, its manifest and PyTorch's device. Raises as `AotiEngine`."""
    manifest = open_manifest(file, role, ("aoti",))
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingComponentError(f"running {file} needs PyTorch: pip install 'refiner[train]'") from error
    made = manifest.versions.get("torch", "?")
    if made.split("+")[0] != torch.__version__.split("+")[0]:
        raise ArtefactError(
            f"{file} was compiled by PyTorch {made}, this is {torch.__version__}; compile it again here: "
            "refiner-export --engine aoti"
        )
    build = manifest.build
    if build is None or build.device is None:
        raise ArtefactError(f"the manifest of {file} does not say what it was compiled for; compile it again")
    device = torch.device(build.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError(f"{file} was compiled for a CUDA device, and PyTorch sees none here")
    # Its code would end in an illegal instruction elsewhere.
    built, here = build.architecture, architecture(str(device))
    if built != here:
        raise ArtefactError(
            f"{file} was compiled for {built}, this is {here}; compile it again here: refiner-export --engine aoti"
        )
    if threads:
        torch.set_num_threads(threads)
    on_gpu = device.type == "cuda"
    try:
        # Its own synchronisation of threads cannot be recorded; `GraphReplay` lets one call in at a time.
        package = torch._inductor.aoti_load_package(str(file), run_single_threaded=on_gpu)
    except Exception as error:  # C++ exceptions of many kinds
        raise ArtefactError(f"PyTorch cannot load {file}: {error}; export it again") from error
    return package, manifest, device
