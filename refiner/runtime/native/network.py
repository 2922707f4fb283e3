"""A network of `csrc/cpu/stc_network.cpp`, built from the arrays of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from refiner.errors import CheckpointError, MissingComponentError, UsageError
from refiner.stc_layout import PART_SCALE_SPATIAL, PART_SCALE_TEMPORAL, PARTS, kernel_order

Array = NDArray[np.float32]
Weights = Mapping[str, Array]

# The heads that a register holds. Networks of other numbers get heads of zeros beside their own.
HEADS = (1, 2, 4, 8, 16)
OTHERS = "engine='torch' runs it, and so does what refiner-export writes for ONNX Runtime or OpenVINO"


# The kernels for a CUDA device multiply pieces of 32 channels, and hold a tile of up to 512 in shared memory.
CUDA_PIECE, CUDA_MOST = 32, 512
CUDA_HEADS, CUDA_WIDTHS = (2, 4, 8, 16), (2, 4, 6, 8, 12, 16)


def check_size(dim: int, heads: int, where: str, device: str = "cpu") -> None:
    """Raises UsageError where no kernel exists for a network of this size on this device."""
    if not 1 <= heads <= HEADS[-1] or dim < 4 or dim % (2 * heads):
        raise UsageError(
            f"{where}: the native engine has kernels for 1 to {HEADS[-1]} heads, and for C from 4 on that is a "
            f"multiple of twice their number, not for C = {dim} and {heads} heads; {OTHERS}"
        )
    if device == "cuda" and (dim % CUDA_PIECE or dim > CUDA_MOST):
        raise UsageError(
            f"{where}: on a CUDA device the native engine runs networks whose C is a multiple of {CUDA_PIECE} up to "
            f"{CUDA_MOST}, not C = {dim}; it runs this one on the CPU, and engine='torch' runs it on the device"
        )
    if device == "cuda" and (heads not in CUDA_HEADS or dim // (2 * heads) not in CUDA_WIDTHS):
        raise UsageError(
            f"{where}: on a CUDA device the native engine has kernels for 2, 4, 8 or 16 heads of "
            f"{', '.join(map(str, CUDA_WIDTHS))} channels in each half, not for C = {dim} and {heads} heads; it runs "
            "this one on the CPU, and engine='torch' runs it on the device"
        )


def denoiser_shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a `refiner.models.PoseDenoiser` of this configuration (its entry ``model``)."""
    dim = int(model["dim"])
    shapes = _outer_shapes(model, 3, "head")
    shapes |= linear_shapes("time_mlp.0", 2 * dim, dim) | linear_shapes("time_mlp.2", dim, 2 * dim)
    mlps = [("mlp", "layer_norm"), ("mlp_first", "layer_norm_first")][: int(model.get("mlps", 1))]
    for index in range(int(model["blocks"])):
        block = f"blocks.{index}."
        shapes |= linear_shapes(f"{block}time_proj", dim, dim)
        for attention in ("stc_first", "stc_second"):
            shapes |= _attention_shapes(f"{block}{attention}.", model)
        for mlp, norm in mlps:
            shapes |= _mlp_shapes(f"{block}{mlp}.", f"{block}{norm}.", model)
    return shapes


def lifter_shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a `refiner.models.STCFormer` of this configuration (its entry ``model``)."""
    shapes = _outer_shapes(model, 0, "regress_head")
    for index in range(int(model["blocks"])):
        block = f"stcformer.stc_block.{index}."
        shapes |= _attention_shapes(f"{block}stc_att.", model)
        shapes |= _mlp_shapes(f"{block}mlp.", f"{block}layer_norm.", model)
    return shapes


def _outer_shapes(model: Mapping[str, Any], more: int, head: str) -> dict[str, tuple[int, ...]]:
    dim, inputs = int(model["dim"]), 6 if model.get("input", "screen") == "rays" else 2
    shapes: dict[str, tuple[int, ...]] = {"pose_emb.weight": (dim, inputs + more), f"{head}.weight": (3, dim)}
    return shapes | ({"joint_embedding": (len(PARTS), dim)} if model["joint_embedding"] else {})


def linear_shapes(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a linear layer with a bias."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _attention_shapes(prefix: str, model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    dim, heads = int(model["dim"]), int(model["heads"])
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}layer_norm.{name}": (dim,) for name in ("weight", "bias")}
    shapes |= linear_shapes(f"{prefix}qkv", 3 * dim, dim) | linear_shapes(f"{prefix}proj", dim, dim)
    for half in "st":
        shapes |= {f"{prefix}sep2_{half}.weight": (dim // 2, 1, 3, 3), f"{prefix}sep2_{half}.bias": (dim // 2,)}
    return shapes | {f"{prefix}emb.weight": (max(PARTS) + 1, dim // (2 * heads))}


def _mlp_shapes(prefix: str, norm: str, model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    dim, hidden = int(model["dim"]), int(model["dim"]) * int(model["mlp_ratio"])
    shapes: dict[str, tuple[int, ...]] = {f"{norm}{name}": (dim,) for name in ("weight", "bias")}
    return shapes | {f"{prefix}fc1.weight": (hidden, dim), f"{prefix}fc2.weight": (dim, hidden)}


def check_weights(weights: Weights, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CheckpointError unless the weights have exactly these names and shapes."""
    missing, more = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
    wrong = [name for name, shape in shapes.items() if name in weights and weights[name].shape != shape]
    for what, names in (("lack", missing), ("have too many, such as", more), ("have another shape of", wrong)):
        if names:
            raise CheckpointError(
                f"the weights do not fit the configuration of their checkpoint: they {what} {names[0]}"
            )


def denoiser(
    weights: Weights, model: Mapping[str, Any], times: Sequence[int], band: int, precision: str = "fp32"
) -> Any:
    """The network of a `refiner.models.PoseDenoiser`.

    Args:
        weights: its state dict.
        model: the entry ``model`` of the configuration.
        times: the timesteps of the K denoising steps. Their embeddings are folded into biases.
        band: the frames that a frame of a causal denoiser sees; 0 for windows.
        precision: "fp32" or "bf16" of the CPU, or "fp16" of the current CUDA device, of the operands of the layers'
            products.

    Raises:
        CheckpointError: the weights do not fit the configuration.
        UsageError: the processor has no instructions for the precision, or a weight no value in half precision.
        MissingComponentError: the compiled module or its CUDA part is missing, or there is no device.
    """
    check_weights(weights, denoiser_shapes(model))
    blocks = [f"blocks.{index}." for index in range(int(model["blocks"]))]
    embedded = [embed_time(weights, time, "time_mlp.0", "time_mlp.2") for time in times]

    def layers(network: Any, steps: int) -> None:
        nothing = np.zeros((steps, int(model["dim"])), np.float32)
        for block in blocks:
            time = np.stack([linear(weights, f"{block}time_proj", vector) for vector in embedded])
            two = f"{block}mlp_first.fc1.weight" in weights
            # The time is added to the sequence before the second module: into the bias of what comes before it.
            _attention(network, weights, f"{block}stc_first.", model, PARTS, nothing if two else time)
            if two:
                _mlp(network, weights, f"{block}mlp_first.", f"{block}layer_norm_first.", time)
            _attention(network, weights, f"{block}stc_second.", model, PARTS, nothing)
            _mlp(network, weights, f"{block}mlp.", f"{block}layer_norm.", nothing)

    return _built(weights, model, len(times), band, "head", False, layers, precision)


def lifter(weights: Weights, model: Mapping[str, Any], order: Sequence[int], precision: str = "fp32") -> Any:
    """The network of a `refiner.models.STCFormer`, whose joint ``i`` is joint ``order[i]`` of Human3.6M.

    Raises like `denoiser`.
    """
    parts = [PARTS[joint] for joint in order]
    check_weights(weights, lifter_shapes(model))

    def layers(network: Any, steps: int) -> None:
        nothing = np.zeros((steps, int(model["dim"])), np.float32)
        for index in range(int(model["blocks"])):
            block = f"stcformer.stc_block.{index}."
            _attention(network, weights, f"{block}stc_att.", model, parts, nothing)
            _mlp(network, weights, f"{block}mlp.", f"{block}layer_norm.", nothing)

    return _built(weights, model, 1, 0, "regress_head", True, layers, precision)


def _built(
    weights: Weights,
    model: Mapping[str, Any],
    steps: int,
    band: int,
    head: str,
    gelu: bool,
    layers: Any,
    precision: str,
) -> Any:
    with building():
        network = new_network(weights["pose_emb.weight"].shape[1], model, band, steps, gelu, precision)
        joints = weights.get("joint_embedding")
        nothing = np.zeros((len(PARTS), int(model["dim"])), np.float32)
        network.embedding(weights["pose_emb.weight"], np.stack([nothing if joints is None else joints] * steps))
        layers(network, steps)
        network.head(weights[f"{head}.weight"])
    return network


def new_network(
    features: int, model: Mapping[str, Any], band: int, steps: int, gelu: bool, precision: str = "fp32"
) -> Any:
    """An empty network of the compiled module.

    Args:
        features: the numbers that it sees of a joint.
        model: the entry ``model`` of the configuration.
        band: see `denoiser`.
        steps: K.
        gelu: whether a GELU follows the embedding.
        precision: see `denoiser`.

    Raises:
        UsageError: the processor has no instructions for the precision.
        MissingComponentError: the compiled module or its CUDA part is missing, or there is no device.
    """
    try:
        from refiner import _native
    except ImportError as error:
        raise MissingComponentError(
            f"the native engine needs the compiled module of this package ({error}); install the package again"
        ) from error
    sizes = (features, int(model["dim"]), int(model["heads"]), len(PARTS), band, steps, gelu)
    if precision == "fp16":
        if not _native.with_cuda:
            raise MissingComponentError(
                "the compiled module was built without CUDA; build it where nvcc is on the PATH, or use device='cpu'"
            )
        if _native.cuda_device_count() == 0:
            raise MissingComponentError("the compiled module sees no CUDA device here; use device='cpu'")
        return _native.CudaStcNetwork(*sizes)
    if precision not in _native.precisions():
        raise UsageError(
            f"this processor has no instructions for {precision} (AVX-512-BF16 or AMX), which the native engine needs; "
            "precision='fp32' runs everywhere"
        )
    return _native.StcNetwork(*sizes, precision)


@contextmanager
def building() -> Iterator[None]:
    """Raises CheckpointError where the code inside finds that the weights do not make a network."""
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise CheckpointError(f"the weights do not fit the configuration of their checkpoint: {error}") from error
    except RuntimeError as error:
        # Only the network on a CUDA device raises it: a weight beyond half precision, or the device itself.
        raise UsageError(f"{error}; {OTHERS}") from error


def _attention(
    network: Any, weights: Weights, prefix: str, model: Mapping[str, Any], parts: Sequence[int], bias: Array
) -> None:
    """Add STC attention; ``parts`` are those of the joints, ``bias`` ``(K, C)`` is added to its output."""
    dim, heads = int(model["dim"]), int(model["heads"])
    width = dim // (2 * heads)
    rows, columns = kernel_order(dim, heads)
    qkv, qkv_bias = normed(weights, f"{prefix}layer_norm.", weights[f"{prefix}qkv.weight"])
    qkv_bias = qkv_bias + weights[f"{prefix}qkv.bias"]
    convolution = np.stack([weights[f"{prefix}sep2_{half}.weight"] for half in "st"]).reshape(2, heads, width, 9)
    local = np.stack([weights[f"{prefix}sep2_{half}.bias"] for half in "st"]).reshape(2, 1, heads, width)
    part = weights[f"{prefix}emb.weight"][list(parts)]  # [J, width]
    offset = np.stack([PART_SCALE_SPATIAL * part, PART_SCALE_TEMPORAL * part])[..., None]  # [2, J, width, 1]
    filled = partial(_filled, heads=heads)
    network.attention(
        filled(qkv[rows].reshape(-1, heads, dim), 1).reshape(-1, dim),
        filled(qkv_bias[rows].reshape(-1, heads), 1).reshape(-1),
        filled(convolution.transpose(0, 3, 2, 1), 3),
        filled((local.transpose(0, 1, 3, 2) + offset).astype(np.float32), 3),
        filled(weights[f"{prefix}proj.weight"][:, columns].reshape(dim, -1, heads), 2).reshape(dim, -1),
        bias + weights[f"{prefix}proj.bias"],
    )


def _filled(array: Array, axis: int, heads: int) -> Array:
    """Heads of zeros behind those of ``array``, up to the kernels' number; ``axis`` has the heads."""
    space = [(0, 0)] * array.ndim
    space[axis] = (0, next(number for number in HEADS if number >= heads) - heads)
    return np.ascontiguousarray(np.pad(array, space))


def _mlp(network: Any, weights: Weights, prefix: str, norm: str, bias: Array) -> None:
    """Add an MLP; ``bias`` ``(K, C)`` is added to its output."""
    up, up_bias = normed(weights, norm, weights[f"{prefix}fc1.weight"])
    network.mlp(up, up_bias, weights[f"{prefix}fc2.weight"], bias)


def normed(weights: Weights, norm: str, weight: Array) -> tuple[Array, Array]:
    """The scale and the shift of a layer norm, folded into the product that follows it: weight and bias."""
    scale, shift = weights[f"{norm}weight"], weights[f"{norm}bias"]
    return weight * scale, weight @ shift


def linear(weights: Weights, name: str, vector: Array) -> Array:
    """A linear layer with a bias: ``(inputs,)`` -> ``(outputs,)``."""
    result: Array = weights[f"{name}.weight"] @ vector + weights[f"{name}.bias"]
    return result


def embed_time(weights: Weights, time: int, first: str, second: str) -> Array:
    """The embedded timestep ``(C,)``, as in `refiner.models.pose_denoiser`; two names of linear layers."""
    dim = weights[f"{first}.weight"].shape[1]
    half = dim // 2
    # Rounded where PyTorch rounds: the rounding of a frequency counts as many times as the timestep says.
    exponents = np.arange(half, dtype=np.float32) * np.float32(-np.log(1e4) / (half - 1))
    angles = np.float32(time) * np.exp(exponents.astype(np.float64)).astype(np.float32)
    hidden = linear(weights, first, np.concatenate([np.sin(angles), np.cos(angles)]).astype(np.float32))
    return linear(weights, second, (0.5 * hidden * (1.0 + erf(hidden / np.sqrt(2.0)))).astype(np.float32))
