"""The native engine for streams: a causal refiner, frame by frame."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.causal_state import RECENT, StateLayout, StreamCounts
from refiner.engines import EngineOptions
from refiner.errors import ConfigError, UsageError
from refiner.rays import placed, seen_by_network, turned
from refiner.runtime.causal import Active, StreamEngine, StreamFacts
from refiner.runtime.native import network
from refiner.runtime.native.checkpoint import load_model

Array = NDArray[np.float32]


class NativeCausalEngine(StreamEngine):
    """Runs a causal checkpoint of STC blocks frame by frame. The state lies in the kernels' own layout.

    Args:
        path: a ``.safetensors`` checkpoint.
        streams: the number of streams.
        steps: the number of denoising steps K; None is the checkpoint's K.
        threads: threads of a call; one by default, since a frame is too small to share.
        precision: as `refiner.runtime.native.window.NativeEngine`; the state is float32.

    Raises:
        ConfigError: the checkpoint is not causal.
        CheckpointError, UsageError, MissingComponentError: as `refiner.runtime.native.window.NativeEngine`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        streams: int = 1,
        steps: int | None = None,
        threads: int | None = None,
        precision: str = "fp32",
    ) -> None:
        if precision == "fp16":
            raise UsageError("the native engine runs frames on the CPU, in fp32 or bf16, not in fp16")
        model = load_model(path, "refiner", steps)
        spec, refinement = model.spec, model.refinement
        assert refinement is not None
        if not spec.causal:
            raise ConfigError(
                f"{path}: only a causal refiner runs frame by frame, and this one was trained on windows; train one "
                "with refiner-train refiner --config refiner-small-causal"
            )
        sizes = model.config["model"]
        times = [step.time for step in refinement.schedule]
        self._network = network.denoiser(model.weights, sizes, times, spec.frames, precision)
        self._refinement, self._threads = refinement, threads or 1
        modules = self._network.attentions
        layout = StateLayout(
            streams=streams,
            frames=spec.frames,
            steps=len(times),
            modules=modules,
            heads=sizes["heads"],
            width=sizes["dim"] // (2 * sizes["heads"]),
            rays=spec.rays,
        )
        metadata = {
            **model.config,
            "engine": "native",
            "device": "cpu",
            "precision": precision,
            "steps": len(times),
            "fps": spec.fps,
        }
        facts = StreamFacts("native", "cpu", spec.fps, spec.joint_uncertainty, metadata)
        super().__init__(layout, StreamCounts(layout), facts)
        half = layout.dim // 2
        ring = (len(times), modules, streams, layout.joints, layout.frames, half)
        self._keys, self._values = np.zeros(ring, np.float32), np.zeros(ring, np.float32)
        self._recent = np.zeros((len(times), modules, streams, RECENT + 1, layout.joints, layout.dim), np.float32)
        features = (6 if spec.rays else 2) + 3
        self._features = np.zeros((streams, layout.joints, features), np.float32)
        self._error = np.zeros((streams, layout.joints, 3), np.float32)

    @classmethod
    def open(cls, file: Path, options: EngineOptions) -> NativeCausalEngine:
        """Open a checkpoint; `refiner.engines` calls this."""
        if options.device == "cuda":
            raise UsageError("the native engine runs frames on the CPU; engine='torch' runs them on a CUDA device")
        if options.pipelined:
            raise UsageError("the native engine does not pipeline; engine='torch' does, and so do exported artefacts")
        streams = 1 if options.streams is None else options.streams
        return cls(file, streams, options.steps, options.threads, options.precision or "fp32")

    def _pass(self, rows: Active) -> None:
        # A copy in C's order: the kernel reads it while other threads may run.
        rows = np.array(rows, np.bool_, order="C")
        pose_2d, pose_3d, lens = (self.inputs[name] for name in self._names)
        seen, rotation = seen_by_network(pose_2d, lens, self.rays)
        root = pose_3d[:, :1]
        start = self._refinement.begin(turned(pose_3d - root, rotation), seen)
        self._features[..., : seen.shape[-1]] = seen

        def network(step: int, pose: Array) -> Array:
            self._features[..., seen.shape[-1] :] = pose
            self._network.frame(
                step,
                self._features,
                self._error,
                self._keys[step],
                self._values[step],
                self._recent[step],
                self.counts.counts,
                rows,
                self._threads,
            )
            return self._error

        self.refined[:] = placed(self._refinement.denoised(start, network), rotation, root)
        self.counts.advance(rows)
