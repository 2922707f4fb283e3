"""Checkpoints with random weights and windows of random poses, for the tests of the native engine."""

from __future__ import annotations

import numpy as np
import torch

from refiner.engines import EngineOptions
from refiner.model_files.build import build_model
from refiner.model_files.checkpoint import save_checkpoint

NATIVE, TORCH = EngineOptions("native", threads=1), EngineOptions("torch")
# The bound of the project for float32: 0.01 mm, for poses of metres.
CLOSE = 1e-5


def assert_close(result, expected):
    """0.01 mm for results within a metre, the same share of larger ones (random weights give any size)."""
    result, expected = np.asarray(result), np.asarray(expected)
    np.testing.assert_allclose(
        result, expected, rtol=0, atol=CLOSE * max(1.0, float(np.abs(np.nan_to_num(expected)).max()))
    )


def written(path, kind="refiner", seed=0, frames=9, dim=16, heads=2, rays=True, causal=False, **model):
    """A checkpoint with random weights, larger than those of a fresh network, so that every part counts."""
    sizes = {"dim": dim, "heads": heads, "blocks": 1, "mlp_ratio": 2, "joint_embedding": True, "causal": causal}
    config = {
        "kind": kind,
        "frames": frames,
        "model": sizes | {"input": "rays" if rays else "screen", "root": "subtracted"} | model,
        "diffusion": {"timesteps": 50, "steps": 2, "offset": 0.008, "terminal": "zero"},
        "data_description": {"fps": 25.0},
    }
    torch.manual_seed(seed)
    state = build_model(config).state_dict()
    tensors = {f"model.{name}": value + 0.1 * torch.randn_like(value) for name, value in state.items()}
    tensors |= {"error_scale": 0.03 + 0.01 * torch.rand(51), "trust": torch.tensor([0.01, 0.05])}
    if causal:
        del tensors["trust"]
    save_checkpoint(path, config, tensors)
    return path


def windows(seed, batch, frames, rays):
    """Random windows of a person about 4 m away; some joints are missing."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 80, (batch, frames, 17, 2)) + rng.uniform(300, 700, (batch, 1, 1, 2))
    pose = rng.normal(0, 0.4, (batch, frames, 17, 3)) + rng.uniform(-1, 5, (batch, 1, 1, 3))
    size = np.tile([1000.0, 1002.0, rng.uniform(600, 1600)], (batch, 1))
    if not rays:
        return tuple(part.astype(np.float32) for part in (pixels, pose, size[:, :2]))
    confidence = rng.random((batch, frames, 17, 1)) * (rng.random((batch, frames, 17, 1)) > 0.1)
    pixels = np.concatenate([pixels, confidence], axis=-1)
    return tuple(part.astype(np.float32) for part in (pixels, pose, size))
