"""PyTorch as an engine: the reference that the others are compared with."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import MissingComponentError
from refiner.runtime.engine import config_fps


class TorchEngine:
    """A checkpoint run by eager PyTorch on the CPU.

    Args:
        path: a ``.safetensors`` checkpoint. kind: "lifter" or "refiner". steps: K instead of the checkpoint's.
        threads: PyTorch's threads (a setting of the whole process); None leaves them.

    Raises CheckpointError for a file that is no such checkpoint, MissingComponentError without PyTorch.
    """

    def __init__(
        self, path: str | os.PathLike[str], kind: str, steps: int | None = None, threads: int | None = None
    ) -> None:
        try:
            import torch
        except ModuleNotFoundError as error:
            raise MissingComponentError(
                f"running the checkpoint {path} needs PyTorch: pip install 'refiner[train]'. Without it, load an .onnx "
                "file instead, which needs 'refiner[cpu]' alone; refiner-export --engine onnx writes one elsewhere"
            ) from error
        from refiner.models import UnrolledRefiner
        from refiner.training.checkpoints import input_model_of, load_checkpoint, module_of

        if threads:
            torch.set_num_threads(threads)
        checkpoint = load_checkpoint(path, kind)
        self._module = module_of(checkpoint, steps, str(path))
        self.inputs = input_model_of(checkpoint)
        self.frames: int = self._module.frames
        self.fps = config_fps(self._module.config)
        self.metadata: dict[str, Any] = {**self._module.config, "engine": "torch"}
        if isinstance(self._module, UnrolledRefiner):
            self.metadata["steps"] = self._module.steps

    def __call__(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            result: NDArray[np.float32] = self._module(*(torch.from_numpy(array) for array in inputs)).numpy()
        return result
