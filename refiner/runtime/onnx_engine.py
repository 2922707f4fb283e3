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
from refiner.runtime.engine import DEFAULT_FPS, INPUTS, OUTPUTS
from refiner.skeleton import JOINT_NAMES

# The key of ONNX's metadata under which the manifest is stored, and the layout of it that this version reads.
METADATA_KEY = "refiner"
SCHEMA = 1

CPU = "CPUExecutionProvider"


class OnnxEngine:
    """An exported graph run by ONNX Runtime.

    Args:
        path: the ``.onnx`` file. kind: "lifter" or "refiner".
        providers: execution providers; one that did not load raises MissingComponentError.
        threads: threads inside an operator; None leaves ONNX Runtime's default.

    Raises ArtefactError for a file that is truncated, foreign, of the other kind or of another version.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        kind: str,
        providers: Sequence[str] = (CPU,),
        threads: int | None = None,
    ) -> None:
        file = Path(path)
        if not file.is_file():
            raise ArtefactError(f"there is no graph at {file}; write one with: refiner-export --engine onnx")
        self._session = _open_session(file, providers, threads)
        self._inputs, self._output = INPUTS[kind], OUTPUTS[kind]
        manifest = _read_manifest(self._session, file, kind)
        self.frames = _check_graph(self._session, file, kind)
        self.fps = float(manifest.get("fps", DEFAULT_FPS))
        self.metadata: dict[str, Any] = {**manifest, "engine": "onnx"}
        self.inputs = None

    def __call__(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        feeds = dict(zip(self._inputs, inputs, strict=True))
        result: NDArray[np.float32] = self._session.run([self._output], feeds)[0]
        return result


def _open_session(file: Path, providers: Sequence[str], threads: int | None) -> Any:
    try:
        import onnxruntime as ort
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            "running an .onnx file needs ONNX Runtime: pip install 'refiner[cpu]' (or 'refiner[gpu]', never both)"
        ) from error
    available = ort.get_available_providers()
    missing = [name for name in providers if name not in available]
    if missing:
        raise MissingComponentError(
            f"ONNX Runtime here has no {', '.join(missing)}, only {', '.join(available)}; the GPU ones come with "
            "'refiner[gpu]' in place of 'refiner[cpu]'"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    try:
        session = ort.InferenceSession(str(file), options, providers=list(providers))
    # ONNX Runtime raises a family of its own without a common base but Exception.
    except Exception as error:
        raise ArtefactError(
            f"ONNX Runtime cannot load {file}: {_first_line(error)}. It may be truncated or foreign: export it again"
        ) from error
    # A provider whose libraries are missing is left out without an error, and the CPU takes its place.
    loaded = session.get_providers()
    lost = [name for name in providers if name not in loaded]
    if lost:
        raise MissingComponentError(
            f"ONNX Runtime could not load {', '.join(lost)} and fell back to {', '.join(loaded)}: are the CUDA "
            "libraries installed that this ONNX Runtime was built for?"
        )
    return session


def _read_manifest(session: Any, file: Path, kind: str) -> dict[str, Any]:
    stored = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if stored is None:
        raise ArtefactError(
            f"{file} carries no refiner metadata: it is a graph of something else; expected one that "
            "refiner-export wrote"
        )
    try:
        manifest = json.loads(stored)
        schema, found, joints = manifest["schema"], manifest["kind"], manifest["joints"]["names"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ArtefactError(f"the metadata of {file} cannot be read ({error!r}); export it again") from error
    if schema != SCHEMA:
        raise ArtefactError(f"{file} has metadata of schema {schema!r}, this refiner reads {SCHEMA}; export it again")
    if found != kind:
        raise ArtefactError(f"{file} is a graph of a {found}, expected a {kind}")
    if list(joints) != list(JOINT_NAMES):
        raise ArtefactError(f"{file} has the joints {joints}, expected {list(JOINT_NAMES)}; export it again")
    return dict(manifest)


def _check_graph(session: Any, file: Path, kind: str) -> int:
    """The graph's frames. Raises ArtefactError unless inputs and output are what the runtime feeds and reads."""
    joints = len(JOINT_NAMES)
    inputs = {entry.name: entry for entry in session.get_inputs()}
    outputs = {entry.name: entry for entry in session.get_outputs()}
    if list(inputs) != INPUTS[kind] or list(outputs) != [OUTPUTS[kind]]:
        raise ArtefactError(
            f"{file} is no exported {kind}: it has inputs {list(inputs)} and outputs {list(outputs)}, expected "
            f"{INPUTS[kind]} and {[OUTPUTS[kind]]}"
        )
    frames = inputs["pose_2d"].shape[1] if len(inputs["pose_2d"].shape) == 4 else None
    if not isinstance(frames, int) or frames < 1:
        raise ArtefactError(f"{file} has pose_2d of shape {inputs['pose_2d'].shape}; expected a fixed number of frames")
    expected = {
        "pose_2d": [frames, joints, 2],
        "pose_3d": [frames, joints, 3],
        "image_size": [2],
        "refined_pose_3d": [frames, joints, 3],
    }
    for name, entry in {**inputs, **outputs}.items():
        batch, *rest = entry.shape
        if entry.type != "tensor(float)" or rest != expected[name] or isinstance(batch, int):
            raise ArtefactError(
                f"{file} has {name} of type {entry.type} and shape {entry.shape}; expected tensor(float) and "
                f"{['batch', *expected[name]]}; export it again"
            )
    return frames


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
