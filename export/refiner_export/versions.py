"""What an export was made with; without importing any of it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "torch",
    "onnx",
    "onnxscript",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the export and the engines are made of, where installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        installed = version_of(name)
        if installed is not None:
            found[name] = installed
    return found


def version_of(package: str) -> str | None:
    """The version of an installed package, None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
