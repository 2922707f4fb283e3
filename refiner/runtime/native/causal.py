"""The native engine for streams: a causal refiner, frame by frame."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.causal_state import StateLayout, StreamCounts
from refiner.engines import EngineOptions
from refiner.errors import ConfigError, UsageError
from refiner.runtime.causal import Active, StreamEngine, StreamFacts
from refiner.runtime.native import network
from refiner.runtime.native.checkpoint import load_model

Array = NDArray[np.float32]


class NativeCausalEngine(StreamEngine):
    """Runs a causal checkpoint of STC blocks frame by frame. The state lies in the kernels' own layout.

    Args:
        path: a ``.safetensors`` checkpoint.
        streams: the number of streams.
        pipelined: run the K steps of K neighbouring frames in one pass over the weights, with K - 1 frames of delay.
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
        pipelined: bool = False,
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
        built = network.denoiser(model.weights, sizes, times, spec.frames, precision)
        self._threads = threads or 1
        layout = StateLayout(
            streams=streams,
            frames=spec.frames,
            steps=len(times),
            modules=built.attentions,
            heads=sizes["heads"],
            width=sizes["dim"] // (2 * sizes["heads"]),
            pipelined=pipelined,
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
        from refiner import _native

        schedule = np.array([step[1:] for step in refinement.schedule], np.float32)
        gain, offset = refinement.expected_error or (np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
        self._streams = _native.CausalStreams(
            built, streams, spec.rays, pipelined, schedule, refinement.error_scale, np.ascontiguousarray(gain), offset
        )

    @classmethod
    def open(cls, file: Path, options: EngineOptions) -> NativeCausalEngine:
        """Open a checkpoint; `refiner.engines` calls this."""
        if options.device == "cuda":
            raise UsageError("the native engine runs frames on the CPU; engine='torch' runs them on a CUDA device")
        streams = 1 if options.streams is None else options.streams
        pipelined, precision = bool(options.pipelined), options.precision or "fp32"
        return cls(file, streams, pipelined, options.steps, options.threads, precision)

    def _pass(self, rows: Active) -> None:
        # A copy in C's order: the kernel reads it while other threads may run.
        rows = np.array(rows, np.bool_, order="C")
        arrays = (self.inputs[name] for name in self._names)
        self._streams.step(*arrays, self.counts.counts, rows, self.refined, self._threads)
        self.counts.advance(rows)
