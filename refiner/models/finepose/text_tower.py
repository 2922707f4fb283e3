"""The text tower of CLIP (Radford et al., 2021) in its published layout, of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refiner.errors import CheckpointError
from refiner.models.weights import State, count_entries, load_exactly

# Channels of a head in CLIP's towers.
HEAD_WIDTH = 64
# Other entries of CLIP's file, beside the text tower.
OTHER_PARTS = ("visual.", "text_projection", "logit_scale", "input_resolution", "context_length", "vocab_size")


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the activation that CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ResidualBlock(nn.Module):
    """Pre-norm attention and MLP of ratio 4, with CLIP's tensor names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # [N, L, W], [L, L]
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        mixed: Tensor = x + self.mlp(self.ln_2(x))
        return mixed


class _Blocks(nn.Module):
    """Holds the blocks under the published name ``transformer.resblocks``."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualBlock(width, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class TextTower(nn.Module):
    """Token embeddings -> contextual embeddings. A token attends to itself and to the tokens before it.

    Args:
        vocabulary: number of tokens, 49,408 in CLIP ViT-B/32.
        width: W, 512 in CLIP ViT-B/32.
        layers: 12 in CLIP ViT-B/32.
        heads: 8 in CLIP ViT-B/32.
        length: most tokens of a sequence, 77 in CLIP ViT-B/32.
    """

    mask: Tensor

    def __init__(
        self, vocabulary: int = 49408, width: int = 512, layers: int = 12, heads: int = 8, length: int = 77
    ) -> None:
        super().__init__()
        self.width, self.length = width, length
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(length, width))
        self.transformer = _Blocks(width, layers, heads)
        self.ln_final = nn.LayerNorm(width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        hidden = torch.full((length, length), float("-inf")).triu(1)
        self.register_buffer("mask", hidden, persistent=False)

    def forward(self, embedded: Tensor) -> Tensor:  # [N, L, W] -> [N, L, W], L up to `length`
        count = embedded.shape[1]
        mixed = self.transformer(embedded + self.positional_embedding[:count], self.mask[:count, :count])
        normed: Tensor = self.ln_final(mixed)
        return normed


def tower_from_state(state: State, where: str) -> TextTower:
    """Build a frozen tower from CLIP's weights; entries of other parts of CLIP are ignored.

    Args:
        state: a state dict in CLIP's own layout or in the layout of the transformers library.
        where: the name of the source in error messages.

    Raises:
        CheckpointError: the state dict holds no CLIP text tower.
    """
    text = {name: value for name, value in state.items() if not name.startswith(OTHER_PARTS)}
    if any(name.startswith("text_model.") for name in text):
        text = _own_names(state, where)
    try:
        vocabulary, width = text["token_embedding.weight"].shape
        length = len(text["positional_embedding"])
    except KeyError as error:
        raise CheckpointError(f"{where} holds no CLIP text tower: it has no {error.args[0]!r}") from error
    layers = count_entries(text, "transformer.resblocks.")
    tower = TextTower(vocabulary, width, layers, max(width // HEAD_WIDTH, 1), length)
    load_exactly(tower, {name: value.float() for name, value in text.items()}, f"the text tower of {where}")
    return tower.requires_grad_(False)


def _own_names(state: State, where: str) -> State:
    """Rename entries of the transformers library to CLIP's own names; CLIP stores the q, k and v projections as one."""
    prefix, layers = "text_model.encoder.layers.", "transformer.resblocks."
    plain = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    parts = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
    parts |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    renamed: State = {new: state[old] for old, new in plain.items() if old in state}
    indices = {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}
    try:
        for index in indices:
            for kind in ("weight", "bias"):
                for old, new in parts.items():
                    renamed[f"{layers}{index}.{new}.{kind}"] = state[f"{prefix}{index}.{old}.{kind}"]
                three = [state[f"{prefix}{index}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                renamed[f"{layers}{index}.attn.in_proj_{kind}"] = torch.cat(three)
    except KeyError as error:
        raise CheckpointError(f"the text tower of {where} lacks {error.args[0]!r}") from error
    return renamed
