"""Load the checkpoints that the authors of the lifters published. Model sizes follow from the tensor shapes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from refiner.diffusion.clean_pose import TIMESTEPS
from refiner.diffusion.schedule import cosine_schedule
from refiner.errors import CheckpointError, UsageError
from refiner.models.d3dp import D3DP, CleanPoseDenoiser
from refiner.models.finepose import FULL_PROMPTS, ClipVocabulary, FinePOSE, FinePoseDenoiser, PromptedText, Vocabulary
from refiner.models.finepose.prompts import ACTION
from refiner.models.finepose.text_tower import tower_from_state
from refiner.models.mixste import MixSTE
from refiner.models.stcformer import STCFormer
from refiner.models.weights import State, count_entries, load_exactly, read_weights, shortened

PUBLISHED_LIFTERS = ("stcformer", "mixste", "d3dp", "finepose")
PUBLISHED_JOINTS = ("h36m17", "3dhp")
# The names in Human3.6M's archives.
HUMAN36M_ACTIONS = (
    "Directions",
    "Discussion",
    "Eating",
    "Greeting",
    "Phoning",
    "Photo",
    "Posing",
    "Purchases",
    "Sitting",
    "SittingDown",
    "Smoking",
    "Waiting",
    "WalkDog",
    "Walking",
    "WalkTogether",
)
# The entry of the model in the files of the training scripts of MixSTE, D3DP and FinePOSE, and the prefix that
# nn.DataParallel puts before names.
MODEL_ENTRY, PARALLEL_PREFIX = "model_pos", "module."
DENOISER_PREFIX = "pose_estimator."
# D3DP's schedule, float64. It follows from its length, so our models do not store it.
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


def from_published(
    name: str,
    source: Mapping[str, Any] | str | os.PathLike[str],
    heads: int = 8,
    *,
    actions: Sequence[str] | None = None,
    merges: str | os.PathLike[str] | None = None,
    vocabulary: Vocabulary | None = None,
    clip: str | os.PathLike[str] | None = None,
    published: bool = True,
    joints: str = "h36m17",
) -> nn.Module:
    """A lifter with the weights that its authors published, in float32 and eval mode.

    Args:
        name: "stcformer", "mixste", "d3dp" or "finepose".
        source: a state dict, the dictionary of a training script with its ``model_pos`` entry, or a file with either.
            ``.pth``, ``.pt`` and ``.bin`` files are read with ``weights_only=True``.
        heads: the number of heads of any lifter but STCFormer, whose shapes show it; 8 as published.
        actions: the actions that FinePOSE has prompts for, in any order; by default Human3.6M's fifteen, or none for a
            model without a prompt for the action, like that for MPI-INF-3DHP.
        merges: local file for FinePOSE's tokens: CLIP's ``bpe_simple_vocab_16e6.txt.gz`` or the ``merges.txt`` of its
            tokenizer.
        vocabulary: for FinePOSE, used instead of ``merges``.
        clip: for FinePOSE's text tower, a local file of CLIP's weights; needed if the checkpoint does not contain them.
        published: run FinePOSE exactly as its authors do, which their weights need: see `PromptedText` and
            `FinePoseDenoiser`. False runs the mended form, for weights that were trained in that form.
        joints: "h36m17", or "3dhp" for weights that were trained on MPI-INF-3DHP, in the order of its joints. In both
            cases the module takes and gives Human3.6M's joints.

    Raises:
        UsageError: the name is unknown, or FinePOSE's tokens are missing.
        CheckpointError: the file cannot be read or asks for more than tensors, or entries are missing, unexpected or of
            another shape; the message names them.
    """
    if name not in PUBLISHED_LIFTERS:
        raise UsageError(f"there is no published lifter {name!r}; choose one of {', '.join(PUBLISHED_LIFTERS)}")
    content = source if isinstance(source, Mapping) else read_weights(source)
    where = "the state dict" if isinstance(source, Mapping) else str(source)
    state = published_state(content, where)
    model: nn.Module
    if joints not in PUBLISHED_JOINTS:
        raise UsageError(f"there is no published lifter of {joints!r}; choose one of {', '.join(PUBLISHED_JOINTS)}")
    try:
        if name == "stcformer":
            model = _stcformer(state, joints)
        elif name == "mixste":
            model = MixSTE(**_block_sizes(state, ""), heads=heads, joint_order=joints)
        elif name == "d3dp":
            timesteps = take_schedule(state)
            sizes = _block_sizes(state, DENOISER_PREFIX)
            model = D3DP(CleanPoseDenoiser(**sizes, heads=heads, joint_order=joints), timesteps)
        else:
            words = ClipVocabulary.from_file(merges) if vocabulary is None and merges is not None else vocabulary
            model, state = _finepose(state, heads, actions, words, clip, published, joints)
    except KeyError as error:
        raise CheckpointError(
            f"{where} is no {name} checkpoint: it has no {error.args[0]!r}; it holds {shortened(sorted(state))}"
        ) from error
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{where} is no {name} checkpoint: a tensor has an unexpected shape ({error})") from error
    load_exactly(model, state, f"{where}, read as {name}")
    return model.eval()


def published_state(content: Mapping[str, Any], where: str) -> State:
    """Extract the state dict from the content of a file, in float32 and without the DataParallel prefix.

    Raises:
        CheckpointError: the content holds no state dict.
    """
    entries = content.get(MODEL_ENTRY, content)
    if not isinstance(entries, Mapping) or not entries:
        raise CheckpointError(f"{where}: {MODEL_ENTRY} is a {type(entries).__name__}, expected a state dict")
    others = [str(n) for n, value in entries.items() if not (isinstance(n, str) and isinstance(value, Tensor))]
    if others:
        raise CheckpointError(f"{where} holds no state dict: {shortened(others)} are no tensors")
    parallel = all(name.startswith(PARALLEL_PREFIX) for name in entries)
    names = {name: name.removeprefix(PARALLEL_PREFIX) if parallel else name for name in entries}
    return {names[name]: value.float() if value.is_floating_point() else value for name, value in entries.items()}


def _stcformer(state: State, joints: str) -> STCFormer:
    dim = len(state["pose_emb.weight"])
    block = "stcformer.stc_block."
    mlp_ratio = len(state[f"{block}0.mlp.fc1.weight"]) // dim
    # The part embedding is half as wide as a head.
    width = state[f"{block}0.stc_att.emb.weight"].shape[1]
    layers, heads = count_entries(state, block), dim // (2 * width)
    return STCFormer(dim=dim, layers=layers, heads=heads, mlp_ratio=mlp_ratio, joint_order=joints)


def _finepose(
    state: State,
    heads: int,
    actions: Sequence[str] | None,
    vocabulary: Vocabulary | None,
    clip: str | os.PathLike[str] | None,
    published: bool,
    joints: str,
) -> tuple[FinePOSE, State]:
    """Build the model, and rename the state dict's entries to the names of the model."""
    if vocabulary is None:
        raise UsageError(
            "FinePOSE's prompts need CLIP's tokens: name a local bpe_simple_vocab_16e6.txt.gz (CLIP's repository holds "
            "it) with merges=, or pass a vocabulary"
        )
    sizes, timesteps = _block_sizes(state, DENOISER_PREFIX), take_schedule(state)
    prefix = f"{DENOISER_PREFIX}clip_text."
    carried = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not carried and clip is None:
        raise CheckpointError(
            "the checkpoint carries no CLIP (clip_text.); name a local file of its weights with clip="
        )
    tower = tower_from_state(carried or read_weights(clip or ""), "the checkpoint" if carried else str(clip))
    context = {prompt.name: state.get(f"{DENOISER_PREFIX}ctx_{prompt.name}") for prompt in FULL_PROMPTS}
    # The model for MPI-INF-3DHP has no prompt for the action, since that data set names no actions.
    prompts = [replace(p, context=len(vectors)) for p in FULL_PROMPTS if (vectors := context[p.name]) is not None]
    if actions is None:
        actions = HUMAN36M_ACTIONS if any(ACTION in prompt.text for prompt in prompts) else ()
    text = PromptedText(tower, vocabulary, actions, prompts, published)
    layers = f"{DENOISER_PREFIX}textTransEncoder.layers."
    denoiser = FinePoseDenoiser(
        text,
        **sizes,
        heads=heads,
        encoder_layers=count_entries(state, layers),
        encoder_hidden=len(state[f"{layers}0.linear1.weight"]),
        encoder_heads=heads,
        published=published,
        joint_order=joints,
    )
    own = {_own_name(name): value for name, value in state.items() if not name.startswith(prefix)}
    own |= {f"{DENOISER_PREFIX}text.clip_text.{name}": value for name, value in tower.state_dict().items()}
    return FinePOSE(denoiser, timesteps=timesteps), own


def _own_name(name: str) -> str:
    context = f"{DENOISER_PREFIX}ctx_"
    return name.replace(context, f"{DENOISER_PREFIX}text.ctx_", 1) if name.startswith(context) else name


def take_schedule(state: State) -> int:
    """Remove the buffers of the schedule from ``state``, in place, and return the number of timesteps.

    Raises:
        CheckpointError: the buffers are not those of the cosine schedule.
    """
    buffers = {name: state.pop(name) for name in SCHEDULE_BUFFERS if name in state}
    if "alphas_cumprod" not in buffers:
        return TIMESTEPS
    stored = buffers["alphas_cumprod"].double()
    expected = torch.from_numpy(cosine_schedule(len(stored)))
    if not torch.allclose(stored, expected, rtol=1e-4, atol=1e-7):
        raise CheckpointError("the checkpoint's schedule is not the cosine schedule with offset 0.008 that D3DP uses")
    return len(stored)


def _block_sizes(state: State, prefix: str) -> dict[str, Any]:
    joints, dim = state[f"{prefix}Spatial_pos_embed"].shape[1:]
    return {
        "dim": dim,
        "depth": count_entries(state, f"{prefix}STEblocks."),
        "mlp_ratio": len(state[f"{prefix}STEblocks.0.mlp.fc1.weight"]) // dim,
        "frames": state[f"{prefix}Temporal_pos_embed"].shape[1],
        "joints": joints,
    }
