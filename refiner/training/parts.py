"""Training steps whose batch has several parts, computed one after another or by several processes.

Part p of step s takes the draws that a run without parts takes in its step s x parts + p: windows, noise and dropout.
So a part depends only on the seed and on that number, and no process draws the part of another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from refiner.training.config import Config
from refiner.training.optimiser import set_rate
from refiner.training.processes import Processes
from refiner.training.schedule import MovingAverage, learning_rate
from refiner.training.steps import Optimiser, autocast, clip_gradients, compile_network, seed_of_step
from refiner.training.tasks import Task
from refiner.training.windows import Sampler

# The number of a part, and its windows.
NumberedPart = tuple[int, Any]


@runtime_checkable
class CountedTask(Protocol):
    """A task with a term of the loss that is a mean over some entries only, whose number differs from part to part."""

    def counted(self, windows: Any) -> int:
        """The number of these entries."""
        ...

    def loss(self, windows: Any, step: int, counted: float | None = None) -> Tensor:
        """The loss; ``counted`` divides the sum over the entries instead of their number in ``windows``."""
        ...


class PartedSampler:
    """Draws the parts of a batch that are this process's, one after another.

    Args:
        sampler: draws a part.
        parts: the number of parts of a batch, a multiple of the number of processes.
        processes: this process and the others.
    """

    def __init__(self, sampler: Sampler, parts: int, processes: Processes) -> None:
        self._sampler, self._parts, self._processes = sampler, parts, processes

    def batch(self, step: int) -> Iterator[NumberedPart]:
        """The parts of one training step."""
        numbers = range(step * self._parts, (step + 1) * self._parts)
        return ((number, self._sampler.batch(number)) for number in numbers if self._processes.takes(number))


class PartedStep:
    """Takes a step on the parts of this process; the gradients are averaged over all parts of all processes.

    Args:
        config: the configuration of the run; ``training.parts`` is a multiple of the number of processes.
        task: the loss.
        optimiser: the optimiser of its model.
        average: the moving average of its model.
        processes: this process and the others.
    """

    def __init__(
        self, config: Config, task: Task, optimiser: Optimiser, average: MovingAverage, processes: Processes
    ) -> None:
        self._config, self._task, self._optimiser, self._average = config, task, optimiser, average
        self._processes, self._own = processes, config.training.parts // processes.size
        compile_network(config, task)
        self._loss: nn.Module = _LossOfPart(task)
        if processes.group is not None:
            device = torch.device(config.training.device)
            devices = [device] if device.type == "cuda" else None
            self._loss = DistributedDataParallel(self._loss, device_ids=devices)

    def __call__(self, step: int, windows: Iterator[NumberedPart], gone: float = 0.0) -> Tensor:
        """Train on the parts of a batch, and return the mean loss of the parts of this process."""
        config = self._config
        set_rate(self._optimiser, learning_rate(step, config.training.steps, config.optimiser, gone))
        self._optimiser.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        for number, part, counted in self._with_counts(windows):
            seed_of_step(config, number)
            # The processes exchange gradients once, after their last part.
            with self._without_exchange(len(losses) + 1 < self._own):
                with autocast(config):
                    loss = self._loss(part, number, *counted) / self._own
                loss.backward()
            losses.append(loss.detach())
        clip_gradients(config, self._task.model)
        self._optimiser.step()
        self._average.update(self._task.model)
        return torch.stack(losses).sum()

    def _with_counts(self, windows: Iterator[NumberedPart]) -> Iterator[tuple[int, Any, tuple[float, ...]]]:
        """The parts; for a `CountedTask` with the mean number of counted entries of a part, over all processes."""
        task = self._task
        if not isinstance(task, CountedTask):
            yield from ((number, part, ()) for number, part in windows)
            return
        parts = list(windows)
        total = self._processes.total(sum(task.counted(part) for _, part in parts))
        yield from ((number, part, (total / self._config.training.parts,)) for number, part in parts)

    def _without_exchange(self, wanted: bool) -> Any:
        return self._loss.no_sync() if wanted and isinstance(self._loss, DistributedDataParallel) else nullcontext()


class _LossOfPart(nn.Module):
    """The loss of a part as a module, so that one call of it holds every call of the network."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        # The parameters without the buffers, which never change and need no exchange.
        self.trained = nn.ParameterList(task.model.parameters())
        self._task = task

    def forward(self, windows: Any, number: int, *counted: float) -> Tensor:
        return self._task.loss(windows, number, *counted)
