"""FPP, the fine-grained part-aware prompts of FinePOSE: texts with learnable context in front, through a text tower.

A prompt is some learnable vectors and then the first tokens of a text. All prompts of an action follow each other in
one sequence, which the tower reads at once.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from refiner.actions import UNKNOWN_ACTION
from refiner.errors import CheckpointError, ConfigError
from refiner.files import atomic_path
from refiner.models.finepose.text_tower import TextTower
from refiner.models.finepose.vocabulary import Vocabulary
from refiner.models.weights import read_safetensors

ACTION = "{action}"
# What a prompt says of an action that nobody knows.
UNKNOWN_TEXT = "moving"
CONTEXT_SPREAD = 0.02

PromptSet = Literal["none", "M", "S", "C", "AL", "full"]


@dataclass(frozen=True)
class Prompt:
    """``context`` learnable vectors, then the first ``tokens`` tokens of ``text`` with its marks, padded.

    A text that is longer loses its end. ``{action}`` stands for the first word of the action.
    """

    name: str
    context: int
    text: str
    tokens: int = 4


# Published: context lengths 3 8 6 6 6 10 10, four text tokens each, 77 tokens together.
FULL_PROMPTS = (
    Prompt("subject", 3, "A person"),
    Prompt("verb", 8, ACTION),
    Prompt("speed", 6, "speed"),
    Prompt("head", 6, "head"),
    Prompt("body", 6, "body"),
    Prompt("arm", 10, "arm"),
    Prompt("leg", 10, "leg"),
)
# The poster's ablation names its rows and does not define them; this is our reading.
PROMPT_SETS: dict[str, tuple[Prompt, ...]] = {
    "none": (),
    "M": tuple(replace(prompt, context=0) for prompt in FULL_PROMPTS),
    "S": (Prompt("sentence", 0, f"A person is {ACTION}: speed, head, body, arm and leg", tokens=24),),
    "C": (Prompt("verb", 0, ACTION),),
    "AL": tuple(replace(prompt, tokens=0) for prompt in FULL_PROMPTS),
    "full": FULL_PROMPTS,
}


def action_text(action: str) -> str:
    """What a prompt says of an action: its first word, as in the published code (``Walking 1`` -> ``Walking``)."""
    return UNKNOWN_TEXT if action == UNKNOWN_ACTION else action.split(" ")[0]


def texts_of(prompts: Sequence[Prompt], actions: Sequence[str]) -> list[str]:
    """Every text that these prompts make of these actions and of the unknown one."""
    every = (*actions, UNKNOWN_ACTION)
    return list(dict.fromkeys(prompt.text.replace(ACTION, action_text(a)) for prompt in prompts for a in every))


class TextConditioner(Protocol):
    """What turns actions into text features. Action numbers are places in ``actions``; the one behind is unknown."""

    actions: tuple[str, ...]
    width: int

    def features(self, actions: Tensor) -> Tensor:
        """``[N]`` action numbers -> ``[N, L, W]``."""
        ...

    def ends(self, actions: Tensor) -> Tensor:
        """``[N]`` -> which of the L stands for the whole text, ``[N]``."""
        ...


class PromptedText(nn.Module):
    """Prompts through a text tower (FPP).

    Args:
        tower: CLIP's, frozen, or a small one that is trained too.
        vocabulary: what the tower's numbers mean.
        actions: names; the unknown action follows them.
        prompts: see `PROMPT_SETS`.
        published: as in the published code, the context gets no gradient, and the whole text is said to stand where
            the action's own text ends, which among all prompts is a learnable vector of the first. By default the
            gradient passes through the tower, and the whole text stands at the last end of a text (without texts at
            the last vector): the tower looks back only, so that alone has seen every prompt.

    Raises ConfigError for prompts that the tower is too short for, UsageError for words without tokens.
    """

    tokens: Tensor
    end_of: Tensor

    def __init__(
        self,
        tower: TextTower,
        vocabulary: Vocabulary,
        actions: Sequence[str],
        prompts: Sequence[Prompt] = FULL_PROMPTS,
        published: bool = False,
    ) -> None:
        super().__init__()
        self.actions, self.prompts, self.published = tuple(actions), tuple(prompts), published
        self.width = tower.width
        self.length = sum(prompt.context + prompt.tokens for prompt in prompts)
        if not 1 <= self.length <= tower.length:
            raise ConfigError(
                f"the prompts have {self.length} tokens together, the text tower takes 1 to {tower.length}"
            )
        self.clip_text = tower
        for prompt in prompts:
            if prompt.context:
                context = torch.empty(prompt.context, tower.width)
                self.register_parameter(f"ctx_{prompt.name}", nn.Parameter(context.normal_(std=CONTEXT_SPREAD)))
        every = (*self.actions, UNKNOWN_ACTION)
        tokens = np.array([prompt_tokens(prompts, vocabulary, action) for action in every], dtype=np.int64)
        ends = [self._end(vocabulary, row, action) for row, action in zip(tokens, every, strict=True)]
        if max(ends) >= self.length:
            raise ConfigError(
                f"the published end of a text, at {max(ends)}, lies behind the {self.length} tokens of these prompts; "
                "take the full prompts, which the published code has, or published = false"
            )
        self.register_buffer("tokens", torch.from_numpy(tokens), persistent=False)
        self.register_buffer("end_of", torch.tensor(ends), persistent=False)

    def _end(self, vocabulary: Vocabulary, row: NDArray[np.int64], action: str) -> int:
        if self.published:
            verb = [prompt for prompt in self.prompts if ACTION in prompt.text and prompt.tokens]
            # The start of the text, its tokens, its end; without a verb the published code takes the last.
            return 1 + len(vocabulary.encode(action_text(action))) if verb else self.length - 1
        places, at, taken = [], 0, 0
        for prompt in self.prompts:
            text = row[taken : taken + prompt.tokens]
            places += [at + prompt.context + int(place) for place in np.flatnonzero(text == vocabulary.end)]
            at, taken = at + prompt.context + prompt.tokens, taken + prompt.tokens
        return places[-1] if places else self.length - 1

    def features(self, actions: Tensor) -> Tensor:
        return self.read(self.clip_text.token_embedding(self.tokens[actions]))

    def read(self, embedded: Tensor) -> Tensor:
        """The texts' token embeddings ``[N, tokens, W]`` -> ``[N, L, W]``, the context put in between."""
        parts, taken = [], 0
        for prompt in self.prompts:
            if prompt.context:
                parts.append(getattr(self, f"ctx_{prompt.name}").expand(len(embedded), -1, -1))
            parts.append(embedded[:, taken : taken + prompt.tokens])
            taken += prompt.tokens
        with torch.no_grad() if self.published else contextlib.nullcontext():
            read: Tensor = self.clip_text(torch.cat(parts, dim=1))
        return read

    def ends(self, actions: Tensor) -> Tensor:
        return self.end_of[actions]


class CachedText(nn.Module):
    """Text features that were computed before, so that no tower is needed; they are not trained.

    Args:
        table: ``[actions + 1, L, W]``, the unknown action last. ends: ``[actions + 1]``. actions: their names.

    Raises ConfigError where the three do not fit.
    """

    end_of: Tensor

    def __init__(self, table: Tensor, ends: Tensor, actions: Sequence[str]) -> None:
        super().__init__()
        if table.ndim != 3 or len(table) != len(actions) + 1 or ends.shape != (len(table),):
            raise ConfigError(
                f"cached text of shape {tuple(table.shape)} with ends {tuple(ends.shape)} does not belong to "
                f"{len(actions)} actions and the unknown one"
            )
        self.actions, self.width = tuple(actions), table.shape[-1]
        # A parameter, so that it is part of a checkpoint.
        self.table = nn.Parameter(table.detach().float().clone(), requires_grad=False)
        self.register_buffer("end_of", ends.detach().clone(), persistent=False)

    @classmethod
    def of(cls, text: TextConditioner) -> CachedText:
        """What another conditioner gives now."""
        every = torch.arange(len(text.actions) + 1)
        with torch.no_grad():
            return cls(text.features(every), text.ends(every), text.actions)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CachedText:
        """What `save` wrote. Raises CheckpointError for another file."""
        file = Path(path)
        if not file.is_file():
            raise CheckpointError(f"there are no cached texts at {file}; CachedText.of(...).save(FILE) writes them")
        tensors, metadata = read_safetensors(file)
        try:
            return cls(tensors["table"], tensors["ends"], json.loads(metadata["actions"]))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{file} holds no cached texts: it lacks {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write table, ends and names into one ``.safetensors`` file."""
        from safetensors.torch import save_file

        tensors = {"table": self.table.detach().cpu().contiguous(), "ends": self.end_of.cpu().contiguous()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"actions": json.dumps(self.actions)})

    def features(self, actions: Tensor) -> Tensor:
        return self.table[actions]

    def ends(self, actions: Tensor) -> Tensor:
        return self.end_of[actions]


def prompt_tokens(prompts: Sequence[Prompt], vocabulary: Vocabulary, action: str) -> list[int]:
    """The tokens of all texts, one prompt's behind the other's, without the context."""
    tokens: list[int] = []
    for prompt in prompts:
        text = prompt.text.replace(ACTION, action_text(action))
        marked = [vocabulary.start, *vocabulary.encode(text), vocabulary.end] if prompt.tokens else []
        tokens += (marked + [vocabulary.pad] * prompt.tokens)[: prompt.tokens]
    return tokens
