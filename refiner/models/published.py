"""Checkpoints of the lifters' authors: read without running what a file asks for, sizes taken from the shapes."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from refiner.diffusion.clean_pose import TIMESTEPS
from refiner.diffusion.schedule import cosine_schedule
from refiner.errors import CheckpointError, MissingComponentError, UsageError
from refiner.models.d3dp import D3DP, CleanPoseDenoiser
from refiner.models.mixste import MixSTE
from refiner.models.stcformer import STCFormer

State = dict[str, Tensor]

# What the training scripts of MixSTE, D3DP and FinePOSE call the model in their files, and nn.DataParallel's prefix.
MODEL_ENTRY, PARALLEL_PREFIX = "model_pos", "module."
DENOISER_PREFIX = "pose_estimator."
# D3DP's schedule, float64, follows from its length and is not stored here.
SCHEDULE_BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
# The sampling files of their training hold, beside the weights, the state of NumPy's generator and NumPy numbers. The
# reader may meet these names; what they make is thrown away.
IGNORED_GLOBALS = (
    "numpy.random._pickle.__randomstate_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random._mt19937.MT19937",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
)


def from_published(name: str, source: Mapping[str, Any] | str | os.PathLike[str], heads: int = 8) -> nn.Module:
    """A lifter with the weights that its authors published, in float32 and eval mode.

    Args:
        name: "stcformer", "mixste" or "d3dp".
        source: a state dict, the dict of a training script with its ``model_pos`` entry, or a file of either: ``.pth``,
            ``.pt`` and ``.bin`` are read with ``weights_only=True``, ``.safetensors`` as it is.
        heads: of MixSTE and D3DP, which the shapes do not tell; 8 as published.

    Raises UsageError for another name, CheckpointError for a file that cannot be read, for one that asks for more than
    tensors, and for missing, unexpected or misshapen entries, which it names.
    """
    if name not in _BUILDERS:
        raise UsageError(f"there is no published lifter {name!r}; choose one of {', '.join(_BUILDERS)}")
    content = source if isinstance(source, Mapping) else read_weights(source)
    where = "the state dict" if isinstance(source, Mapping) else str(source)
    state = published_state(content, where)
    try:
        model = _BUILDERS[name](state, heads)
    except KeyError as error:
        raise CheckpointError(
            f"{where} is no {name} checkpoint: it has no {error.args[0]!r}; it holds {_some(sorted(state))}"
        ) from error
    load_exactly(model, state, f"{where}, read as {name}")
    return model.eval()


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file of weights holds; nothing in it is run. Raises CheckpointError."""
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint at {file}; expected a .pth, .pt, .bin or .safetensors file")
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    _refuse_script(file)
    ignored = [(_Ignored, name) for name in IGNORED_GLOBALS]
    try:
        with torch.serialization.safe_globals(ignored):  # type: ignore[arg-type]
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises many kinds without a common base
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is not None:
            raise CheckpointError(
                f"{file} asks for {asked[1]}, which is no tensor, and is not read; where you trust its maker, save the "
                "state dict alone as .safetensors"
            ) from error
        raise CheckpointError(f"{file} cannot be read as a PyTorch file; is it whole?") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds a {type(content).__name__}, expected a state dict")
    return content


def published_state(content: Mapping[str, Any], where: str) -> State:
    """The state dict inside what was read, without prefixes, in float32. Raises CheckpointError where there is none."""
    found = content.get(MODEL_ENTRY, content)
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{where}: {MODEL_ENTRY} is a {type(found).__name__}, expected a state dict")
    others = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{where} holds no state dict: {_some(others)} are no tensors")
    parallel = all(name.startswith(PARALLEL_PREFIX) for name in found)
    names = {name: name.removeprefix(PARALLEL_PREFIX) if parallel else name for name in found}
    return {names[name]: value.float() if value.is_floating_point() else value for name, value in found.items()}


def load_exactly(model: nn.Module, state: State, where: str) -> None:
    """`load_state_dict` whose CheckpointError names what is missing, unexpected or of another shape."""
    own = model.state_dict()
    wrong = {name: value for name, value in state.items() if name in own and value.shape != own[name].shape}
    shapes = [f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}" for name, value in wrong.items()]
    parts = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": shapes,
    }
    problems = [f"{kind}: {_some(names)}" for kind, names in parts.items() if names]
    if problems:
        raise CheckpointError(f"{where} does not fit the model; {'; '.join(problems)}")
    model.load_state_dict(state)


def _stcformer(state: State, heads: int) -> STCFormer:
    dim = len(state["pose_emb.weight"])
    block = "stcformer.stc_block."
    mlp_ratio = len(state[f"{block}0.mlp.fc1.weight"]) // dim
    # Its part embedding is as wide as half of a head.
    width = state[f"{block}0.stc_att.emb.weight"].shape[1]
    return STCFormer(dim=dim, layers=_count(state, block), heads=dim // (2 * width), mlp_ratio=mlp_ratio)


def _mixste(state: State, heads: int) -> MixSTE:
    return MixSTE(**_block_sizes(state, ""), heads=heads)


def _d3dp(state: State, heads: int) -> D3DP:
    timesteps = take_schedule(state)
    return D3DP(CleanPoseDenoiser(**_block_sizes(state, DENOISER_PREFIX), heads=heads), timesteps)


def take_schedule(state: State) -> int:
    """Remove the schedule's buffers from ``state``, in place; how many timesteps they have.

    Raises CheckpointError where they are not those of the cosine schedule.
    """
    found = {name: state.pop(name) for name in SCHEDULE_BUFFERS if name in state}
    if "alphas_cumprod" not in found:
        return TIMESTEPS
    stored = found["alphas_cumprod"].double()
    expected = torch.from_numpy(cosine_schedule(len(stored)))
    if not torch.allclose(stored, expected, rtol=1e-4, atol=1e-7):
        raise CheckpointError("the checkpoint's schedule is not the cosine schedule with offset 0.008 that D3DP uses")
    return len(stored)


def _block_sizes(state: State, prefix: str) -> dict[str, int]:
    joints, dim = state[f"{prefix}Spatial_pos_embed"].shape[1:]
    return {
        "dim": dim,
        "depth": _count(state, f"{prefix}STEblocks."),
        "mlp_ratio": len(state[f"{prefix}STEblocks.0.mlp.fc1.weight"]) // dim,
        "frames": state[f"{prefix}Temporal_pos_embed"].shape[1],
        "joints": joints,
    }


def _count(state: State, prefix: str) -> int:
    """How many numbered entries there are below a prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _refuse_script(file: Path) -> None:
    """Raises CheckpointError for a TorchScript archive, whose weights cannot be had without its program."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(Path(name).name == "constants.pkl" for name in archive.namelist()):
                raise CheckpointError(
                    f"{file} is a TorchScript archive, which is a program; where you trust its maker, save "
                    "torch.jit.load(FILE).state_dict() as .safetensors"
                )


def _read_safetensors(file: Path) -> State:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise MissingComponentError(f"reading {file} needs safetensors; run: pip install 'refiner[train]'") from error
    try:
        content: State = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no readable safetensors file ({error}); copy it again") from error
    return content


def _some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class _Ignored:
    """Stands for an object that a file holds beside the weights: takes everything and does nothing."""

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_BUILDERS: dict[str, Callable[[State, int], nn.Module]] = {"stcformer": _stcformer, "mixste": _mixste, "d3dp": _d3dp}
