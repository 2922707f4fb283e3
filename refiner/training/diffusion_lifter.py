"""Training of D3DP and FinePOSE: predict the clean pose from a noisy one at a random timestep (x0 loss)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from refiner.models import D3DP, FinePOSE
from refiner.models.lifters import as_lifter
from refiner.training.config import Config
from refiner.training.losses import lifter_loss
from refiner.training.tasks import ValidationWindows, lift_windows
from refiner.training.windows import Windows


class DiffusionLifterTask:
    """Trains a diffusion lifter to predict the clean pose, and validates it with the sampler that will run.

    FinePOSE gets the actions of the windows as input; for a share of the windows the action is given as unknown. Its
    classifier learns at the same time to guess the actions. The classifier's loss does not affect the other weights.
    """

    def __init__(self, config: Config, model: D3DP, validation: ValidationWindows) -> None:
        self.config, self.model, self.validation = config, model, validation
        self.device = torch.device(config.training.device)

    def counted(self, windows: Windows) -> int:
        """The windows whose action the classifier learns (`refiner.training.parts.CountedTask`)."""
        if not isinstance(self.model, FinePOSE) or self.model.classifier is None or not self.model.actions:
            return 0
        assert windows.actions is not None
        return int((label_numbers(self.model.actions, windows.actions) < len(self.model.actions)).sum())

    def loss(self, windows: Windows, step: int, counted: float | None = None) -> Tensor:
        """The loss of a batch.

        The classifier's loss is the sum over the windows with a known action, divided by ``counted``; by default by
        their number.
        """
        rng = np.random.default_rng([self.config.training.seed, step, 2])
        timesteps = torch.from_numpy(rng.integers(0, self.model.timesteps, len(windows.pose_3d))).to(self.device)
        drawn = rng.standard_normal(windows.pose_3d.shape, dtype=np.float32)
        noise, target, inputs_2d = (
            torch.from_numpy(array).to(self.device) for array in (drawn, windows.pose_3d, windows.pose_2d)
        )
        noisy = self.model.diffuse(target, timesteps, noise)
        action, extra = self._action_inputs(windows, inputs_2d, rng, counted)
        pose = self.model(noisy, inputs_2d, timesteps, *action).float()
        loss = lifter_loss(pose, target, self.config.loss, self.config.model.root)
        return loss if extra is None else loss + extra

    def _action_inputs(
        self, windows: Windows, inputs_2d: Tensor, rng: np.random.Generator, counted: float | None
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """FinePOSE's action inputs, and the classifier's loss if there is a classifier."""
        if not isinstance(self.model, FinePOSE) or not self.model.actions:
            return (), None
        assert windows.actions is not None
        numbers = label_numbers(self.model.actions, windows.actions)
        hidden = rng.random(len(numbers)) < self.config.text.unknown
        numbers_in = torch.from_numpy(np.where(hidden, len(self.model.actions), numbers)).to(self.device)
        known = torch.from_numpy(np.flatnonzero(numbers < len(self.model.actions))).to(self.device)
        # A part of a batch without a known action takes part in the classifier's loss with a gradient of 0.
        if self.model.classifier is None or (counted is None and not len(known)):
            return (numbers_in,), None
        labels = torch.from_numpy(numbers).to(self.device)
        guesses = self.model.classifier(inputs_2d[known]).float()
        if counted is None:
            return (numbers_in,), functional.cross_entropy(guesses, labels[known])
        summed = functional.cross_entropy(guesses, labels[known], reduction="sum")
        return (numbers_in,), summed / (counted or 1.0)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """MPJPE of the sampled poses. For FinePOSE also the MPJPE with the true and with unknown actions, and the
        share of correct guesses."""
        lifter = as_lifter(model, dataclasses.asdict(self.config))
        inputs_2d, labels = self.validation.pose_2d, self.validation.actions
        metrics = {"mpjpe_mm": self._scored(lift_windows(lifter, inputs_2d, root=self.config.model.root))}
        actions: tuple[str, ...] = getattr(model, "actions", ())
        if not actions or labels is None:
            return metrics
        numbers = label_numbers(actions, labels)
        for name, known_numbers in (("label", numbers), ("unknown", np.full_like(numbers, len(actions)))):
            metrics[f"{name}_mpjpe_mm"] = self._scored(
                lift_windows(lifter, inputs_2d, actions=known_numbers, root=self.config.model.root)
            )
        if isinstance(model, FinePOSE) and model.classifier is not None:
            with torch.no_grad():
                guessed = model.classifier(torch.from_numpy(inputs_2d).to(self.device)).argmax(dim=-1).cpu().numpy()
            known = numbers < len(actions)
            metrics["guessed_right"] = float((guessed == numbers)[known].mean()) if known.any() else float("nan")
        return metrics

    def _scored(self, pose_3d: NDArray[np.float32]) -> float:
        return self.validation.mpjpe_mm(pose_3d)

    def extra_tensors(self) -> dict[str, Tensor]:
        return {}


def label_numbers(actions: tuple[str, ...], labels: NDArray[np.str_]) -> NDArray[np.int64]:
    """Convert names of actions to action numbers. An action without a prompt of its own counts as unknown."""
    number_of = {action: number for number, action in enumerate(actions)}
    return np.array([number_of.get(str(label), len(actions)) for label in labels], dtype=np.int64)
