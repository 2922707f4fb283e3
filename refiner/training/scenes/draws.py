"""Random numbers of a batch, from (seed, step) alone, on the device where the batch is made."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def seed_of_draws(seed: int, step: int) -> int:
    """What the generator of a step is seeded with."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


class Draws:
    """Random tensors of one training step.

    A step gives the same numbers whatever came before it, so that a resumed run sees what it would have seen; a CPU and
    a GPU give different ones.
    """

    def __init__(self, seed: int, step: int, device: torch.device) -> None:
        self.device = device
        self._generator = torch.Generator(device)
        self._generator.manual_seed(seed_of_draws(seed, step))

    @classmethod
    def of(cls, generator: torch.Generator) -> Draws:
        """Draws of a generator that somebody has seeded with `seed_of_draws`."""
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
        """True with a probability."""
        return torch.rand(shape, generator=self._generator, device=self.device) < probability

    def choice(self, cumulative: Tensor, number: int) -> Tensor:
        """``number`` places drawn by the probabilities whose running sum is ``cumulative`` (its last entry is 1)."""
        drawn = torch.rand(number, generator=self._generator, device=self.device, dtype=torch.float64)
        return torch.searchsorted(cumulative, drawn).clamp(max=len(cumulative) - 1)

    def episodes(self, share: Tensor, length: float, *shape: int) -> Tensor:
        """Stretches of frames, the last axis: each frame lies in one with the probability ``share`` (which broadcasts
        to ``shape``), and one lasts ``length`` frames on average. Bool, of ``shape``.

        One uniform number a frame sets the state, clears it or leaves it as it is, as in
        `refiner.data.detector.DetectorModel`: no loop over frames.
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
