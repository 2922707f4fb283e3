"""A network of MixSTE's blocks, built from the arrays of a checkpoint: see `refiner.models.mixste`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError
from refiner.runtime.native import network
from refiner.runtime.native.network import Weights
from refiner.skeleton import H36M17

Array = NDArray[np.float32]

BLOCK_EPS, HEAD_EPS = 1e-6, 1e-5
DENOISER = "pose_estimator."
SPATIAL, TEMPORAL = "STEblocks", "TTEblocks"


def block_shapes(model: Mapping[str, Any], frames: int, inputs: int) -> dict[str, tuple[int, ...]]:
    """The tensors of `refiner.models.mixste.SpatioTemporalBlocks`.

    Args:
        model: the entry ``model`` of the configuration.
        frames: T.
        inputs: the numbers that the network sees of a joint.
    """
    dim, hidden = int(model["dim"]), int(model["dim"]) * int(model["mlp_ratio"])
    shapes = network.linear_shapes("Spatial_patch_to_embedding", dim, inputs) | _norm_shapes("head.0", dim)
    shapes |= network.linear_shapes("head.1", 3, dim)
    shapes |= {"Spatial_pos_embed": (1, H36M17.joints, dim), "Temporal_pos_embed": (1, frames, dim)}
    shapes |= _norm_shapes("Spatial_norm", dim) | _norm_shapes("Temporal_norm", dim)
    for blocks in (SPATIAL, TEMPORAL):
        for index in range(int(model["blocks"])):
            block = f"{blocks}.{index}."
            shapes |= _norm_shapes(f"{block}norm1", dim) | _norm_shapes(f"{block}norm2", dim)
            shapes |= network.linear_shapes(f"{block}attn.qkv", 3 * dim, dim)
            shapes |= network.linear_shapes(f"{block}attn.proj", dim, dim)
            shapes |= network.linear_shapes(f"{block}mlp.fc1", hidden, dim)
            shapes |= network.linear_shapes(f"{block}mlp.fc2", dim, hidden)
    return shapes


def _norm_shapes(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def lifter(weights: Weights, model: Mapping[str, Any], frames: int, precision: str = "fp32") -> Any:
    """The network of a `refiner.models.MixSTE` for windows of ``frames`` frames.

    Raises like `refiner.runtime.native.network.denoiser`.
    """
    inputs = 6 if model.get("input", "screen") == "rays" else 2
    network.check_weights(weights, block_shapes(model, frames, inputs))
    return _built(weights, model, inputs, np.zeros((1, int(model["dim"])), np.float32), precision)


def clean_pose_denoiser(
    weights: Weights, model: Mapping[str, Any], frames: int, times: Sequence[int], precision: str = "fp32"
) -> Any:
    """The network of a `refiner.models.d3dp.CleanPoseDenoiser`, one step for each of the timesteps ``times``.

    Args:
        weights: the state dict of the `refiner.models.D3DP` that holds it.
        model: the entry ``model`` of the configuration.
        frames: T.
        times: the timesteps of the K steps.
        precision: see `refiner.runtime.native.network.denoiser`.

    Raises:
        ConfigError: the timesteps have no embedding of this width.
        CheckpointError, UsageError, MissingComponentError: as `refiner.runtime.native.network.denoiser`.
    """
    dim, inputs = int(model["dim"]), 5
    if dim < 4 or dim % 2:
        raise ConfigError(f"the embedding of a timestep has an even number of channels, 4 or more; got dim {dim}")
    shapes = block_shapes(model, frames, inputs)
    shapes |= network.linear_shapes("time_mlp.1", 2 * dim, dim) | network.linear_shapes("time_mlp.3", dim, 2 * dim)
    network.check_weights(weights, {f"{DENOISER}{name}": shape for name, shape in shapes.items()})
    own = {name.removeprefix(DENOISER): value for name, value in weights.items()}
    added = np.stack([network.embed_time(own, time, "time_mlp.1", "time_mlp.3") for time in times])
    return _built(own, model, inputs, added, precision)


def _built(weights: Weights, model: Mapping[str, Any], inputs: int, added: Array, precision: str) -> Any:
    """The network; ``added`` ``(K, C)`` is added to every token behind the embedding."""
    steps = len(added)
    with network.building():
        built = network.new_network(inputs, model, 0, steps, False, precision)
        built.norms(BLOCK_EPS)
        # The embedding's bias, the positions of the joints and what a step adds are one sum for each joint.
        joints = weights["Spatial_pos_embed"][0] + weights["Spatial_patch_to_embedding.bias"]
        built.embedding(weights["Spatial_patch_to_embedding.weight"], added[:, None] + joints)
        for index in range(int(model["blocks"])):
            for blocks, norm in ((SPATIAL, "Spatial_norm"), (TEMPORAL, "Temporal_norm")):
                _block(built, weights, f"{blocks}.{index}.", int(model["heads"]), steps)
                built.norm_after(weights[f"{norm}.weight"], weights[f"{norm}.bias"])
                if index == 0 and blocks == SPATIAL:
                    built.positions(weights["Temporal_pos_embed"][0])
        head, bias = network.normed(weights, "head.0.", weights["head.1.weight"])
        built.normed_head(head, bias + weights["head.1.bias"], HEAD_EPS)
    return built


def _block(built: Any, weights: Weights, block: str, heads: int, steps: int) -> None:
    """Add the attention and the MLP of a block."""
    qkv, qkv_bias = network.normed(weights, f"{block}norm1.", weights[f"{block}attn.qkv.weight"])
    qkv_bias = qkv_bias + weights[f"{block}attn.qkv.bias"]
    dim = qkv.shape[1]
    scale = np.ones((3 * dim, 1), np.float32)
    scale[:dim] = (dim // heads) ** -0.5  # the scale of the scores goes into the queries
    proj, bias = weights[f"{block}attn.proj.weight"], weights[f"{block}attn.proj.bias"]
    over_frames = block.startswith(TEMPORAL)
    built.full_attention(over_frames, scale * qkv, scale[:, 0] * qkv_bias, proj, _for_steps(bias, steps))
    up, up_bias = network.normed(weights, f"{block}norm2.", weights[f"{block}mlp.fc1.weight"])
    down, bias = weights[f"{block}mlp.fc2.weight"], weights[f"{block}mlp.fc2.bias"]
    built.mlp(up, up_bias + weights[f"{block}mlp.fc1.bias"], down, _for_steps(bias, steps))


def _for_steps(bias: Array, steps: int) -> Array:
    return np.tile(bias, (steps, 1))
