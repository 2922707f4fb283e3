"""Every test of the networks starts from the same seed and leaves the attention backend as it found it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _seeded():
    from refiner.models import stc

    torch.manual_seed(1)
    yield
    stc.set_attention_backend("auto")
