"""How text conditions the pose in FinePOSE: FPC, a cross-attention, and PTS, a stylisation by time and text."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.errors import ConfigError


class Stylisation(nn.Module):
    """PTS: LN(h) (1 + scale) + shift, then SiLU and a linear layer; time and text give the scale and the shift.

    The last layer starts at 0, so that the text changes nothing before training. Without an embedding the output of the
    norm is neither scaled nor shifted.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        self.norm = nn.LayerNorm(dim)
        # The identity replaces a dropout of rate 0 in the published module, so that the layers keep their numbers.
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
    """FPC: the tokens of the pose attend to the tokens of the text; the result is stylised and added.

    Args:
        dim: C, channels of the pose tokens.
        text_width: W, channels of the text tokens.
        heads: 8 as published.

    Raises:
        ConfigError: ``dim`` is no multiple of ``heads``.
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
        """Keys and values of text features ``[N, L, W]``, each ``[N, L, C]``: constants of an action after training."""
        normed = self.text_norm(text)
        return self.key(normed), self.value(normed)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, embedding: Tensor | None) -> Tensor:
        """Attend to the text of the same row.

        Args:
            x: pose tokens, ``[N, Q, C]``.
            keys: ``[N, L, C]``.
            values: ``[N, L, C]``.
            embedding: of time and text, ``[N, C]``; None for no stylisation.

        Returns:
            ``[N, Q, C]``.
        """
        query, key, value = (self._split(tokens) for tokens in (self.query(self.norm(x)), keys, values))
        mixed = functional.scaled_dot_product_attention(query, key, value, scale=self.head_width**-0.5)
        joined = mixed.transpose(1, 2).reshape(x.shape)
        styled: Tensor = self.proj_out(joined, embedding)
        return x + styled

    def _split(self, tokens: Tensor) -> Tensor:  # [N, L, C] -> [N, heads, L, C / heads]
        return tokens.reshape(*tokens.shape[:2], self.heads, self.head_width).transpose(1, 2)


def tiled_rows(rows: Tensor, repeats: int) -> Tensor:
    """The published pairing of poses and texts: repeat the whole batch, ``[N, ...]`` -> ``[N repeats, ...]``.

    The poses of each window lie side by side, however. So in a batch of several actions most poses get the text of
    another action. With one action in the batch the order makes no difference.
    """
    return torch.cat([rows] * repeats)
