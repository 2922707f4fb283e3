"""``refiner-export``: a checkpoint as an artefact for an engine."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from refiner.cli.common import EXIT_CODES, HelpFormatter, run

EXAMPLES = """\
examples:
  refiner-export --engine onnx                          the bundled refiner, into ./refiner-onnx-fp32
  refiner-export --engine onnx --checkpoint my.safetensors --steps 1 --output artefacts

The graph holds everything from pixels and metres to refined metres: the DDIM steps unrolled, the time embeddings
folded to constants, any batch size. It is compared with PyTorch on fresh windows before it gets its name, and a
JSON manifest beside it says what it is.
"""


ENGINES = ("onnx",)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="refiner-export",
        description="Export a trained checkpoint to an inference engine.",
        epilog=EXAMPLES + "\n" + EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--engine", required=True, type=_engine, help=f"what the artefact is for: {', '.join(ENGINES)}")
    parser.add_argument("--checkpoint", metavar="PATH", help="lifter or refiner (default: the bundled refiner)")
    parser.add_argument("--output", metavar="DIR", help="folder to write (default: refiner-ENGINE-fp32)")
    parser.add_argument("--steps", metavar="K", type=int, help="denoising steps (default: the checkpoint's)")
    parser.add_argument("--opset", metavar="N", type=int, default=20, help="ONNX operator set, 18 to 22 (default: 20)")
    parser.add_argument(
        "--windows", metavar="N", type=int, default=100, help="windows of the comparison (default: 100)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _engine(name: str) -> str:
    if name not in ENGINES:
        raise argparse.ArgumentTypeError(
            f"this version builds {' and '.join(ENGINES)} only, not {name!r}; other engines can be built from the "
            "ONNX graph by their own tools"
        )
    return name


def _command(arguments: argparse.Namespace) -> None:
    from refiner.errors import CheckpointError, MissingComponentError, UsageError

    if arguments.windows < 1:
        raise UsageError(f"--windows {arguments.windows}: expected at least 1")
    output = Path(arguments.output or f"refiner-{arguments.engine}-fp32")
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output}: is a file, expected a folder")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"exporting needs {error.name}, which is not installed: pip install 'refiner[export,cpu]' "
            "(or gpu instead of cpu)"
        ) from error
    from refiner.runtime.loading import BUNDLED
    from refiner_export.onnx_export import export_onnx

    began = time.perf_counter()

    def report(line: str) -> None:
        print(f"[{time.perf_counter() - began:6.1f} s] {line}", flush=True)

    checkpoint = arguments.checkpoint or BUNDLED / "refiner.safetensors"
    if arguments.checkpoint is None and not checkpoint.exists():
        raise CheckpointError(f"this installation holds no bundled refiner ({checkpoint}); name one with --checkpoint")
    result = export_onnx(
        checkpoint,
        output,
        steps=arguments.steps,
        windows=arguments.windows,
        report=report,
        opset=arguments.opset,
    )
    loader = "Refiner" if result.manifest["kind"] == "refiner" else "Lifter"
    print(f"load it with: refiner.{loader}.load({str(result.path)!r})")
