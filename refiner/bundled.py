"""The models that come with the package: where they lie, and which of them are taken where none is named."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent / "checkpoints"
# Role -> the name of a checkpoint. The lifter of a live stream lifts a whole window for every frame, so that it is a
# smaller one; the refiner of windows that a stream or one graph with the lifter takes has the lifter's stride.
DEFAULTS = {
    "lifter": "lifter-small-rays",
    "live-lifter": "lifter-nano-rays",
    "refiner": "refiner-nano-rays-long",
    "window-refiner": "refiner-nano-rays",
    "refiner-of-other-estimators": "refiner-base-rays",
    "causal-refiner": "refiner-nano-rays-causal",
}
# The lifter that sees screen coordinates, of the four cameras that it was trained on; studies are about it.
SCREEN_LIFTER = "lifter"


def default_checkpoint(role: str) -> Path:
    """The file of the model that has a role of `DEFAULTS`; it need not be there."""
    return checkpoint(DEFAULTS[role])


def lifter_of(rays: bool) -> Path:
    """The lifter whose poses a bundled refiner of rays, or of screen coordinates, is for; it need not be there."""
    return default_checkpoint("lifter") if rays else checkpoint(SCREEN_LIFTER)


def default_refiner(with_lifter: bool) -> Path:
    """The refiner that is exported where none is named, alone or in one graph with a lifter; it need not be there."""
    return default_checkpoint("window-refiner" if with_lifter else "refiner")


def checkpoint(name: str) -> Path:
    """The file of the bundled checkpoint of that name; it need not be there."""
    return FOLDER / f"{name}.safetensors"


def graph_of(checkpoint: Path) -> Path:
    """The ONNX graph of a bundled checkpoint, for machines without PyTorch; it need not be there."""
    return checkpoint.with_suffix(".onnx")


def with_graphs() -> list[Path]:
    """The bundled checkpoints that have a graph: all defaults but the large refiner for other estimators."""
    return [default_checkpoint(role) for role in DEFAULTS if role != "refiner-of-other-estimators"]


def runnable(checkpoint: Path, engine: str | None) -> Path:
    """The file of a bundled model that runs here.

    Args:
        checkpoint: the model's checkpoint, or any other file, which is returned as it is.
        engine: the engine that was asked for; None takes PyTorch where it is installed, else ONNX Runtime.
    """
    if checkpoint.parent != FOLDER or checkpoint.suffix != ".safetensors":
        return checkpoint
    wants_graph = engine == "onnx" or (engine is None and find_spec("torch") is None)
    graph = graph_of(checkpoint)
    return graph if wants_graph and graph.is_file() else checkpoint


def by_name(path: Path) -> Path:
    """``lifter-nano-rays`` -> the bundled checkpoint of that name, where there is no such file (a folder may have that
    name); other paths as they are."""
    named = checkpoint(path.name)
    return named if path.name == str(path) and not path.suffix and not path.is_file() and named.is_file() else path
