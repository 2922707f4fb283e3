"""What 2D detectors make of a person, in batches: errors, swaps, frozen and missing joints, confidence.

The errors of the bundled detector model (`refiner.data.detector`) with what it leaves out: they grow with the person in
the image, a detector has its own idea of where a joint is, takes left for right for stretches of frames, freezes limbs,
loses joints and whole parts of the body, and says more or less truly how sure it is.
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

# Root mean square distance of the joints from their middle, over the people and cameras that the bundled model's
# pixels belong to: its errors are shares of this.
MODEL_SPREAD = 103.0
# Never better than this on an image whose longer side is 1000 pixels: detectors work on grids.
FINEST = 0.6
# What a detector may freeze, lose or have hidden at a time.
LIMBS = ((1, 2, 3), (4, 5, 6), (11, 12, 13), (14, 15, 16), (2, 3), (5, 6), (12, 13), (15, 16), (3,), (6,), (13,), (16,))
LEGS, TRUNK_BY_RULE = (2, 3, 5, 6), (0, 7, 8)


class SceneDetector:
    """Draws keypoints ``(B, T, 17, 3)``, pixels and confidence, from camera points and their views."""

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
        # Times the person's size: the same for a joint and its twin.
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
        # What a desk hides: the legs, and the hips with them.
        self._below = below.to(device)

    def detect(self, draws: Draws, points: Tensor, views: Views, stride: Tensor) -> Tensor:
        """Keypoints of camera points ``(B, T, 17, 3)`` in metres; ``stride`` ``(B,)``: frames from one to the next."""
        config, (batch, frames) = self.config, points.shape[:2]
        rate = stride.float()[:, None, None]
        clean = views.project(self._own_joints(draws, points))
        clean = self._by_rule(draws, clean)
        spread = (clean - clean.mean(dim=2, keepdim=True)).square().sum(dim=-1).mean(dim=(1, 2)).sqrt()
        # Half of the detectors err by the person's size, as those that crop do, half by the image's.
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
        # Some detectors say where a joint outside of the image would be, with little confidence; others say nothing.
        guesses = draws.chance(0.3, batch)[:, None, None]
        lost = lost | (~inside & ~guesses)
        gone = draws.episodes(torch.full((1,), config.gaps, device=self.device), 5.0, batch, frames)
        confidence = self._confidence(draws, error.norm(dim=-1) / spread[:, None, None], frozen, inside)
        confidence = torch.where(lost, 0.0, confidence)
        # A frame without anybody: no confidence, and the place of the frames before it, as the runtime fills it.
        confidence = torch.where(gone[..., None], 0.0, confidence)
        pixels = torch.where(gone[..., None, None], self._held(pixels, gone[..., None].expand_as(lost)), pixels)
        return torch.cat([pixels, confidence[..., None]], dim=-1)

    def _own_joints(self, draws: Draws, points: Tensor) -> Tensor:
        """Where a detector sees joints: each off by some centimetres in the body's own axes, left and right alike."""
        batch = len(points)
        biased = draws.chance(self.config.biased, batch)
        amount = self.config.joint_bias * draws.normal(batch, 17, 3)
        paired = amount[:, self._pairs]
        across = torch.where(self._side != 0, self._side * paired[..., 0], torch.zeros_like(paired[..., 0]))
        offset = torch.stack([across, paired[..., 1], paired[..., 2]], dim=-1) * biased[:, None, None]
        return moved_in_body(points, offset)

    def _by_rule(self, draws: Draws, pixels: Tensor) -> Tensor:
        """For a share of the detectors hip, spine and thorax as `refiner.skeleton.to_h36m17` makes them up of a set
        without a trunk, COCO's or MediaPipe's."""
        by_rule = draws.chance(self.config.by_rule, len(pixels))[:, None, None]
        hip = 0.5 * (pixels[:, :, 1] + pixels[:, :, 4])
        thorax = 0.5 * (pixels[:, :, 11] + pixels[:, :, 14])
        made_up = pixels.clone()
        made_up[:, :, 0], made_up[:, :, 7], made_up[:, :, 8] = hip, 0.5 * (hip + thorax), thorax
        return torch.where(by_rule[..., None], made_up, pixels)

    def _swapped(self, draws: Draws, pixels: Tensor, rate: Tensor) -> Tensor:
        """Left and right taken for each other: legs or arms for a moment, the whole body for a stretch."""
        batch, frames = pixels.shape[:2]
        limbs = draws.episodes(
            torch.full((batch, 2, 1), self._swap_share, device=self.device), self._swap_length, batch, 2, frames
        )
        body = draws.episodes(torch.full((1,), self.config.swapped_body, device=self.device), 14.0, batch, frames)
        legs, arms = limbs[:, 0] | body, limbs[:, 1] | body
        swap = legs[..., None] & self._groups[0] | arms[..., None] & self._groups[1]
        return torch.where(swap[..., None], pixels[:, :, self._mirrored], pixels)

    def _drift(self, draws: Draws, batch: int, frames: int, stride: Tensor) -> Tensor:
        """An AR(1) process of unit variance for each joint and axis: one product with its factor over time."""
        rho = (self._rho ** stride.float())[:, None, None]  # [B, 1, 1]
        factor = rho**self._age * self._past
        first = torch.ones(frames, device=self.device)
        first[1:] = 0.0
        scale = torch.where(first > 0, 1.0, (1 - rho.square()).sqrt())  # [B, 1, T]
        return torch.einsum("bts,bsjc->btjc", factor * scale, draws.normal(batch, frames, 17, 2))

    def _limb_episodes(self, draws: Draws, share: float, length: float, batch: int, frames: int) -> Tensor:
        """Stretches in which one limb, or a part of it, is affected, ``(B, T, 17)`` bool."""
        active = draws.episodes(torch.full((1,), share, device=self.device), length, batch, frames)
        limb = (draws.uniform(batch) * len(LIMBS)).long().clamp(max=len(LIMBS) - 1)
        return active[..., None] & self._limbs[limb][:, None]

    def _hidden_part(self, draws: Draws, batch: int, frames: int) -> Tensor:
        """A desk, a bar or another person in front: legs (with or without hips), or one side, in the whole window."""
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
        """``values`` ``(B, T, 17, 2)`` with those of ``held`` frames ``(B, T, 17)`` as they were in the last frame
        before; of a window that begins so, in its first."""
        frames = torch.arange(values.shape[1], device=values.device)[:, None]
        last = torch.where(held, torch.zeros_like(frames), frames).cummax(dim=1).values
        return values.gather(1, last[..., None].expand_as(values))

    def _confidence(self, draws: Draws, error: Tensor, frozen: Tensor, inside: Tensor) -> Tensor:
        """What the detector says of itself: 1 always, or less where it errs; ``error`` in spreads of the body."""
        batch, frames = error.shape[:2]
        best = draws.uniform(batch, low=0.6, high=1.0)[:, None, None]
        honesty = draws.uniform(batch, high=4.0)[:, None, None]
        spoken = best - honesty * error * draws.uniform(batch, frames, 17) - 0.1 * draws.uniform(batch, 1, 17)
        spoken = torch.where(frozen | ~inside, 0.6 * spoken, spoken).clamp(0.05, 1.0)
        silent = draws.chance(0.35, batch)[:, None, None]
        return torch.where(silent, torch.ones_like(spoken), spoken)
