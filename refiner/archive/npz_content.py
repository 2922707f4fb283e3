"""The content of an .npz file that holds many sequences, kept until another one is asked for."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from refiner.data.safe_npz import load_npz


def content_of(file: Path) -> dict[str, Any]:
    """The arrays of the file by name (`refiner.data.safe_npz.load_npz`). It is read once for all its sequences.

    Raises:
        ArchiveError: as `load_npz`.
        OSError: the file is gone.
    """
    state = os.stat(file)
    return _loaded(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)  # the 2D poses and the 3D poses of an archive
def _loaded(file: Path, changed: int, size: int) -> dict[str, Any]:
    return load_npz(file)
