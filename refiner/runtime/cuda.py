"""CUDA's runtime through cuda-python: find the device, and turn error codes into exceptions."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from refiner.errors import ArtefactError, MissingComponentError


def load_cuda() -> Any:
    """Import ``cuda.bindings.runtime``. Raises MissingComponentError where it is not installed."""
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingComponentError(
            f"running a TensorRT engine needs cuda-python ({error}): pip install cuda-python, or "
            "'pose-refiner[tensorrt]', which brings it along"
        ) from error


def current_device(cuda: Any) -> int:
    """The number of this thread's CUDA device. Raises MissingComponentError without a driver or a device."""
    try:
        error, count = cuda.cudaGetDeviceCount()
    except RuntimeError as failure:  # some versions load the driver's library only at the first call
        raise MissingComponentError(f"no CUDA driver was found here: {failure}") from failure
    if int(error) or not count:
        reason = error.name if int(error) else "it sees no device"
        raise MissingComponentError(
            f"a TensorRT engine runs on an NVIDIA GPU, and none can be used here ({reason}); is the driver installed, "
            "and does CUDA_VISIBLE_DEVICES name a device?"
        )
    return int(checked(cuda, "cudaGetDevice"))


def compute_capability(cuda: Any, device: int) -> str:
    """The compute capability of a device, like "8.9"."""
    attributes = cuda.cudaDeviceAttr
    major = checked(cuda, "cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMajor, device)
    minor = checked(cuda, "cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMinor, device)
    return f"{major}.{minor}"


def checked(cuda: Any, function: str, *arguments: Any) -> Any:
    """Call a function of CUDA's runtime, and return its result without the error code.

    Raises:
        MissingComponentError: there is not enough memory.
        ArtefactError: every other error code.
    """
    error, *values = getattr(cuda, function)(*arguments)
    if int(error):
        _, words = cuda.cudaGetErrorString(error)
        message = words.decode() if isinstance(words, bytes) else words
        if error == cuda.cudaError_t.cudaErrorMemoryAllocation:
            raise MissingComponentError(
                f"{function}: {message} ({error.name}); free memory, or export for smaller batches"
            )
        raise ArtefactError(
            f"{function}: {message} ({error.name}). An error of an earlier launch can show here; where it comes while "
            "a CUDA graph is captured, TensorRtEngine(..., cuda_graphs=False) runs without"
        )
    return values[0] if values else None
