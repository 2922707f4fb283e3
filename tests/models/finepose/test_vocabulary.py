"""CLIP's byte-pair encoding by its rules, the vocabulary of a few words, and the table that a checkpoint keeps."""

from __future__ import annotations

import gzip
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")

from refiner.errors import CheckpointError, UsageError
from refiner.models.finepose import ClipVocabulary, TokenTable, WordVocabulary
from refiner.models.finepose.vocabulary import CLIP_MERGES

MERGES = [("r", "s"), ("p", "e"), ("o", "n</w>"), ("pe", "rs"), ("pers", "on</w>"), ("l", "l"), ("ll", "l")]


def test_the_numbers_of_single_letters():
    """From CLIP's order: printable bytes from "!" on, then the others, then the same at the end of a word."""
    words = ClipVocabulary([])
    assert words.encode("a") == [320] and words.encode("!") == [256] and words.encode("ab") == [64, 256 + 65]
    assert (words.size, words.start, words.end) == (514, 512, 513)
    # "\u00e9" is two bytes, 0xC3 0xA9, at places 94 + 12 + (0xC3 - 174) and 94 + (0xA9 - 161).
    assert words.encode("\u00e9") == [127, 256 + 102]


def test_pairs_are_joined_in_the_order_of_the_merges():
    words = ClipVocabulary(MERGES)
    first = 512
    assert words.encode("Person") == [first + 4]
    assert words.encode("persona") == [first + 3, ord("o") - 33, ord("n") - 33, 256 + ord("a") - 33]
    # Three equal letters: the two on the left are joined first, then the pair with the third.
    assert words.encode("llla") == [first + 6, 256 + ord("a") - 33]
    assert words.encode("llll") == [first + 6, 256 + ord("l") - 33]
    assert words.encode("lllla") == [first + 5, first + 5, 256 + ord("a") - 33]


def reference_encode(merges, word):
    """The rule with a naive search: join the earliest merge that occurs anywhere, from the left, again and again."""
    parts = [*word[:-1], f"{word[-1]}</w>"]
    while True:
        known = [pair for pair in merges if pair in pairwise(parts)]
        if not known:
            return parts
        first, second = known[0]
        index = 0
        while index < len(parts) - 1:
            if (parts[index], parts[index + 1]) == (first, second):
                parts[index : index + 2] = [first + second]
            index += 1


def test_random_words_against_the_rule():
    rng = np.random.default_rng(1)
    symbols = ["a", "b", "c", "a</w>", "b</w>", "c</w>"]
    merges = []
    for _ in range(40):
        left, right = (symbols[index] for index in rng.integers(0, len(symbols), 2))
        if not left.endswith("</w>") and (left, right) not in merges:
            merges.append((left, right))
            symbols.append(left + right)
    words = ClipVocabulary(merges)
    names = {number: name for name, number in words._number.items()}
    for _ in range(300):
        word = "".join(rng.choice(list("abc"), rng.integers(1, 12)))
        assert [names[number] for number in words.encode(word)] == reference_encode(merges, word)


def test_texts_are_cut_into_words_digits_and_signs():
    words = ClipVocabulary([])
    letters = [len(words.encode(part)) for part in ("a person's arm, 12!", "A_b")]
    assert letters == [1 + 6 + 2 + 3 + 1 + 2 + 1, 3]
    assert words.encode("ab, c") == [*words.encode("ab"), *words.encode(","), *words.encode("c")]


@pytest.mark.parametrize("name", ["bpe_simple_vocab_16e6.txt.gz", "merges.txt"])
def test_files_of_merges(tmp_path, name):
    pairs = [f"x{index} y{index}" for index in range(CLIP_MERGES + 5)]
    content = "\n".join(['"bpe_simple_vocab_16e6.txt#version: 0.2', *pairs]).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    words = ClipVocabulary.from_file(tmp_path / name)
    assert (words.size, words.start, words.end, words.encode("a")) == (49408, 49406, 49407, [320])


@pytest.mark.parametrize("content", [b"", b"heading\na b\n", b"\xff\xfe", b"x\n" + b"only-one\n" * (CLIP_MERGES + 1)])
def test_other_files_are_refused(tmp_path, content):
    for name in ("merges.txt", "merges.txt.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="merges"):
            ClipVocabulary.from_file(tmp_path / name)
    with pytest.raises(CheckpointError, match="cannot read"):
        ClipVocabulary.from_file(tmp_path / "none.txt")


def test_the_vocabulary_of_a_few_words():
    words = WordVocabulary(["A person", "Walking", "person head"])
    assert words.encode("A Person walking") == [1, 3, 4]
    assert (words.size, words.start, words.end, words.pad) == (7, 5, 6, 0)
    with pytest.raises(UsageError, match="has no runs, fast; it has a, head, person, walking"):
        words.encode("a person runs fast")


def test_a_table_keeps_the_tokens_of_its_texts():
    words = ClipVocabulary(MERGES)
    table = TokenTable(TokenTable.rows_of(words, ["A person", "A person: arm", "A person"]), words.size)
    assert (table.start, table.end, table.pad) == (words.start, words.end, words.pad)
    for text in ("A person", "A person: arm"):
        assert table.encode(text) == words.encode(text)
    with pytest.raises(UsageError, match="no tokens of 'leg'"):
        table.encode("leg")
    with pytest.raises(CheckpointError, match="expected 'text: numbers'"):
        TokenTable(["a: 1 x"], 10)
