"""PyTorch as an engine. It is the reference that all other engines are compared with."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.familiarity import InputModel
from refiner.engines import EngineOptions
from refiner.errors import MissingComponentError
from refiner.model_spec import ModelSpec
from refiner.runtime.engine import ANY_BATCH, ModelDefaults
from refiner.runtime.replay import on_arrays
from refiner.runtime.stitching import DEFAULT_BATCH


class TorchEngine(ModelDefaults):
    """Runs a checkpoint in PyTorch, eagerly or compiled. On a CUDA device it runs as CUDA graphs.

    Args:
        path: a ``.safetensors`` checkpoint.
        role: "lifter" or "refiner".
        steps: the number of denoising steps K; None is the checkpoint's K.
        threads: PyTorch's threads during a call on the CPU; None is `refiner.runtime.replay.default_threads`.
        device: "cpu" or "cuda".
        compiled: run through ``torch.compile``, which compiles at the first call.

    Raises:
        CheckpointError: the file is no checkpoint of that role.
        MissingComponentError: PyTorch or the device is missing.
    """

    least_batch, largest_batch = 1, ANY_BATCH
    # Only for a diffusion lifter: takes the arguments of a call and returns all hypotheses, (B, H, T, J, 3).
    hypotheses: Callable[..., NDArray[np.float32]] | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        role: str,
        steps: int | None = None,
        threads: int | None = None,
        device: str = "cpu",
        compiled: bool = False,
    ) -> None:
        module, self.inputs = open_module(path, role, steps, device)
        import torch

        from refiner.models import LiftingModule, SampledLifter, UnrolledRefiner
        from refiner.models.inference_form import inference_form

        self.frames: int = module.frames
        self.rays: bool = module.rays
        spec = ModelSpec.of_config(module.config)
        self.kind, self.stride, self.fps = spec.kind, spec.stride, spec.fps
        self.flip_test, self.guesses_action = spec.flip_test, spec.guesses_action
        self.validation_curve, self.uncertainty = spec.validation_curve, spec.joint_uncertainty
        self.engine, self.device = "torch-compile" if compiled else "torch", device
        self.metadata: dict[str, Any] = {**module.config, "engine": self.engine, "device": device}
        self.reach: int | None = module.reach if isinstance(module, UnrolledRefiner) else None
        if isinstance(module, LiftingModule):
            self.actions = module.actions
            if isinstance(module.lifter, SampledLifter):
                # A diffusion lifter makes many poses of one window, so it takes fewer windows at a time.
                self.largest_batch = max(1, DEFAULT_BATCH // module.lifter.poses_per_window)
                self.hypotheses = on_arrays(module.to(device).hypotheses, torch.device(device), threads)
        else:
            self.steps = self.metadata["steps"] = module.steps
        # In eager mode on the CPU, the native kernel is faster than the reordered operations of the inference form.
        run: Any = module if device == "cpu" and not compiled else inference_form(module).to(device)
        # Eager modules only read their weights. The compiler compiles in the first call of each shape of the inputs.
        self._turn: AbstractContextManager[Any] = threading.Lock() if compiled else nullcontext()
        self._call = on_arrays(torch.compile(run) if compiled else run, torch.device(device), threads)

    @classmethod
    def open(cls, file: Path, role: str, options: EngineOptions) -> TorchEngine:
        """Open a checkpoint; `refiner.engines` calls this."""
        compiled = options.engine == "torch-compile"
        return cls(file, role, options.steps, options.threads, options.device or "cpu", compiled)

    def __call__(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch of windows. Any number of threads may call this at once."""
        with self._turn:
            return self._call(*inputs)


def open_module(
    path: str | os.PathLike[str], role: str, steps: int | None, device: str
) -> tuple[Any, InputModel | None]:
    """Load the module of a checkpoint and the distribution of its training inputs. Raises like `TorchEngine`."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"running the checkpoint {path} in PyTorch needs it: pip install 'pose-refiner[train]'. Refiners, "
            "STCFormer, MixSTE and D3DP also run with engine='native', which needs nothing else; for others load an "
            ".onnx file, which needs 'pose-refiner[cpu]' alone; refiner-export --engine onnx writes one elsewhere"
        ) from error
    from refiner.model_files.build import module_of
    from refiner.model_files.checkpoint import input_model_of, load_checkpoint

    if device == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError("PyTorch sees no CUDA device here; use device='cpu', or install its CUDA build")
    checkpoint = load_checkpoint(path, role)
    return module_of(checkpoint, steps, str(path)), input_model_of(checkpoint)
