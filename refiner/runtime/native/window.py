"""The native engine for windows: lifters and refiners."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.engines import EngineOptions
from refiner.errors import ShapeError, UsageError
from refiner.rays import placed, seen_by_network, turned, turned_back
from refiner.runtime.engine import ANY_BATCH, ModelDefaults
from refiner.runtime.native import mixste, network
from refiner.runtime.native.checkpoint import STC_LIFTERS, load_model
from refiner.skeleton import H36M17

Array = NDArray[np.float32]


class NativeEngine(ModelDefaults):
    """Runs the checkpoint of an STCFormer, a MixSTE or a PoseDenoiser on the CPU.

    Calls may come from several threads at a time.

    Args:
        path: a ``.safetensors`` checkpoint.
        role: "lifter" or "refiner".
        steps: the number of denoising steps K; None is the checkpoint's K.
        threads: threads of a call; None takes those of the kernels (`refiner.native.thread_count`).
        precision: "fp32" or "bf16", the precision of the operands of the layers' products. All else is float32.

    Raises:
        CheckpointError: the file is no checkpoint of that role.
        UsageError: no kernel exists for its network, or the processor has no instructions for the precision.
        ConfigError: its configuration contradicts itself.
        ShapeError: by calls, for windows of another length than a MixSTE was trained on.
        MissingComponentError: the compiled module is missing.
    """

    least_batch, largest_batch = 1, ANY_BATCH

    def __init__(
        self,
        path: str | os.PathLike[str],
        role: str,
        steps: int | None = None,
        threads: int | None = None,
        precision: str = "fp32",
    ) -> None:
        model = load_model(path, role, steps)
        spec, self.inputs = model.spec, model.inputs
        self.frames, self.stride, self.fps = spec.frames, spec.stride, spec.fps
        self.kind, self.rays, self.uncertainty = spec.kind, spec.rays, spec.joint_uncertainty
        self.flip_test, self.guesses_action = spec.flip_test, spec.guesses_action
        self.validation_curve, self.engine = spec.validation_curve, "native"
        self.metadata = {**model.config, "engine": self.engine, "device": "cpu", "precision": precision}
        self.reach: int | None = None
        self._threads, self._refinement, self._root = threads or 0, model.refinement, spec.root
        inside = np.array(model.order)
        # Networks with the joints in their own order get them in that order.
        self._order = None if spec.joints == H36M17.name else (inside, np.argsort(inside))
        self._only_frames: int | None = None
        if model.refinement is None:
            sizes = model.config["model"]
            if spec.architecture in STC_LIFTERS:
                self._network = network.lifter(model.weights, sizes, model.order, precision)
            else:
                self._network = mixste.lifter(model.weights, sizes, spec.frames, precision)
                self._only_frames = spec.frames
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
        if options.device == "cuda":
            raise UsageError("the native engine runs on the CPU; engine='torch' runs on a CUDA device")
        return cls(file, role, options.steps, options.threads, options.precision or "fp32")

    def __call__(self, *inputs: Array) -> Array:
        """See `refiner.runtime.engine.RefinerEngine` and `LifterEngine`."""
        pose_2d, *given, lens = (np.asarray(array, np.float32) for array in inputs)
        seen, rotation = seen_by_network(pose_2d, lens, self.rays)
        if self._refinement is None:
            pose = self._run(0, seen)
            if self._root == "subtracted":
                pose -= pose[..., :1, :]
            else:
                pose[..., 0, :] = 0.0
            return np.ascontiguousarray(turned_back(pose, rotation))
        root = given[0][..., :1, :]
        start = self._refinement.begin(turned(given[0] - root, rotation), seen)
        pose = self._refinement.denoised(
            start, lambda step, pose: self._run(step, np.concatenate([seen, pose], axis=-1))
        )
        return np.ascontiguousarray(placed(self._refinement.trusted(start, pose), rotation, root), np.float32)

    def _run(self, step: int, features: Array) -> Array:
        """The network's output for ``(B, T, J, features)``, ``(B, T, J, 3)``."""
        if self._only_frames not in (None, features.shape[1]):
            raise ShapeError(
                f"this model has learnt the positions of {self._only_frames} frames; got a window of "
                f"{features.shape[1]}: cut windows of that length"
            )
        if self._order is not None:
            features = features[..., self._order[0], :]
        output = np.empty((*features.shape[:-1], 3), np.float32)
        self._network.windows(step, np.ascontiguousarray(features, np.float32), output, self._threads)
        return output if self._order is None else output[..., self._order[1], :]
