"""Random numbers for a batch. They depend only on (seed, step), and are drawn on the device of the batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def seed_of_draws(seed: int, step: int) -> int:
    """The seed of a step's generator."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


class Draws:
    """Random tensors of one training step.

    A step gives the same numbers whatever steps ran before, so that a resumed run sees the same data. A CPU and a GPU
    give different numbers.
    """

    def __init__(self, seed: int, step: int, device: torch.device) -> None:
        self.device = device
        self._generator = torch.Generator(device)
        self._generator.manual_seed(seed_of_draws(seed, step))

    @classmethod
    def of(cls, generator: torch.Generator) -> Draws:
        """Draws from a generator that the caller has seeded with `seed_of_draws`."""
        draws = cls.__new__(cls)
        draws.device, draws._generator = generator.device, generator
        return draws

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self._generator, device=self.device)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers from ``low`` to ``high``."""
        return torch.rand(shape, generator=self._generator, device=self.device) * (high - low) + low

    def log_uniform(self, *shape: int, low: float, high: float) -> Tensor:
        """Numbers whose logarithm is uniform."""
        return self.uniform(*shape, low=float(np.log(low)), high=float(np.log(high))).exp()

    def chance(self, probability: float, *shape: int) -> Tensor:
        """Booleans that are true with a probability."""
        return torch.rand(shape, generator=self._generator, device=self.device) < probability

    def choice(self, cumulative: Tensor, number: int) -> Tensor:
        """Draw ``number`` indices; ``cumulative`` is the running sum of their probabilities (its last entry is 1)."""
        drawn = torch.rand(number, generator=self._generator, device=self.device, dtype=torch.float64)
        return torch.searchsorted(cumulative, drawn).clamp(max=len(cumulative) - 1)

    def episodes(self, share: Tensor, length: float, *shape: int) -> Tensor:
        """Draw episodes, stretches of consecutive frames (the last axis of ``shape``).

        There is no loop over frames: one uniform number per frame starts an episode, ends it, or leaves the state as it
        is, as in `refiner.data.detector.DetectorModel`.

        Args:
            share: the probability that a frame lies in an episode; broadcasts to ``shape``.
            length: mean length of an episode in frames.
            shape: the shape of the result.

        Returns:
            Whether each frame lies in an episode, bool.
        """
        stop = 1.0 / length
        start = (share * stop / (1.0 - share).clamp(min=1e-3)).clamp(max=1.0 - stop)
        drawn = torch.rand(shape, generator=self._generator, device=self.device)
        sets, clears = drawn < start, drawn >= 1.0 - stop
        first = drawn[..., :1] < share
        sets = torch.cat([first, sets[..., 1:]], dim=-1)
        clears = torch.cat([~first, clears[..., 1:]], dim=-1)
        frames = torch.arange(shape[-1], device=self.device)
        decided = torch.where(sets | clears, frames, torch.zeros_like(frames)).cummax(dim=-1).values
        return sets.gather(-1, decided)
