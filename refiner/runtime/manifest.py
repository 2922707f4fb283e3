"""The manifest: the description of an artefact, as JSON beside it. This module is the only one that parses it.

An engine runs an artefact, other than an ONNX graph, as native code. So it opens the artefact only if the hashes in the
manifest are those of its files. This finds truncated, mixed-up or exchanged files. It does not prove who wrote them:
only take artefacts from people whose programs you would run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refiner.diffusion.uncertainty import JointUncertainty
from refiner.errors import ArtefactError
from refiner.files import sha256_of
from refiner.json_text import JsonError, parse_json
from refiner.model_spec import FRAMES, STEPS, STRIDES
from refiner.ranges import FRAME_RATES, Between
from refiner.runtime.engine import KINDS_OF_ROLE, OUTPUTS
from refiner.skeleton import JOINT_NAMES

# The layout of the manifest that this version writes and reads.
SCHEMA = 2


BATCHES = Between(1, 1_000_000, whole=True)
SIZES = Between(1, 1_000_000, whole=True)
# More numbers than any input or output of a window has.
MOST_NUMBERS = 2**31


def _batches(value: Any) -> bool:
    sizes = [value.get(key) for key in ("min", "opt", "max")] if isinstance(value, dict) else []
    whole = [int(size) for size in sizes if size is not None and BATCHES.holds(size)]
    return len(whole) == 3 and whole == sorted(whole)


def _tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("shape"), list)
        and len(entry["shape"]) > 1
        and all(SIZES.holds(size) for size in entry["shape"][1:])
        and math.prod(entry["shape"][1:]) <= MOST_NUMBERS
        for entry in value.values()
    )


def _optional(allowed: Between) -> Callable[[Any], bool]:
    return lambda value: value is None or allowed.holds(value)


# The keys that every manifest has, each with a check of its value.
REQUIRED: dict[str, Callable[[Any], bool]] = {
    "batch": _batches,
    "engine": lambda value: isinstance(value, str),
    "fps": FRAME_RATES.holds,
    "frames": FRAMES.holds,
    "inputs": _tensors,
    "joints": lambda value: isinstance(value, dict),
    "kind": lambda value: isinstance(value, str) and value in OUTPUTS,
    "outputs": _tensors,
    "precision": lambda value: isinstance(value, str),
}
# The keys that a manifest may lack, each with a check of its value.
OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "stride": STRIDES.holds,
    "steps": _optional(STEPS),
    "trained_frames": _optional(FRAMES),
}
# The further files of an artefact, by its suffix.
BELONGING = {".xml": (".bin",)}
# A manifest has a few kilobytes. A longer file is something else.
LONGEST_MANIFEST = 10_000_000


@dataclass(frozen=True)
class BatchRange:
    """How many windows an artefact takes at a time.

    Attributes:
        least: the smallest batch.
        best: the batch that the artefact is tuned for.
        most: the largest batch.
    """

    least: int
    best: int
    most: int


@dataclass(frozen=True)
class FileEntry:
    """A file that an artefact was made from.

    Attributes:
        name: its name without folders.
        sha256: the hash of its bytes.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class StateEntry:
    """The state of a causal refiner.

    Attributes:
        form: "entries": the caller writes the values of each frame into the ring buffers of the state. "carried": the
            graph returns the whole state.
        layout: the arguments of `refiner.causal_state.StateLayout`.
        delay: frames between an input and its result.
    """

    form: str
    layout: Mapping[str, Any]
    delay: int


@dataclass(frozen=True)
class BuildEntry:
    """The compiler of an artefact, and the device that it was compiled for.

    Attributes:
        device: "cpu" or "cuda"; for TensorRT the name of the GPU, None where the build had no GPU.
        architecture: only for AOTInductor: the processor or GPU of the compiled code, as PyTorch names it.
        compute_capability: only for TensorRT: that of the GPU it was built for; None for any GPU.
        tensorrt: TensorRT's version.
        version_compatible: whether other versions of TensorRT can load it.
    """

    device: str | None
    architecture: str | None
    compute_capability: str | None
    tensorrt: str | None
    version_compatible: bool


@dataclass(frozen=True)
class Difference:
    """The difference between the results of an artefact and those of the PyTorch model.

    Attributes:
        largest_mm: the largest distance between the two positions of a joint, in mm.
        mean_mm: the mean distance, in mm.
        mpjpe_change_mm: the change of MPJPE in mm.
    """

    largest_mm: float
    mean_mm: float
    mpjpe_change_mm: float

    def __str__(self) -> str:
        return f"largest {self.largest_mm:.4f} mm, mean {self.mean_mm:.4f} mm, MPJPE {self.mpjpe_change_mm:+.4f} mm"


@dataclass(frozen=True)
class Parity:
    """The comparison of an artefact with its PyTorch model (`refiner_export.parity`).

    Attributes:
        total: the whole difference, which the gate judged.
        typing: the part that the types of the graph cause; None in float32.
        engine: the part that the engine adds; None where it was not measured.
        windows: how many windows, or streams of ``frames`` frames, were compared.
        frames: only for a causal refiner: the length of the streams.
        motion: the motion that the windows come from, in words.
        note: further information for the reader.
    """

    total: Difference
    typing: Difference | None
    engine: Difference | None
    windows: int
    frames: int | None
    motion: str
    note: str | None

    @property
    def parts(self) -> dict[str, Difference]:
        """The differences that are known, each with its title."""
        parts = {"the graph's types": self.typing, "the engine": self.engine, "together": self.total}
        return {title: part for title, part in parts.items() if part is not None}


@dataclass(frozen=True)
class Manifest:
    """A manifest of this version, parsed.

    Attributes:
        kind: the kind of the model, a key of `refiner.runtime.engine.OUTPUTS`.
        engine: the name of an engine (`refiner.engines.ENGINES`).
        precision: "fp32", "fp16", "bf16" or "int8".
        frames: the number of frames in a window.
        stride: the distance, in frames of the sequence, between two neighbouring frames of a window.
        fps: the model's frame rate, frames/s.
        batch: how many windows it takes at a time.
        inputs, outputs: the shapes of its tensors, by name in order. A batch of any size is a string.
        files: the hashes of its files, by name; empty in the copy of the manifest inside a graph.
        steps: the number of denoising or sampling steps K; None for a model without steps.
        actions: the names of the actions that a lifter takes.
        mirrored_pass: whether the artefact also runs the mirrored poses and averages.
        trained_frames: the number of frames in a window of the training.
        checkpoint, lifter: the files that it was made from.
        build: its compiler; None where the manifest does not name it.
        versions: the versions of the packages that made it.
        state: only for a causal refiner.
        parity: the comparison with its PyTorch model; None where the manifest has none.
        uncertainty: the calibrated standard deviation of each joint, for streams.
        content: the whole manifest as JSON, for records and for people.
    """

    kind: str
    engine: str
    precision: str
    frames: int
    stride: int
    fps: float
    batch: BatchRange
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    files: Mapping[str, str]
    steps: int | None
    actions: tuple[str, ...]
    mirrored_pass: bool
    trained_frames: int | None
    checkpoint: FileEntry | None
    lifter: FileEntry | None
    build: BuildEntry | None
    versions: Mapping[str, str]
    state: StateEntry | None
    parity: Parity | None
    uncertainty: JointUncertainty | None
    content: dict[str, Any]

    @property
    def rays(self) -> bool:
        """Whether the model is camera-aware: its inputs are keypoints and cameras."""
        return "keypoints" in self.inputs


def manifest_path(artefact: str | os.PathLike[str]) -> Path:
    """The file of the manifest of ``artefact``."""
    file = Path(artefact)
    # The suffix of the artefact stays in the name, because artefacts of several engines lie in one folder.
    return file.with_name(f"{file.name}.json")


def read_manifest(artefact: str | os.PathLike[str]) -> Manifest:
    """Read the manifest beside ``artefact``. Raises ArtefactError where it is missing, broken or of another version."""
    file = manifest_path(artefact)
    try:
        if file.stat().st_size > LONGEST_MANIFEST:
            raise ArtefactError(f"{file} is too long for a manifest; export the checkpoint again")
        content = parse_json(file.read_bytes())
    except FileNotFoundError as error:
        raise ArtefactError(
            f"there is no manifest at {file}; it belongs beside the artefact: copy both, or export the checkpoint again"
        ) from error
    except JsonError as error:
        raise ArtefactError(f"{file} is no JSON ({error}); export the checkpoint again") from error
    return parse_manifest(content, file)


def parse_manifest(content: Any, where: Path) -> Manifest:
    """Parse the JSON of a manifest. Raises ArtefactError for missing or wrong entries, and for another version.

    ``where``: the file that error messages name.
    """
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise ArtefactError(
            f"{where} holds no manifest of schema {SCHEMA} (found {schema!r}); export the checkpoint again"
        )
    missing = [key for key in REQUIRED if key not in content]
    if missing:
        raise ArtefactError(f"the manifest in {where} lacks {', '.join(missing)}; export the checkpoint again")
    broken = [key for key, fits in (REQUIRED | OPTIONAL).items() if key in content and not fits(content[key])]
    if broken:
        raise ArtefactError(f"the manifest in {where} has no usable {', '.join(broken)}; export the checkpoint again")
    joints = content["joints"].get("names")
    if joints != list(JOINT_NAMES):
        raise ArtefactError(
            f"{where} has the joints {joints}, expected {list(JOINT_NAMES)} in this order; export the checkpoint again"
        )
    try:
        return _of_content(content)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ArtefactError(
            f"the manifest in {where} cannot be used ({error!r}); export the checkpoint again"
        ) from error


def _of_content(content: dict[str, Any]) -> Manifest:
    batch, files = content["batch"], content.get("files")
    versions, uncertainty = content.get("versions"), content.get("uncertainty")
    return Manifest(
        kind=content["kind"],
        engine=content["engine"],
        precision=content["precision"],
        frames=content["frames"],
        stride=int(content.get("stride", 1)),
        fps=float(content["fps"]),
        batch=BatchRange(batch["min"], batch["opt"], batch["max"]),
        inputs={name: tuple(entry["shape"]) for name, entry in content["inputs"].items()},
        outputs={name: tuple(entry["shape"]) for name, entry in content["outputs"].items()},
        files=dict(files) if isinstance(files, dict) else {},
        steps=content.get("steps"),
        actions=tuple(content.get("actions", ())),
        mirrored_pass=bool(content.get("mirrored_pass", False)),
        trained_frames=content.get("trained_frames"),
        checkpoint=_file_entry(content.get("checkpoint")),
        lifter=_file_entry(content.get("lifter")),
        build=_build_entry(content.get("build")),
        versions=dict(versions) if isinstance(versions, dict) else {},
        state=_state_entry(content.get("state")),
        parity=_parity(content.get("parity")),
        uncertainty=None if uncertainty is None else JointUncertainty.from_config(uncertainty),
        content=content,
    )


def _file_entry(entry: Any) -> FileEntry | None:
    return FileEntry(str(entry.get("name")), str(entry.get("sha256"))) if isinstance(entry, dict) else None


def _state_entry(entry: Any) -> StateEntry | None:
    usable = isinstance(entry, dict) and isinstance(entry.get("layout"), dict)
    return StateEntry(str(entry.get("form")), entry["layout"], int(entry.get("delay", 0))) if usable else None


def _difference(entry: Any) -> Difference | None:
    names = ("largest_mm", "mean_mm", "mpjpe_change_mm")
    usable = isinstance(entry, dict) and all(isinstance(entry.get(name), int | float) for name in names)
    return Difference(*(float(entry[name]) for name in names)) if usable else None


def _parity(entry: Any) -> Parity | None:
    total = _difference(entry.get("total")) if isinstance(entry, dict) else None
    if total is None:
        return None
    return Parity(
        total=total,
        typing=_difference(entry.get("typing")),
        engine=_difference(entry.get("engine")),
        windows=int(entry.get("windows", 0)),
        frames=entry.get("frames"),
        motion=str(entry.get("motion", "")),
        note=entry.get("note"),
    )


def _build_entry(entry: Any) -> BuildEntry | None:
    if not isinstance(entry, dict):
        return None
    return BuildEntry(
        device=entry.get("device"),
        architecture=entry.get("architecture"),
        compute_capability=entry.get("compute_capability"),
        tensorrt=entry.get("tensorrt"),
        version_compatible=bool(entry.get("version_compatible", False)),
    )


def open_manifest(file: Path, role: str, engines: tuple[str, ...]) -> Manifest:
    """Read the manifest of an artefact, and check that it can be opened (`check_role`, `check_files`).

    Raises:
        ArtefactError: it cannot.
    """
    manifest = read_manifest(file)
    check_role(manifest, file, role, engines)
    check_files(manifest, file)
    return manifest


def check_role(manifest: Manifest, file: Path, role: str, engines: tuple[str, ...]) -> None:
    """Raises ArtefactError unless the artefact can serve as ``role`` ("lifter", "refiner") in one of ``engines``."""
    if manifest.kind not in KINDS_OF_ROLE[role]:
        wanted = " or ".join(KINDS_OF_ROLE[role])
        raise ArtefactError(
            f"{file} is a {manifest.kind}, expected a {wanted}; load it as what it is (Refiner, Lifter or "
            "open_causal_engine of refiner.runtime)"
        )
    if manifest.engine not in engines:
        raise ArtefactError(
            f"{file} was made for the engine {manifest.engine!r}, not {' or '.join(engines)}; export it for "
            f"this one: refiner-export --engine {engines[0]}"
        )


def check_files(manifest: Manifest, artefact: Path) -> None:
    """Raises ArtefactError unless every file of the artefact is the one that its manifest names."""
    files = manifest.files
    if artefact.name not in files:
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
        actual = sha256_of(file)
        if actual != expected:
            raise ArtefactError(
                f"{file} has sha256 {actual}, its manifest says {expected}: it is truncated, or one of the two was "
                "changed or replaced; export the checkpoint again"
            )
