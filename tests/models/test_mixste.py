"""MixSTE: published layout and size, the straight-line pass, stochastic depth."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refiner.errors import ConfigError, ShapeError  # noqa: E402
from refiner.models import MixSTE, from_published, fused  # noqa: E402
from refiner.models.mixste import SelfAttention  # noqa: E402


def test_it_has_the_published_layout_and_size(layouts):
    with torch.device("meta"):
        state = MixSTE().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == layouts.mixste(512, 8, 243)
    assert sum(value.numel() for value in state.values()) == 33_783_811


@pytest.mark.parametrize("backend", ["plain", "fused"])
@pytest.mark.parametrize(("dim", "depth", "frames", "heads", "mlp_ratio"), [(32, 3, 9, 8, 2), (24, 1, 5, 4, 3)])
def test_it_is_the_straight_line_pass(layouts, random_state, in_float64, dim, depth, frames, heads, mlp_ratio, backend):
    fused.set_attention_backend(backend)
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
    thinned = block.train()._drop_path(branch)
    dropped = (thinned == 0).float().mean()
    assert abs(dropped - 0.4) < 0.02
    torch.testing.assert_close(thinned[thinned != 0], (branch / 0.6)[thinned != 0])
    assert abs(thinned.mean() - branch.mean()) < 0.03
    assert torch.equal(block.eval()._drop_path(branch), branch)


@pytest.mark.parametrize("backend", ["plain", "fused"])
@pytest.mark.parametrize(
    ("dim", "heads", "rows", "length", "spread"),
    [(64, 8, 20, 17, 2.0), (64, 8, 7, 81, 2.0), (256, 16, 3, 27, 1.0), (8, 4, 5, 1, 2.0), (32, 2, 9, 5, 60.0)],
)
def test_attention_is_its_definition(layouts, in_float64, backend, dim, heads, rows, length, spread):
    torch.manual_seed(dim + length)
    module, x = SelfAttention(dim, heads), spread * torch.randn(rows, length, dim)
    fused.set_attention_backend(backend)
    found = module(x).detach().numpy()
    weights = in_float64(module.state_dict())
    query, key, value = np.split(layouts.linear(x.double().numpy(), weights, "qkv"), 3, axis=-1)
    expected = layouts.linear(layouts.attend(query, key, value, heads), weights, "proj")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("threads", [1, 2])
def test_the_kernel_s_gradients_are_the_plain_ones(gradients_by_backend, threads):
    x, weight = 2.0 * torch.randn(40, 27, 64), torch.randn(40, 27, 64)
    plain, found = gradients_by_backend(SelfAttention(64, 8), x, weight, threads)
    for name, gradient in plain.items():
        # The gradient of the keys' bias is 0, but for rounding.
        assert gradient.abs().max() > 1e-3, name
        assert (found[name] - gradient).abs().max() <= 5e-6 * gradient.abs().max(), name


def test_rows_do_not_touch_each_other_and_none_is_fine():
    fused.set_attention_backend("fused")
    module = SelfAttention(32, 4)
    x = torch.randn(6, 9, 32)
    clean = module(x)
    x[2, 3, 4] = float("nan")
    spoilt = module(x)
    kept = [0, 1, 3, 4, 5]
    assert torch.equal(spoilt[kept], clean[kept]) and spoilt[2].isnan().all()
    empty = torch.randn(0, 9, 32, requires_grad=True)
    module(empty).sum().backward()
    assert module(empty).shape == (0, 9, 32) and empty.grad is not None


def test_sizes_without_a_kernel_run_as_plain_operations(assert_runs_as_plain_operations):
    assert_runs_as_plain_operations(SelfAttention(48, 3), torch.randn(2, 5, 48))
