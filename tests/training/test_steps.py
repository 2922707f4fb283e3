"""How a training step runs: captured as a graph, compiled, for a while, on another device, with tensors as batches."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recorded import HostRead, record_operations
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refiner.errors import ConfigError, MissingComponentError, TrainingError
from refiner.model_files.build import build_model
from refiner.model_files.checkpoint import load_checkpoint
from refiner.models import fused
from refiner.training import loop, schedule, steps
from refiner.training.loop import BEGUN_FILE, CHECK_EVERY, LAST_FILE, SETTLING_STEPS
from refiner.training.muon import BatchedMuon, orthogonal
from refiner.training.optimiser import build_optimiser
from refiner.training.runs import train_lifter
from refiner.training.scene_tasks import RayLifterTask
from refiner.training.scenes import SceneBatch
from refiner.training.schedule import MovingAverage, learning_rate
from refiner.training.steps import FIRST_STEPS, EagerStep, GraphStep, build_step, on_device
from refiner.training.tasks import LifterTask
from refiner.training.travel import restart_from_weights
from refiner.training.windows import Windows, WindowSampler

CHANGES = {"name": "adam", "rate": 2e-3, "schedule": "cosine", "warmup": 4, "clip_norm": 0.5, "weight_decay": 0.01}


def parts(config):
    """A lifter's task with its optimiser and average, from the same weights every time."""
    torch.manual_seed(1)
    task = LifterTask(config, build_model(dataclasses.asdict(config)), None)
    capturable = config.training.compile == "graph"
    return task, build_optimiser(task.model, config.optimiser, capturable), MovingAverage(task.model, 0.99)


def batch(step, tensors=False):
    rng = np.random.default_rng(step)
    arrays = [rng.normal(0, 0.3, (4, 9, 17, size)).astype(np.float32) for size in (2, 3)]
    pose_2d, pose_3d = map(torch.from_numpy, arrays) if tensors else arrays
    return Windows(pose_2d, pose_3d, np.array(["S1"] * 4))


def graph_step(config):
    task, optimiser, average = parts(config)
    return recorded_step(config, task, optimiser, average), task, average


def recorded_step(config, task, optimiser, average):
    state = optimiser.state_dict

    def changed():
        moments = [value for entry in state()["state"].values() for value in entry.values()]
        return [*task.model.parameters(), *average.values.values(), *moments]

    return GraphStep(config, task, optimiser, average, record_operations(changed))


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "muon"])
@pytest.mark.parametrize("tensors", [False, True])
def test_a_replayed_step_is_an_eager_one(optimiser, tensors, tiny):
    """Rates, the average's share and the batch differ at every step: none may be frozen into the graph."""
    changes = CHANGES | {"name": optimiser}
    with fused.attention_by("plain"):
        eager, graph = (
            tiny("lifter", optimiser=changes, training={"compile": how, "steps": 12}) for how in ("none", "graph")
        )
        # Muon's iteration is in bfloat16 and rounds another way for a batch of matrices than for each alone, so both
        # take the batched one, which a test below compares with PyTorch's.
        plain_task, plain_optimiser, plain_average = parts(graph if optimiser == "muon" else eager)
        plain = EagerStep(eager, plain_task, plain_optimiser, plain_average)
        captured, task, average = graph_step(graph)
        for step in range(FIRST_STEPS + 6):
            expected, found = plain(step, batch(step)), captured(step, batch(step, tensors))
            torch.testing.assert_close(found, expected, rtol=2e-4, atol=0)
    tolerance = {"rtol": 1e-4, "atol": 1e-6}
    for name, value in plain_task.model.named_parameters():
        # A softmax does not see what all of its scores share: a key's bias has no gradient but rounding, which Adam
        # makes steps of. Keys are rows 3 c + 1.
        seen = np.arange(len(value)) % 3 != 1 if name.endswith("qkv.bias") else slice(None)
        torch.testing.assert_close(task.model.get_parameter(name)[seen], value[seen], **tolerance)
        torch.testing.assert_close(average.values[name][seen], plain_average.values[name][seen], **tolerance)
    assert average.updates == plain_average.updates == FIRST_STEPS + 6


def scenes(step):
    generator = torch.Generator().manual_seed(step)
    keypoints = torch.cat(
        [torch.rand(4, 9, 17, 2, generator=generator) * 1000, torch.rand(4, 9, 17, 1, generator=generator)], dim=-1
    )
    camera = torch.tensor([1000.0, 1000.0, 1200.0]).expand(4, 3) * (1 + 0.2 * torch.rand(4, 1, generator=generator))
    return SceneBatch(keypoints, camera, 0.3 * torch.randn(4, 9, 17, 3, generator=generator))


def test_a_replayed_step_on_scenes_is_an_eager_one(tiny):
    losses = {}
    with fused.attention_by("plain"):
        for how in ("none", "graph"):
            config = tiny(
                "lifter",
                model={"input": "rays"},
                optimiser=CHANGES,
                training={"compile": how, "steps": FIRST_STEPS + 4},
            )
            torch.manual_seed(1)
            task = RayLifterTask(config, build_model(dataclasses.asdict(config)), None)
            optimiser = build_optimiser(task.model, config.optimiser, how == "graph")
            average = MovingAverage(task.model, 0.99)
            step = (
                EagerStep(config, task, optimiser, average)
                if how == "none"
                else recorded_step(config, task, optimiser, average)
            )
            losses[how] = torch.stack([step(number, scenes(number)).clone() for number in range(FIRST_STEPS + 4)])
    torch.testing.assert_close(losses["graph"], losses["none"], rtol=2e-4, atol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_loss_on_scenes_takes_nothing_from_the_host(precision, tiny):
    """A captured step must not copy a constant of the host: with the network elsewhere no tensor is of the CPU."""
    config = tiny("lifter", model={"input": "rays"})
    task = RayLifterTask(config, build_model(dataclasses.asdict(config)).to("meta"), None)
    inputs = [value.to("meta") for value in task.prepare(scenes(0), 0)]
    seen = []

    class Places(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.extend(value.device.type for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor))
            return func(*args, **(kwargs or {}))

    with fused.attention_by("plain"), Places(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        task.loss_of(*inputs).backward()
    assert set(seen) == {"meta"}


def test_a_step_that_reads_a_value_back_cannot_be_recorded(tiny, monkeypatch):
    step, task, _ = graph_step(tiny("lifter", training={"compile": "graph"}))
    monkeypatch.setattr(step._task, "loss_of", lambda *inputs: task.model(inputs[0]).sum() * float(inputs[1].sum()))
    with fused.attention_by("plain"):
        for number in range(FIRST_STEPS):
            step(number, batch(number))
        with pytest.raises(HostRead):
            step(FIRST_STEPS, batch(FIRST_STEPS))


def test_a_graph_takes_one_shape(tiny):
    step, _, _ = graph_step(tiny("lifter", training={"compile": "graph"}))
    step(0, batch(0))
    small = batch(1)
    with pytest.raises(ConfigError, match=r"\(2, 9, 17, 2\).*\(4, 9, 17, 2\)"):
        step(1, Windows(small.pose_2d[:2], small.pose_3d[:2], small.subjects[:2]))


def test_muon_moves_matrices_together_as_one_by_one():
    generator = torch.Generator().manual_seed(3)
    shapes = [(48, 16), (16, 16), (48, 16), (16, 64)]
    first = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    second = [torch.nn.Parameter(value.detach().clone()) for value in first]
    batched = BatchedMuon([{"params": first}], torch.tensor(0.02), 0.1)
    single = torch.optim.Muon(second, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for here, there in zip(first, second, strict=True):
            here.grad = torch.randn(here.shape, generator=generator)
            there.grad = here.grad.clone()
        batched.step()
        single.step()
    for here, there in zip(first, second, strict=True):
        difference, moved = (here - there).norm(), 3 * 0.02 * 0.2 * max(here.shape) ** 0.5 * min(here.shape) ** 0.5
        assert difference < 0.02 * moved  # bfloat16 has 8 bits
        torch.testing.assert_close(
            batched.state[here]["momentum_buffer"], single.state[there]["momentum_buffer"], rtol=0, atol=1e-6
        )


def test_what_muon_makes_is_nearly_orthogonal():
    singular = torch.linalg.svdvals(orthogonal(torch.randn(5, 40, 24, generator=torch.Generator().manual_seed(0))))
    assert singular.shape == (5, 24) and singular.min() > 0.5 and singular.max() < 1.3


@pytest.mark.parametrize("how", ["graph", "compile-graph"])
def test_graphs_on_a_cpu_are_refused(how, people, tiny, tmp_path):
    with pytest.raises(ConfigError, match=rf'"{how}" records CUDA graphs, and training.device is "cpu"'):
        train_lifter(tiny("lifter", training={"compile": how}), people, tmp_path, quiet=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named(people, tiny, tmp_path):
    with pytest.raises(MissingComponentError, match="sees no CUDA device"):
        train_lifter(tiny("lifter", training={"device": "cuda"}), people, tmp_path, quiet=True)


def test_a_loss_made_on_the_host_cannot_be_captured(tiny):
    config = tiny("refiner", training={"compile": "graph"})
    task, optimiser, average = parts(tiny("lifter"))

    class Drawing:
        model = task.model

    with pytest.raises(ConfigError, match="loss of a Drawing, which draws on the host"):
        GraphStep(config, Drawing(), optimiser, average)


def test_the_network_is_compiled_where_it_is_asked_for(tiny, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    for how in ("none", "compile"):
        config = tiny("lifter", training={"compile": how})
        task, optimiser, average = parts(config)
        assert isinstance(build_step(config, task, optimiser, average), EagerStep)
        assert compiled == ([task.model] if how == "compile" else [])


def test_a_run_in_pieces_ends_as_an_unbroken_one(people, tiny, tmp_path):
    """No time is left after the first step of each piece."""
    config = tiny("lifter", training={"steps": 5, "validate_every": 2})
    whole = load_checkpoint(train_lifter(config, people, tmp_path / "whole", quiet=True).parent / LAST_FILE)
    for piece in range(5):
        train_lifter(config, people, tmp_path / "pieces", quiet=True, minutes=1e-9)
        last = load_checkpoint(tmp_path / "pieces" / LAST_FILE)
        assert last.config["metrics"]["step"] == piece + 1
    for name, value in whole.tensors.items():
        torch.testing.assert_close(last.tensors[name], value, rtol=0, atol=0)


def test_a_schedule_ends_with_the_time_of_a_run(people, tiny, tmp_path, monkeypatch):
    """A clock that moves a second whenever somebody looks at it, and a run of far more steps than it has time for."""
    clock, rates = itertools.count(), []
    for module in (loop, schedule):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(steps, "set_rate", lambda optimiser, rate: rates.append(rate))
    optimiser = {"rate": 1.0, "schedule": "cosine", "warmup": 0}
    config = tiny("lifter", optimiser=optimiser, training={"steps": 10_000, "validate_every": 10_000})
    train_lifter(config, people, tmp_path / "run", quiet=True, minutes=1.5, finish=True)
    first = [learning_rate(step, 10_000, config.optimiser) for step in range(SETTLING_STEPS)]
    assert rates[:SETTLING_STEPS] == first and (tmp_path / "run" / BEGUN_FILE).exists()
    # Cosine: evenly spread over the time, half of the rates are above the middle.
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.02
    assert 0.4 < rates[SETTLING_STEPS + (len(rates) - SETTLING_STEPS) // 2] < 0.6
    assert load_checkpoint(tmp_path / "run" / LAST_FILE).config["metrics"]["rate_followed_clock"]
    # What such a run has become stays so, by its state as by its weights alone.
    train_lifter(config, people, tmp_path / "run", quiet=True, minutes=1e-9)
    last = tmp_path / "run" / LAST_FILE
    assert load_checkpoint(last).config["metrics"]["rate_followed_clock"] and rates[-1] > 0.99
    restart_from_weights(last, tmp_path / "next")
    train_lifter(config, people, tmp_path / "next", quiet=True, minutes=1e-9)
    assert load_checkpoint(tmp_path / "next" / LAST_FILE).config["metrics"]["rate_followed_clock"]


def test_a_run_of_steps_says_nothing_of_a_clock(people, tiny, tmp_path):
    best = train_lifter(tiny("lifter"), people, tmp_path, quiet=True, minutes=60.0)
    assert "rate_followed_clock" not in load_checkpoint(best).config["metrics"]


def test_a_run_goes_on_another_way(people, tiny, tmp_path, monkeypatch):
    """Device and compilation are no part of what a run is; its batch is."""
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    train_lifter(tiny("lifter"), people, tmp_path, quiet=True, minutes=1e-9)
    train_lifter(tiny("lifter", training={"compile": "compile"}), people, tmp_path, quiet=True)
    assert load_checkpoint(tmp_path / LAST_FILE).config["metrics"]["step"] == 6
    with pytest.raises(TrainingError, match="another configuration"):
        train_lifter(tiny("lifter", training={"batch": 5}), people, tmp_path, quiet=True)


def test_a_loss_that_is_not_finite_is_seen_between_validations(people, tiny, tmp_path, monkeypatch):
    draws = WindowSampler.batch

    def spoil(self, step):
        windows = draws(self, step)
        return dataclasses.replace(windows, pose_3d=np.full_like(windows.pose_3d, np.inf)) if step == 3 else windows

    monkeypatch.setattr(WindowSampler, "batch", spoil)
    config = tiny("lifter", training={"steps": 4 * CHECK_EVERY, "validate_every": 4 * CHECK_EVERY})
    with pytest.raises(TrainingError, match=rf"between steps 0 and {CHECK_EVERY}\b"):
        train_lifter(config, people, tmp_path, quiet=True)


def test_arrays_and_tensors_come_to_the_device():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for value in (array, torch.from_numpy(array)):
        found = on_device(value, torch.device("cpu"))
        assert isinstance(found, torch.Tensor) and torch.equal(found, torch.from_numpy(array))
