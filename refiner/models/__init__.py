"""The networks: PoseDenoiser (D3PRefiner), the lifters, and the layers that they share. Needs PyTorch."""

from __future__ import annotations

from refiner.errors import MissingComponentError

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingComponentError(
        "refiner.models needs PyTorch, which is not installed; run: pip install 'pose-refiner[train]'"
    ) from error

from refiner.models.d3dp import D3DP, SampledLifter
from refiner.models.finepose import FinePOSE, PromptedLifter
from refiner.models.mixste import MixSTE
from refiner.models.pose_denoiser import PoseDenoiser
from refiner.models.published import from_published
from refiner.models.smoothnet import SmoothingModule, SmoothNet
from refiner.models.stcformer import STCFormer
from refiner.models.unrolled import LiftingModule, LiftingRefiner, MirroredPass, UnrolledRefiner

__all__ = [
    "D3DP",
    "FinePOSE",
    "LiftingModule",
    "LiftingRefiner",
    "MirroredPass",
    "MixSTE",
    "PoseDenoiser",
    "PromptedLifter",
    "STCFormer",
    "SampledLifter",
    "SmoothNet",
    "SmoothingModule",
    "UnrolledRefiner",
    "from_published",
]
