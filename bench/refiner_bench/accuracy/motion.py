"""The motion that a command scores: an archive, or built-in motion for a quick run."""

from __future__ import annotations

from pathlib import Path

from refiner.data.clips import DATA_VARIABLE, data_folder_from_env
from refiner.errors import UsageError


def archive_folder(data: Path | None, quick: bool, need: str, instead: str) -> Path | None:
    """The folder of the motion archive.

    Args:
        data: The folder that the user names, or None.
        quick: Whether the run takes built-in motion.
        need: Who needs motion, for the message.
        instead: The purpose of a quick run, for the message.

    Returns:
        The user's folder or the one of REFINER_DATA; None with ``quick``.

    Raises:
        UsageError: There is no folder, and the run is not a quick one.
    """
    if quick:
        return None
    folder = data or data_folder_from_env()
    if folder is None:
        raise UsageError(f"{need}: --data FOLDER or {DATA_VARIABLE}; or --quick, {instead}")
    return folder
