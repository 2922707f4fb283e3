"""The models that come with the package: their files, and which of them are the defaults."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "checkpoints"
# Role -> the name of a checkpoint. For a live stream, the lifter lifts a whole window for every frame, so the default
# is a smaller lifter. "window-refiner" refines the windows of a lifter, in a stream or in one graph with the lifter; it
# has the lifter's stride.
DEFAULTS = {
    "lifter": "lifter-small-rays",
    "live-lifter": "lifter-nano-rays",
    "refiner": "refiner-nano-rays-long",
    "window-refiner": "refiner-nano-rays",
    "refiner-of-other-estimators": "refiner-base-rays",
    "causal-refiner": "refiner-nano-rays-causal",
}
# What users may write in place of a checkpoint's name.
SHORT_NAMES = {
    "causal": DEFAULTS["causal-refiner"],
    "live-lifter": DEFAULTS["live-lifter"],
    "window": DEFAULTS["window-refiner"],
    "other-estimators": DEFAULTS["refiner-of-other-estimators"],
}
# The lifter of image coordinates, which is for the four cameras of its training data. The studies use it.
SCREEN_LIFTER = "lifter"


def default_checkpoint(role: str) -> Path:
    """Return the file of the default model for a role of `DEFAULTS`. The file may be missing."""
    return checkpoint(DEFAULTS[role])


def lifter_of(rays: bool) -> Path:
    """Return the file of the lifter that a bundled refiner of rays, or of image coordinates, was trained for.

    The file may be missing.
    """
    return default_checkpoint("lifter") if rays else checkpoint(SCREEN_LIFTER)


def default_refiner(with_lifter: bool) -> Path:
    """Return the file of the refiner that is exported by default, alone or in one graph with a lifter.

    The file may be missing.
    """
    return default_checkpoint("window-refiner" if with_lifter else "refiner")


def checkpoint(name: str) -> Path:
    """Return the file of the bundled checkpoint with this name. The file may be missing."""
    return FOLDER / f"{name}.safetensors"


def graph_of(checkpoint: Path) -> Path:
    """The ONNX graph of a bundled checkpoint, for ONNX Runtime; it need not be there."""
    return checkpoint.with_suffix(".onnx")


def with_graphs() -> list[Path]:
    """The bundled checkpoints that have a graph: all defaults but the large refiner for other estimators."""
    return [default_checkpoint(role) for role in DEFAULTS if role != "refiner-of-other-estimators"]


def file_for(checkpoint: Path, engine: str | None) -> Path:
    """The file of a bundled model for an engine: its ONNX graph for ``engine`` "onnx", else its checkpoint.

    Args:
        checkpoint: the model's checkpoint, or any other file, which is returned as it is.
        engine: the engine that was asked for.
    """
    if checkpoint.parent != FOLDER or checkpoint.suffix != ".safetensors":
        return checkpoint
    graph = graph_of(checkpoint)
    return graph if engine == "onnx" and graph.is_file() else checkpoint


def names() -> list[str]:
    """The names of all bundled checkpoints, and their short names."""
    return sorted([*SHORT_NAMES, *(file.stem for file in FOLDER.glob("*.safetensors"))])


def expected_at(path: Path) -> str:
    """What an error says that a user could have meant by ``path``, where no file is."""
    if path.suffix or path.name != str(path):
        return "expected a .safetensors file"
    return f"expected a .safetensors file, or a bundled model: {', '.join(names())}"


def by_name(path: Path) -> Path:
    """Resolve a name such as ``lifter-nano-rays`` or ``causal`` to the file of the bundled checkpoint.

    A path of an existing file stays unchanged, and so does a path that is not the name of a bundled checkpoint. A
    folder of the same name does not hide the checkpoint.
    """
    bundled = checkpoint(SHORT_NAMES.get(path.name, path.name))
    return bundled if path.name == str(path) and not path.suffix and not path.is_file() and bundled.is_file() else path
