"""Names of output files: safe on every file system, and different for different sequences."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

# Longer names are cut: a file system takes 255 bytes, and suffixes follow.
LONGEST = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_RESERVED = re.compile(r"con|prn|aux|nul|com\d|lpt\d", re.IGNORECASE)  # on Windows
_HASHED = re.compile(r".*-[0-9a-f]{12}")
_HASH = 12


def stems_of(names: Sequence[str]) -> list[str]:
    """The beginning of the names of the output files of each sequence: letters, digits, ``_`` and ``-``.

    A slash becomes ``-``, and anything else that is not safe becomes ``_``. Where two names would give the same, also
    but for upper and lower case, each of them ends in a part of the hash of its name. The result depends on the set of
    names, and not on their order.
    """
    plain = [_plain(name) for name in names]
    count = Counter(stem.lower() for stem in plain)
    return [
        stem if count[stem.lower()] == 1 and _usable(stem) else f"{stem[:LONGEST]}-{_hash(name)}"
        for name, stem in zip(names, plain, strict=True)
    ]


def printable(name: str) -> str:
    """A name for a terminal, whose control characters and broken characters are shown as ``?``."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _plain(name: str) -> str:
    return _UNSAFE.sub("_", name.replace("/", "-")).strip("-_")


def _usable(stem: str) -> bool:
    # A name that looks like one with a hash could be the one of another sequence.
    return bool(stem) and len(stem) <= LONGEST and not _RESERVED.fullmatch(stem) and not _HASHED.fullmatch(stem.lower())


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]
