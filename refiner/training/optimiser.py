"""Optimisers by name: Adam, AdamW, and Muon for the weight matrices with AdamW for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from refiner.training.config import OptimiserConfig
from refiner.training.muon import BatchedMuon

# Below this many rows or columns a layer maps coordinates, not features (5 -> C, C -> 3): AdamW's.
LEAST_SIDE = 16


def build_optimiser(
    model: nn.Module, config: OptimiserConfig, capturable: bool = False
) -> torch.optim.Optimizer | MuonWithAdamW:
    """The optimiser of all parameters; `set_rate` gives it its rate at each step.

    ``capturable``: with rates in tensors on the model's device, so that a CUDA graph can hold the step; the state is
    the same either way.
    """
    if config.name == "muon":
        return MuonWithAdamW(model, config, capturable)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(
        model.parameters(),
        lr=_rate_of(config.rate, model, capturable),
        weight_decay=config.weight_decay,
        amsgrad=config.amsgrad,
        fused=True,
        capturable=capturable,
    )


def set_rate(optimiser: torch.optim.Optimizer | MuonWithAdamW, rate: float) -> None:
    """Every parameter's rate; the matrices' of `MuonWithAdamW` in proportion. Rates in tensors are filled in place."""
    for group in optimiser.param_groups:
        own = rate * group.get("share_of_rate", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def _rate_of(rate: float, model: nn.Module, capturable: bool) -> float | Tensor:
    return torch.tensor(rate, device=next(model.parameters()).device) if capturable else rate


class MuonWithAdamW:
    """Muon (Jordan et al., 2024) for the weights of linear layers between features, AdamW for everything else.

    Muon turns the momentum of a weight matrix into the nearest orthogonal one, so that all of its directions move
    alike; an update is scaled as AdamW's would be (Liu et al., arXiv 2502.16982, "match RMS"). 1,500 steps of the small
    lifter ended at 94 mm on the validation person; in a run of 18,000 steps AdamW needed more than 3,000 for that.

    It takes the part of `torch.optim.Optimizer`'s interface that the training loop uses; parameters are numbered with
    the matrices first.
    """

    def __init__(self, model: nn.Module, config: OptimiserConfig, capturable: bool = False) -> None:
        matrices = [
            module.weight
            for module in model.modules()
            if isinstance(module, nn.Linear) and min(module.weight.shape) >= LEAST_SIDE
        ]
        taken = {id(matrix) for matrix in matrices}
        others = [value for value in model.parameters() if id(value) not in taken]
        groups = [{"params": matrices, "share_of_rate": config.matrix_rate / config.rate}]
        matrix_rate, rate = (_rate_of(rate, model, capturable) for rate in (config.matrix_rate, config.rate))
        self._muon: torch.optim.Optimizer
        if isinstance(matrix_rate, Tensor):
            self._muon = BatchedMuon(groups, matrix_rate, config.weight_decay)
        else:
            self._muon = torch.optim.Muon(
                groups, lr=matrix_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        self._adamw = torch.optim.AdamW(
            others, lr=rate, weight_decay=config.weight_decay, fused=True, capturable=capturable
        )
        self._matrices = len(matrices)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of both, to be changed in place."""
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._muon.zero_grad(set_to_none)
        self._adamw.zero_grad(set_to_none)

    def step(self) -> None:
        self._muon.step()
        self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        matrices, others = self._muon.state_dict(), self._adamw.state_dict()
        shifted = {self._matrices + index: state for index, state in others["state"].items()}
        return {
            "state": {**matrices["state"], **shifted},
            "param_groups": [*matrices["param_groups"], *others["param_groups"]],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        of_matrix: dict[int, dict[str, Tensor]] = {}
        of_other: dict[int, dict[str, Tensor]] = {}
        for index, entry in state["state"].items():
            if index < self._matrices:
                of_matrix[index] = entry
            else:
                of_other[index - self._matrices] = entry
        muon, adamw = self._muon.state_dict(), self._adamw.state_dict()
        self._muon.load_state_dict({"state": of_matrix, "param_groups": muon["param_groups"]})
        self._adamw.load_state_dict({"state": of_other, "param_groups": adamw["param_groups"]})
