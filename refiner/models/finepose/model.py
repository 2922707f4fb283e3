"""FinePOSE (Xu et al., CVPR 2024): D3DP with prompts (FPP), attention to their text (FPC) and stylisation (PTS).

Names and shapes of the tensors are the published ones, but ``ctx_*`` and ``clip_text.`` lie below ``text.`` here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from refiner.actions import action_number
from refiner.models.d3dp import D3DP, CleanPoseDenoiser, SampledLifter
from refiner.models.finepose.actions import ActionClassifier
from refiner.models.finepose.conditioning import TextCrossAttention, tiled_rows
from refiner.models.finepose.prompts import TextConditioner


class FinePoseDenoiser(CleanPoseDenoiser):
    """FinePOSE's network: it predicts the clean 3D pose from a noisy 3D pose, the 2D pose, the timestep and an action.

    Args:
        text: `PromptedText` or `CachedText`; None gives D3DP's denoiser.
        dim: C, 512 as published.
        heads: 8 as published.
        encoder_layers: layers of the post-norm transformer after the text tower, 4 as published.
        encoder_hidden: its hidden width, 2048 as published.
        encoder_heads: its heads, 8 as published.
        fpc: let the pose tokens attend to the text tokens, after the first block over joints.
        pts: add the text to the time embedding, and stylise the result of that attention by both.
        published: in batches of several actions, pair poses and texts as the published code does (see `tiled_rows`).
        sizes: other arguments of `SpatioTemporalBlocks`.
    """

    def __init__(
        self,
        text: TextConditioner | None,
        dim: int = 512,
        heads: int = 8,
        encoder_layers: int = 4,
        encoder_hidden: int = 2048,
        encoder_heads: int = 8,
        fpc: bool = True,
        pts: bool = True,
        published: bool = False,
        **sizes: Any,
    ) -> None:
        super().__init__(dim, heads=heads, **sizes)
        self.text = text
        self.pts, self.published = pts, published
        self.temporal_cross_attn: TextCrossAttention | None = None
        if text is None:
            return
        layer = nn.TransformerEncoderLayer(
            text.width, encoder_heads, encoder_hidden, dropout=0.0, activation="gelu", batch_first=True
        )
        self.textTransEncoder = nn.TransformerEncoder(layer, encoder_layers, enable_nested_tensor=False)
        self.text_ln = nn.LayerNorm(text.width)
        self.text_proj = nn.Sequential(nn.Linear(text.width, dim))
        if fpc:
            self.temporal_cross_attn = TextCrossAttention(dim, text.width, heads)

    def condition(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The text inputs of `denoise`, computed once for every unique action of the batch.

        Args:
            inputs: action numbers ``[N]``; nothing without a text side.

        Returns:
            The projected text ``[N, C]`` and, with FPC, keys and values ``[N, L, C]``. Nothing without a text side.
        """
        if self.text is None:
            return super().condition(*inputs)
        (actions,) = inputs
        unique, rows = torch.unique(actions, return_inverse=True)
        features = self.text_ln(self.textTransEncoder(self.text.features(unique)))
        summary = features[torch.arange(len(unique), device=features.device), self.text.ends(unique)]
        constants = [self.text_proj(summary)]
        if self.temporal_cross_attn is not None:
            constants += self.temporal_cross_attn.keys_and_values(features)
        return tuple(constant[rows] for constant in constants)

    def denoise(self, noisy_pose_3d: Tensor, pose_2d: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        """Like D3DP's `denoise`, but with the result of `condition`."""
        if not condition:
            return super().denoise(noisy_pose_3d, pose_2d, time)
        projected, *keys_and_values = condition
        embedding = time + projected if self.pts else time.expand(projected.shape[0], -1)
        tokens = self.embed_poses(noisy_pose_3d, pose_2d, embedding)

        def attend(x: Tensor) -> Tensor:
            return self._attend_to_text(x, pose_2d.shape[0], embedding if self.pts else None, *keys_and_values)

        pose = self.regress(tokens, attend if self.temporal_cross_attn is not None else None)
        return pose.reshape(noisy_pose_3d.shape)

    def _attend_to_text(
        self, x: Tensor, windows: int, embedding: Tensor | None, keys: Tensor, values: Tensor
    ) -> Tensor:  # [N H, T, J, C], [N, C], [N, L, C] twice
        assert self.temporal_cross_attn is not None
        if not self.published:
            attended = self.temporal_cross_attn(x.reshape(windows, -1, x.shape[-1]), keys, values, embedding)
            return attended.reshape(x.shape)  # type: ignore[no-any-return]
        poses, frames, joints, dim = x.shape
        by_joint = x.transpose(1, 2).reshape(poses * joints, frames, dim)
        keys, values = (tiled_rows(part, by_joint.shape[0] // windows) for part in (keys, values))
        styles = None if embedding is None else embedding.repeat_interleave(by_joint.shape[0] // windows, 0)
        attended = self.temporal_cross_attn(by_joint, keys, values, styles)
        return attended.reshape(poses, joints, frames, dim).transpose(1, 2)  # type: ignore[no-any-return]


class FinePOSE(D3DP):
    """The diffusion lifter with prompts. The extra ``inputs`` of its methods are action numbers ``[B]``.

    Args:
        pose_estimator: the denoiser.
        classifier: guesses the action from the 2D poses where the caller does not name it. None: such an action counts
            as unknown.
        options: other arguments of `D3DP`.
    """

    pose_estimator: FinePoseDenoiser

    def __init__(
        self, pose_estimator: FinePoseDenoiser, classifier: ActionClassifier | None = None, **options: Any
    ) -> None:
        super().__init__(pose_estimator, **options)
        self.classifier = classifier

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of the actions that the model knows; empty without a text side."""
        text = self.pose_estimator.text
        return () if text is None else text.actions

    def numbers(self, actions: Sequence[str], device: torch.device | None = None) -> Tensor:
        """Convert names to action numbers.

        Raises:
            UsageError: a name is neither among `actions` nor "unknown".
        """
        return torch.tensor([action_number(self.actions, action) for action in actions], device=device)


class PromptedLifter(SampledLifter):
    """FinePOSE with the interface of a lifter: the text of every action is a constant, so that no text tower runs.

    Args:
        model: a trained FinePOSE; the lifter copies it without its text side.
        steps: see `SampledLifter`.
        hypotheses: see `SampledLifter`.
        options: other arguments of `SampledLifter`.
    """

    def __init__(self, model: FinePOSE, steps: int, hypotheses: int, **options: Any) -> None:
        constants: tuple[Tensor, ...] = ()
        if model.pose_estimator.text is not None:
            every = torch.arange(len(model.actions) + 1, device=model.signal.device)
            with torch.no_grad():
                constants = model.pose_estimator.condition(every)
        light = _without_text(model)
        # The published pairing mixes up the texts of a batch of several actions. The authors run one action at a time,
        # where it changes nothing. Here each window keeps its own text, so that it gives the same pose in any batch.
        light.pose_estimator.published = False
        super().__init__(light, steps, hypotheses, **options)
        self.classifier = light.classifier
        self.actions = model.actions
        self._constants = [f"text_{index}" for index in range(len(constants))]
        for name, constant in zip(self._constants, constants, strict=True):
            self.register_buffer(name, constant, persistent=False)

    def hypotheses(self, pose_2d: Tensor, *inputs: Tensor) -> Tensor:
        """Sample all hypotheses.

        The lifter guesses the action from the 2D poses where its number is missing or negative. If the model was
        trained without a classifier, such an action counts as unknown.

        Args:
            pose_2d: image coordinates, ``[B, T, J, 2]``.
            inputs: action numbers ``[B]``, or nothing.

        Returns:
            ``[B, H, T, J, 3]`` metres.
        """
        if not self._constants:
            return super().hypotheses(pose_2d)
        numbers = self.guess(pose_2d)
        if inputs:
            (named,) = inputs
            numbers = torch.where(named < 0, numbers, named)
        return super().hypotheses(pose_2d, *(getattr(self, name)[numbers] for name in self._constants))

    def guess(self, pose_2d: Tensor) -> Tensor:
        """The most likely action numbers ``[B]`` of windows ``[B, T, J, 2]``; without a classifier, the unknown one."""
        if self.classifier is None:
            return torch.full_like(pose_2d[:, 0, 0, 0], len(self.actions)).long()
        numbers: Tensor = self.classifier(pose_2d).argmax(dim=-1)
        return numbers


def _without_text(model: FinePOSE) -> FinePOSE:
    """A copy without the parts whose results are constants."""
    denoiser = model.pose_estimator
    text_parts = {"text", "textTransEncoder", "text_ln", "text_proj"}
    # deepcopy puts None in place of these parts, so that it does not copy them: CLIP's tower alone is twice as large as
    # the denoiser.
    memo: dict[int, Any] = {id(part): None for name, part in denoiser.named_children() if name in text_parts}
    return copy.deepcopy(model, memo)
