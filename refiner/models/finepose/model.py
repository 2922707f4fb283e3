"""FinePOSE (Xu et al., CVPR 2024): D3DP with prompts (FPP), attention to their text (FPC) and stylisation (PTS).

Keys and shapes are the published ones, but for the text side: ``ctx_*`` and ``clip_text.`` lie below ``text.`` here.
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
    """A noisy 3D pose, the 2D pose, the timestep and an action -> the clean 3D pose.

    Args:
        text: `PromptedText` or `CachedText`; None is D3DP's denoiser.
        encoder_layers, encoder_hidden, encoder_heads: of the post-norm transformer behind the text tower; 4, 2048
            and 8 as published.
        fpc: let the tokens of the pose attend to those of the text, behind the first block over joints.
        pts: add the text to the time embedding, and stylise what the text answers by both.
        published: pair poses and texts as the published code does in batches of several actions (see `tiled_rows`).
        sizes: of `SpatioTemporalBlocks`.
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

    def condition(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Action numbers ``[N]`` -> the projected text ``[N, C]`` and, with FPC, keys and values ``[N, L, C]``.

        Every action of a batch is read once. Without a text side nothing may be given and nothing comes out.
        """
        if self.text is None:
            return super().condition(*given)
        (actions,) = given
        different, rows = torch.unique(actions, return_inverse=True)
        features = self.text_ln(self.textTransEncoder(self.text.features(different)))
        whole = features[torch.arange(len(different), device=features.device), self.text.ends(different)]
        constants = [self.text_proj(whole)]
        if self.temporal_cross_attn is not None:
            constants += self.temporal_cross_attn.keys_and_values(features)
        return tuple(constant[rows] for constant in constants)

    def denoise(self, noisy_pose_3d: Tensor, pose_2d: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        """As D3DP's, with what `condition` gave."""
        if not condition:
            return super().denoise(noisy_pose_3d, pose_2d, time)
        projected, *keys_and_values = condition
        embedding = time + projected if self.pts else time.expand(projected.shape[0], -1)
        tokens = self.embed_poses(noisy_pose_3d, pose_2d, embedding)

        def answer(x: Tensor) -> Tensor:
            return self._attend_to_text(x, pose_2d.shape[0], embedding if self.pts else None, *keys_and_values)

        pose = self.regress(tokens, answer if self.temporal_cross_attn is not None else None)
        return pose.reshape(noisy_pose_3d.shape)

    def _attend_to_text(
        self, x: Tensor, windows: int, embedding: Tensor | None, keys: Tensor, values: Tensor
    ) -> Tensor:  # [N H, T, J, C], [N, C], [N, L, C] twice
        assert self.temporal_cross_attn is not None
        if not self.published:
            answered = self.temporal_cross_attn(x.reshape(windows, -1, x.shape[-1]), keys, values, embedding)
            return answered.reshape(x.shape)  # type: ignore[no-any-return]
        poses, frames, joints, dim = x.shape
        by_joint = x.transpose(1, 2).reshape(poses * joints, frames, dim)
        keys, values = (tiled_rows(given, by_joint.shape[0] // windows) for given in (keys, values))
        styles = None if embedding is None else embedding.repeat_interleave(by_joint.shape[0] // windows, 0)
        answered = self.temporal_cross_attn(by_joint, keys, values, styles)
        return answered.reshape(poses, joints, frames, dim).transpose(1, 2)  # type: ignore[no-any-return]


class FinePOSE(D3DP):
    """The diffusion lifter with prompts. ``given`` of its methods are action numbers ``[B]``, see `action_number`.

    Args:
        pose_estimator: the denoiser.
        classifier: guesses the action from the 2D poses where it is not given; None: it is then unknown.
        options: of `D3DP`.
    """

    pose_estimator: FinePoseDenoiser

    def __init__(
        self, pose_estimator: FinePoseDenoiser, classifier: ActionClassifier | None = None, **options: Any
    ) -> None:
        super().__init__(pose_estimator, **options)
        self.classifier = classifier

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of the actions that it knows; none without a text side."""
        text = self.pose_estimator.text
        return () if text is None else text.actions

    def numbers(self, actions: Sequence[str], device: torch.device | None = None) -> Tensor:
        """Names -> action numbers. Raises UsageError for a name that is not among `actions` and not "unknown"."""
        return torch.tensor([action_number(self.actions, action) for action in actions], device=device)


class PromptedLifter(SampledLifter):
    """FinePOSE as a lifter: `SampledLifter` with the text of every action baked in, so that no text tower runs.

    Args:
        model: a trained FinePOSE; it is copied, without its text side. others: see `SampledLifter`.
    """

    def __init__(self, model: FinePOSE, steps: int, hypotheses: int, **options: Any) -> None:
        constants: tuple[Tensor, ...] = ()
        if model.actions:
            every = torch.arange(len(model.actions) + 1, device=model.signal.device)
            with torch.no_grad():
                constants = model.pose_estimator.condition(every)
        light = _without_text(model)
        super().__init__(light, steps, hypotheses, **options)
        self.classifier = light.classifier
        self.actions = model.actions
        self._constants = [f"text_{index}" for index in range(len(constants))]
        for name, constant in zip(self._constants, constants, strict=True):
            self.register_buffer(name, constant, persistent=False)

    def hypotheses(self, pose_2d: Tensor, *given: Tensor) -> Tensor:
        """``[B, T, J, 2]`` and action numbers ``[B]`` -> ``[B, H, T, J, 3]``.

        Without numbers, and where one is below 0, the action is guessed from the 2D poses, or unknown where the model
        was trained without a classifier.
        """
        if not self._constants:
            return super().hypotheses(pose_2d)
        numbers = self.guess(pose_2d)
        if given:
            (named,) = given
            numbers = torch.where(named < 0, numbers, named)
        return super().hypotheses(pose_2d, *(getattr(self, name)[numbers] for name in self._constants))

    def guess(self, pose_2d: Tensor) -> Tensor:  # [B, T, J, 2] -> [B]
        if self.classifier is None:
            return torch.full_like(pose_2d[:, 0, 0, 0], len(self.actions)).long()
        numbers: Tensor = self.classifier(pose_2d).argmax(dim=-1)
        return numbers


def _without_text(model: FinePOSE) -> FinePOSE:
    """A copy that keeps what runs beside the baked constants."""
    denoiser = model.pose_estimator
    kept = {"text", "textTransEncoder", "text_ln", "text_proj"}
    # The parts of the text are not copied at all: CLIP's tower alone is twice as large as the denoiser.
    memo: dict[int, Any] = {id(part): None for name, part in denoiser.named_children() if name in kept}
    return copy.deepcopy(model, memo)
