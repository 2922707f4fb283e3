"""How text reaches the poses in FinePOSE: FPC, a cross-attention, and PTS, a stylisation by time and text."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.errors import ConfigError


class Stylisation(nn.Module):
    """PTS: LN(h) (1 + scale) + shift, SiLU, linear; scale and shift are made of the time and the text.

    The last layer starts at 0, so that text changes nothing before anything was learnt. Without an embedding the norm's
    output is neither scaled nor shifted.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        self.norm = nn.LayerNorm(dim)
        # Between the two stands a dropout in the published module, with rate 0.
        self.out_layers = nn.Sequential(nn.SiLU(), nn.Identity(), nn.Linear(dim, dim))
        for parameter in self.out_layers[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor, embedding: Tensor | None) -> Tensor:  # [N, L, C], [N, C]
        normed = self.norm(h)
        if embedding is not None:
            scale, shift = self.emb_layers(embedding)[:, None].chunk(2, dim=-1)
            normed = normed * (1.0 + scale) + shift
        styled: Tensor = self.out_layers(normed)
        return styled


class TextCrossAttention(nn.Module):
    """FPC: the tokens of the pose ask, those of the text answer; the result is stylised and added.

    Args:
        dim: C of the pose's tokens. text_width: W of the text's. heads: 8 as published.
    """

    def __init__(self, dim: int, text_width: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"dim must be a multiple of heads, got dim {dim} and heads {heads}")
        self.heads, self.head_width = heads, dim // heads
        self.norm = nn.LayerNorm(dim)
        self.text_norm = nn.LayerNorm(text_width)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(text_width, dim)
        self.value = nn.Linear(text_width, dim)
        self.proj_out = Stylisation(dim)

    def keys_and_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Text features ``[N, L, W]`` -> ``[N, L, C]`` twice: constants of an action, once the model is trained."""
        normed = self.text_norm(text)
        return self.key(normed), self.value(normed)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, embedding: Tensor | None) -> Tensor:
        """``[N, Q, C]``, ``[N, L, C]`` twice, ``[N, C]`` -> ``[N, Q, C]``: row by row."""
        query, key, value = (self._split(given) for given in (self.query(self.norm(x)), keys, values))
        mixed = functional.scaled_dot_product_attention(query, key, value, scale=self.head_width**-0.5)
        joined = mixed.transpose(1, 2).reshape(x.shape)
        styled: Tensor = self.proj_out(joined, embedding)
        return x + styled

    def _split(self, tokens: Tensor) -> Tensor:  # [N, L, C] -> [N, heads, L, C / heads]
        return tokens.reshape(*tokens.shape[:2], self.heads, self.head_width).transpose(1, 2)


def tiled_rows(given: Tensor, repeats: int) -> Tensor:
    """The published pairing of poses and texts: ``[N, ...]`` -> ``[N repeats, ...]``, all rows again and again.

    The poses that belong to it lie side by side for each row, so that in a batch of several actions most of them get
    another one's text; with one action in the batch there is no difference.
    """
    return torch.cat([given] * repeats)
