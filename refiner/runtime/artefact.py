"""What every compiled artefact has in common: a manifest that says what it is, and windows that must fit it.

The manifest lies as JSON beside the artefact. An artefact other than an ONNX graph is run as native code by its
engine, so it is opened only when its bytes are those that the manifest names: that tells a truncated, mixed-up or
exchanged file. It does not tell who wrote the pair: take artefacts from people whose programs you would run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ArtefactError, UsageError
from refiner.files import sha256_of
from refiner.runtime.engine import DEFAULT_FPS, OUTPUTS, SAME_ROLE, input_names, window_inputs
from refiner.skeleton import JOINT_NAMES

# The layout of the manifest that this version writes and reads.
SCHEMA = 2


def _batches(value: Any) -> bool:
    sizes = [value.get(key) for key in ("min", "opt", "max")] if isinstance(value, dict) else []
    whole = [size for size in sizes if type(size) is int and size > 0]
    return len(whole) == 3 and whole == sorted(whole)


def _tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("shape"), list)
        and len(entry["shape"]) > 1
        and all(type(size) is int and size > 0 for size in entry["shape"][1:])
        for entry in value.values()
    )


# What every manifest has, and whether a value can be used.
REQUIRED: dict[str, Callable[[Any], bool]] = {
    "batch": _batches,
    "engine": lambda value: isinstance(value, str),
    "fps": lambda value: type(value) in (int, float) and value > 0,
    "frames": lambda value: type(value) is int and value > 0,
    "inputs": _tensors,
    "joints": lambda value: isinstance(value, dict),
    "kind": lambda value: isinstance(value, str) and value in OUTPUTS,
    "outputs": _tensors,
    "precision": lambda value: isinstance(value, str),
}
# Files without which an artefact of that suffix is not whole.
BELONGING = {".xml": (".bin",)}
# A manifest is a few kilobytes; whatever is longer is something else.
LONGEST_MANIFEST = 10_000_000


def manifest_path(artefact: str | os.PathLike[str]) -> Path:
    """Where the manifest of ``artefact`` lies."""
    file = Path(artefact)
    # The whole name: artefacts of several engines lie side by side.
    return file.with_name(f"{file.name}.json")


def read_manifest(artefact: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest beside ``artefact``. Raises ArtefactError where it is missing, broken or of another version."""
    file = manifest_path(artefact)
    try:
        if file.stat().st_size > LONGEST_MANIFEST:
            raise ArtefactError(f"{file} is too long for a manifest; export the checkpoint again")
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtefactError(
            f"there is no manifest at {file}; it belongs beside the artefact: copy both, or export the checkpoint again"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ArtefactError(f"{file} is no JSON ({error}); export the checkpoint again") from error
    return check_manifest(content, file)


def check_manifest(content: Any, where: Path) -> dict[str, Any]:
    """``content`` as a manifest of this version. Raises ArtefactError for what is missing or of another version."""
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise ArtefactError(
            f"{where} holds no manifest of schema {SCHEMA} (found {found!r}); export the checkpoint again"
        )
    missing = [key for key in REQUIRED if key not in content]
    if missing:
        raise ArtefactError(f"the manifest in {where} lacks {', '.join(missing)}; export the checkpoint again")
    broken = [key for key, fits in REQUIRED.items() if not fits(content[key])]
    if broken:
        raise ArtefactError(f"the manifest in {where} has no usable {', '.join(broken)}; export the checkpoint again")
    joints = content["joints"].get("names")
    if joints != list(JOINT_NAMES):
        raise ArtefactError(
            f"{where} has the joints {joints}, expected {list(JOINT_NAMES)} in this order; export the checkpoint again"
        )
    return dict(content)


def open_manifest(file: Path, role: str, engines: tuple[str, ...]) -> dict[str, Any]:
    """The manifest of an artefact that may be opened as ``role`` in one of ``engines``: `read_manifest`, `check_role`
    and `check_files`."""
    manifest = read_manifest(file)
    check_role(manifest, file, role, engines)
    check_files(manifest, file)
    return manifest


def check_role(manifest: dict[str, Any], file: Path, role: str, engines: tuple[str, ...]) -> None:
    """Raises ArtefactError unless the artefact can serve as ``role`` ("lifter", "refiner") in one of ``engines``."""
    if manifest["kind"] not in SAME_ROLE[role]:
        wanted = " or ".join(SAME_ROLE[role])
        raise ArtefactError(
            f"{file} is a {manifest['kind']}, expected a {wanted}; load it as what it is (Refiner, Lifter or "
            "open_causal_engine of refiner.runtime)"
        )
    if manifest["engine"] not in engines:
        raise ArtefactError(
            f"{file} was made for the engine {manifest['engine']!r}, not {' or '.join(engines)}; export it for "
            f"this one: refiner-export --engine {engines[0]}"
        )


def check_files(manifest: dict[str, Any], artefact: Path) -> None:
    """Raises ArtefactError unless every file of the artefact is the one that its manifest names."""
    files = manifest.get("files")
    if not isinstance(files, dict) or artefact.name not in files:
        raise ArtefactError(
            f"the manifest beside {artefact} does not name it; was one of them renamed? export it again"
        )
    for other in BELONGING.get(artefact.suffix, ()):
        if artefact.with_suffix(other).name not in files:
            raise ArtefactError(f"the manifest beside {artefact} does not name its {other} file; export it again")
    for name, expected in files.items():
        if Path(name).name != name:
            raise ArtefactError(f"the manifest beside {artefact} names a file in another folder ({name!r}): refused")
        file = artefact.parent / name
        if not file.is_file():
            raise ArtefactError(f"{file} is missing; it belongs to {artefact}: copy the whole folder, or export again")
        found = sha256_of(file)
        if found != expected:
            raise ArtefactError(
                f"{file} has sha256 {found}, its manifest says {expected}: it is truncated, or one of the two was "
                "changed or replaced; export the checkpoint again"
            )


def sees_keypoints(manifest: dict[str, Any]) -> bool:
    """Whether an artefact is of a camera-aware model, whose inputs are keypoints and cameras."""
    return "keypoints" in manifest["inputs"]


class ArtefactEngine:
    """Base of the engines that run artefacts: frames, rate, batches and the form of the inputs come from the manifest.

    A subclass implements ``_run(*inputs)`` for contiguous float32 arrays whose shapes have been checked.
    """

    def __init__(self, manifest: dict[str, Any], file: Path) -> None:
        self.file = file
        self.kind = str(manifest["kind"])
        self.frames = int(manifest["frames"])
        self.fps = float(manifest.get("fps", DEFAULT_FPS))
        self.least_batch, self.largest_batch = int(manifest["batch"]["min"]), int(manifest["batch"]["max"])
        self.metadata = manifest
        self.inputs = None
        self.reach = None
        self._shapes = {name: tuple(entry["shape"][1:]) for name, entry in manifest["inputs"].items()}
        self.rays = sees_keypoints(manifest)
        expected = window_inputs(self.kind, self.frames, self.rays)
        if list(self._shapes.items()) != list(expected.items()):
            raise ArtefactError(f"the manifest of {file} contradicts itself: its inputs are {manifest['inputs']}")

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Run one batch of windows; see `refiner.runtime.engine`. Raises UsageError for windows that do not fit."""
        names = input_names(self.kind, self.rays)
        if len(inputs) != len(names):
            raise UsageError(f"a {self.kind} takes {', '.join(names)}; got {len(inputs)} arrays")
        batch = len(inputs[0])
        for name, array in zip(names, inputs, strict=True):
            if array.shape != (batch, *self._shapes[name]):
                raise UsageError(
                    f"{name} has shape {array.shape}; {self.file.name} takes (batch, "
                    f"{', '.join(str(size) for size in self._shapes[name])}), of {self.frames} frames a window"
                )
        if batch == 0:
            return np.zeros((0, *self._shapes[names[0]][:-1], 3), np.float32)
        if not self.least_batch <= batch <= self.largest_batch:
            allowed = f"{self.least_batch} to {self.largest_batch}"
            raise UsageError(
                f"a batch of {batch} windows lies outside of what {self.file.name} was built for ({allowed}); export "
                f"it with --batch {min(batch, self.least_batch)}:{batch}:{max(batch, self.largest_batch)}"
            )
        return self._run(*(np.ascontiguousarray(array, dtype=np.float32) for array in inputs))

    def _run(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        raise NotImplementedError
