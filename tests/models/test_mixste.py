"""MixSTE: published layout and size, the straight-line pass, stochastic depth."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refiner.errors import ConfigError, ShapeError  # noqa: E402
from refiner.models import MixSTE, from_published  # noqa: E402


def test_it_has_the_published_layout_and_size(layouts):
    with torch.device("meta"):
        state = MixSTE().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == layouts.mixste(512, 8, 243)
    assert sum(value.numel() for value in state.values()) == 33_783_811


@pytest.mark.parametrize(("dim", "depth", "frames", "heads", "mlp_ratio"), [(32, 3, 9, 8, 2), (24, 1, 5, 4, 3)])
def test_it_is_the_straight_line_pass(layouts, random_state, in_float64, dim, depth, frames, heads, mlp_ratio):
    state = random_state(layouts.mixste(dim, depth, frames, mlp_ratio=mlp_ratio))
    model = from_published("mixste", state, heads=heads)
    pose_2d = torch.randn(3, frames, 17, 2, generator=torch.Generator().manual_seed(2))
    weights = in_float64(state)
    embedded = layouts.linear(pose_2d.double().numpy(), weights, "Spatial_patch_to_embedding")
    expected = layouts.blocks(embedded + weights["Spatial_pos_embed"], weights, heads)
    with torch.no_grad():
        found = model(pose_2d).numpy()
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_windows_of_another_length_are_refused():
    model = MixSTE(dim=16, depth=1, heads=2, frames=9)
    with pytest.raises(ShapeError, match="9 frames; got a window of 27"):
        model(torch.randn(2, 27, 17, 2))


def test_sizes_that_do_not_go_together_are_refused():
    with pytest.raises(ConfigError, match="multiple of heads"):
        MixSTE(dim=20, heads=8, depth=1, frames=9)
    with pytest.raises(ConfigError, match="drop_path"):
        MixSTE(dim=16, depth=1, frames=9, drop_path=1.0)


def test_stochastic_depth_keeps_the_mean_and_is_for_training_alone():
    torch.manual_seed(5)
    model = MixSTE(dim=16, depth=3, heads=2, frames=3, drop_path=0.4)
    assert [block.drop_path for block in model.STEblocks] == pytest.approx([0.0, 0.2, 0.4])
    block, branch = model.STEblocks[2], 1.0 + torch.rand(20_000, 1, 1)
    thinned = block.train()._sometimes(branch)
    dropped = (thinned == 0).float().mean()
    assert abs(dropped - 0.4) < 0.02
    torch.testing.assert_close(thinned[thinned != 0], (branch / 0.6)[thinned != 0])
    assert abs(thinned.mean() - branch.mean()) < 0.03
    assert torch.equal(block.eval()._sometimes(branch), branch)
