"""Read arrays of other libraries on a CUDA device without a copy, by DLPack or the CUDA array interface."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from refiner.errors import UsageError
from refiner.runtime.cuda import checked

# CUDA's handle of the default stream.
DEFAULT_STREAM = 0


@dataclass(frozen=True)
class DeviceArray:
    """The location of an array of another library.

    Attributes:
        address: of its first element.
        shape: its shape.
        dtype: the name of its type.
        contiguous: whether its elements lie in C order without gaps.
        device: the number of the CUDA device; None for the memory of the CPU.
        readonly: whether it must not be written.
        stream: the handle of the stream that writes the array, where the user must still wait for it.
        owner: an object that must live as long as the address is used.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    contiguous: bool
    device: int | None
    readonly: bool = False
    stream: int | None = None
    owner: Any = None


def stream_handle(stream: Any) -> int:
    """CUDA's handle of a stream, given as a number or as an object of PyTorch, CuPy or cuda.core.

    None is the default stream. Raises UsageError for anything else.
    """
    if stream is None:
        return DEFAULT_STREAM
    for name in ("cuda_stream", "ptr"):
        if hasattr(stream, name):
            return int(getattr(stream, name))
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    try:
        return int(stream)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a {type(stream).__name__} is no CUDA stream; expected one or its handle") from error


def read_device_array(value: Any, name: str, stream: int, cuda: Any) -> DeviceArray:
    """Read the location of an array by DLPack or by the CUDA array interface. Nothing is copied.

    Args:
        value: the array.
        name: its name in error messages.
        stream: the handle of the stream that will use it. With DLPack, the other library makes this stream wait.
        cuda: the module of `refiner.runtime.cuda.load_cuda`.

    Raises:
        UsageError: ``value`` is no such array.
    """
    try:
        if hasattr(value, "__dlpack_device__"):
            on_gpu = int(value.__dlpack_device__()[0]) in _DLPACK_CUDA
            return _read_dlpack(value.__dlpack__(stream=stream) if on_gpu else value.__dlpack__())
        if hasattr(value, "__cuda_array_interface__"):
            return _read_interface(value.__cuda_array_interface__, cuda)
    except (RuntimeError, BufferError, TypeError) as error:  # PyTorch raises them for tensors that need a gradient
        raise UsageError(f"{name} cannot be read where it lies: {error}") from error
    raise UsageError(
        f"{name} is a {type(value).__name__}; expected an array on the GPU with __dlpack__ or __cuda_array_interface__"
    )


def _read_interface(interface: dict[str, Any], cuda: Any) -> DeviceArray:
    shape = tuple(int(size) for size in interface["shape"])
    address, readonly = interface["data"]
    kind = np.dtype(interface["typestr"])
    strides = interface.get("strides")
    device: int | None = None
    if address:
        attributes = checked(cuda, "cudaPointerGetAttributes", address)
        types = cuda.cudaMemoryType
        if attributes.type in (types.cudaMemoryTypeDevice, types.cudaMemoryTypeManaged):
            device = int(attributes.device)
    return DeviceArray(
        address=int(address or 0),
        shape=shape,
        dtype=kind.name if kind.isnative else str(kind),
        contiguous=strides is None or _contiguous(shape, [stride // kind.itemsize for stride in strides]),
        device=device,
        readonly=bool(readonly),
        stream=None if interface.get("stream") is None else int(interface["stream"]),
    )


# DLPack's numbers for the memory of a CUDA device and for managed memory.
_DLPACK_CUDA = (2, 13)
_DLPACK_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


class _DLTensor(ctypes.Structure):
    """The beginning of DLPack's DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _read_dlpack(capsule: Any) -> DeviceArray:
    """Read a DLPack capsule. Its library keeps it and frees it later."""
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(pointer_of(capsule, b"dltensor"))
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = [tensor.strides[axis] for axis in range(tensor.ndim)] if tensor.strides else None
    name = f"{_DLPACK_KINDS.get(tensor.code, 'unknown')}{tensor.bits}"
    return DeviceArray(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        dtype=name if tensor.lanes == 1 else f"{name}x{tensor.lanes}",
        contiguous=strides is None or _contiguous(shape, strides),
        device=tensor.device_id if tensor.device_type in _DLPACK_CUDA else None,
        owner=capsule,
    )


def _contiguous(shape: tuple[int, ...], strides: list[int]) -> bool:
    """Whether elements lie in C order without gaps.

    ``strides`` are counted in elements. The stride of an axis of length 1 does not matter.
    """
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
