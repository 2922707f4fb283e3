"""The causal denoiser: what a frame sees, and that every way to compute it gives the same."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from refiner.errors import ConfigError  # noqa: E402
from refiner.models import PoseDenoiser, UnrolledRefiner, fused, stc  # noqa: E402
from refiner.models.inference_form import inference_form  # noqa: E402


def causal_attention(module, x):
    """One causal STC attention, frame by frame and head by head, in float64."""
    module, x = module.double(), x.double()
    dim, frames = x.shape[-1], x.shape[1]
    half, width = dim // 2, dim // (2 * module.heads)
    rows = module.qkv(module.layer_norm(x))
    q, k, v = (rows[..., part::3] for part in range(3))  # channel c: rows 3c, 3c + 1, 3c + 2
    part = module.emb.weight[torch.tensor(stc.PARTS)]
    mixed = torch.zeros(*x.shape[:3], module.heads, 2, width, dtype=torch.float64)
    for t in range(frames):
        first = max(0, t - module.band + 1)
        for head in range(module.heads):
            space = slice(head * width, (head + 1) * width)
            time = slice(half + head * width, half + (head + 1) * width)
            score = torch.einsum("bic,bjc->bij", q[:, t, :, space], k[:, t, :, space]) * half**-0.5
            mixed[:, t, :, head, 0] = torch.einsum("bij,bjc->bic", score.softmax(-1), v[:, t, :, space])
            score = torch.einsum("bjc,bsjc->bjs", q[:, t, :, time], k[:, first : t + 1, :, time]) * half**-0.5
            mixed[:, t, :, head, 1] = torch.einsum("bjs,bsjc->bjc", score.softmax(-1), v[:, first : t + 1, :, time])
            for side, (channels, layer, scale) in enumerate(
                ((space, module.sep2_s, 1e-4), (time, module.sep2_t, 1e-9))
            ):
                local = slice(head * width, (head + 1) * width)
                mixed[:, t, :, head, side] += layer.bias[local] + scale * part
                for row in range(3):  # frames t - 2, t - 1, t
                    for column in range(3):  # joints j - 1, j, j + 1
                        for joint in range(17):
                            if t + row - 2 < 0 or not 0 <= joint + column - 1 < 17:
                                continue
                            taps = layer.weight[local, 0, row, column]
                            value = v[:, t + row - 2, joint + column - 1, channels]
                            mixed[:, t, joint, head, side] += taps * value
    return module.proj(mixed.flatten(3)) + x


@pytest.mark.parametrize("way", ["plain", "fused", "inference form"])
@pytest.mark.parametrize(("frames", "band"), [(1, 4), (4, 4), (5, 4), (13, 4), (9, 1), (6, 27)])
def test_causal_attention_is_the_one_written_out(way, frames, band):
    module = stc.STCAttention(16, 2, band)
    torch.nn.init.normal_(module.emb.weight, std=1000.0)  # large enough for its 1e-4 to show
    x = 2.0 * torch.randn(2, frames, 17, 16)
    if way == "inference form":
        with torch.no_grad():
            found = inference_form(torch.nn.Sequential(module))(x)
    else:
        fused.set_attention_backend(way)
        found = module(x)
    torch.testing.assert_close(found.double(), causal_attention(module, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["plain", "fused"])
def test_no_frame_sees_what_comes_after_it_or_lies_too_far_back(backend):
    fused.set_attention_backend(backend)
    band, frames, changed = 4, 40, 12
    model = PoseDenoiser(dim=16, blocks=1, heads=2, band=band)
    noisy, screen, times = torch.randn(2, frames, 17, 3), torch.randn(2, frames, 17, 2), torch.tensor([49, 24])
    disturbed = noisy.clone()
    disturbed[:, changed] += 1.0
    with torch.no_grad():
        difference = (model(disturbed, screen, times) - model(noisy, screen, times)).abs().amax(dim=(0, 2, 3))
    # Each of the two modules reaches band - 1 frames back by attention; the convolution's two frames are fewer.
    last = changed + 2 * (band - 1)
    assert (difference[changed : last + 1] > 1e-7).all()
    assert (difference[:changed] == 0).all() and (difference[last + 1 :] == 0).all()


def test_either_form_has_the_other_ones_parameters():
    windowed, causal = (PoseDenoiser(dim=16, blocks=2, heads=2, joint_embedding=True, band=band) for band in (None, 9))
    causal.load_state_dict(windowed.state_dict())
    noisy, screen, times = torch.randn(1, 9, 17, 3), torch.randn(1, 9, 17, 2), torch.tensor([49])
    assert not torch.allclose(windowed(noisy, screen, times), causal(noisy, screen, times))
    with pytest.raises(ConfigError, match="see at least itself"):
        PoseDenoiser(dim=16, blocks=1, heads=2, band=0)


def test_a_long_pass_is_its_beginning_and_more():
    """The offline pass over any number of frames, the K steps included: a prefix gives the same as the whole."""
    model = PoseDenoiser(dim=32, blocks=2, heads=4, band=6).eval()
    diffusion = {"timesteps": 50, "steps": 2, "offset": 0.008, "terminal": "zero"}
    module = UnrolledRefiner(model, torch.rand(51) * 0.05 + 0.01, 6, {"diffusion": diffusion}).eval()
    pixels, poses = 300 + 400 * torch.rand(1, 50, 17, 2), torch.randn(1, 50, 17, 3)
    size = torch.tensor([[1000.0, 1002.0]])
    with torch.no_grad():
        whole = module(pixels, poses, size)
        for frames in (1, 5, 17):
            part = module(pixels[:, :frames], poses[:, :frames], size)
            torch.testing.assert_close(part, whole[:, :frames], rtol=1e-5, atol=1e-6)
