"""From pixels and metres to metres: the modules that the runtime runs and the export traces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from refiner.camera import normalise_screen
from refiner.diffusion.ddim import ddim_refine, ddim_timesteps
from refiner.diffusion.schedule import cosine_schedule
from refiner.models.pose_denoiser import PoseDenoiser
from refiner.models.stcformer import STCFormer


class UnrolledRefiner(nn.Module):
    """The whole refinement of a window: normalisation, K DDIM steps (eq. 9), the root kept.

    Args:
        denoiser: a trained PoseDenoiser.
        error_scale: what the denoiser's output is multiplied by to give metres, ``(3 J,)`` or ``(1,)``.
        frames: T of the windows that it was trained on.
        config: the checkpoint's; its ``diffusion`` entry names timesteps, steps and terminal.
        steps: K, instead of the checkpoint's.

    The time embeddings of the K steps are computed once here, so the traced graph holds them as constants.
    """

    error_scale: Tensor

    def __init__(
        self,
        denoiser: PoseDenoiser,
        error_scale: Tensor,
        frames: int,
        config: dict[str, Any],
        steps: int | None = None,
    ) -> None:
        super().__init__()
        diffusion = config["diffusion"]
        self.denoiser, self.frames, self.config = denoiser, frames, config
        self.steps = int(diffusion["steps"] if steps is None else steps)
        self.terminal = diffusion["terminal"]
        self.alphas_cumprod = cosine_schedule(diffusion["timesteps"], diffusion["offset"])
        joints = error_scale.numel() // 3
        scale = error_scale.reshape(joints, 3) if joints else error_scale.reshape(1, 1).expand(1, 3)
        self.register_buffer("error_scale", scale.contiguous().float(), persistent=False)
        self.times = ddim_timesteps(self.steps, diffusion["timesteps"])[:-1]
        with torch.no_grad():
            for time in self.times:
                for index, projected in enumerate(denoiser.project_time(torch.tensor([time]))):
                    self.register_buffer(f"time_{time}_{index}", projected.detach().clone(), persistent=False)

    def forward(self, pose_2d: Tensor, pose_3d: Tensor, image_size: Tensor) -> Tensor:
        """``[B, T, J, 2]`` pixels, ``[B, T, J, 3]`` metres, ``[B, 2]`` (width, height) -> refined ``[B, T, J, 3]``."""
        screen = normalise_screen(pose_2d, image_size)
        root = pose_3d[..., :1, :]

        def predict_error(noisy: Tensor, time: int) -> Tensor:
            times = [getattr(self, f"time_{time}_{index}") for index in range(len(self.denoiser.blocks))]
            predicted: Tensor = self.denoiser.denoise(noisy, screen, times) * self.error_scale
            return predicted

        refined = ddim_refine(predict_error, pose_3d - root, self.steps, self.alphas_cumprod, self.terminal)
        # The root of a root-relative pose is 0 by definition: what the network says of it is dropped.
        with_root: Tensor = torch.cat([root, refined[..., 1:, :] + root], dim=-2)
        return with_root


class LiftingModule(nn.Module):
    """A lifter from pixels: ``[B, T, J, 2]`` pixels, ``[B, 2]`` image size -> ``[B, T, J, 3]`` metres, root at 0."""

    def __init__(self, lifter: STCFormer, frames: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.lifter, self.frames, self.config = lifter, frames, config

    def forward(self, pose_2d: Tensor, image_size: Tensor) -> Tensor:
        pose: Tensor = self.lifter(normalise_screen(pose_2d, image_size))
        return pose - pose[..., :1, :]
