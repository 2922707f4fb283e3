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


def by_name(path: Path) -> Path:
    """Resolve a name such as ``lifter-nano-rays`` to the file of the bundled checkpoint.

    A path of an existing file stays unchanged, and so does a path that is not the name of a bundled checkpoint. A
    folder of the same name does not hide the checkpoint.
    """
    bundled = checkpoint(path.name)
    return bundled if path.name == str(path) and not path.suffix and not path.is_file() and bundled.is_file() else path
