"""A diffusion lifter in NumPy around its network: see `refiner.models.d3dp.SampledLifter`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.clean_pose import CleanStep, clean_pose_schedule, draw_noises, sample_clean_pose
from refiner.diffusion.schedule import cosine_schedule
from refiner.errors import CheckpointError, ConfigError
from refiner.skeleton import flip_pose

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sampling:
    """How a diffusion lifter is sampled.

    Attributes:
        schedule: the K steps.
        noises: standard normal numbers ``(K, H, T, J, 3)``, the same for every window.
        limit: the largest coordinate of a pose, in metres.
        flip: whether every prediction is averaged with that for the mirrored poses.
    """

    schedule: tuple[CleanStep, ...]
    noises: Array
    limit: float
    flip: bool

    @classmethod
    def of_config(cls, config: Mapping[str, Any], frames: int, steps: int | None, where: str) -> Sampling:
        """Read the section ``sampling``; ``steps`` replaces its K.

        Raises:
            CheckpointError: the section is incomplete.
            ConfigError: its values do not go together.
        """
        try:
            section = config["sampling"]
            count = int(section["steps"] if steps is None else steps)
            hypotheses, seed, eta = int(section["hypotheses"]), int(section["seed"]), float(section["eta"])
            limit, flip = float(section["limit"]), bool(section["flip"])
            alphas = cosine_schedule(section["timesteps"], section["offset"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: its configuration does not describe a sampler: {error!r}") from error
        if hypotheses < 1:
            raise ConfigError(f"at least one hypothesis is needed, got {hypotheses}")
        schedule = clean_pose_schedule(count, alphas, eta)
        return cls(schedule, draw_noises(count, hypotheses, frames, seed=seed), limit, flip)

    @property
    def poses_per_window(self) -> int:
        """How many poses the network processes for each window."""
        hypotheses: int = self.noises.shape[1]
        return hypotheses * (2 if self.flip else 1)

    def hypotheses(self, seen: Array, network: Callable[[int, Array], Array]) -> Array:
        """All hypotheses of a batch.

        Args:
            seen: image coordinates, ``(B, T, J, 2)``.
            network: called with the number of a step and ``(N, T, J, 5)``, image coordinates and noisy poses; returns
                the clean poses ``(N, T, J, 3)``.

        Returns:
            ``(B, H, T, J, 3)`` metres.
        """
        numbers = {step.time: number for number, step in enumerate(self.schedule)}
        both = np.concatenate([seen, flip_pose(seen)]) if self.flip else seen

        def predict(noisy: Array, time: int) -> Array:
            poses = np.concatenate([noisy, flip_pose(noisy)]) if self.flip else noisy
            pixels = np.broadcast_to(both[:, None], (*poses.shape[:-1], 2))
            features = np.concatenate([pixels, poses], axis=-1)
            clean = network(numbers[time], features.reshape(-1, *features.shape[2:])).reshape(poses.shape)
            if not self.flip:
                return clean
            straight, mirrored = clean[: len(noisy)], clean[len(noisy) :]
            return np.asarray(0.5 * (straight + flip_pose(mirrored)), np.float32)

        drawn = [np.broadcast_to(noise, (len(seen), *noise.shape)) for noise in self.noises]
        # The coefficients are Python's numbers, so that the result stays in float32.
        return np.asarray(sample_clean_pose(predict, drawn, self.schedule, self.limit), np.float32)
