"""Dropout and dropped part embeddings of STCFormer: in training as published, and nowhere else."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from refiner.errors import ConfigError  # noqa: E402
from refiner.models import STCFormer, from_published  # noqa: E402
from refiner.models.fused import takes_kernel  # noqa: E402
from refiner.models.stc import FeedForward, STCAttention  # noqa: E402
from refiner.stc_layout import PART_SCALE_SPATIAL, PART_SCALE_TEMPORAL  # noqa: E402

SIZES = {"dim": 32, "layers": 2, "heads": 4, "mlp_ratio": 2}


def pair(**options):
    """The same weights without and with dropping."""
    torch.manual_seed(2)
    plain = STCFormer(**SIZES)
    dropping = STCFormer(**SIZES, **options)
    dropping.load_state_dict(plain.state_dict())
    return plain, dropping, torch.randn(3, 5, 17, 2)


def test_a_model_that_runs_drops_nothing():
    plain, dropping, pose_2d = pair(dropout=0.4, drop_part=0.5)
    assert plain.state_dict().keys() == dropping.state_dict().keys()
    torch.testing.assert_close(dropping.eval()(pose_2d), plain.eval()(pose_2d), rtol=0, atol=0)


def test_without_rates_training_is_deterministic():
    plain, _, pose_2d = pair()
    torch.testing.assert_close(plain.train()(pose_2d), plain(pose_2d), rtol=0, atol=0)


def test_published_weights_load_and_run_as_before():
    plain, dropping, pose_2d = pair(dropout=0.1, drop_part=0.5)
    loaded = from_published("stcformer", dropping.state_dict())
    torch.testing.assert_close(loaded(pose_2d), plain.eval()(pose_2d), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"dropout": 0.4}, {"drop_part": 0.5}, {"dropout": 0.1, "drop_part": 0.5}])
def test_the_gradient_reaches_every_weight(options):
    _, dropping, pose_2d = pair(**options)
    torch.manual_seed(0)
    for _ in range(8):  # the part embedding of both halves of a layer may be dropped in one pass
        dropping.train()(pose_2d).square().mean().backward()
    for name, parameter in dropping.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_dropout_is_behind_the_gelu_and_behind_the_second_layer():
    torch.manual_seed(1)
    layer, x = FeedForward(8, 16, 0.25).train(), torch.randn(50, 8)
    torch.manual_seed(4)
    found = layer(x)
    torch.manual_seed(4)
    hidden = torch.nn.functional.dropout(torch.nn.functional.gelu(x @ layer.fc1.weight.T), 0.25)
    expected = torch.nn.functional.dropout(hidden @ layer.fc2.weight.T, 0.25)
    torch.testing.assert_close(found, expected)
    assert 0.15 < float((found == 0).float().mean()) < 0.35


def difference(attention, x):
    """How much the part embeddings change the output of a training pass."""
    bare = STCAttention(attention.dim, attention.heads)
    bare.load_state_dict(attention.state_dict() | {"emb.weight": torch.zeros_like(attention.emb.weight)})
    return float((attention(x) - bare.to(x.dtype).train()(x)).detach().abs().max())


@pytest.mark.parametrize("fused", [False, True])
def test_part_embeddings_of_the_halves_are_dropped_as_a_whole(fused):
    # The native kernel runs with gradients on the CPU, the plain pass in double precision.
    torch.manual_seed(3)
    dtype = torch.float32 if fused else torch.float64
    attention, x = STCAttention(128, 8, drop_part=0.5).to(dtype).train(), torch.randn(1, 4, 17, 128, dtype=dtype)
    if fused and not takes_kernel(x, 8, attention.head_dim):
        pytest.skip("the native kernel does not run here")
    with torch.no_grad():
        attention.emb.weight *= 1000.0
    spatial, temporal = PART_SCALE_SPATIAL * attention.emb.weight, PART_SCALE_TEMPORAL * attention.emb.weight
    kept = set()
    for _ in range(40):
        found = attention._part_embeddings()
        for part, whole in zip(found, (spatial, temporal), strict=True):
            # What is kept is doubled, so that the mean stays.
            expected = 2.0 * whole[attention.part] if part.abs().max() > 0 else torch.zeros_like(part)
            torch.testing.assert_close(part, expected, rtol=1e-5, atol=0)
        kept.add(tuple(bool(part.abs().max() > 0) for part in found))
    assert kept == {(True, True), (True, False), (False, True), (False, False)}
    differences = [difference(attention, x) for _ in range(12)]
    assert min(differences) < 0.01 * max(differences) and max(differences) > 1e-2
    attention.eval()
    assert difference(attention, x) == pytest.approx(0.5 * max(differences), rel=0.01)


@pytest.mark.parametrize("options", [{"dropout": 1.0}, {"dropout": -0.1}, {"drop_part": 1.0}, {"drop_part": -0.5}])
def test_rates_are_probabilities_below_one(options):
    with pytest.raises(ConfigError, match="< 1, got"):
        STCFormer(**SIZES, **options)
