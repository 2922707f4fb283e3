"""Learning rates and the moving average of the weights."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn

from refiner.training.config import OptimiserConfig

FINAL_SHARE = 0.01


def learning_rate(step: int, steps: int, config: OptimiserConfig, gone: float = 0.0) -> float:
    """The learning rate of a step.

    The schedule follows the steps or the time, whichever is further, so that it ends with either of them. The warm-up
    follows only the steps.

    Args:
        step: the number of the step, from 0.
        steps: the length of the run.
        config: the schedule.
        gone: the share of the run's time that is over, see `TimeBox.gone`.
    """
    rate = config.rate * min(1.0, (step + 1) / config.warmup) if config.warmup else config.rate
    position = max(float(step), steps * gone)
    if config.schedule == "exponential":
        return rate * config.decay ** int(position // config.epoch_steps)
    return rate * (FINAL_SHARE + (1.0 - FINAL_SHARE) * 0.5 * (1.0 + math.cos(math.pi * position / max(steps, 1))))


def share_gone(now: float, began: float, until: float) -> float:
    """The share of the time from ``began`` to ``until`` that is over; 1 if that time is empty."""
    return min(1.0, max(0.0, now - began) / (until - began)) if until > began else 1.0


class TimeBox:
    """Limits the time of a run; the time counts from the construction of the object.

    Args:
        minutes: the time of the run; None for no limit.
        finish: let the schedule of the rate follow the clock where the clock is further than the steps, so that it ends
            when the time is over. Such a run cannot be repeated step by step.
    """

    def __init__(self, minutes: float | None = None, finish: bool = False) -> None:
        self._until = math.inf if minutes is None else time.perf_counter() + 60.0 * minutes
        self._began = math.inf
        self.finish = finish and minutes is not None

    @property
    def limited(self) -> bool:
        """Whether the run has a limit at all."""
        return self._until < math.inf

    def begin(self) -> None:
        """Start the clock of the schedule. Compilation comes before, so that it does not use up the schedule."""
        self._began = time.perf_counter()

    def gone(self) -> float:
        """The share of the time that is over, for the schedule; 0 before `begin` and without ``finish``."""
        started = self.finish and self._began < math.inf
        return share_gone(time.perf_counter(), self._began, self._until) if started else 0.0

    def over(self) -> bool:
        """Whether the run must stop."""
        return time.perf_counter() >= self._until


class MovingAverage:
    """Exponential moving average of a model's parameters. Runs validate and store this average.

    At first the average follows faster, with the decay min(decay, (1 + n) / (10 + n)), so that it forgets the initial
    weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average after a training step."""
        averages = list(self.values.values())
        torch._foreach_lerp_(averages, [value.detach() for value in model.parameters()], self.next_share())

    def next_share(self) -> float:
        """Count a training step, and return the share of its weights in the average."""
        self.updates += 1
        return 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def blend(self, model: nn.Module, share: Tensor) -> None:
        """`update` with the share in a tensor on the device, so that the host reads nothing."""
        averages = list(self.values.values())
        difference = torch._foreach_sub([value.detach() for value in model.parameters()], averages)
        torch._foreach_mul_(difference, share)
        torch._foreach_add_(averages, difference)

    def state(self) -> dict[str, Tensor]:
        """The averaged parameters by name."""
        return dict(self.values)
