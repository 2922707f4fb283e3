"""Learning rates and the moving average of the weights."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn

from refiner.training.config import OptimiserConfig

FINAL_SHARE = 0.01


def learning_rate(step: int, steps: int, config: OptimiserConfig, gone: float = 0.0) -> float:
    """The rate of one step of ``steps``, where the share ``gone`` of the time for all of them is over.

    The schedule follows what is further, the steps or the time, so that it has come to its end with either. Warm-up
    follows the steps alone.
    """
    rate = config.rate * min(1.0, (step + 1) / config.warmup) if config.warmup else config.rate
    place = max(float(step), steps * gone)
    if config.schedule == "exponential":
        return rate * config.decay ** int(place // config.epoch_steps)
    return rate * (FINAL_SHARE + (1.0 - FINAL_SHARE) * 0.5 * (1.0 + math.cos(math.pi * place / max(steps, 1))))


def share_gone(now: float, began: float, until: float) -> float:
    """The share of a time box from ``began`` to ``until`` that is over; all of it where there is none."""
    return min(1.0, max(0.0, now - began) / (until - began)) if until > began else 1.0


class TimeBox:
    """When a run stops, counted from here, and how much of its time is gone.

    With ``finish`` the schedule of the rate follows the clock where that is further than the steps, and has come to its
    end when the time is over. Such a run is not the same step by step when it is repeated.
    """

    def __init__(self, minutes: float | None = None, finish: bool = False) -> None:
        self._until = math.inf if minutes is None else time.perf_counter() + 60.0 * minutes
        self._began = math.inf
        self.finish = finish and minutes is not None

    def begin(self) -> None:
        """Start the clock of the schedule: compilation does not use it up."""
        self._began = time.perf_counter()

    def gone(self) -> float:
        """The share of the time that the schedule follows: nothing before the clock has been started."""
        started = self.finish and self._began < math.inf
        return share_gone(time.perf_counter(), self._began, self._until) if started else 0.0

    def over(self) -> bool:
        return time.perf_counter() >= self._until


class MovingAverage:
    """Exponential moving average of a model's parameters, which is what is validated and kept.

    Early on the average follows faster, min(decay, (1 + n) / (10 + n)), so that it forgets the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one training step into the average."""
        averages = list(self.values.values())
        torch._foreach_lerp_(averages, [value.detach() for value in model.parameters()], self.next_share())

    def next_share(self) -> float:
        """Count a training step; the share of its weights in the average."""
        self.updates += 1
        return 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def blend(self, model: nn.Module, share: Tensor) -> None:
        """What `update` does, with the share in a tensor on the device: nothing of it is read on the host."""
        averages = list(self.values.values())
        apart = torch._foreach_sub([value.detach() for value in model.parameters()], averages)
        torch._foreach_mul_(apart, share)
        torch._foreach_add_(averages, apart)

    def state(self) -> dict[str, Tensor]:
        """The averaged parameters by name."""
        return dict(self.values)
