"""Complete lifting and refinement modules, from pixels to metres: the runtime runs them and the export traces them."""

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
from refiner.models.canonical import (
    canonical_pose,
    centre_of,
    from_virtual_camera,
    rotation_to,
    sees_rays,
    to_virtual_camera,
)
from refiner.models.d3dp import SampledLifter
from refiner.models.mirror import Mirror
from refiner.models.pose_denoiser import PoseDenoiser


def scale_without_root(error_scale: Tensor) -> Tensor:
    """Reshape an error scale and set the root's row to 0, so that no denoising step moves the root.

    Args:
        error_scale: metres per unit of the network's output, ``(3 J,)``.

    Returns:
        The scale as float32, ``(J, 3)``.
    """
    scale = error_scale.reshape(-1, 3).float().clone()
    scale[0] = 0.0
    return scale


def add_root(relative: Tensor, root: Tensor) -> Tensor:
    """Add the root to a root-relative pose.

    Args:
        relative: root-relative pose, ``(..., J, 3)`` metres; its first row is ignored.
        root: position of the root, ``(..., 1, 3)`` metres.

    Returns:
        The pose in the coordinates of ``root``, ``(..., J, 3)`` metres; joint 0 is exactly ``root``.
    """
    return torch.cat([root, relative[..., 1:, :] + root], dim=-2)


def apply_trust(start: Tensor, refined: Tensor, trust: tuple[float, float]) -> Tensor:
    """Blend the input pose and the refined pose: the further the refiner moved a frame, the more of the change is used.

    If the refiner moves a pose only a little, the input is about as accurate as the result. Their errors differ, so
    their mean is better than either. If the refiner moves a pose far, the input was wrong.

    Args:
        start: the pose that was refined, ``(..., J, 3)`` metres, root at 0.
        refined: the refined pose, of the same shape.
        trust: ``(low, high)``, mean distances over the joints in metres. A frame that moved by ``low`` or less stays
            at ``start``; a frame that moved by ``high`` or more is taken from ``refined``. The share of the change
            rises linearly between the two.

    Returns:
        The blended pose, ``(..., J, 3)`` metres.
    """
    change = refined - start
    distance = change[..., 1:, :].square().sum(dim=-1).sqrt().mean(dim=-1)[..., None, None]
    low, high = trust
    share = ((distance - low) * (1.0 / (high - low))).clamp(0.0, 1.0)
    return start + share * change


class UnrolledRefiner(nn.Module):
    """The whole refinement of a window: normalise the 2D pose, run K DDIM steps (eq. 9), keep the root.

    The module computes the time embeddings of the K steps once, here, so that the traced graph holds them as constants.

    Args:
        denoiser: a trained PoseDenoiser.
        error_scale: metres per unit of the denoiser's output, ``(3 J,)``. The entries of the root are taken as 0: the
            error of the root is 0 by definition, and training never looks at the network's output for it.
        frames: T, the length of the training windows.
        config: the configuration of the checkpoint; its ``diffusion`` entry names timesteps, steps and terminal.
        steps: K. None takes the K of the checkpoint.
        expected_error: eq. 5 as ``(gain (3 J, 5 J), offset (3 J,))``, for a denoiser that starts from the lifter's
            pose minus the conditional mean of its error. None starts from the lifter's pose.
        trust: how much of the refinement is used, see `apply_trust`. None uses all of it.

    Raises:
        ConfigError: ``trust`` is given for a causal denoiser or together with ``expected_error``.
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
            raise ConfigError("trust is for windowed refiners that start from the uncorrected input pose")
        self.denoiser, self.frames, self.config, self.trust = denoiser, frames, config, trust
        self.rays = sees_rays(config.get("model", {}))
        self.steps = int(diffusion["steps"] if steps is None else steps)
        # Python floats: a compiler treats them as constants, whereas it would guard the values of an array.
        alphas_cumprod = cosine_schedule(diffusion["timesteps"], diffusion["offset"])
        self.schedule = ddim_schedule(self.steps, alphas_cumprod, diffusion["terminal"])
        self.register_buffer("error_scale", scale_without_root(error_scale), persistent=False)
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
        """Refine a batch of windows.

        Args:
            pose_2d: ``[B, T, J, 2]`` pixels. For a denoiser that sees rays: keypoints ``[B, T, J, 3]``, pixels and
                confidence.
            pose_3d: the lifter's pose, ``[B, T, J, 3]`` metres.
            image_size: width and height, ``[B, 2]`` pixels. For a denoiser that sees rays: cameras ``[B, 3]``, width,
                height and focal length in pixels.

        Returns:
            The refined pose, ``[B, T, J, 3]`` metres. T is free for a causal denoiser.
        """
        seen, root, start = self.begin(pose_2d, pose_3d, image_size)

        def predict_error(noisy: Tensor, time: int) -> Tensor:
            times = [getattr(self, f"time_{time}_{index}") for index in range(len(self.denoiser.blocks))]
            predicted: Tensor = self.denoiser.denoise(noisy, seen, times) * self.error_scale
            return predicted

        refined = run_ddim(predict_error, start, self.schedule)
        if self.trust is not None:
            refined = apply_trust(start, refined, self.trust)
        return self.finish(refined, seen, root)

    @property
    def reach(self) -> int | None:
        """For a causal denoiser: how many earlier frames the result of a frame depends on. None for windows."""
        band, blocks = self.denoiser.band, len(self.denoiser.blocks)
        return None if band is None else self.steps * 2 * blocks * max(band - 1, RECENT)

    def begin(self, pose_2d: Tensor, pose_3d: Tensor, image_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prepare the input of the K steps. Arguments as for `forward`, with any leading axes ``(B, ...)``.

        Returns:
            seen: what the network sees of the 2D pose, ``(..., J, 2)`` image coordinates or ``(..., J, 6)`` ray
                features.
            root: position of the root, ``(..., 1, 3)`` metres.
            start: the root-relative pose in the axes of the network, ``(..., J, 3)`` metres. If the denoiser starts
                from the corrected pose, the conditional mean of the error is already subtracted.
        """
        root = pose_3d[..., :1, :]
        start = pose_3d - root
        if self.rays:
            seen, rotation = canonical_pose(pose_2d, image_size)
            start = to_virtual_camera(start, rotation)
        else:
            seen = normalise_screen(pose_2d, image_size)
        if self.corrects:
            # The condition uses only the first two numbers of a joint: its image coordinates or its ray.
            condition = torch.cat([seen[..., :2].flatten(-2), start.flatten(-2)], dim=-1)
            start = start - functional.linear(condition, self.gain, self.offset).reshape_as(start)
        return seen, root, start

    def finish(self, relative: Tensor, seen: Tensor, root: Tensor) -> Tensor:
        """Turn the denoised pose back to camera axes and add its root.

        Args:
            relative: root-relative pose in the axes of the network, ``(..., J, 3)`` metres.
            seen: as returned by `begin`.
            root: as returned by `begin`.

        Returns:
            The pose in camera axes, ``(..., J, 3)`` metres.
        """
        if self.rays:
            relative = from_virtual_camera(relative, rotation_to(centre_of(seen)))
        return add_root(relative, root)


class LiftingModule(nn.Module):
    """A lifter that takes pixels: it normalises the 2D pose, lifts it and puts the root at 0.

    Args:
        lifter: the network, ``[B, T, J, 2]`` image coordinates -> ``[B, T, J, 3]`` metres. A network with ``actions``
            also takes the number of each window's action.
        frames: T.
        config: the configuration of the checkpoint; ``model.root`` says how the root comes to 0 (`root_at_zero`), and
            ``model.input`` whether the network sees image coordinates or rays.
    """

    def __init__(self, lifter: nn.Module, frames: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.lifter, self.frames, self.config = lifter, frames, config
        self.rays = sees_rays(config.get("model", {}))
        self.root = str(config.get("model", {}).get("root", "subtracted"))

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of the actions that the lifter can use as input; empty for most lifters."""
        return tuple(getattr(self.lifter, "actions", ()))

    def forward(self, pose_2d: Tensor, image_size: Tensor, action: Tensor | None = None) -> Tensor:
        """Lift a batch of windows.

        Args:
            pose_2d: ``[B, T, J, 2]`` pixels. For a lifter that sees rays: keypoints ``[B, T, J, 3]``, pixels and
                confidence.
            image_size: width and height, ``[B, 2]`` pixels. For a lifter that sees rays: cameras ``[B, 3]``, width,
                height and focal length in pixels.
            action: the number of each window's action, ``[B, 1]``: its index in `actions`, or ``len(actions)`` for
                the unknown action. The lifter guesses the action where the number is negative.

        Returns:
            The pose, ``[B, T, J, 3]`` metres, root at 0.
        """
        if self.rays:
            seen, rotation = canonical_pose(pose_2d, image_size)
            return from_virtual_camera(root_at_zero(self.lifter(seen), self.root), rotation)
        return root_at_zero(self.lifter(normalise_screen(pose_2d, image_size), *_numbers(action)), self.root)

    def hypotheses(self, pose_2d: Tensor, image_size: Tensor, action: Tensor | None = None) -> Tensor:
        """All hypotheses of a diffusion lifter, ``[B, H, T, J, 3]`` metres; `forward` returns their mean.

        Arguments as for `forward`; a diffusion lifter sees image coordinates, never rays.
        """
        assert isinstance(self.lifter, SampledLifter)
        poses = self.lifter.hypotheses(normalise_screen(pose_2d, image_size), *_numbers(action))
        return root_at_zero(poses, self.root)


def _numbers(action: Tensor | None) -> tuple[Tensor, ...]:
    return () if action is None else (action[:, 0].round().long(),)


def root_at_zero(pose_3d: Tensor, how: str = "subtracted") -> Tensor:
    """Put the root of a pose ``[..., J, 3]`` at 0.

    Args:
        pose_3d: the output of a lifter.
        how: "subtracted" subtracts the root from every joint. This is right for a lifter whose loss compares joints
            relative to the predicted root. "zeroed" overwrites only the root. This is right for a lifter whose
            loss contains the error of the root itself, such as MixSTE, D3DP, FinePOSE and the published STCFormer:
            its joints are already relative to the true root, and its authors overwrite the predicted root.

    Returns:
        The pose with its root at 0, ``[..., J, 3]``.
    """
    if how == "subtracted":
        return pose_3d - pose_3d[..., :1, :]
    return torch.cat([torch.zeros_like(pose_3d[..., :1, :]), pose_3d[..., 1:, :]], dim=-2)


class LiftingRefiner(nn.Module):
    """A lifter and its refiner in one module: pixels -> refined pose in metres with the root at 0.

    Raises:
        ConfigError: the windows of the two differ in length or stride, or one of the two sees rays and the other image
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
                "one of lifter and refiner sees rays, the other image coordinates; one graph needs both alike"
            )
        self.lifter, self.refiner, self.rays = lifter, refiner, refiner.rays
        self.frames, self.config, self.steps = refiner.frames, refiner.config, refiner.steps

    def forward(self, pose_2d: Tensor, image_size: Tensor) -> Tensor:
        """Lift and refine: the 2D arguments of `LiftingModule.forward` -> ``[B, T, J, 3]`` metres."""
        refined: Tensor = self.refiner(pose_2d, self.lifter(pose_2d, image_size), image_size)
        return refined


class MirroredPass(nn.Module):
    """Test-time flip: the mean of a model's output for the input and for its mirror image, mirrored back.

    Both run in one batch of twice the windows. In pixels the mirror image is width - x; in camera axes x is negated.

    Args:
        model: an `UnrolledRefiner`, `LiftingModule` or `LiftingRefiner`; this module has the same inputs and output.
    """

    def __init__(self, model: UnrolledRefiner | LiftingModule | LiftingRefiner) -> None:
        super().__init__()
        self.model, self.rays = model, model.rays
        self.frames, self.config = model.frames, model.config
        self.steps = getattr(model, "steps", None)
        self.mirror = Mirror()

    def forward(self, pose_2d: Tensor, *rest: Tensor) -> Tensor:
        """``rest``: the model's other inputs; the image size or camera is the last one."""
        *poses, image_size = rest
        both = [torch.cat([pose_2d, self.mirror.pixels(pose_2d, image_size)])]
        both += [torch.cat([pose, self.mirror(pose)]) for pose in poses]
        out = self.model(*both, torch.cat([image_size, image_size]))
        # Slices instead of chunks: a tracer may take the length of a chunk for a constant.
        straight, mirrored = out[: pose_2d.shape[0]], out[pose_2d.shape[0] :]
        mean: Tensor = 0.5 * (straight + self.mirror(mirrored))
        return mean
