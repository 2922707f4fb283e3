"""Published lifters through the export: manifest and graph keep the stride and the joints of their training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refiner.models import MixSTE, STCFormer
from refiner.runtime import Lifter
from refiner.training.published import import_published

SIZE = (1000, 1000)
NETWORKS = {
    "stcformer": lambda: STCFormer(16, 1, 2, 2),
    "mixste": lambda: MixSTE(16, 1, 8, 2, frames=9),
}


@pytest.mark.parametrize(("name", "joints", "stride"), [("stcformer", "h36m17", 3), ("mixste", "3dhp", 1)])
def test_the_graph_is_the_checkpoint(export_to, tmp_path, name, joints, stride):
    torch.manual_seed(4)
    state = {key: value + 0.1 * torch.randn_like(value) for key, value in NETWORKS[name]().state_dict().items()}
    torch.save(state, tmp_path / "published.pth")
    checkpoint = tmp_path / "ours.safetensors"
    frames = 9 if name == "stcformer" else None
    import_published(name, tmp_path / "published.pth", checkpoint, frames, joints=joints)
    result = export_to(tmp_path, checkpoint, windows=8)
    assert result.manifest["stride"] == stride and result.manifest["model"]["joints"] == joints
    # What goes in and comes out is in Human3.6M's order.
    assert result.manifest["joints"]["trained_on"] == joints and result.manifest["joints"]["names"][0] == "Hip"
    pose_2d = np.random.default_rng(3).uniform(300, 700, (40, 17, 2)).astype(np.float32)
    expected, found = Lifter.load(checkpoint), Lifter.load(result.path)
    assert found.stride == expected.stride == stride and found.metadata["model"]["joints"] == joints
    np.testing.assert_allclose(found.lift(pose_2d, SIZE), expected.lift(pose_2d, SIZE), atol=1e-4)
