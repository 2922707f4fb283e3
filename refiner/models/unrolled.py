"""From pixels and metres to metres: the modules that the runtime runs and the export traces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.camera import normalise_screen
from refiner.causal_state import RECENT
from refiner.diffusion.ddim import ddim_schedule, run_ddim
from refiner.diffusion.schedule import cosine_schedule
from refiner.errors import ConfigError
from refiner.models.canonical import canonical_pose, place_of, rotation_to, sees_rays, turned, turned_back
from refiner.models.d3dp import SampledLifter
from refiner.models.mirror import Mirror
from refiner.models.pose_denoiser import PoseDenoiser


def without_root(error_scale: Tensor) -> Tensor:
    """``(3 J,)`` -> ``(J, 3)`` float32 with a first row of 0, so that no step moves the root."""
    scale = error_scale.reshape(-1, 3).float().clone()
    scale[0] = 0.0
    return scale


def with_root(relative: Tensor, root: Tensor) -> Tensor:
    """``(..., J, 3)`` root-relative and ``(..., 1, 3)`` -> metres, the root untouched."""
    return torch.cat([root, relative[..., 1:, :] + root], dim=-2)


def trusted(given: Tensor, refined: Tensor, trust: tuple[float, float]) -> Tensor:
    """Between the pose that was given and the refined one, ``(..., J, 3)``, root at 0: the further a frame was moved,
    the more of the movement is kept.

    A pose that the refiner moves a little is about as good as what it makes of it; their errors differ, and the mean of
    both is better than either. One that it moves far was wrong. ``trust``: mean distances of the joints in metres, up
    to which nothing and from which on all of the movement is kept.
    """
    moved = refined - given
    distance = moved[..., 1:, :].square().sum(dim=-1).sqrt().mean(dim=-1)[..., None, None]
    low, high = trust
    share = ((distance - low) * (1.0 / (high - low))).clamp(0.0, 1.0)
    return given + share * moved


class UnrolledRefiner(nn.Module):
    """The whole refinement of a window: normalisation, K DDIM steps (eq. 9), the root kept.

    Args:
        denoiser: a trained PoseDenoiser.
        error_scale: what the denoiser's output is multiplied by to give metres, ``(3 J,)``. The root's is taken as
            0: its error is 0 by definition, and what the network says of it was never trained.
        frames: T of the windows that it was trained on.
        config: the checkpoint's; its ``diffusion`` entry names timesteps, steps and terminal.
        steps: K, instead of the checkpoint's.
        expected_error: eq. 5 as ``(gain (3 J, 5 J), offset (3 J,))``, for a denoiser that starts from the pose less
            its conditional mean; None starts from the lifter's pose.
        trust: how much of the refinement is kept, see `trusted`; None keeps all of it.

    The time embeddings of the K steps are computed once here, so the traced graph holds them as constants.
    """

    error_scale: Tensor
    gain: Tensor
    offset: Tensor

    def __init__(
        self,
        denoiser: PoseDenoiser,
        error_scale: Tensor,
        frames: int,
        config: dict[str, Any],
        steps: int | None = None,
        expected_error: tuple[Tensor, Tensor] | None = None,
        trust: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        diffusion = config["diffusion"]
        if trust is not None and (expected_error is not None or denoiser.band is not None):
            raise ConfigError("trust is for windowed refiners that start from the pose they are given")
        self.denoiser, self.frames, self.config, self.trust = denoiser, frames, config, trust
        self.rays = sees_rays(config.get("model", {}))
        self.steps = int(diffusion["steps"] if steps is None else steps)
        # Python floats: compilers take them for constants, where they would watch an array.
        alphas_cumprod = cosine_schedule(diffusion["timesteps"], diffusion["offset"])
        self.schedule = ddim_schedule(self.steps, alphas_cumprod, diffusion["terminal"])
        self.register_buffer("error_scale", without_root(error_scale), persistent=False)
        self.corrects = expected_error is not None
        if expected_error is not None:
            for name, value in zip(("gain", "offset"), expected_error, strict=True):
                self.register_buffer(name, value.contiguous().float(), persistent=False)
        self.times = [step.time for step in self.schedule]
        with torch.no_grad():
            for time in self.times:
                for index, projected in enumerate(denoiser.project_time(torch.tensor([time]))):
                    self.register_buffer(f"time_{time}_{index}", projected.detach().clone(), persistent=False)

    def forward(self, pose_2d: Tensor, pose_3d: Tensor, image_size: Tensor) -> Tensor:
        """``[B, T, J, 2]`` pixels, ``[B, T, J, 3]`` metres, ``[B, 2]`` (width, height) -> refined ``[B, T, J, 3]``.

        A denoiser that sees rays takes keypoints (pixels and confidence) ``[B, T, J, 3]`` and cameras (width, height,
        focal length) ``[B, 3]`` instead. A causal one takes sequences of any length.
        """
        seen, root, start = self.begin(pose_2d, pose_3d, image_size)

        def predict_error(noisy: Tensor, time: int) -> Tensor:
            times = [getattr(self, f"time_{time}_{index}") for index in range(len(self.denoiser.blocks))]
            predicted: Tensor = self.denoiser.denoise(noisy, seen, times) * self.error_scale
            return predicted

        refined = run_ddim(predict_error, start, self.schedule)
        if self.trust is not None:
            refined = trusted(start, refined, self.trust)
        return self.finish(refined, seen, root)

    @property
    def reach(self) -> int | None:
        """Frames before a frame that its result depends on, of a causal denoiser; None of one of windows."""
        band, blocks = self.denoiser.band, len(self.denoiser.blocks)
        return None if band is None else self.steps * 2 * blocks * max(band - 1, RECENT)

    def begin(self, pose_2d: Tensor, pose_3d: Tensor, image_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the K steps begin with: what the network sees of the 2D pose ``(..., J, 2 or 6)``, the root
        ``(..., 1, 3)``, and the pose less it in the axes of the network (and less its conditional mean, where the
        denoiser starts there). Arguments as for `forward`, of any ``(B, ...)``."""
        root = pose_3d[..., :1, :]
        start = pose_3d - root
        if self.rays:
            seen, rotation = canonical_pose(pose_2d, image_size)
            start = turned(start, rotation)
        else:
            seen = normalise_screen(pose_2d, image_size)
        if self.corrects:
            # Of features the rays alone are part of the condition.
            condition = torch.cat([seen[..., :2].flatten(-2), start.flatten(-2)], dim=-1)
            start = start - functional.linear(condition, self.gain, self.offset).reshape_as(start)
        return seen, root, start

    def finish(self, relative: Tensor, seen: Tensor, root: Tensor) -> Tensor:
        """The clean pose ``(..., J, 3)`` in the axes of the network -> camera axes, with its root; ``seen`` and
        ``root`` as `begin` gave them."""
        if self.rays:
            relative = turned_back(relative, rotation_to(place_of(seen)))
        return with_root(relative, root)


class LiftingModule(nn.Module):
    """A lifter from pixels: ``[B, T, J, 2]`` pixels, ``[B, 2]`` image size -> ``[B, T, J, 3]`` metres, root at 0.

    Args:
        lifter: ``[B, T, J, 2]`` normalised -> ``[B, T, J, 3]``; with ``actions`` it takes their numbers too.
        frames: T. config: the checkpoint's, which says how the root comes to 0 (see `root_at_zero`).

    A lifter that sees rays takes keypoints (pixels and confidence) ``[B, T, J, 3]`` and cameras (width, height, focal
    length) ``[B, 3]`` instead.
    """

    def __init__(self, lifter: nn.Module, frames: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.lifter, self.frames, self.config = lifter, frames, config
        self.rays = sees_rays(config.get("model", {}))
        self.root = str(config.get("model", {}).get("root", "subtracted"))

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of the actions that it can be told; none for most lifters."""
        return tuple(getattr(self.lifter, "actions", ()))

    def forward(self, pose_2d: Tensor, image_size: Tensor, action: Tensor | None = None) -> Tensor:
        """``action`` ``[B, 1]``: numbers of actions, behind them the unknown one, below 0 where it is to be guessed."""
        if self.rays:
            seen, rotation = canonical_pose(pose_2d, image_size)
            return turned_back(root_at_zero(self.lifter(seen), self.root), rotation)
        return root_at_zero(self.lifter(normalise_screen(pose_2d, image_size), *_numbers(action)), self.root)

    def hypotheses(self, pose_2d: Tensor, image_size: Tensor, action: Tensor | None = None) -> Tensor:
        """All hypotheses of a diffusion lifter, whose mean `forward` gives: ``[B, T, J, 2]`` -> ``[B, H, T, J, 3]``."""
        assert isinstance(self.lifter, SampledLifter)
        poses = self.lifter.hypotheses(normalise_screen(pose_2d, image_size), *_numbers(action))
        return root_at_zero(poses, self.root)


def _numbers(action: Tensor | None) -> tuple[Tensor, ...]:
    return () if action is None else (action[:, 0].round().long(),)


def root_at_zero(pose_3d: Tensor, how: str = "subtracted") -> Tensor:
    """``[..., J, 3]`` with its root at 0: "subtracted" from all joints, or "zeroed" alone.

    A lifter whose loss sees the difference to the root is of the first kind. One that is trained with the root's own
    error in the loss, as those of MixSTE, D3DP, FinePOSE and the published STCFormer are, has its joints relative to
    the true root already, and its authors overwrite what it says of the root.
    """
    if how == "subtracted":
        return pose_3d - pose_3d[..., :1, :]
    return torch.cat([torch.zeros_like(pose_3d[..., :1, :]), pose_3d[..., 1:, :]], dim=-2)


class LiftingRefiner(nn.Module):
    """A lifter and its refiner in one: pixels -> refined metres with the root at 0.

    Raises ConfigError where their windows differ in length or stride, or one sees rays and the other screen
    coordinates.
    """

    def __init__(self, lifter: LiftingModule, refiner: UnrolledRefiner) -> None:
        super().__init__()
        if lifter.frames != refiner.frames:
            raise ConfigError(
                f"the lifter takes windows of {lifter.frames} frames, the refiner of {refiner.frames}; one graph of "
                "both needs the same"
            )
        strides = [int(module.config.get("stride", 1)) for module in (lifter, refiner)]
        if strides[0] != strides[1]:
            raise ConfigError(
                f"the lifter takes every {strides[0]} frames, the refiner every {strides[1]}; one graph of both needs "
                "the same"
            )
        if lifter.rays != refiner.rays:
            raise ConfigError(
                "one of lifter and refiner sees rays, the other screen coordinates; one graph needs both alike"
            )
        self.lifter, self.refiner, self.rays = lifter, refiner, refiner.rays
        self.frames, self.config, self.steps = refiner.frames, refiner.config, refiner.steps

    def forward(self, pose_2d: Tensor, image_size: Tensor) -> Tensor:
        refined: Tensor = self.refiner(pose_2d, self.lifter(pose_2d, image_size), image_size)
        return refined


class MirroredPass(nn.Module):
    """The mean of a model's output and that of the mirrored input, mirrored back: one batch of twice the windows.

    Takes and gives what ``model`` does (an `UnrolledRefiner`, `LiftingModule` or `LiftingRefiner`). In pixels the
    mirror image is width - x; in camera axes x is negated.
    """

    def __init__(self, model: UnrolledRefiner | LiftingModule | LiftingRefiner) -> None:
        super().__init__()
        self.model, self.rays = model, model.rays
        self.frames, self.config = model.frames, model.config
        self.steps = getattr(model, "steps", None)
        self.mirror = Mirror()

    def forward(self, pose_2d: Tensor, *rest: Tensor) -> Tensor:
        *poses, image_size = rest
        both = [torch.cat([pose_2d, self.mirror.pixels(pose_2d, image_size)])]
        both += [torch.cat([pose, self.mirror(pose)]) for pose in poses]
        out = self.model(*both, torch.cat([image_size, image_size]))
        # Slices, not chunks, whose length a tracer may take for a constant.
        straight, turned = out[: pose_2d.shape[0]], out[pose_2d.shape[0] :]
        mean: Tensor = 0.5 * (straight + self.mirror(turned))
        return mean
