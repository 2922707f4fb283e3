"""What the tests of training share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

# The toy archive, and the recorder that stands in for CUDA graphs.
sys.path.insert(0, str(Path(__file__).parent))

from toy import toy_config, toy_people


@pytest.fixture(scope="session")
def people():
    return toy_people()


@pytest.fixture
def tiny():
    return toy_config
