"""The checkpoints of the latency report, and the packages that AOTInductor compiles from them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from refiner.cli.common import run

# By name of the package: the model, the kind, and for a causal step the number of streams, which is fixed.
PACKAGES = {
    "bundled-window": ("bundled", "window", None),
    "paper-window": ("paper", "window", None),
    "bundled-step-1": ("bundled", "step", 1),
    "bundled-step-64": ("bundled", "step", 64),
}
MODELS, KINDS = ("bundled", "paper"), ("window", "step")
MOST_WINDOWS = 1024
TOY_SIZE = ("model.blocks=1", "model.dim=32")


def checkpoint_of(model: str, kind: str, folder: Path, toy: bool = False) -> Path:
    """The checkpoint of a model.

    Args:
        model: "bundled" or "paper".
        kind: "window" or "step".
        folder: The folder for a new checkpoint with random weights.
        toy: Whether the new checkpoint has toy size instead of the paper's size.
    """
    from refiner import bundled
    from refiner_bench.untrained import random_checkpoint

    causal = kind == "step"
    if model == "bundled":
        return bundled.checkpoint("refiner-causal" if causal else "refiner")
    changes = [*(["model.causal=true"] if causal else []), *(TOY_SIZE if toy else ())]
    folder.mkdir(parents=True, exist_ok=True)
    return random_checkpoint(folder / f"{model}-{kind}.safetensors", "refiner-paper", changes)


def package_of(name: str, folder: Path) -> Path | None:
    """The package that a job has written below ``folder``; None if there is none."""
    packages = sorted((folder / name).glob("*.pt2"))
    return packages[0] if packages else None


def build_parser() -> argparse.ArgumentParser:
    """The parser of the job's arguments."""
    parser = argparse.ArgumentParser(prog="packages", allow_abbrev=False)
    parser.add_argument("name", choices=list(PACKAGES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compile one of `PACKAGES` for the device. The latency report checks its results."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> None:
    from refiner.errors import MissingComponentError

    try:
        import refiner_export.manifest  # noqa: F401 - needs ONNX, as `assemble` does
        from refiner_export.build import Clock, assemble
        from refiner_export.options import Batch, ExportOptions
    except ModuleNotFoundError as error:
        raise MissingComponentError(f"AOTInductor's packages need {error.name}, which is not installed") from error
    model, kind, streams = PACKAGES[arguments.name]
    folder: Path = arguments.folder / arguments.name
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = checkpoint_of(model, kind, arguments.folder / "checkpoints" / arguments.name)
    batch = Batch(1, 8, MOST_WINDOWS) if kind == "window" else Batch()
    assemble(
        ExportOptions("aoti", folder, checkpoint, batch=batch, streams=streams, device=arguments.device),
        folder,
        Clock(print),
    )
