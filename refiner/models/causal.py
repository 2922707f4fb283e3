"""The causal refiner frame by frame: a step costs the work of one frame, and its result equals the full pass.

The state holds what a new frame needs of earlier frames: the temporal keys and values of the last T - 1 frames in a
ring, in any order since a softmax has none, and the values of the last two frames for the convolution. `CausalStep`
reads the rings and returns the new frame's entries; its caller writes them into the rings (`refiner.causal_state`), so
that no cache is ever copied. `CarriedStep` writes them itself, for engines that keep the state on a device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.causal_state import PENDING, RECENT, StateLayout
from refiner.diffusion.ddim import run_ddim
from refiner.errors import ConfigError
from refiner.models.inference_form import InferenceSTCAttention, inference_form
from refiner.models.pose_denoiser import DenoisingBlock
from refiner.models.unrolled import UnrolledRefiner

# Added to the attention scores of ring slots that hold no frame of the stream.
UNSEEN = -1e9


class CausalStep(nn.Module):
    """One frame of every stream through a causal `UnrolledRefiner`.

    Args:
        refiner: a refiner with a causal denoiser.
        streams: S, the number of streams.
        pipelined: run the K steps of K neighbouring frames in one pass over the weights: a pass runs step k for the
            frame that arrived k frames ago. A frame's result comes K - 1 frames later, with the same numbers.

    Raises:
        ConfigError: the denoiser is not causal.
    """

    coefficients: Tensor

    def __init__(self, refiner: UnrolledRefiner, streams: int = 1, pipelined: bool = False) -> None:
        super().__init__()
        denoiser = refiner.denoiser
        if denoiser.band is None:
            raise ConfigError(
                "only a causal refiner runs frame by frame, and this one was trained on windows; train one with "
                "refiner-train refiner --config refiner-small-causal"
            )
        self.refiner = inference_form(refiner)
        blocks = [block for block in self.refiner.denoiser.blocks if isinstance(block, DenoisingBlock)]
        first = blocks[0].stc_first
        assert isinstance(first, InferenceSTCAttention)
        self.frames, self.config, self.steps = refiner.frames, refiner.config, refiner.steps
        self.layout = StateLayout(
            streams=streams,
            frames=denoiser.band,
            steps=refiner.steps,
            modules=2 * len(blocks),
            heads=first.heads,
            width=first.width,
            pipelined=pipelined,
            rays=refiner.rays,
        )
        # The DDIM coefficients of every row of a pipelined pass, [4, rows, 1, 1].
        steps = torch.tensor([step[1:] for step in refiner.schedule], dtype=torch.float32)
        self.register_buffer("coefficients", steps.T.repeat_interleave(streams, 1)[..., None, None], persistent=False)
        self.attentions = nn.ModuleList(
            StepAttention(attention)  # type: ignore[arg-type]
            for block in blocks
            for attention in (block.stc_first, block.stc_second)
        )

    def forward(
        self, pose_2d: Tensor, pose_3d: Tensor, image_size: Tensor, seen: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        """Refine one frame of every stream.

        Args:
            pose_2d: ``(S, J, 2)`` pixels. For a refiner that sees rays: keypoints ``(S, J, 3)``, pixels and confidence.
            pose_3d: ``(S, J, 3)`` metres.
            image_size: ``(S, 2)``, width and height. For a refiner that sees rays: cameras ``(S, 3)``.
            seen: ``(rows, T - 1)``, 1 for ring slots that hold a frame of the stream, 0 for the others.
            state: the tensors of `refiner.causal_state.StateLayout.state`, in its order.

        Returns:
            The refined poses ``(S, J, 3)`` and the tensors of ``StateLayout.fresh``, in its order.
        """
        inputs_2d, root, start = self.refiner.begin(pose_2d, pose_3d, image_size)
        unseen = ((1.0 - seen) * UNSEEN)[:, None, None, :]
        if self.layout.pipelined:
            return self._pipelined(inputs_2d, root, start, unseen, state)
        entries: list[Tensor] = []

        def predict_error(noisy: Tensor, time: int) -> Tensor:
            first = 3 * len(entries)
            caches = state[first : first + 3 * len(self.attentions)]
            error, fresh = self._denoise(noisy, inputs_2d, self._times(time), unseen, caches)
            entries.extend(fresh)
            return error

        clean = run_ddim(predict_error, start, self.refiner.schedule)
        return self.refiner.finish(clean, inputs_2d, root), *entries

    def _pipelined(
        self, inputs_2d: Tensor, root: Tensor, start: Tensor, unseen: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """One pipelined pass. The rows are ordered by step, then by stream."""
        pending_2d, pending_3d, pending_root, *caches = state
        pose, rows_2d = torch.cat([start, pending_3d]), torch.cat([inputs_2d, pending_2d])
        times_of_steps = [self._times(step.time) for step in self.refiner.schedule]
        streams = self.layout.streams
        times = [
            torch.cat([time.expand(streams, -1, -1, -1) for time in times_of_block])
            for times_of_block in zip(*times_of_steps, strict=True)
        ]
        error, entries = self._denoise(pose, rows_2d, times, unseen, tuple(caches))
        # The coefficients of each row's own step. The rows of the last step give the refined poses.
        noise, scale, next_clean, next_noise = self.coefficients.unbind()
        clean = (pose - noise * error) * scale
        following = next_clean * clean + next_noise * error
        roots = torch.cat([root, pending_root])
        waiting = len(following) - streams
        return (
            self.refiner.finish(following[waiting:], rows_2d[waiting:], roots[waiting:]),
            rows_2d[:waiting],
            following[:waiting],
            roots[:waiting],
            *entries,
        )

    def _denoise(
        self, pose: Tensor, inputs_2d: Tensor, times: list[Tensor], unseen: Tensor, caches: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        """Predict the error of ``pose`` ``(rows, J, 3)``, and return it in metres with the entries of every module."""
        denoiser = self.refiner.denoiser
        x = functional.linear(torch.cat([inputs_2d, pose], dim=-1), denoiser.pose_emb.weight)
        if denoiser.joint_embedding is not None:
            x = x + denoiser.joint_embedding
        entries = []
        for index, (block, time) in enumerate(zip(denoiser.blocks, times, strict=True)):
            assert isinstance(block, DenoisingBlock)
            for module in (2 * index, 2 * index + 1):
                if module % 2:
                    if block.mlp_first is not None and block.layer_norm_first is not None:
                        x = x + block.mlp_first(block.layer_norm_first(x))
                    x = x + time[:, 0]
                x, entry = self.attentions[module](x, *caches[3 * module : 3 * module + 3], unseen)
                entries.append(entry)
            x = x + block.mlp(block.layer_norm(x))
        return denoiser.head(x) * self.refiner.error_scale, entries

    def _times(self, time: int) -> list[Tensor]:
        """The time embeddings of one step: for every block ``[1, 1, 1, C]``."""
        return [getattr(self.refiner, f"time_{time}_{index}") for index in range(len(self.refiner.denoiser.blocks))]


class StepAttention(nn.Module):
    """One frame of a causal `InferenceSTCAttention`, whose weights it shares."""

    def __init__(self, source: InferenceSTCAttention) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, recent: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from one frame of every row.

        Args:
            x: the current frame, ``(N, J, C)``.
            keys: the ring of the earlier frames' temporal keys, ``(N, J heads, T - 1, width)``.
            values: the ring of their temporal values, of the same shape.
            recent: the values of the two frames before, older first, ``(N, 2, J, C)``.
            unseen: added to the scores of the ring, ``(N, 1, 1, T - 1)``.

        Returns:
            The layer's output ``(N, J, C)``, and the frame's entry ``(N J, 3 C)``: its queries, keys and values in the
            order of `refiner.causal_state.StateLayout`.
        """
        source = self.source
        rows, joints, dim = x.shape
        heads, width, half = source.heads, source.width, source.dim // 2
        # Two-dimensional, since engines fuse a product and its bias only there.
        mixed = source.layer_norm(x).reshape(-1, dim) @ source.weight + source.bias
        spatial, *temporal = torch.split(mixed, [3 * half, half, half, half], dim=1)
        spatial = spatial.reshape(rows, joints, 3 * heads, width).transpose(1, 2)
        query, key, value = torch.split(spatial, heads, dim=1)
        over_joints = functional.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2)
        value, key, query = (part.reshape(rows, joints * heads, 1, width) for part in temporal)
        before = query @ keys.transpose(2, 3) + unseen
        now = (query * key).sum(dim=-1, keepdim=True)
        weights = torch.cat([before, now], dim=-1).softmax(dim=-1)
        weights_before, weight_now = torch.split(weights, [keys.shape[2], 1], dim=-1)
        over_frames = weights_before @ values + weight_now * value
        shape = (rows, joints, half)
        joined = torch.cat([over_joints.reshape(shape), over_frames.reshape(shape)], dim=-1)
        grid = torch.cat([recent, mixed[:, dim : 2 * dim].reshape(rows, 1, joints, dim)], dim=1).permute(0, 3, 1, 2)
        local = functional.conv2d(grid, source.local_weight, source.local_bias, padding=(0, 1), groups=dim)
        joined = joined + local.permute(0, 2, 3, 1).reshape(rows, joints, dim)
        return x + (joined @ source.proj_weight + source.proj_bias), mixed


class CarriedStep(nn.Module):
    """A `CausalStep` that returns the whole new state instead of entries: for engines that keep the state on a device.

    The numbers in a state before a stream's first frame are not used, as long as they are finite.
    """

    def __init__(self, step: CausalStep) -> None:
        super().__init__()
        self.step = step
        self.frames, self.config, self.steps, self.layout = step.frames, step.config, step.steps, step.layout

    def forward(
        self, pose_2d: Tensor, pose_3d: Tensor, image_size: Tensor, seen: Tensor, write: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        """Refine one frame of every stream and update the state.

        Args:
            pose_2d: as for `CausalStep.forward`.
            pose_3d: likewise.
            image_size: likewise.
            seen: likewise.
            write: ``(rows, T - 1)``, 1 in the slot that the frame of a row goes to; a row of zeros leaves the row's
                state unchanged.
            state: the tensors of ``StateLayout.state``, in its order.

        Returns:
            The refined poses ``(S, J, 3)`` and the new state, in the order of ``StateLayout.state``.
        """
        layout = self.layout
        waiting = len(PENDING) if layout.pipelined else 0
        pending, caches = list(state[:waiting]), list(state[waiting:])
        # Frame n fills slot n first. So the previous frame exists if slot 0 is filled, the one before it if slot 1 is.
        exists = seen[:, :RECENT].flip(1)[..., None, None]
        for index in range(2, len(caches), 3):
            caches[index] = caches[index] * exists
        refined, *fresh = self.step(pose_2d, pose_3d, image_size, seen, *pending, *caches)
        active = write.sum(dim=-1) > 0
        pending_active = active[: len(active) - layout.streams, None, None]
        new_state = [torch.where(pending_active, new, old) for new, old in zip(fresh[:waiting], pending, strict=True)]
        slot = write[:, None, :, None] > 0
        half = layout.dim // 2
        for module, entry in enumerate(fresh[waiting:]):
            keys, values, recent = caches[3 * module : 3 * module + 3]
            parts = entry.reshape(layout.rows, layout.joints, 3 * layout.dim)

            def in_ring(ring: Tensor, first: int, parts: Tensor = parts) -> Tensor:
                new = parts[..., first : first + half].reshape(layout.rows, -1, 1, layout.width)
                return torch.where(slot, new, ring)

            now = parts[:, None, :, layout.values_at : layout.values_at + layout.dim]
            later = torch.cat([recent[:, 1:], now], dim=1)
            new_state += [
                in_ring(keys, layout.keys_at),
                in_ring(values, layout.values_at + half),
                torch.where(active[:, None, None, None], later, recent),
            ]
        return refined, *new_state
