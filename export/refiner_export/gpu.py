"""Find the GPU of this machine by asking the driver, because PyTorch may be built only for the CPU."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Device:
    """A CUDA device.

    Attributes:
        name: its name.
        compute_capability: like "8.9".
        driver: the newest CUDA version that its driver runs, like "CUDA 12.4".
    """

    name: str
    compute_capability: str
    driver: str


def device_at_hand() -> Device | None:
    """The first CUDA device that this process sees; None without a driver or a device."""
    driver = _load_driver()
    device = ctypes.c_int()
    if driver is None or driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    version, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Device(name.value.decode(), f"{major.value}.{minor.value}", f"CUDA {cuda}")


def _load_driver() -> Any:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
