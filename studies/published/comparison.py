"""One comparison: what the authors' code gives, what ours gives, and whether the two agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# All comparisons run in float64. A part of the authors' code rounds to float32 on its way; 1e-6 of the largest value is
# eight times the rounding of float32.
TOLERANCE = 1e-6
# How weights are drawn: large enough for every part of a network to show in its output.
WEIGHT_SPREAD = 0.08


@dataclass(frozen=True)
class Comparison:
    """The result of one comparison.

    Attributes:
        group: The repository.
        name: What was compared, with its sizes.
        largest: The largest absolute value of the authors' result.
        difference: The largest absolute difference from it.
        agrees: Whether the difference is at most `TOLERANCE` of the largest value.
        finding: Why the two differ, where they do so on purpose. Empty for all others.
    """

    group: str
    name: str
    largest: float
    difference: float
    agrees: bool
    finding: str = ""

    @property
    def expected(self) -> bool:
        """Whether the comparison came out as it should: a difference where there is a finding, agreement elsewhere."""
        return self.agrees != bool(self.finding)

    def row(self) -> dict[str, Any]:
        """The comparison as an entry of a report."""
        return asdict(self)


def compare(group: str, name: str, theirs: Any, ours: Any, finding: str = "") -> Comparison:
    """Compare two results of the same shape: tensors, or what NumPy takes for an array."""
    expected, found = _array(theirs), _array(ours)
    if expected.shape != found.shape:
        raise ValueError(f"{group}, {name}: the authors' result has shape {expected.shape}, ours {found.shape}")
    largest = float(np.abs(expected).max(initial=0.0))
    difference = float(np.abs(expected - found).max(initial=0.0))
    # NaN in either result is a disagreement.
    agrees = bool(difference <= TOLERANCE * max(largest, 1e-12))
    return Comparison(group, name, largest, difference, agrees, finding)


def _array(value: Any) -> NDArray[np.float64]:
    return np.asarray(value.detach().numpy() if isinstance(value, Tensor) else value, dtype=np.float64)


def random_weights(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Give all weights of a model random float32 values, and return them by name. Both codes read the same values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            drawn = WEIGHT_SPREAD * torch.randn(value.shape, generator=generator)
            is_norm = value.ndim == 1 and name.endswith("weight")
            value.copy_((1.0 + drawn if is_norm else drawn).to(value.dtype))
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def gradients(models: Iterable[nn.Module], outputs: Iterable[Tensor]) -> list[Tensor]:
    """The gradient of the mean square of each output with respect to all weights, in the order of their names."""
    found = []
    for model, output in zip(models, outputs, strict=True):
        model.zero_grad()
        torch.autograd.backward(output.square().mean())
        named = sorted((name, value.grad) for name, value in model.named_parameters() if value.grad is not None)
        found.append(torch.cat([gradient.flatten() for _, gradient in named if gradient is not None]))
    return found
