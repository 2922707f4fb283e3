"""What D3DP and FinePOSE are trained by: the clean pose, predicted from a noisy one at a random time (x0 loss)."""

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
    """Loss of the prediction of the clean pose; validation by the sampler that will run.

    FinePOSE is told the windows' actions, a share of them as unknown, and its classifier learns to guess them beside:
    what the classifier learns touches nothing else.
    """

    def __init__(self, config: Config, model: D3DP, validation: ValidationWindows) -> None:
        self.config, self.model, self.validation = config, model, validation
        self.device = torch.device(config.training.device)

    def loss(self, windows: Windows, step: int) -> Tensor:
        rng = np.random.default_rng([self.config.training.seed, step, 2])
        timesteps = torch.from_numpy(rng.integers(0, self.model.timesteps, len(windows.pose_3d))).to(self.device)
        drawn = rng.standard_normal(windows.pose_3d.shape, dtype=np.float32)
        noise, target, screen = (
            torch.from_numpy(array).to(self.device) for array in (drawn, windows.pose_3d, windows.pose_2d)
        )
        noisy = self.model.diffuse(target, timesteps, noise)
        given, extra = self._told(windows, screen, rng)
        pose = self.model(noisy, screen, timesteps, *given).float()
        loss = lifter_loss(pose, target, self.config.loss, self.config.model.root)
        return loss if extra is None else loss + extra

    def _told(
        self, windows: Windows, screen: Tensor, rng: np.random.Generator
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """What FinePOSE is told of each window's action, and the loss of guessing it where it learns to."""
        if not isinstance(self.model, FinePOSE) or not self.model.actions:
            return (), None
        assert windows.actions is not None
        numbers = label_numbers(self.model.actions, windows.actions)
        hidden = rng.random(len(numbers)) < self.config.text.unknown
        told = torch.from_numpy(np.where(hidden, len(self.model.actions), numbers)).to(self.device)
        known = torch.from_numpy(np.flatnonzero(numbers < len(self.model.actions))).to(self.device)
        if self.model.classifier is None or not len(known):
            return (told,), None
        labels = torch.from_numpy(numbers).to(self.device)
        return (told,), functional.cross_entropy(self.model.classifier(screen[known]).float(), labels[known])

    def validate(self, model: nn.Module) -> dict[str, float]:
        """MPJPE of the sampled poses; of FinePOSE also with the true actions and with none, and what it guesses."""
        lifter = as_lifter(model, dataclasses.asdict(self.config))
        screen, labels = self.validation.pose_2d, self.validation.actions
        metrics = {"mpjpe_mm": self._scored(lift_windows(lifter, screen, root=self.config.model.root))}
        actions: tuple[str, ...] = getattr(model, "actions", ())
        if not actions or labels is None:
            return metrics
        numbers = label_numbers(actions, labels)
        for name, given in (("label", numbers), ("unknown", np.full_like(numbers, len(actions)))):
            metrics[f"{name}_mpjpe_mm"] = self._scored(
                lift_windows(lifter, screen, actions=given, root=self.config.model.root)
            )
        if isinstance(model, FinePOSE) and model.classifier is not None:
            with torch.no_grad():
                guessed = model.classifier(torch.from_numpy(screen).to(self.device)).argmax(dim=-1).cpu().numpy()
            known = numbers < len(actions)
            metrics["guessed_right"] = float((guessed == numbers)[known].mean()) if known.any() else float("nan")
        return metrics

    def _scored(self, pose_3d: NDArray[np.float32]) -> float:
        return self.validation.mpjpe_mm(pose_3d)

    def extra_tensors(self) -> dict[str, Tensor]:
        return {}


def label_numbers(actions: tuple[str, ...], labels: NDArray[np.str_]) -> NDArray[np.int64]:
    """Names of actions -> their numbers; one that has no prompt of its own is an unknown one."""
    place = {action: number for number, action in enumerate(actions)}
    return np.array([place.get(str(label), len(actions)) for label in labels], dtype=np.int64)
