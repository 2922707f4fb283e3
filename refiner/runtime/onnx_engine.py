"""ONNX Runtime as an engine, for graphs that refiner-export wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ArtefactError, MissingComponentError

INPUTS = {"refiner": ["pose_2d", "pose_3d", "image_size"], "lifter": ["pose_2d", "image_size"]}
OUTPUTS = {"refiner": "refined_pose_3d", "lifter": "pose_3d"}


class OnnxEngine:
    """An exported graph run by ONNX Runtime.

    Args:
        path: the ``.onnx`` file. kind: "lifter" or "refiner".
        providers: execution providers; one that did not load raises MissingComponentError.
        threads: threads inside an operator; None leaves ONNX Runtime's default.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        kind: str,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int | None = None,
    ) -> None:
        try:
            import onnxruntime as ort
        except ModuleNotFoundError as error:
            raise MissingComponentError(
                "running an .onnx file needs ONNX Runtime: pip install 'refiner[cpu]' (or 'refiner[gpu]', never both)"
            ) from error
        file = Path(path)
        if not file.is_file():
            raise ArtefactError(f"there is no graph at {file}; write one with: refiner-export --engine onnx")
        missing = [name for name in providers if name not in ort.get_available_providers()]
        if missing:
            raise MissingComponentError(
                f"ONNX Runtime here has no {', '.join(missing)}, only {', '.join(ort.get_available_providers())}"
            )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(file), options, providers=list(providers))
        # ONNX Runtime raises a family of its own without a common base but Exception.
        except Exception as error:
            raise ArtefactError(f"ONNX Runtime cannot load {file}: {_first_line(error)}; export it again") from error
        loaded = self._session.get_providers()
        if loaded[0] != providers[0]:
            raise MissingComponentError(f"ONNX Runtime loaded {loaded[0]} instead of {providers[0]}")
        self._check(file, kind)
        self.metadata: dict[str, Any] = {**self._manifest(file), "engine": "onnx"}
        self.frames = int(self._session.get_inputs()[0].shape[1])
        self._inputs, self._output = INPUTS[kind], OUTPUTS[kind]

    def __call__(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        feeds = dict(zip(self._inputs, inputs, strict=True))
        result: NDArray[np.float32] = self._session.run([self._output], feeds)[0]
        return result

    def _check(self, file: Path, kind: str) -> None:
        inputs = [entry.name for entry in self._session.get_inputs()]
        outputs = [entry.name for entry in self._session.get_outputs()]
        if inputs != INPUTS[kind] or outputs != [OUTPUTS[kind]]:
            raise ArtefactError(
                f"{file} is no exported {kind}: it has inputs {inputs} and outputs {outputs}, expected "
                f"{INPUTS[kind]} and {[OUTPUTS[kind]]}"
            )
        if not isinstance(self._session.get_inputs()[0].shape[1], int):
            raise ArtefactError(f"{file} has a dynamic number of frames; expected a fixed window")

    def _manifest(self, file: Path) -> dict[str, Any]:
        stored = self._session.get_modelmeta().custom_metadata_map.get("refiner")
        if stored is None:
            raise ArtefactError(f"{file} carries no refiner metadata; export it with refiner-export")
        try:
            manifest: dict[str, Any] = json.loads(stored)
        except json.JSONDecodeError as error:
            raise ArtefactError(f"the metadata of {file} cannot be read: {error}") from error
        return manifest


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
