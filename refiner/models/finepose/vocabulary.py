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

# Of CLIP: 256 bytes, the same at the end of a word, the merges, the two marks.
CLIP_MERGES = 49152 - 256 - 2
# A longer file of merges than this is something else.
LONGEST_MERGES_FILE = 32 << 20
_WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


class Vocabulary(Protocol):
    """Numbers of tokens; ``start`` and ``end`` mark a text, ``pad`` fills up behind it."""

    @property
    def size(self) -> int: ...

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def pad(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """The tokens of a text without its marks."""
        ...


class ClipVocabulary:
    """CLIP's byte-pair encoding.

    Args:
        merges: pairs of symbols, the ones to be joined first in front.
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
        """Read CLIP's ``bpe_simple_vocab_16e6.txt.gz``, or a ``merges.txt``: a heading and one pair a line.

        Raises CheckpointError for a file that is missing, unreadable or too short.
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
                f"{file} holds no {CLIP_MERGES} pairs behind its first line; expected CLIP's "
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
        """The pair that comes first among the merges is joined wherever it stands, until no pair is among them."""
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
    """The words of some texts, numbered in the order of the alphabet; for a tower that is trained from scratch."""

    pad = 0

    def __init__(self, texts: Iterable[str]) -> None:
        words = sorted({word for text in texts for word in _WORD.findall(text.lower())})
        self._number = {word: number for number, word in enumerate(words, start=1)}
        # The end has the highest number, as in CLIP's.
        self.start, self.end, self.size = len(words) + 1, len(words) + 2, len(words) + 3

    def encode(self, text: str) -> list[int]:
        """Raises UsageError for a word that it was not made of."""
        words = _WORD.findall(text.lower())
        strange = [word for word in words if word not in self._number]
        if strange:
            raise UsageError(f"the model's vocabulary has no {', '.join(strange)}; it has {', '.join(self._number)}")
        return [self._number[word] for word in words]


class TokenTable:
    """Texts whose tokens are known: what a checkpoint keeps of a vocabulary. Made of another one by `of`.

    Args:
        rows: ``text: number number ...``, one a text.
        size: of the vocabulary; the start and the end are its last two numbers.
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
        """The rows of these texts."""
        return tuple(f"{text}: {' '.join(map(str, vocabulary.encode(text)))}" for text in dict.fromkeys(texts))

    def encode(self, text: str) -> list[int]:
        """Raises UsageError for a text that is not in the table."""
        if text not in self._tokens:
            raise UsageError(f"the checkpoint has no tokens of {text!r}; it has those of {', '.join(self._tokens)}")
        return self._tokens[text]


def _byte_symbols() -> dict[int, str]:
    """A printable character for each byte, in the order of CLIP's numbers: itself where it is one, else from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
