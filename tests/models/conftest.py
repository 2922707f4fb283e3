"""Every test of the networks starts from the same seed. And state dicts in the layouts that the lifters' authors
published, with what they must give.

The forward passes are written from their description, straight-line NumPy in float64, one head at a time, and share
nothing with the modules.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erf

import numpy as np
import pytest

torch = pytest.importorskip("torch")

_erf = np.vectorize(erf)


@pytest.fixture(autouse=True)
def _seeded():
    from refiner.models import fused

    torch.manual_seed(1)
    yield
    fused.set_attention_backend("auto")


@pytest.fixture
def gradients_by_backend():
    """``(module, x, weight, threads)`` -> for "plain" and "fused" the gradients of ``(module(x) * weight).sum()``."""
    from refiner.models import fused

    previous = torch.get_num_threads()

    def compute(module, x, weight, threads):
        torch.set_num_threads(threads)
        gradients = {}
        for backend in ("plain", "fused"):
            fused.set_attention_backend(backend)
            module.zero_grad()
            leaf = x.clone().requires_grad_()
            (module(leaf) * weight).sum().backward()
            gradients[backend] = {"x": leaf.grad, **{name: p.grad for name, p in module.named_parameters()}}
        return gradients["plain"], gradients["fused"]

    yield compute
    torch.set_num_threads(previous)


@pytest.fixture
def assert_runs_as_plain_operations():
    """Compare a module of a size that has no kernel with plain operations, on one input."""
    from refiner.errors import ConfigError
    from refiner.models import fused

    def check(module, x):
        fused.set_attention_backend("auto")
        found = module(x)
        fused.set_attention_backend("fused")
        with pytest.raises(ConfigError, match="attention kernels take"):
            module(x)
        fused.set_attention_backend("plain")
        assert torch.equal(found, module(x))

    return check


def linear(x, state, name):
    bias = state.get(f"{name}.bias")
    return x @ state[f"{name}.weight"].T + (0.0 if bias is None else bias)


def layer_norm(x, state, name, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu(x):
    return 0.5 * x * (1.0 + _erf(x / np.sqrt(2.0)))


def softmax(x):
    grown = np.exp(x - x.max(axis=-1, keepdims=True))
    return grown / grown.sum(axis=-1, keepdims=True)


def attend(query, key, value, heads, mask=0.0):
    """``(..., L, C)`` three times -> ``(..., L, C)``: softmax(q k / sqrt(width)) v, head by head."""
    width = query.shape[-1] // heads
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        score = query[..., part] @ np.swapaxes(key[..., part], -1, -2) / np.sqrt(width)
        mixed.append(softmax(score + mask) @ value[..., part])
    return np.concatenate(mixed, axis=-1)


def transformer_block(x, state, name, heads):
    """MixSTE's block over the last axis but one."""
    dim = x.shape[-1]
    rows = linear(layer_norm(x, state, f"{name}.norm1", 1e-6), state, f"{name}.attn.qkv")
    query, key, value = (rows[..., part * dim : (part + 1) * dim] for part in range(3))
    x = x + linear(attend(query, key, value, heads), state, f"{name}.attn.proj")
    hidden = gelu(linear(layer_norm(x, state, f"{name}.norm2", 1e-6), state, f"{name}.mlp.fc1"))
    return x + linear(hidden, state, f"{name}.mlp.fc2")


def blocks_reference(x, state, heads, after_first=lambda x: x):
    """All blocks and the head of MixSTE: tokens ``(B, T, J, C)`` -> ``(B, T, J, 3)``."""
    depth = 0
    while f"STEblocks.{depth}.norm1.weight" in state:
        x = layer_norm(transformer_block(x, state, f"STEblocks.{depth}", heads), state, "Spatial_norm", 1e-6)
        if depth == 0:
            x = after_first(x)
            x = x + state["Temporal_pos_embed"].transpose(1, 0, 2)  # (T, 1, C)
        by_joint = x.transpose(0, 2, 1, 3)  # (B, J, T, C)
        by_joint = transformer_block(by_joint, state, f"TTEblocks.{depth}", heads)
        x = layer_norm(by_joint, state, "Temporal_norm", 1e-6).transpose(0, 2, 1, 3)
        depth += 1
    return linear(layer_norm(x, state, "head.0", 1e-5), state, "head.1")


def mixste_shapes(dim, depth, frames, channels=2, mlp_ratio=2):
    """Names and shapes of the interface list."""
    shapes = {
        "Spatial_patch_to_embedding.weight": (dim, channels),
        "Spatial_patch_to_embedding.bias": (dim,),
        "Spatial_pos_embed": (1, 17, dim),
        "Temporal_pos_embed": (1, frames, dim),
        "head.1.weight": (3, dim),
        "head.1.bias": (3,),
    }
    for norm in ("Spatial_norm", "Temporal_norm", "head.0"):
        shapes |= {f"{norm}.weight": (dim,), f"{norm}.bias": (dim,)}
    for block in (f"{kind}blocks.{index}" for kind in ("STE", "TTE") for index in range(depth)):
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.weight": (dim,), f"{block}.{norm}.bias": (dim,)}
        for layer, rows, columns in (
            ("attn.qkv", 3 * dim, dim),
            ("attn.proj", dim, dim),
            ("mlp.fc1", mlp_ratio * dim, dim),
            ("mlp.fc2", dim, mlp_ratio * dim),
        ):
            shapes |= {f"{block}.{layer}.weight": (rows, columns), f"{block}.{layer}.bias": (rows,)}
    return shapes


def stcformer_shapes(dim, layers, heads, mlp_ratio=4):
    shapes = {"pose_emb.weight": (dim, 2), "regress_head.weight": (3, dim)}
    for block in (f"stcformer.stc_block.{index}." for index in range(layers)):
        shapes |= {
            f"{block}mlp.fc1.weight": (mlp_ratio * dim, dim),
            f"{block}mlp.fc2.weight": (dim, mlp_ratio * dim),
            f"{block}stc_att.emb.weight": (5, dim // (2 * heads)),
        }
        for layer, rows in (("stc_att.qkv", 3 * dim), ("stc_att.proj", dim)):
            shapes |= {f"{block}{layer}.weight": (rows, dim), f"{block}{layer}.bias": (rows,)}
        for name in ("layer_norm", "stc_att.layer_norm"):
            shapes |= {f"{block}{name}.weight": (dim,), f"{block}{name}.bias": (dim,)}
        for name in ("stc_att.sep2_t", "stc_att.sep2_s"):
            shapes |= {f"{block}{name}.weight": (dim // 2, 1, 3, 3), f"{block}{name}.bias": (dim // 2,)}
    return shapes


def depthwise(grid, state, name):
    """3 x 3 over the (frames, joints) grid ``(B, T, J, C)``, every channel by itself, zeros outside."""
    padded = np.pad(grid, [(0, 0), (1, 1), (1, 1), (0, 0)])
    _, frames, joints, _ = grid.shape
    total = np.broadcast_to(state[f"{name}.bias"], grid.shape).copy()
    for row in range(3):
        for column in range(3):
            total += (
                padded[:, row : row + frames, column : column + joints] * state[f"{name}.weight"][:, 0, row, column]
            )
    return total


def stcformer_reference(pose_2d, state, heads):
    """``(B, T, J, 2)`` -> ``(B, T, J, 3)``."""
    parts = [0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 3, 3, 3, 4, 4, 4]
    x = gelu(linear(pose_2d, state, "pose_emb"))
    half, index = x.shape[-1] // 2, 0
    while f"stcformer.stc_block.{index}.mlp.fc1.weight" in state:
        block = f"stcformer.stc_block.{index}."
        rows = linear(layer_norm(x, state, f"{block}stc_att.layer_norm", 1e-5), state, f"{block}stc_att.qkv")
        query, key, value = (rows[..., part::3] for part in range(3))  # channel c: rows 3c, 3c + 1, 3c + 2
        # `attend` divides by the root of a head's width; the published scale is that of half of all channels.
        query = query * np.sqrt(half // heads) / np.sqrt(half)
        over_joints = attend(query[..., :half], key[..., :half], value[..., :half], heads)
        turned = [array[..., half:].swapaxes(1, 2) for array in (query, key, value)]
        over_frames = attend(*turned, heads).swapaxes(1, 2)
        over_joints = over_joints + depthwise(value[..., :half], state, f"{block}stc_att.sep2_s")
        over_frames = over_frames + depthwise(value[..., half:], state, f"{block}stc_att.sep2_t")
        part = np.tile(state[f"{block}stc_att.emb.weight"][parts], heads)
        sides = [over_joints + 1e-4 * part, over_frames + 1e-9 * part]
        joined = np.stack([side.reshape(*side.shape[:-1], heads, -1) for side in sides], axis=-2)
        x = x + linear(joined.reshape(x.shape), state, f"{block}stc_att.proj")
        hidden = gelu(linear(layer_norm(x, state, f"{block}layer_norm", 1e-5), state, f"{block}mlp.fc1"))
        x = x + linear(hidden, state, f"{block}mlp.fc2")
        index += 1
    return linear(x, state, "regress_head")


def time_mlp_shapes(dim):
    return {
        "time_mlp.1.weight": (2 * dim, dim),
        "time_mlp.1.bias": (2 * dim,),
        "time_mlp.3.weight": (dim, 2 * dim),
        "time_mlp.3.bias": (dim,),
    }


def time_embedding_reference(timesteps, state, dim):
    """``(N,)`` -> ``(N, C)``: sines, then cosines, of widths log(1e4) / (C / 2 - 1) apart, and the MLP."""
    frequencies = np.exp(-np.log(1e4) / (dim // 2 - 1) * np.arange(dim // 2))
    angles = np.asarray(timesteps, dtype=np.float64)[:, None] * frequencies
    sinusoid = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return linear(gelu(linear(sinusoid, state, "time_mlp.1")), state, "time_mlp.3")


TEXTS = ("A person", "speed", "head", "body", "arm", "leg")
CONTEXT = {"subject": 3, "verb": 8, "speed": 6, "head": 6, "body": 6, "arm": 10, "leg": 10}


def transformer_shapes(prefix, width, hidden, names):
    """An attention in PyTorch's names and a two-layer MLP; ``names``: first, second layer, first, second norm."""
    first, second, *norms = names
    attention = "attn" if "resblocks" in prefix else "self_attn"
    shapes = {
        f"{prefix}{attention}.in_proj_weight": (3 * width, width),
        f"{prefix}{attention}.in_proj_bias": (3 * width,),
        f"{prefix}{attention}.out_proj.weight": (width, width),
        f"{prefix}{attention}.out_proj.bias": (width,),
        f"{prefix}{first}.weight": (hidden, width),
        f"{prefix}{first}.bias": (hidden,),
        f"{prefix}{second}.weight": (width, hidden),
        f"{prefix}{second}.bias": (width,),
    }
    return shapes | {f"{prefix}{norm}.{kind}": (width,) for norm in norms for kind in ("weight", "bias")}


def clip_shapes(vocabulary, width, layers):
    shapes = {"token_embedding.weight": (vocabulary, width), "positional_embedding": (77, width)}
    for index in range(layers):
        prefix = f"transformer.resblocks.{index}."
        shapes |= transformer_shapes(prefix, width, 4 * width, ("mlp.c_fc", "mlp.c_proj", "ln_1", "ln_2"))
    shapes |= {"ln_final.weight": (width,), "ln_final.bias": (width,)}
    # The rest of CLIP, which nobody asks for here.
    return shapes | {"visual.conv1.weight": (8, 3, 4, 4), "text_projection": (width, 16), "logit_scale": ()}


def finepose_shapes(dim, depth, frames, vocabulary, width, clip_layers, encoder_layers, hidden):
    """Everything below ``pose_estimator.``."""
    shapes = mixste_shapes(dim, depth, frames, channels=5) | time_mlp_shapes(dim)
    for index in range(encoder_layers):
        prefix = f"textTransEncoder.layers.{index}."
        shapes |= transformer_shapes(prefix, width, hidden, ("linear1", "linear2", "norm1", "norm2"))
    shapes |= {"text_ln.weight": (width,), "text_ln.bias": (width,)}
    shapes |= {"text_proj.0.weight": (dim, width), "text_proj.0.bias": (dim,)}
    cross = "temporal_cross_attn."
    for layer, rows, columns in (
        ("query", dim, dim),
        ("key", dim, width),
        ("value", dim, width),
        ("proj_out.emb_layers.1", 2 * dim, dim),
        ("proj_out.out_layers.2", dim, dim),
    ):
        shapes |= {f"{cross}{layer}.weight": (rows, columns), f"{cross}{layer}.bias": (rows,)}
    for norm, size in (("norm", dim), ("text_norm", width), ("proj_out.norm", dim)):
        shapes |= {f"{cross}{norm}.weight": (size,), f"{cross}{norm}.bias": (size,)}
    shapes |= {f"ctx_{name}": (length, width) for name, length in CONTEXT.items()}
    return shapes | {f"clip_text.{name}": shape for name, shape in clip_shapes(vocabulary, width, clip_layers).items()}


def self_attention(x, state, name, heads, mask=0.0):
    width = x.shape[-1]
    rows = x @ state[f"{name}.in_proj_weight"].T + state[f"{name}.in_proj_bias"]
    query, key, value = (rows[..., part * width : (part + 1) * width] for part in range(3))
    return linear(attend(query, key, value, heads, mask), state, f"{name}.out_proj")


def clip_reference(embedded, state, heads):
    """Token embeddings ``(L, W)`` -> ``(L, W)``; a token sees those before it."""
    length = len(embedded)
    mask = np.where(np.tri(length, dtype=bool), 0.0, -np.inf)
    x, index = embedded + state["positional_embedding"][:length], 0
    while f"transformer.resblocks.{index}.ln_1.weight" in state:
        block = f"transformer.resblocks.{index}."
        x = x + self_attention(layer_norm(x, state, f"{block}ln_1", 1e-5), state, f"{block}attn", heads, mask)
        hidden = linear(layer_norm(x, state, f"{block}ln_2", 1e-5), state, f"{block}mlp.c_fc")
        x = x + linear(hidden / (1.0 + np.exp(-1.702 * hidden)), state, f"{block}mlp.c_proj")
        index += 1
    return layer_norm(x, state, "ln_final", 1e-5)


def finepose_text_reference(state, words, action, end, clip_heads, heads):
    """One action -> text features ``(77, W)`` and the projected text ``(C,)``, of place ``end`` of the 77."""
    clip = {name.removeprefix("clip_text."): value for name, value in state.items() if name.startswith("clip_text.")}
    texts = dict(zip(CONTEXT, (TEXTS[0], action, *TEXTS[1:]), strict=True))
    parts = []
    for name in CONTEXT:
        marked = [words.start, *words.encode(texts[name]), words.end, 0, 0, 0, 0][:4]
        parts += [state[f"ctx_{name}"], clip["token_embedding.weight"][marked]]
    x, index = clip_reference(np.concatenate(parts), clip, clip_heads), 0
    while f"textTransEncoder.layers.{index}.norm1.weight" in state:
        layer = f"textTransEncoder.layers.{index}."
        x = layer_norm(x + self_attention(x, state, f"{layer}self_attn", heads), state, f"{layer}norm1", 1e-5)
        hidden = linear(gelu(linear(x, state, f"{layer}linear1")), state, f"{layer}linear2")
        x = layer_norm(x + hidden, state, f"{layer}norm2", 1e-5)
        index += 1
    features = layer_norm(x, state, "text_ln", 1e-5)
    return features, linear(features[end], state, "text_proj.0")


def silu(x):
    return x / (1.0 + np.exp(-x))


def finepose_reference(noisy, pose_2d, timestep, features, projected, state, heads, answers=None):
    """One window ``(T, J, 3)``, ``(T, J, 2)`` -> ``(T, J, 3)``. ``answers`` ``(J,)``: the text features that each
    joint attends to, where they are not the window's own."""
    dim = state["Spatial_pos_embed"].shape[-1]
    embedding = time_embedding_reference([timestep], state, dim)[0] + projected
    joined = np.concatenate([pose_2d, noisy], axis=-1)[None]
    tokens = linear(joined, state, "Spatial_patch_to_embedding") + state["Spatial_pos_embed"] + embedding
    cross = "temporal_cross_attn."
    scale, shift = np.split(linear(silu(embedding), state, f"{cross}proj_out.emb_layers.1"), 2)

    def after_first(x):
        asked = linear(layer_norm(x, state, f"{cross}norm", 1e-5), state, f"{cross}query")
        mixed = np.empty_like(asked)
        for joint in range(x.shape[2]):
            text = layer_norm(features if answers is None else answers[joint], state, f"{cross}text_norm", 1e-5)
            key, value = linear(text, state, f"{cross}key"), linear(text, state, f"{cross}value")
            mixed[0, :, joint] = attend(asked[0, :, joint], key, value, heads)
        styled = layer_norm(mixed, state, f"{cross}proj_out.norm", 1e-5) * (1.0 + scale) + shift
        return x + linear(silu(styled), state, f"{cross}proj_out.out_layers.2")

    return blocks_reference(tokens, state, heads, after_first)[0]


@pytest.fixture
def random_state() -> Callable[..., dict[str, torch.Tensor]]:
    """``random_state(shapes, seed)``: nothing is 0 or 1, so that nothing mixed up stays hidden."""

    def make(shapes, seed=0):
        generator = torch.Generator().manual_seed(seed)
        state = {}
        for name, shape in shapes.items():
            fan_in = shape[-1] if len(shape) > 1 and "pos_embed" not in name else 16
            state[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
            if "norm" in name.split(".")[-2:][0] and name.endswith("weight"):
                state[name] += 1.0
        return state

    return make


@pytest.fixture
def in_float64() -> Callable[..., dict[str, np.ndarray]]:
    """A state dict as float64 arrays, of the entries under a prefix."""

    def convert(state, prefix=""):
        return {
            name.removeprefix(prefix): value.double().numpy()
            for name, value in state.items()
            if name.startswith(prefix)
        }

    return convert


@pytest.fixture
def layouts():
    """The layouts and the straight-line passes by name."""

    class Layouts:
        stcformer = staticmethod(stcformer_shapes)
        stcformer_pass = staticmethod(stcformer_reference)
        mixste = staticmethod(mixste_shapes)
        time_mlp = staticmethod(time_mlp_shapes)
        clip = staticmethod(clip_shapes)
        clip_pass = staticmethod(clip_reference)
        finepose = staticmethod(finepose_shapes)
        finepose_text = staticmethod(finepose_text_reference)
        finepose_pass = staticmethod(finepose_reference)
        blocks = staticmethod(blocks_reference)
        embed_time = staticmethod(time_embedding_reference)
        linear = staticmethod(linear)
        layer_norm = staticmethod(layer_norm)
        gelu = staticmethod(gelu)
        attend = staticmethod(attend)

    return Layouts
