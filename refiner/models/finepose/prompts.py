"""FPP, the fine-grained part-aware prompts of FinePOSE: texts with learnable context vectors, through a text tower.

A prompt is a number of learnable vectors followed by the first tokens of a text. All prompts of an action form one
sequence, which the tower reads at once.
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
# The text for an unknown action.
UNKNOWN_TEXT = "moving"
CONTEXT_SPREAD = 0.02

PromptSet = Literal["none", "M", "S", "C", "AL", "full", "3dhp"]


@dataclass(frozen=True)
class Prompt:
    """One prompt of the sequence.

    Attributes:
        name: name of its context vectors in a state dict.
        context: number of learnable vectors in front of the text.
        text: ``{action}`` in it stands for the first word of the action.
        tokens: number of text tokens, start and end marks included. A shorter text is padded, a longer one is cut.
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
# Published for MPI-INF-3DHP, which names no actions: no prompt for the verb, and longer contexts, again 77 tokens.
PROMPTS_3DHP = tuple(
    replace(prompt, context=context)
    for prompt, context in zip((p for p in FULL_PROMPTS if p.name != "verb"), (5, 8, 8, 8, 12, 12), strict=True)
)
# The ablation on the poster names its rows but does not define them; this is our reading.
PROMPT_SETS: dict[str, tuple[Prompt, ...]] = {
    "none": (),
    "M": tuple(replace(prompt, context=0) for prompt in FULL_PROMPTS),
    "S": (Prompt("sentence", 0, f"A person is {ACTION}: speed, head, body, arm and leg", tokens=24),),
    "C": (Prompt("verb", 0, ACTION),),
    "AL": tuple(replace(prompt, tokens=0) for prompt in FULL_PROMPTS),
    "full": FULL_PROMPTS,
    "3dhp": PROMPTS_3DHP,
}


def action_text(action: str) -> str:
    """The text for an action: its first word, as in the published code (``Walking 1`` -> ``Walking``)."""
    return UNKNOWN_TEXT if action == UNKNOWN_ACTION else action.split(" ")[0]


def texts_of(prompts: Sequence[Prompt], actions: Sequence[str]) -> list[str]:
    """All texts of these prompts for these actions and for the unknown action, each once."""
    every = (*actions, UNKNOWN_ACTION)
    return list(dict.fromkeys(prompt.text.replace(ACTION, action_text(a)) for prompt in prompts for a in every))


class TextConditioner(Protocol):
    """Converts action numbers to text features.

    An action number is an index into ``actions``; ``len(actions)`` stands for the unknown action.
    """

    actions: tuple[str, ...]
    width: int

    def features(self, actions: Tensor) -> Tensor:
        """Action numbers ``[N]`` -> features of their prompts ``[N, L, W]``."""
        ...

    def ends(self, actions: Tensor) -> Tensor:
        """Action numbers ``[N]`` -> the index (of L) of the feature that represents the whole text, ``[N]``."""
        ...


class PromptedText(nn.Module):
    """Prompts through a text tower (FPP).

    Args:
        tower: CLIP's, frozen, or a small one that is trained with the rest.
        vocabulary: the vocabulary of the tower.
        actions: names; the unknown action follows them.
        prompts: see `PROMPT_SETS`.
        published: behave like the published code. There the context vectors get no gradient, and the feature of the
            whole text is read at the end of the action's own text, which in the sequence of all prompts is a
            learnable vector of the first prompt. By default the gradient passes through the tower, and the whole text
            is read at the last end of a text (without texts, at the last vector): since the tower only looks back,
            only that position has seen every prompt.

    Raises:
        ConfigError: the prompts are longer than the tower allows, or too short for the published behaviour.
        UsageError: the vocabulary has no tokens for a word.
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
            # The end comes after the start and the tokens. Without a verb the published code takes the last position.
            return 1 + len(vocabulary.encode(action_text(action))) if verb else self.length - 1
        ends, position, taken = [], 0, 0
        for prompt in self.prompts:
            text = row[taken : taken + prompt.tokens]
            ends += [position + prompt.context + int(index) for index in np.flatnonzero(text == vocabulary.end)]
            position, taken = position + prompt.context + prompt.tokens, taken + prompt.tokens
        return ends[-1] if ends else self.length - 1

    def features(self, actions: Tensor) -> Tensor:
        return self.read(self.clip_text.token_embedding(self.tokens[actions]))

    def read(self, embedded: Tensor) -> Tensor:
        """Add the context vectors to token embeddings ``[N, tokens, W]`` and run the tower -> ``[N, L, W]``."""
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
    """Text features that were computed before, so that no tower is needed; training does not change them.

    Args:
        table: ``[actions + 1, L, W]``, the unknown action last.
        ends: ``[actions + 1]``, see `TextConditioner.ends`.
        actions: names of the actions.

    Raises:
        ConfigError: the three do not fit together.
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
        """The current features of another conditioner."""
        every = torch.arange(len(text.actions) + 1)
        with torch.no_grad():
            return cls(text.features(every), text.ends(every), text.actions)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CachedText:
        """Read a file that `save` wrote. Raises CheckpointError for any other file."""
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
    """The tokens of the texts of all prompts in order, without the context vectors."""
    tokens: list[int] = []
    for prompt in prompts:
        text = prompt.text.replace(ACTION, action_text(action))
        marked = [vocabulary.start, *vocabulary.encode(text), vocabulary.end] if prompt.tokens else []
        tokens += (marked + [vocabulary.pad] * prompt.tokens)[: prompt.tokens]
    return tokens
