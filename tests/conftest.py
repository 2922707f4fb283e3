"""What the tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def motion_folder() -> Path:
    """The motion archive that REFINER_DATA names; skips by name without one."""
    folder = os.environ.get("REFINER_DATA")
    if not folder:
        pytest.skip("REFINER_DATA is not set: it names a folder with data_3d_*.npz and clips.json")
    return Path(folder)
