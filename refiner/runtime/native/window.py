"""The native engine for windows: lifters and refiners."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.engines import EngineOptions
from refiner.errors import ShapeError, UsageError
from refiner.rays import placed, seen_by_network, turned, turned_back
from refiner.runtime.engine import ANY_BATCH, ModelDefaults
from refiner.runtime.native import mixste, network
from refiner.runtime.native.checkpoint import STC_LIFTERS, load_model
from refiner.runtime.stitching import DEFAULT_BATCH
from refiner.skeleton import H36M17

Array = NDArray[np.float32]


class NativeEngine(ModelDefaults):
    """Runs an STCFormer, a MixSTE, a D3DP or a PoseDenoiser on the CPU, or one of STC blocks on a CUDA device.

    Calls may come from several threads at a time.

    Args:
        path: a ``.safetensors`` checkpoint.
        role: "lifter" or "refiner".
        steps: the number of denoising steps K, of a refiner or of a diffusion lifter; None is the checkpoint's K.
        threads: threads of a call; None takes those of the kernels (`refiner.native.thread_count`).
        precision: the precision of the operands of the layers' products: "fp32" or "bf16" on the CPU, "fp16" on a CUDA
            device, where queries, keys and values have it, too. All else is float32. None is "fp32", or "fp16".
        device: "cpu", or "cuda" for the current CUDA device.

    Raises:
        CheckpointError: the file is no checkpoint of that role.
        UsageError: no kernel exists for its network, or the processor or device does not have the precision.
        ConfigError: its configuration contradicts itself.
        ShapeError: by calls, for windows of another length than MixSTE's blocks were trained on.
        MissingComponentError: the compiled module or its CUDA part is missing, or there is no device.
    """

    least_batch, largest_batch = 1, ANY_BATCH
    # Only for a diffusion lifter: all hypotheses of a call, (B, H, T, J, 3).
    hypotheses: Callable[..., Array] | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        role: str,
        steps: int | None = None,
        threads: int | None = None,
        precision: str | None = None,
        device: str = "cpu",
    ) -> None:
        precision = precision or ("fp16" if device == "cuda" else "fp32")
        if (precision == "fp16") is not (device == "cuda"):
            raise UsageError(
                "the native engine runs in fp16 on a CUDA device and in fp32 or bf16 on the CPU, not in "
                f"{precision} with device='{device}'; engine='torch' runs fp32 on a CUDA device"
            )
        model = load_model(path, role, steps, device)
        spec, self.inputs = model.spec, model.inputs
        self.frames, self.stride, self.fps = spec.frames, spec.stride, spec.fps
        self.kind, self.rays, self.uncertainty = spec.kind, spec.rays, spec.joint_uncertainty
        self.flip_test, self.guesses_action = spec.flip_test, spec.guesses_action
        self.validation_curve, self.engine = spec.validation_curve, "native"
        self.metadata = {**model.config, "engine": self.engine, "device": device, "precision": precision}
        self.reach: int | None = None
        self._threads, self._refinement, self._root = threads or 0, model.refinement, spec.root
        self._sampling = model.sampling
        inside = np.array(model.order)
        # Networks with the joints in their own order get them in that order.
        self._order = None if spec.joints == H36M17.name else (inside, np.argsort(inside))
        self._only_frames: int | None = None
        if model.refinement is None:
            sizes = model.config["model"]
            if spec.architecture in STC_LIFTERS:
                self._network = network.lifter(model.weights, sizes, model.order, precision)
                return
            self._only_frames = spec.frames
            if self._sampling is None:
                self._network = mixste.lifter(model.weights, sizes, spec.frames, precision)
                return
            times = [step.time for step in self._sampling.schedule]
            self._network = mixste.clean_pose_denoiser(model.weights, sizes, spec.frames, times, precision)
            self.metadata["sampling"] = {**model.config["sampling"], "steps": len(times)}
            # As in PyTorch: a diffusion lifter makes many poses of one window, so it takes fewer windows at a time.
            self.largest_batch = max(1, DEFAULT_BATCH // self._sampling.poses_per_window)
            self.hypotheses = self._hypotheses
            return
        times = [step.time for step in model.refinement.schedule]
        band = spec.frames if spec.causal else 0
        self._network = network.denoiser(model.weights, model.config["model"], times, band, precision)
        self.steps = self.metadata["steps"] = len(times)
        if spec.causal:
            # As `refiner.models.unrolled.UnrolledRefiner.reach`.
            self.reach = len(times) * self._network.attentions * max(band - 1, 2)

    @classmethod
    def open(cls, file: Path, role: str, options: EngineOptions) -> NativeEngine:
        """Open a checkpoint; `refiner.engines` calls this."""
        return cls(file, role, options.steps, options.threads, options.precision, options.device or "cpu")

    def __call__(self, *inputs: Array) -> Array:
        """See `refiner.runtime.engine.RefinerEngine` and `LifterEngine`."""
        if self._sampling is not None:
            return np.ascontiguousarray(self._hypotheses(*inputs).mean(axis=1))
        pose_2d, *given, lens = (np.asarray(array, np.float32) for array in inputs)
        seen, rotation = seen_by_network(pose_2d, lens, self.rays)
        if self._refinement is None:
            pose = self._root_at_zero(self._run(0, seen))
            return np.ascontiguousarray(turned_back(pose, rotation))
        root = given[0][..., :1, :]
        start = self._refinement.begin(turned(given[0] - root, rotation), seen)
        pose = self._refinement.denoised(
            start, lambda step, pose: self._run(step, np.concatenate([seen, pose], axis=-1))
        )
        return np.ascontiguousarray(placed(self._refinement.trusted(start, pose), rotation, root), np.float32)

    def _hypotheses(self, pose_2d: Array, lens: Array) -> Array:
        """All poses of a diffusion lifter, ``(B, H, T, J, 3)``; arguments as for `__call__`."""
        assert self._sampling is not None
        seen, _ = seen_by_network(np.asarray(pose_2d, np.float32), np.asarray(lens, np.float32), self.rays)
        self._check_frames(seen)
        return self._root_at_zero(self._sampling.hypotheses(seen, self._run))

    def _root_at_zero(self, pose: Array) -> Array:
        """As `refiner.models.unrolled.root_at_zero`, in place."""
        if self._root == "subtracted":
            pose -= pose[..., :1, :]
        else:
            pose[..., 0, :] = 0.0
        return pose

    def _check_frames(self, window: Array) -> None:
        if self._only_frames not in (None, window.shape[1]):
            raise ShapeError(
                f"this model has learnt the positions of {self._only_frames} frames; got a window of "
                f"{window.shape[1]}: cut windows of that length"
            )

    def _run(self, step: int, features: Array) -> Array:
        """The network's output for ``(B, T, J, features)``, ``(B, T, J, 3)``."""
        self._check_frames(features)
        if self._order is not None:
            features = features[..., self._order[0], :]
        output = np.empty((*features.shape[:-1], 3), np.float32)
        self._network.windows(step, np.ascontiguousarray(features, np.float32), output, self._threads)
        return output if self._order is None else output[..., self._order[1], :]
