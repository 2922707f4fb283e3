"""Texts as token numbers: CLIP's byte-pair encoding from a local file of merges, or a vocabulary of a few words."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from refiner.errors import CheckpointError, UsageError

# CLIP's 49,408 tokens are the 256 bytes, the 256 bytes at the end of a word, the merges and the two marks.
CLIP_MERGES = 49152 - 256 - 2
# Bytes. A longer file is no file of merges.
LONGEST_MERGES_FILE = 32 << 20
_WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


class Vocabulary(Protocol):
    """Token numbers of texts; ``start`` and ``end`` mark a text, ``pad`` fills the positions after it."""

    @property
    def size(self) -> int: ...

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def pad(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without the start and end marks."""
        ...


class ClipVocabulary:
    """CLIP's byte-pair encoding.

    Args:
        merges: pairs of symbols, in the order of their priority.
    """

    pad = 0

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        self._symbol_of_byte = _byte_symbols()
        symbols = list(self._symbol_of_byte.values())
        words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *("".join(pair) for pair in merges)]
        self._number = {word: number for number, word in enumerate(words)}
        self._rank = {pair: rank for rank, pair in enumerate(merges)}
        self.start, self.end, self.size = len(words), len(words) + 1, len(words) + 2

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ClipVocabulary:
        """Read CLIP's ``bpe_simple_vocab_16e6.txt.gz``, or a ``merges.txt``: one heading, then one pair per line.

        Raises:
            CheckpointError: the file is missing, unreadable or too short.
        """
        file = Path(path)
        try:
            with open(file, "rb") as packed, gzip.open(packed) if file.suffix == ".gz" else packed as stream:
                lines = stream.read(LONGEST_MERGES_FILE).decode("utf-8").splitlines()
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise CheckpointError(f"cannot read the merges of CLIP's vocabulary from {file}: {error}") from error
        merges = [tuple(line.split()) for line in lines[1 : 1 + CLIP_MERGES]]
        if len(merges) < CLIP_MERGES or any(len(pair) != 2 for pair in merges):
            raise CheckpointError(
                f"{file} holds no {CLIP_MERGES} pairs after its first line; expected CLIP's "
                "bpe_simple_vocab_16e6.txt.gz or the merges.txt of its tokenizer"
            )
        return cls(merges)  # type: ignore[arg-type]

    def encode(self, text: str) -> list[int]:
        numbers = []
        for word in _WORD.findall(text.lower()):
            letters = [self._symbol_of_byte[byte] for byte in word.encode("utf-8")]
            letters[-1] += "</w>"
            numbers += [self._number[part] for part in self._join(letters)]
        return numbers

    def _join(self, parts: list[str]) -> list[str]:
        """Join the pair of highest priority wherever it occurs, and repeat until no pair is left to join."""
        while len(parts) > 1:
            pairs = set(pairwise(parts))
            best = min(pairs, key=lambda pair: self._rank.get(pair, len(self._rank)))
            if best not in self._rank:
                break
            joined, index = [], 0
            while index < len(parts):
                here = tuple(parts[index : index + 2]) == best
                joined.append("".join(best) if here else parts[index])
                index += 2 if here else 1
            parts = joined
        return parts


class WordVocabulary:
    """The words of the given texts, numbered alphabetically; for a tower that is trained from scratch."""

    pad = 0

    def __init__(self, texts: Iterable[str]) -> None:
        words = sorted({word for text in texts for word in _WORD.findall(text.lower())})
        self._number = {word: number for number, word in enumerate(words, start=1)}
        # The end mark has the highest number, as in CLIP's vocabulary.
        self.start, self.end, self.size = len(words) + 1, len(words) + 2, len(words) + 3

    def encode(self, text: str) -> list[int]:
        """The tokens of a text. Raises UsageError for a word outside of the vocabulary."""
        words = _WORD.findall(text.lower())
        unknown = [word for word in words if word not in self._number]
        if unknown:
            raise UsageError(f"the model's vocabulary has no {', '.join(unknown)}; it has {', '.join(self._number)}")
        return [self._number[word] for word in words]


class TokenTable:
    """A table of texts and their tokens, the part of a vocabulary that a checkpoint stores; `rows_of` writes it.

    Args:
        rows: ``text: number number ...``, one row per text.
        size: size of the vocabulary; its last two numbers are the start and the end mark.

    Raises:
        CheckpointError: a row has another format.
    """

    pad = 0

    def __init__(self, rows: Iterable[str], size: int) -> None:
        self._tokens: dict[str, list[int]] = {}
        for row in rows:
            text, _, numbers = row.rpartition(":")
            try:
                self._tokens[text] = [int(number) for number in numbers.split()]
            except ValueError as error:
                raise CheckpointError(f"the checkpoint's tokens hold {row!r}, expected 'text: numbers'") from error
        self.size, self.start, self.end = size, size - 2, size - 1

    @staticmethod
    def rows_of(vocabulary: Vocabulary, texts: Iterable[str]) -> tuple[str, ...]:
        """The rows of these texts in a vocabulary, each text once."""
        return tuple(f"{text}: {' '.join(map(str, vocabulary.encode(text)))}" for text in dict.fromkeys(texts))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text. Raises UsageError for a text that is not in the table."""
        if text not in self._tokens:
            raise UsageError(f"the checkpoint has no tokens of {text!r}; it has those of {', '.join(self._tokens)}")
        return self._tokens[text]


def _byte_symbols() -> dict[int, str]:
    """A printable character for each byte, in the order of CLIP's numbers.

    A printable byte stands for itself; the others take characters from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
