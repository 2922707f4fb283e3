"""SmoothNet: its published layout and pass, its loss, and a run beside a refiner's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from refiner.errors import ShapeError
from refiner.model_files.build import load_module
from refiner.model_files.checkpoint import load_checkpoint
from refiner.models import SmoothingModule, SmoothNet
from refiner.runtime import Refiner
from refiner.training.runs import train_lifter, train_refiner
from refiner.training.smoothing import SmoothingTask
from refiner.training.tasks import ValidationWindows
from refiner.training.windows import DataConfig, WindowSampler


def shapes_of(frames, dim, hidden, blocks):
    shapes = {"encoder.0": (dim, frames), "decoder": (frames, dim)}
    for block in range(blocks):
        shapes |= {f"res_blocks.{block}.linear1": (hidden, dim), f"res_blocks.{block}.linear2": (dim, hidden)}
    named = {f"{name}.weight": shape for name, shape in shapes.items()}
    return named | {f"{name}.bias": shape[:1] for name, shape in shapes.items()}


def test_it_has_the_published_layout_and_pass():
    frames, dim, hidden, blocks = 7, 24, 10, 2
    shapes = shapes_of(frames, dim, hidden, blocks)
    generator = torch.Generator().manual_seed(1)
    state = {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}
    model = SmoothNet(frames, dim, hidden, blocks)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == shapes
    model.load_state_dict(state)
    pose = np.random.default_rng(2).normal(size=(3, frames, 17, 3)).astype(np.float32)
    weights = {name: value.double().numpy() for name, value in state.items()}

    def leaky(x, slope):
        return np.where(x > 0, x, slope * x)

    def layer(x, name):
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    expected = np.empty(pose.shape)
    for window in range(3):
        for joint in range(17):
            for coordinate in range(3):
                x = leaky(layer(pose[window, :, joint, coordinate].astype(np.float64), "encoder.0"), 0.1)
                for block in range(blocks):
                    inner = leaky(layer(x, f"res_blocks.{block}.linear1"), 0.2)
                    x = x + leaky(layer(inner, f"res_blocks.{block}.linear2"), 0.2)
                expected[window, :, joint, coordinate] = layer(x, "decoder")
    with torch.no_grad():
        np.testing.assert_allclose(model.eval()(torch.from_numpy(pose)).numpy(), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ShapeError, match="windows of 7 frames, got 8"):
        model(torch.randn(1, 8, 17, 3))


def test_the_loss_is_that_of_positions_and_a_tenth_of_accelerations(tiny, people):
    config = tiny("refiner", model={"architecture": "smoothnet"})
    windows = WindowSampler(people, DataConfig(), 9, 5, 0, ("S1", "S2")).batch(0)
    lifted = windows.pose_3d + np.random.default_rng(1).normal(0, 0.05, windows.pose_3d.shape).astype(np.float32)
    validation = ValidationWindows.of_clips(people.clips("validation"), 9)
    task = SmoothingTask(config, torch.nn.Identity(), lambda _: lifted, validation, validation.pose_3d)
    error = lifted - windows.pose_3d
    second = error[:, 2:] - 2 * error[:, 1:-1] + error[:, :-2]
    expected = np.abs(error).mean() + 0.1 * np.abs(second).mean()
    assert float(task.loss(windows, 0)) == pytest.approx(expected, rel=1e-5)


def test_it_trains_and_runs_where_a_refiner_does(tiny, people, tmp_path):
    lifter = train_lifter(tiny("lifter"), people, tmp_path / "lifter", quiet=True)
    model = {"architecture": "smoothnet", "dim": 16, "hidden": 8, "blocks": 2, "dropout": 0.3}
    config = dataclasses.replace(tiny("refiner", model=model), lifter=str(lifter))
    best = train_refiner(config, people, tmp_path / "smooth", quiet=True)
    stored = load_checkpoint(best)
    assert {"mpjpe_mm", "lifter_mpjpe_mm"} <= set(stored.config["metrics"]["validation"])
    assert not [name for name in stored.tensors if not name.startswith("model.")]
    module = load_module(best)
    assert isinstance(module, SmoothingModule)
    pose, root = torch.randn(2, 9, 17, 3), torch.randn(2, 9, 1, 3)
    given = torch.rand(2, 9, 17, 2), torch.tensor([[100.0, 100.0]] * 2)
    moved = module(given[0], pose + root, given[1])
    assert torch.equal(moved[..., 0, :], (pose + root)[..., 0, :])
    elsewhere = module(2 * given[0], pose, given[1]) + root
    torch.testing.assert_close(moved, elsewhere, rtol=1e-4, atol=1e-5)
    refiner = Refiner.load(best)
    clip = people.clips("validation")[0]
    assert refiner.steps == 1
    assert refiner.refine(clip.pose_2d, clip.pose_3d, clip.image_size).shape == clip.pose_3d.shape
    assert refiner.compare_input(clip.pose_2d, clip.pose_3d, clip.image_size) is None


def test_it_is_validated_as_it_runs(tiny, people):
    config = tiny("refiner", model={"architecture": "smoothnet"})
    torch.manual_seed(1)
    model = SmoothNet(9, dim=16, hidden=8, blocks=1)
    validation = ValidationWindows.of_clips(people.clips("validation"), 9)
    lifted = validation.pose_3d + np.random.default_rng(2).normal(0, 0.05, validation.pose_3d.shape).astype(np.float32)
    lifted -= lifted[:, :, :1]
    task = SmoothingTask(config, model, lambda _: lifted, validation, lifted)
    module = SmoothingModule(model.eval(), dataclasses.asdict(config))
    with torch.no_grad():
        ran = module(torch.zeros(*lifted.shape[:3], 2), torch.from_numpy(lifted), torch.ones(len(lifted), 2)).numpy()
    assert task.validate(model)["mpjpe_mm"] == pytest.approx(validation.mpjpe_mm(ran), rel=1e-5)
