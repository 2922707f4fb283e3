"""The networks: PoseDenoiser (D3PRefiner) and the lifters, over the layers that they share. Needs PyTorch."""

from __future__ import annotations

from refiner.errors import MissingComponentError

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingComponentError(
        "refiner.models needs PyTorch, which is not installed; run: pip install 'refiner[train]'"
    ) from error

from refiner.models.pose_denoiser import PoseDenoiser
from refiner.models.stcformer import STCFormer
from refiner.models.unrolled import LiftingModule, LiftingRefiner, MirroredPass, UnrolledRefiner

__all__ = ["LiftingModule", "LiftingRefiner", "MirroredPass", "PoseDenoiser", "STCFormer", "UnrolledRefiner"]
