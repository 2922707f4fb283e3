"""The networks: published layout, the fused kernel against the plain module, the unrolled refinement."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from refiner.errors import ConfigError  # noqa: E402
from refiner.models import LiftingModule, PoseDenoiser, STCFormer, UnrolledRefiner, fused, stc  # noqa: E402
from refiner.models.pose_denoiser import timestep_embedding  # noqa: E402

CONFIG = {"diffusion": {"timesteps": 50, "steps": 2, "offset": 0.008, "terminal": "zero"}}


def test_stcformer_has_the_published_layout():
    state = STCFormer().state_dict()
    assert sum(value.numel() for value in state.values()) == 4_748_000
    block = "stcformer.stc_block.5."
    shapes = {
        "pose_emb.weight": (256, 2),
        "regress_head.weight": (3, 256),
        block + "layer_norm.weight": (256,),
        block + "mlp.fc1.weight": (1024, 256),
        block + "mlp.fc2.weight": (256, 1024),
        block + "stc_att.layer_norm.bias": (256,),
        block + "stc_att.qkv.weight": (768, 256),
        block + "stc_att.qkv.bias": (768,),
        block + "stc_att.proj.weight": (256, 256),
        block + "stc_att.emb.weight": (5, 16),
        block + "stc_att.sep2_t.weight": (128, 1, 3, 3),
        block + "stc_att.sep2_s.bias": (128,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert not [name for name in state if "part" in name or ("mlp" in name and "bias" in name)]


def published_attention(module, x):
    """The published STC attention, written from its description with explicit loops over heads."""
    dim = x.shape[-1]
    half, width = dim // 2, dim // (2 * module.heads)
    h = torch.nn.functional.layer_norm(x, (dim,), module.layer_norm.weight, module.layer_norm.bias)
    rows = h @ module.qkv.weight.T + module.qkv.bias
    q, k, v = (rows[..., part::3] for part in range(3))  # channel c: rows 3c, 3c + 1, 3c + 2
    grid = v.permute(0, 3, 1, 2)
    local = [module.sep2_s(grid[:, :half]).permute(0, 2, 3, 1), module.sep2_t(grid[:, half:]).permute(0, 2, 3, 1)]
    part = module.emb.weight[torch.tensor(stc.PARTS)]
    heads = []
    for head in range(module.heads):
        for side, (start, scale) in enumerate(((0, 1e-4), (half, 1e-9))):
            channels = slice(start + head * width, start + (head + 1) * width)
            qh, kh, vh = q[..., channels], k[..., channels], v[..., channels]
            if side == 0:
                score = torch.einsum("btic,btjc->btij", qh, kh) * half**-0.5
                mixed = torch.einsum("btij,btjc->btic", score.softmax(-1), vh)
            else:
                score = torch.einsum("bijc,bkjc->bjik", qh, kh) * half**-0.5
                mixed = torch.einsum("bjik,bkjc->bijc", score.softmax(-1), vh)
            heads.append(mixed + local[side][..., head * width : (head + 1) * width] + scale * part)
    return torch.cat(heads, -1) @ module.proj.weight.T + module.proj.bias + x


@pytest.mark.parametrize("backend", ["plain", "fused"])
@pytest.mark.parametrize(
    ("dim", "heads", "frames"), [(64, 8, 27), (96, 8, 9), (256, 8, 3), (32, 2, 27), (64, 16, 1), (16, 4, 81)]
)
def test_attention_is_the_published_one(backend, dim, heads, frames):
    module = stc.STCAttention(dim, heads)
    torch.nn.init.normal_(module.emb.weight, std=1000.0)  # large enough for its 1e-4 to show
    x = 2.0 * torch.randn(3, frames, 17, dim)
    fused.set_attention_backend(backend)
    torch.testing.assert_close(module(x), published_attention(module, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("threads", "band"), [(1, None), (2, None), (2, 9), (1, 1)])
def test_the_fused_gradients_are_the_plain_ones(gradients_by_backend, threads, band):
    module = stc.STCAttention(64, 8, band)
    x, weight = 2.0 * torch.randn(5, 27, 17, 64), torch.randn(5, 27, 17, 64)
    plain, found = gradients_by_backend(module, x, weight, threads)
    for name, gradient in plain.items():
        assert (found[name] - gradient).abs().max() <= 5e-6 * gradient.abs().max(), name


def test_the_fused_gradients_by_finite_differences():
    module = stc.STCAttention(16, 2)
    fused.set_attention_backend("fused")
    x, direction, weight = torch.randn(3, 2, 4, 17, 16).unbind(0)
    leaf = x.clone().requires_grad_()
    (module(leaf) * weight).sum().backward()
    step = 1e-2
    with torch.no_grad():
        slope = ((module(x + step * direction) - module(x - step * direction)).double() * weight).sum() / (2 * step)
    assert float((leaf.grad * direction).sum()) == pytest.approx(float(slope), rel=2e-3)


def test_nan_does_not_leave_its_window():
    module = stc.STCAttention(64, 8)
    fused.set_attention_backend("fused")
    x = torch.randn(2, 9, 17, 64)
    clean = module(x)
    x[1, 3, 4, 5] = float("nan")
    spoilt = module(x)
    assert torch.equal(spoilt[0], clean[0]) and spoilt[1].isnan().any()


def test_the_fused_backend_refuses_what_it_cannot():
    fused.set_attention_backend("fused")
    with pytest.raises(ConfigError, match="attention kernels take"):
        stc.STCAttention(48, 3)(torch.randn(1, 2, 17, 48))
    with pytest.raises(ConfigError, match="multiple of 2 x heads"):
        stc.STCAttention(50, 8)
    with pytest.raises(ConfigError, match="backend"):
        fused.set_attention_backend("quick")  # type: ignore[arg-type]


@pytest.mark.parametrize(("dim", "heads"), [(16, 8), (80, 8), (48, 3), (128, 2)])
def test_sizes_without_a_kernel_run_as_plain_operations(assert_runs_as_plain_operations, dim, heads):
    assert_runs_as_plain_operations(stc.STCAttention(dim, heads), torch.randn(2, 5, 17, dim))


def test_the_denoiser_sees_time_pose_and_neighbours():
    model = PoseDenoiser(dim=32, blocks=2, heads=4)
    noisy, screen = torch.randn(2, 9, 17, 3), torch.randn(2, 9, 17, 2)
    base = model(noisy, screen, torch.tensor([49, 49]))
    assert base.shape == noisy.shape
    assert not torch.allclose(base, model(noisy, screen, torch.tensor([24, 24])))
    assert not torch.allclose(base, model(noisy, screen + 0.1, torch.tensor([49, 49])))
    mixed = model(noisy, screen, torch.tensor([49, 24]))
    torch.testing.assert_close(mixed[0], base[0])


def test_the_timestep_embedding():
    embedded = timestep_embedding(torch.tensor([0, 7]), 8)
    torch.testing.assert_close(embedded[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    frequencies = torch.tensor([1.0, 1e-4 ** (1 / 3), 1e-4 ** (2 / 3), 1e-4])
    torch.testing.assert_close(embedded[1], torch.cat([(7 * frequencies).sin(), (7 * frequencies).cos()]))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_unrolled_refiner_is_the_loop_over_the_denoiser(steps):
    from refiner.camera import normalise_screen
    from refiner.diffusion import ddim_refine

    model = PoseDenoiser(dim=32, blocks=1, heads=4).eval()
    scale = torch.rand(51) * 0.05 + 0.01
    module = UnrolledRefiner(model, scale, 9, CONFIG, steps).eval()
    pixels, root = 300 + 400 * torch.rand(2, 9, 17, 2), torch.randn(2, 9, 1, 3)
    body = torch.randn(2, 9, 17, 3) * 0.4
    body[..., 0, :] = 0
    size = torch.tensor([[1000.0, 1002.0], [640.0, 480.0]])
    with torch.no_grad():
        refined = module(pixels, body + root, size)
        screen = torch.stack([normalise_screen(pixels[i], size[i].tolist()) for i in range(2)])

        def predict(noisy, time):
            # What the network says of the root was never trained: no step may see it.
            assert (noisy[..., 0, :] == 0).all()
            error = model(noisy, screen, torch.full((2,), time)) * scale.reshape(17, 3)
            assert error[..., 0, :].abs().max() > 0
            error[..., 0, :] = 0
            return error

        expected = ddim_refine(predict, body, steps)
    torch.testing.assert_close(refined, expected + root, rtol=1e-5, atol=1e-5)
    assert torch.equal(refined[..., 0, :], root[..., 0, :])


def test_the_lifting_module_has_its_root_at_0():
    module = LiftingModule(STCFormer(dim=32, layers=1, heads=4), 9, {})
    pose = module(torch.rand(2, 9, 17, 2) * 500, torch.tensor([[1000.0, 1000.0]] * 2))
    assert (pose[..., 0, :] == 0).all() and pose.shape == (2, 9, 17, 3)
