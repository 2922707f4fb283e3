"""A step on parts through a process group of one process, on a CPU and, where there is one, on a CUDA device."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import distributed as dist

from refiner.model_files.build import build_model
from refiner.training.optimiser import build_optimiser
from refiner.training.parts import PartedSampler, PartedStep
from refiner.training.processes import ALONE, Processes
from refiner.training.runs import prepare_lifter
from refiner.training.scene_tasks import RayLifterTask
from refiner.training.schedule import MovingAverage

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def group(request):
    """The device, and this process as the only one of a group: Gloo, with NCCL for CUDA tensors where there are any."""
    device = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    yield device, Processes(0, 1, 0, dist.new_group(backend="gloo"))
    dist.destroy_process_group()


def test_a_group_of_one_process_trains_as_none(group, people, tiny):
    """Dropout, clipping, and gradients that are exchanged only after the last of three parts."""
    device, processes = group
    name = "cpu" if device == "cpu" else "cuda:0"
    model = {"input": "rays", "drop_path": 0.3, "dropout": 0.1}
    training = {"batch": 6, "parts": 3, "device": name, "precision": "bfloat16" if device == "cuda" else "float32"}
    optimiser = {"name": "muon", "rate": 1e-3, "clip_norm": 0.1}
    config = tiny("lifter", model=model, scene={"synthetic": 0.0}, training=training, optimiser=optimiser)
    sampler = prepare_lifter(config, people).sampler
    ends = []
    for members in (processes, ALONE):
        torch.manual_seed(1)
        task = RayLifterTask(config, build_model(dataclasses.asdict(config)).to(name), None)
        average = MovingAverage(task.model, 0.9)
        step = PartedStep(config, task, build_optimiser(task.model, config.optimiser), average, members)
        source = PartedSampler(sampler, 3, members)
        task.model.train()
        losses = [float(step(number, source.batch(number))) for number in range(4)]
        ends.append((losses, average.values))
    (losses, values), (expected_losses, expected) = ends
    assert losses == pytest.approx(expected_losses, rel=1e-5) and len(set(losses)) == 4
    for key, value in expected.items():
        torch.testing.assert_close(values[key], value, rtol=1e-5, atol=1e-6)


def test_values_of_a_group(group):
    _, processes = group
    assert processes.of_first({"here": 1}) == {"here": 1}
    assert processes.number_of_first(0.25) == 0.25
    assert processes.gathered("mine") == ["mine"]
    assert processes.total(2.5) == 2.5
    assert float(processes.mean(torch.tensor(1.5))) == 1.5
    processes.wait()
    processes.check_alike([1, 2], "anything")
