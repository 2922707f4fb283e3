"""Simulated 2D detections, in batches: errors, swaps, frozen and missing joints, confidence.

The errors are those of the bundled detector model (`refiner.data.detector`), with additions: they grow with the size of
the person in the image. A detector has its own definition of the joints. It swaps left and right for stretches of
frames, freezes limbs, and misses joints and whole parts of the body. Its confidence is more or less honest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from refiner.data.detector import DetectorModel
from refiner.skeleton import LEFT, RIGHT
from refiner.training.config import SceneConfig
from refiner.training.scenes.cameras import Views
from refiner.training.scenes.draws import Draws
from refiner.training.scenes.motion import moved_in_body

# Root mean square distance of the joints from their mean, in pixels, over the people and cameras that the bundled
# model was measured on. The model's errors are scaled relative to it.
MODEL_SPREAD = 103.0
# Smallest error in pixels on an image whose longer side is 1000 pixels: detectors work on grids.
FINEST = 0.6
# Groups of joints that a detector freezes or misses together, or that are hidden together.
LIMBS = ((1, 2, 3), (4, 5, 6), (11, 12, 13), (14, 15, 16), (2, 3), (5, 6), (12, 13), (15, 16), (3,), (6,), (13,), (16,))
LEGS, TRUNK_BY_RULE = (2, 3, 5, 6), (0, 7, 8)


class SceneDetector:
    """Draws keypoints ``(B, T, 17, 3)``, pixels and confidence, from points in camera axes.

    Args:
        model: the model of the errors.
        config: the shares and spreads.
        frames: T.
        device: the device of the points.
    """

    def __init__(self, model: DetectorModel, config: SceneConfig, frames: int, device: torch.device) -> None:
        def on_device(values: object) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=device)

        self.config, self.device = config, device
        self._slow, self._jitter = on_device(model.slow_sigma.copy()), on_device(model.jitter_sigma.copy())
        self._outlier_share = on_device(model.outlier_probability.copy())
        self._outlier_sigma, self._outlier_length = model.outlier_sigma, model.outlier_length
        self._rho, self._swap_length = model.rho, model.swap_length
        self._swap_share = model.swap_probability * model.swap_length
        steps = torch.arange(frames, device=device)
        self._age = (steps[:, None] - steps).clamp(min=0).float()
        self._past = (steps[:, None] >= steps).float()
        # Each left joint takes the index of its right counterpart, so that both get the same offset.
        pairs = torch.arange(17)
        pairs[list(LEFT)] = torch.tensor(list(RIGHT))
        self._pairs = pairs.to(device)
        self._side = on_device([-1.0 if joint in RIGHT else 1.0 if joint in LEFT else 0.0 for joint in range(17)])
        limbs = torch.zeros(len(LIMBS), 17, dtype=torch.bool)
        for row, limb in enumerate(LIMBS):
            limbs[row, list(limb)] = True
        self._limbs = limbs.to(device)
        mirrored = torch.arange(17)
        mirrored[list(LEFT)], mirrored[list(RIGHT)] = torch.tensor(list(RIGHT)), torch.tensor(list(LEFT))
        self._mirrored = mirrored.to(device)
        legs = torch.zeros(17, dtype=torch.bool)
        legs[[1, 2, 3, 4, 5, 6]] = True
        arms = torch.zeros(17, dtype=torch.bool)
        arms[[11, 12, 13, 14, 15, 16]] = True
        self._groups = torch.stack([legs, arms, legs | arms]).to(device)
        below = torch.zeros(2, 17, dtype=torch.bool)
        below[0, list(LEGS)] = True
        below[1, [0, 1, 4, *LEGS]] = True
        # The joints that a desk hides: the legs without or with the hips.
        self._below = below.to(device)

    def detect(self, draws: Draws, points: Tensor, views: Views, stride: Tensor) -> Tensor:
        """Draw the keypoints.

        Args:
            draws: the random numbers.
            points: points in camera axes, ``(B, T, 17, 3)`` metres.
            views: the cameras.
            stride: frames of the clip from one frame of the window to the next, ``(B,)``.

        Returns:
            Keypoints ``(B, T, 17, 3)``: pixels and confidence.
        """
        config, (batch, frames) = self.config, points.shape[:2]
        rate = stride.float()[:, None, None]
        clean = views.project(self._own_joints(draws, points))
        clean = self._by_rule(draws, clean)
        spread = (clean - clean.mean(dim=2, keepdim=True)).square().sum(dim=-1).mean(dim=(1, 2)).sqrt()
        # Half of the detectors err in proportion to the person, like those that crop; the others to the image.
        by_person = draws.chance(0.5, batch)
        scale = torch.where(by_person, spread / MODEL_SPREAD, torch.ones_like(spread))
        level = (config.detector_spread * draws.normal(batch)).exp()
        scale = ((scale * level).clamp(max=0.5 * spread.clamp(min=1.0) / 6.0))[:, None, None, None]

        pixels = self._swapped(draws, clean, rate[..., 0])
        drift = self._drift(draws, batch, frames, stride)
        white = draws.normal(batch, frames, 17, 2) * self._jitter[:, None]
        trembling = torch.where(draws.chance(0.3, batch), 4.0, 1.0)[:, None, None, None]
        error = scale * (drift * self._slow[:, None] + trembling * white)
        outlying = draws.episodes(
            self._outlier_share[:, None].expand(17, 1), self._outlier_length, batch, 17, frames
        ).transpose(1, 2)
        offset = self._outlier_sigma * draws.normal(batch, 1, 17, 2)
        error = error + outlying[..., None] * scale * offset
        pixels = pixels + error + FINEST * draws.normal(batch, frames, 17, 2)

        frozen = self._limb_episodes(draws, config.frozen, 10.0, batch, frames)
        pixels = torch.where(frozen[..., None], self._held(pixels, frozen), pixels)

        inside = ((pixels >= 0) & (pixels < views.size[:, None, None])).all(dim=-1) & (points[..., 2] > 0.2)
        lost = self._limb_episodes(draws, config.missing, 8.0, batch, frames)
        alone = draws.episodes(torch.full((17, 1), config.missing, device=self.device), 6.0, batch, 17, frames)
        lost = lost | alone.transpose(1, 2) | self._hidden_part(draws, batch, frames)
        # Some detectors guess joints outside of the image, with low confidence; others give no position.
        guesses = draws.chance(0.3, batch)[:, None, None]
        lost = lost | (~inside & ~guesses)
        gone = draws.episodes(torch.full((1,), config.gaps, device=self.device), 5.0, batch, frames)
        confidence = self._confidence(draws, error.norm(dim=-1) / spread[:, None, None], frozen, inside)
        confidence = torch.where(lost, 0.0, confidence)
        # A frame without a person: confidence 0, and the positions of the frame before, as the runtime fills them in.
        confidence = torch.where(gone[..., None], 0.0, confidence)
        pixels = torch.where(gone[..., None, None], self._held(pixels, gone[..., None].expand_as(lost)), pixels)
        return torch.cat([pixels, confidence[..., None]], dim=-1)

    def _own_joints(self, draws: Draws, points: Tensor) -> Tensor:
        """Apply a detector's own joint definitions: offsets of centimetres in body axes, alike for left and right."""
        batch = len(points)
        biased = draws.chance(self.config.biased, batch)
        amount = self.config.joint_bias * draws.normal(batch, 17, 3)
        paired = amount[:, self._pairs]
        across = torch.where(self._side != 0, self._side * paired[..., 0], torch.zeros_like(paired[..., 0]))
        offset = torch.stack([across, paired[..., 1], paired[..., 2]], dim=-1) * biased[:, None, None]
        return moved_in_body(points, offset)

    def _by_rule(self, draws: Draws, pixels: Tensor) -> Tensor:
        """For a share of the detectors, compute hip, spine and thorax from hips and shoulders.

        `refiner.skeleton.to_h36m17` does the same for joint sets without a trunk, such as COCO's or MediaPipe's.
        """
        by_rule = draws.chance(self.config.by_rule, len(pixels))[:, None, None]
        hip = 0.5 * (pixels[:, :, 1] + pixels[:, :, 4])
        thorax = 0.5 * (pixels[:, :, 11] + pixels[:, :, 14])
        computed = pixels.clone()
        computed[:, :, 0], computed[:, :, 7], computed[:, :, 8] = hip, 0.5 * (hip + thorax), thorax
        return torch.where(by_rule[..., None], computed, pixels)

    def _swapped(self, draws: Draws, pixels: Tensor, rate: Tensor) -> Tensor:
        """Swap left and right: legs or arms for a moment, the whole body for longer."""
        batch, frames = pixels.shape[:2]
        limbs = draws.episodes(
            torch.full((batch, 2, 1), self._swap_share, device=self.device), self._swap_length, batch, 2, frames
        )
        body = draws.episodes(torch.full((1,), self.config.swapped_body, device=self.device), 14.0, batch, frames)
        legs, arms = limbs[:, 0] | body, limbs[:, 1] | body
        swap = legs[..., None] & self._groups[0] | arms[..., None] & self._groups[1]
        return torch.where(swap[..., None], pixels[:, :, self._mirrored], pixels)

    def _drift(self, draws: Draws, batch: int, frames: int, stride: Tensor) -> Tensor:
        """An AR(1) process of unit variance for each joint and axis, as one product with its factor over time."""
        rho = (self._rho ** stride.float())[:, None, None]  # [B, 1, 1]
        factor = rho**self._age * self._past
        first = torch.ones(frames, device=self.device)
        first[1:] = 0.0
        scale = torch.where(first > 0, 1.0, (1 - rho.square()).sqrt())  # [B, 1, T]
        return torch.einsum("bts,bsjc->btjc", factor * scale, draws.normal(batch, frames, 17, 2))

    def _limb_episodes(self, draws: Draws, share: float, length: float, batch: int, frames: int) -> Tensor:
        """Episodes that affect one limb or a part of it, ``(B, T, 17)`` bool."""
        active = draws.episodes(torch.full((1,), share, device=self.device), length, batch, frames)
        limb = (draws.uniform(batch) * len(LIMBS)).long().clamp(max=len(LIMBS) - 1)
        return active[..., None] & self._limbs[limb][:, None]

    def _hidden_part(self, draws: Draws, batch: int, frames: int) -> Tensor:
        """The joints behind a desk or another person, in the whole window: legs, legs and hips, or one limb."""
        hidden = draws.chance(self.config.hidden, batch)
        kind = draws.uniform(batch)
        part = torch.zeros(batch, 17, dtype=torch.bool, device=self.device)
        legs, hips = self._below
        part = torch.where((kind < 0.4)[:, None], legs, part)
        part = torch.where(((kind >= 0.4) & (kind < 0.6))[:, None], hips, part)
        side = self._limbs[(draws.uniform(batch) * 4).long().clamp(max=3)]
        part = torch.where((kind >= 0.6)[:, None], side, part)
        return (hidden[:, None] & part)[:, None].expand(batch, frames, 17)

    def _held(self, values: Tensor, held: Tensor) -> Tensor:
        """Hold positions: replace the values of ``held`` frames by the values of the last frame that is not held.

        Args:
            values: ``(B, T, 17, 2)``.
            held: ``(B, T, 17)`` bool. If a window starts with held frames, they take the values of its first frame.
        """
        frames = torch.arange(values.shape[1], device=values.device)[:, None]
        last = torch.where(held, torch.zeros_like(frames), frames).cummax(dim=1).values
        return values.gather(1, last[..., None].expand_as(values))

    def _confidence(self, draws: Draws, error: Tensor, frozen: Tensor, inside: Tensor) -> Tensor:
        """The confidence of the detections, ``(B, T, 17)``: always 1, or lower where the errors are larger.

        ``error`` ``(B, T, 17)`` is in units of the body's spread in the image.
        """
        batch, frames = error.shape[:2]
        best = draws.uniform(batch, low=0.6, high=1.0)[:, None, None]
        honesty = draws.uniform(batch, high=4.0)[:, None, None]
        stated = best - honesty * error * draws.uniform(batch, frames, 17) - 0.1 * draws.uniform(batch, 1, 17)
        stated = torch.where(frozen | ~inside, 0.6 * stated, stated).clamp(0.05, 1.0)
        always_one = draws.chance(0.35, batch)[:, None, None]
        return torch.where(always_one, torch.ones_like(stated), stated)
