"""The compiled kernels: batched Procrustes alignment and fused conditional-Gaussian sampling.

The result has the library of the input. NumPy arrays give NumPy arrays, PyTorch tensors give tensors on the same
device, and CuPy arrays give CuPy arrays (through PyTorch, on the same memory). The functions read any other object that
supports DLPack in place and return NumPy arrays. Arrays may be read-only and may have any strides; contiguous arrays
are not copied. There is no slower fallback: without the compiled module, a call raises MissingComponentError.
"""

from __future__ import annotations

import operator
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refiner.arguments import check_flag, check_threads, check_whole, shown
from refiner.arrays import as_array
from refiner.errors import DTypeError, InputError, MissingComponentError, ShapeError, UsageError

# A NumPy array, a PyTorch tensor, a CuPy array or another object with DLPack. There is no common type, and CuPy may be
# absent, so the functions check their arguments at run time.
AnyArray: TypeAlias = Any
# The compiled module, or a function of it; pybind11 modules have no type hints.
Compiled: TypeAlias = Any

# A NumPy array holds no more bytes than this many float32 numbers have.
MOST_NUMBERS = 2**60

_native: Compiled
try:
    _native = import_module("refiner._native")
except ImportError as _failure:
    _native = None
    _reason = str(_failure)
else:
    _reason = ""


def p_mpjpe(
    pred: AnyArray,
    target: AnyArray,
    scale: bool = True,
    threads: int = 0,
    weights: AnyArray = None,
    out: AnyArray = None,
) -> AnyArray:
    """Compute P-MPJPE: the mean joint error after the optimal similarity alignment of each pose.

    The alignment never uses a reflection. If all joints of a prediction coincide, its scale is undefined and it aligns
    to the target's centroid. If the joints lie on a line, the rotation about the line is arbitrary and does not change
    the error. A pose with NaN gives NaN and does not change the other results.

    Args:
        pred: ``(N, J, 3)``, float32 or float64, in any unit.
        target: The same shape and unit.
        scale: Align the scale too. If false, only rotation and translation are aligned.
        threads: The number of threads, up to `refiner.arguments.most_threads`. 0: REFINER_NUM_THREADS,
            OMP_NUM_THREADS or the number of processors, in this order.
        weights: ``(J,)``, not negative: the weight of each joint in the alignment and in the mean. None: equal weights.
        out: The array for the result. It needs the shape, type and device of the result, must be contiguous, and must
            not overlap the inputs.

    Returns:
        ``(N,)`` in the unit and type of the inputs, computed in float64.

    Raises:
        ShapeError: The arrays do not have these shapes.
        DTypeError: The arrays have another type, or lie on different devices.
        InputError: The weights or ``out`` cannot be used.
        UsageError: ``threads`` or ``scale`` has another value.
        MissingComponentError: The compiled module, or its CUDA part, is missing.

    Reference:
        Horn, Closed-form solution of absolute orientation using unit quaternions, 1987.
    """
    threads, scale = _threads(threads), check_flag(scale, "scale")
    # The kernel would not see the mask of a masked array.
    plain = type(pred) is np.ndarray and type(target) is np.ndarray
    if _native is not None and plain and weights is None and out is None:
        error = _native.quick_p_mpjpe(pred, target, scale, threads)
        if error is not None:
            return error
    return _align_call("p_mpjpe", pred, target, scale, threads, weights, out)


def procrustes_align(
    pred: AnyArray,
    target: AnyArray,
    scale: bool = True,
    threads: int = 0,
    weights: AnyArray = None,
    out: AnyArray = None,
) -> AnyArray:
    """Rotate, translate and scale each pose of ``pred`` onto ``target``: ``(N, J, 3)``.

    The arguments and errors are the same as for `p_mpjpe`.
    """
    return _align_call("procrustes_align", pred, target, check_flag(scale, "scale"), _threads(threads), weights, out)


def sample_conditional(
    condition: AnyArray,
    mean_error: AnyArray,
    mean_condition: AnyArray,
    gain: AnyArray,
    cholesky: AnyArray,
    seed: int = 0,
    first_frame: int = 0,
    threads: int = 0,
    frame_ids: AnyArray = None,
    out: AnyArray = None,
) -> AnyArray:
    """Draw e ~ N(mean_error + gain (c - mean_condition), L L^T) for each frame, in one pass.

    The draw of row i depends only on (seed, first_frame + i), by the generator Philox 4x32-10. The bits are the same
    for any number of threads and any split of the batch.

    Args:
        condition: c, ``(F, C)`` float32.
        mean_error: ``(D,)``.
        mean_condition: ``(C,)``.
        gain: ``(D, C)``.
        cholesky: L, ``(D, D)``, lower triangular.
        seed: The seed of the generator.
        first_frame: The frame number of row 0.
        threads: The number of threads; see `p_mpjpe`.
        frame_ids: ``(F,)`` int64, used instead of ``first_frame``: row i gets the draw of frame ``frame_ids[i]``, so
            that a shuffled batch gets the same draws as the ordered batch.
        out: The array for the result, ``(F, D)`` float32: a NumPy array or a CPU tensor, contiguous, not overlapping
            the inputs.

    Returns:
        ``(F, D)`` float32.

    Raises:
        ShapeError: The arrays do not have these shapes.
        DTypeError: The arrays have another type, or lie on different devices.
        InputError: ``out`` cannot be used.
        MissingComponentError: The compiled module, or its CUDA part, is missing.

    Reference:
        D3PRefiner, arXiv 2401.03914, eq. 5 and 6.
    """
    threads = _threads(threads)
    arrays = _gaussian_arrays(condition, mean_error, mean_condition, gain, cholesky)
    ids = _frame_ids(frame_ids, len(arrays[0]), condition)
    if _is_cuda_tensor(condition):
        if out is not None:
            raise InputError("out is only supported for arrays on the CPU")
        return _sample_on_cuda(arrays, seed, first_frame, ids)[1]
    shape = (len(arrays[0]), len(arrays[1]))
    drawn = np.empty(shape, np.float32) if out is None else _output(out, shape, np.dtype(np.float32), arrays)
    _module().sample_conditional(*arrays, drawn, _word(seed), _word(first_frame), threads, ids)
    return _like(condition, drawn) if out is None else out


def diffuse(
    condition: AnyArray,
    clean: AnyArray,
    clean_factor: AnyArray,
    noise_factor: AnyArray,
    mean_error: AnyArray,
    mean_condition: AnyArray,
    gain: AnyArray,
    cholesky: AnyArray,
    seed: int = 0,
    first_frame: int = 0,
    threads: int = 0,
    frame_ids: AnyArray = None,
) -> tuple[AnyArray, AnyArray]:
    """Draw e like `sample_conditional` and apply the forward diffusion process, in one pass.

    y_t = clean_factor y0 + noise_factor e.

    Args:
        condition: See `sample_conditional`, also for the other arguments that are not listed here.
        clean: The clean poses y0, ``(F, D)``.
        clean_factor: ``(F,)``, sqrt(abar_t) + sqrt(1 - abar_t) for the timestep t of each frame.
        noise_factor: ``(F,)``, sqrt(1 - abar_t).

    Returns:
        (y_t, e), each ``(F, D)`` float32.

    Raises:
        ShapeError, DTypeError, MissingComponentError: See `sample_conditional`.

    Reference:
        D3PRefiner, arXiv 2401.03914, eq. 5, 6 and 8.
    """
    threads = _threads(threads)
    arrays = _gaussian_arrays(condition, mean_error, mean_condition, gain, cholesky)
    frames, size = len(arrays[0]), len(arrays[1])
    ids = _frame_ids(frame_ids, frames, condition)
    shapes = {"clean": (frames, size), "clean_factor": (frames,), "noise_factor": (frames,)}
    values = (clean, clean_factor, noise_factor)
    forward = [_floats(value, name, shapes[name], condition) for name, value in zip(shapes, values, strict=True)]
    if _is_cuda_tensor(condition):
        return _sample_on_cuda(arrays, seed, first_frame, ids, forward)
    noisy, error = _module().diffuse(arrays[0], *forward, *arrays[1:], _word(seed), _word(first_frame), threads, ids)
    return _like(condition, noisy), _like(condition, error)


def philox_normal(seed: int, first_frame: int, frames: int, dims: int, threads: int = 0) -> NDArray[np.float32]:
    """Return the standard normal numbers that `sample_conditional` uses for its draws.

    Args:
        seed: The seed of the generator.
        first_frame: The frame number of row 0.
        frames: The number of rows.
        dims: D, the number of columns.
        threads: The number of threads; see `p_mpjpe`.

    Returns:
        ``(frames, dims)`` float32.

    Raises:
        UsageError: ``frames`` or ``dims`` is no whole number of 0 or more.
        ShapeError: These are too many numbers.
        MissingComponentError: The compiled module is missing.
    """
    frames, dims = (check_whole(value, name, 0, MOST_NUMBERS) for name, value in (("frames", frames), ("dims", dims)))
    if frames * dims > MOST_NUMBERS:
        raise ShapeError(f"expected at most {MOST_NUMBERS} numbers, got {frames} x {dims}")
    normal: NDArray[np.float32] = _module().philox_normal(
        _word(seed), _word(first_frame), frames, dims, _threads(threads)
    )
    return normal


def features() -> dict[str, bool | int | str]:
    """Describe the compiled module on this machine.

    Returns:
        ``built``, ``isa`` (the instruction set), ``cuda``, ``cuda_devices`` and ``threads`` (the default number).
        Without the module: ``built`` false and ``reason``.
    """
    if _native is None:
        return {"built": False, "reason": _reason}
    cuda = bool(_native.with_cuda)
    return {
        "built": True,
        "isa": str(_native.isa()),
        "cuda": cuda,
        "cuda_devices": int(_native.cuda_device_count()) if cuda else 0,
        "threads": int(_native.thread_count(0)),
    }


def _module() -> Compiled:
    if _native is None:
        raise MissingComponentError(
            f"the compiled module refiner._native is missing ({_reason}); build it with a C++17 compiler: "
            "pip install . (or: make venv, in a checkout)"
        )
    return _native


def _word(value: int) -> int:
    """Convert a seed or a frame number to a 64-bit unsigned counter; a negative number wraps around.

    Raises UsageError for anything but a whole number.
    """
    try:
        return operator.index(value) % 2**64
    except TypeError as error:
        raise UsageError(f"a seed and a frame number are whole numbers, got {shown(value)}") from error


def _threads(threads: int) -> int:
    """Check a number of threads. 0 is the default."""
    return threads if type(threads) is int and threads == 0 else check_threads(threads, least=0)


def _is_cuda_tensor(value: AnyArray) -> bool:
    return bool(getattr(value, "is_cuda", False))


def _dlpack_device(value: AnyArray) -> int:
    """The DLPack device type of an array of another library: 1 is the CPU, 2 is CUDA. 0 for all other objects."""
    if isinstance(value, np.ndarray) or hasattr(value, "detach") or not hasattr(value, "__dlpack_device__"):
        return 0
    return int(value.__dlpack_device__()[0])


def _is_foreign_cuda(value: AnyArray) -> bool:
    return _dlpack_device(value) == 2


def _cuda_tensor(value: AnyArray) -> AnyArray:
    """Convert a CUDA array of another library to a PyTorch tensor on the same memory."""
    if not _is_foreign_cuda(value):
        return value
    try:
        from torch.utils import dlpack
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"{type(value).__name__} arrays on CUDA go through PyTorch: pip install 'pose-refiner[train]'"
        ) from error
    return dlpack.from_dlpack(value)


def _as_foreign(example: AnyArray, tensor: AnyArray) -> AnyArray:
    """Convert a CUDA tensor to an array of the example's library, on the same memory.

    Returns the tensor itself if that library has no function ``from_dlpack``.
    """
    import sys

    module = sys.modules.get(type(example).__module__.split(".")[0])
    read = getattr(module, "from_dlpack", None)
    return tensor if read is None else read(tensor)


def _like(example: AnyArray, array: NDArray[Any]) -> AnyArray:
    if hasattr(example, "detach"):
        import torch

        return torch.from_numpy(array)
    return array


def _array(value: AnyArray) -> NDArray[Any]:
    if hasattr(value, "detach"):
        value = value.detach()
        if value.device.type != "cpu":
            raise DTypeError(f"found a tensor on {value.device} among arrays on the CPU; move all to one device")
        try:
            value = value.numpy()
        except TypeError as failure:  # bfloat16 and the like
            raise DTypeError(
                f"found a tensor of type {value.dtype}, which NumPy does not have; expected float32"
            ) from failure
    elif _dlpack_device(value) > 1:
        raise DTypeError(f"found a {type(value).__name__} on a device among arrays on the CPU; move all to one device")
    elif _dlpack_device(value) == 1:
        value = np.from_dlpack(value)
    if isinstance(value, np.ma.MaskedArray):
        return as_array(value, "an argument", "expected an array of real numbers")
    return np.asarray(value)


def _is_float(kind: np.dtype[Any]) -> bool:
    """Accept float16, float32 and float64. A long double would silently lose digits."""
    return kind.kind == "f" and kind.itemsize <= 8


def _floats(value: AnyArray, name: str, shape: tuple[int, ...], like: AnyArray) -> AnyArray:
    """Convert ``value`` to contiguous float32: a CUDA tensor if ``like`` is one, otherwise a NumPy array."""
    array: AnyArray
    if _is_cuda_tensor(like):
        import torch

        array = torch.as_tensor(value, dtype=torch.float32, device=like.device).detach().contiguous()
    else:
        array = _array(value)
        if not _is_float(array.dtype):
            raise DTypeError(f"{name} has type {array.dtype}, expected float32")
        array = np.ascontiguousarray(array, dtype=np.float32)
    if tuple(array.shape) != shape:
        raise ShapeError(f"{name} has shape {tuple(array.shape)}, expected {shape}")
    return array


def _frame_ids(value: AnyArray, frames: int, like: AnyArray) -> AnyArray:
    if value is None:
        return None
    if _is_cuda_tensor(value):
        value = value.cpu()
    ids = _array(value)
    if ids.dtype.kind not in "iu":
        raise DTypeError(f"frame_ids has type {ids.dtype}, expected int64")
    if ids.shape != (frames,):
        raise ShapeError(f"frame_ids has shape {ids.shape}, expected {(frames,)}")
    ids = np.ascontiguousarray(ids, dtype=np.int64)
    if _is_cuda_tensor(like):
        import torch

        return torch.as_tensor(ids, device=like.device)
    return ids


def _gaussian_arrays(
    condition: AnyArray, mean_error: AnyArray, mean_condition: AnyArray, gain: AnyArray, cholesky: AnyArray
) -> list[AnyArray]:
    if _is_foreign_cuda(condition):
        raise DTypeError(
            f"on CUDA, sampling takes PyTorch tensors; convert the {type(condition).__name__} through DLPack"
        )
    if len(np.shape(condition)) != 2 or len(np.shape(mean_error)) != 1:
        raise ShapeError(
            f"expected condition (frames, C) and mean_error (D,), got {tuple(np.shape(condition))} and "
            f"{tuple(np.shape(mean_error))}"
        )
    (frames, inputs), (size,) = np.shape(condition), np.shape(mean_error)
    shapes = {
        "condition": (frames, inputs),
        "mean_error": (size,),
        "mean_condition": (inputs,),
        "gain": (size, inputs),
        "cholesky": (size, size),
    }
    values = (condition, mean_error, mean_condition, gain, cholesky)
    return [_floats(value, name, shapes[name], condition) for name, value in zip(shapes, values, strict=True)]


def _check_poses(pred: AnyArray, target: AnyArray) -> None:
    shapes = tuple(np.shape(pred)), tuple(np.shape(target))
    if len(shapes[0]) != 3 or shapes[0] != shapes[1] or shapes[0][2] != 3 or shapes[0][1] == 0:
        raise ShapeError(f"expected two arrays (poses, joints, 3) of one shape, got {shapes[0]} and {shapes[1]}")


def _align_call(
    name: str, pred: AnyArray, target: AnyArray, scale: bool, threads: int, weights: AnyArray, out: AnyArray
) -> AnyArray:
    if _is_foreign_cuda(pred) or _is_foreign_cuda(target):
        tensor_out = None if out is None else _cuda_tensor(out)
        result = _align_call(name, _cuda_tensor(pred), _cuda_tensor(target), scale, threads, weights, tensor_out)
        return _as_foreign(pred, result) if out is None else out
    _check_poses(pred, target)
    if _is_cuda_tensor(pred) or _is_cuda_tensor(target):
        return _align_on_cuda(name, pred, target, scale, weights, out)
    arrays = [_array(pred), _array(target)]
    types = {array.dtype for array in arrays}
    if not all(_is_float(kind) for kind in types):
        raise DTypeError(f"expected float32 or float64 poses, got {arrays[0].dtype} and {arrays[1].dtype}")
    # float16 is computed as float32; a mix of float32 and float64 as float64.
    wide = np.result_type(np.float32, *types)
    first, second = (np.ascontiguousarray(array, dtype=wide) for array in arrays)
    shape = first.shape if name == "procrustes_align" else first.shape[:1]
    result = np.empty(shape, dtype=wide) if out is None else _output(out, shape, wide, arrays)
    function = getattr(_module(), f"{name}_{'f64' if wide == np.float64 else 'f32'}")
    function(first, second, _joint_weights(weights, first.shape[1]), result, scale, threads)
    return _like(pred, result) if out is None else out


def _joint_weights(weights: AnyArray, joints: int) -> NDArray[np.float64] | None:
    """Scale the weights to a mean of 1. Raises ShapeError or InputError if they cannot be weights."""
    if weights is None:
        return None
    array = np.ascontiguousarray(_array(weights.cpu() if _is_cuda_tensor(weights) else weights), dtype=np.float64)
    if array.shape != (joints,):
        raise ShapeError(f"weights has shape {array.shape}, expected {(joints,)}")
    if not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise InputError("expected finite weights, none negative and not all 0")
    normalised: NDArray[np.float64] = array / array.mean()
    return normalised


def _output(out: AnyArray, shape: tuple[int, ...], kind: np.dtype[Any], inputs: list[NDArray[Any]]) -> NDArray[Any]:
    """Return ``out`` as a NumPy array on the same memory. Raises an InputError subclass if it cannot be used."""
    array = _array(out)
    if array.dtype != kind:
        raise DTypeError(f"out has type {array.dtype}, expected {kind}")
    if array.shape != shape:
        raise ShapeError(f"out has shape {array.shape}, expected {shape}")
    if not array.flags.c_contiguous or not array.flags.writeable:
        raise InputError("out must be contiguous and writeable")
    if any(np.may_share_memory(array, source) for source in inputs):
        raise InputError("out overlaps an input; allocate separate memory for it")
    return array


def _cuda_module() -> Compiled:
    module = _module()
    if not module.with_cuda:
        raise MissingComponentError(
            "refiner was built without CUDA; install it again where nvcc is on the PATH, or move the tensors to the CPU"
        )
    if module.cuda_device_count() == 0:
        raise MissingComponentError("no CUDA device or driver was found; move the tensors to the CPU")
    return module


def _launch(kernel: Compiled, *arguments: object) -> None:
    try:
        kernel(*arguments)
    except RuntimeError as failure:
        raise MissingComponentError(
            f"CUDA refused the kernel ({failure}); build refiner for this device, or move the tensors to the CPU"
        ) from failure


def _align_on_cuda(
    name: str, pred: AnyArray, target: AnyArray, scale: bool, weights: AnyArray, out: AnyArray
) -> AnyArray:
    import torch

    module = _cuda_module()
    if not (_is_cuda_tensor(pred) and _is_cuda_tensor(target)) or pred.device != target.device:
        raise DTypeError("found poses on two devices; move both to one")
    if pred.dtype != target.dtype or pred.dtype not in (torch.float32, torch.float64):
        raise DTypeError(f"expected two float32 or two float64 tensors, got {pred.dtype} and {target.dtype}")
    pred, target = pred.detach().contiguous(), target.detach().contiguous()
    poses, joints = pred.shape[:2]
    expected = torch.empty_like(pred) if name == "procrustes_align" else pred.new_empty(poses)
    result = expected if out is None else out
    if not _is_cuda_tensor(result) or (result.device, result.dtype) != (expected.device, expected.dtype):
        raise DTypeError(f"out must be a {expected.dtype} tensor on {expected.device}")
    if result.shape != expected.shape or not result.is_contiguous():
        raise ShapeError(f"out has shape {tuple(result.shape)}, expected a contiguous {tuple(expected.shape)}")
    numbers = _joint_weights(weights, joints)
    on_device = None if numbers is None else torch.from_numpy(numbers).to(pred.device)
    suffix = "f64" if pred.dtype == torch.float64 else "f32"
    with torch.cuda.device(pred.device):
        _launch(
            getattr(module, f"cuda_{name}_{suffix}"),
            pred.data_ptr(),
            target.data_ptr(),
            0 if on_device is None else on_device.data_ptr(),
            result.data_ptr(),
            poses,
            joints,
            scale,
            torch.cuda.current_stream().cuda_stream,
        )
    return result


def _sample_on_cuda(
    arrays: list[AnyArray], seed: int, first_frame: int, ids: AnyArray, forward: list[AnyArray] | None = None
) -> tuple[AnyArray, AnyArray]:
    """Return (y_t, e). ``forward`` holds the clean poses and the two factors; without it, y_t is None."""
    import torch

    module = _cuda_module()
    condition, mean_error = arrays[:2]
    (frames, inputs), size = condition.shape, len(mean_error)
    error = condition.new_empty(frames, size)
    noisy = None if forward is None else torch.empty_like(error)
    optional = [ids, *(forward or [None] * 3), noisy]
    with torch.cuda.device(condition.device):
        _launch(
            module.cuda_sample_conditional,
            condition.data_ptr(),
            error.data_ptr(),
            frames,
            *(tensor.data_ptr() for tensor in arrays[1:]),
            size,
            inputs,
            _word(seed),
            _word(first_frame),
            torch.cuda.current_stream().cuda_stream,
            *(0 if tensor is None else tensor.data_ptr() for tensor in optional),
        )
    return noisy, error
