"""The versions of the packages behind an export, read without importing them."""

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
    """The versions of Python and of the installed packages that an export uses."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        number = version_of(name)
        if number is not None:
            installed[name] = number
    return installed


def version_of(package: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
