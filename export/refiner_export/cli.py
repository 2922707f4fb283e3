"""``refiner-export``: export a checkpoint as an artefact for an engine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner.cli.common import EXIT_CODES, HelpFormatter, run

if TYPE_CHECKING:
    from refiner.runtime.manifest import Manifest
    from refiner_export.options import ExportOptions

BUNDLED_LIFTER = "bundled"

EXAMPLES = """\
examples:
  refiner-export --engine onnx                            the bundled refiner, into ./refiner-onnx-fp32
  refiner-export --engine openvino --precision bf16       for CPUs with bf16
  refiner-export --engine trt                             TensorRT, for the GPU at hand
  refiner-export --engine trt-rtx --compute-capability 8.9   TensorRT for RTX; needs no GPU to build
  refiner-export --engine onnx --with-lifter --flip-test --batch 1   2D in, refined 3D out, the mirrored pass inside
  refiner-export --engine onnx --checkpoint causal --streams 4   the bundled causal refiner, a frame of 4 streams
  refiner-export --engine onnx --checkpoint my.safetensors --steps 1 --output artefacts
  refiner-export inspect FILE                             what an artefact is
  refiner-export doctor                                   what this machine can build and run

The graph holds everything from pixels and metres to refined metres: the DDIM steps unrolled, the time embeddings
folded to constants. The artefact is run on fresh windows and compared with float32 PyTorch before it gets its name; a
JSON manifest beside it describes it and the result of this comparison. The same export is copied from a cache later.

The graph of a camera-aware checkpoint takes keypoints (x, y, confidence; 0 is a missing joint) instead of pose_2d, and
camera (width, height, focal length in pixels) instead of image_size.
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``refiner-export``."""
    from refiner.engines import PRECISIONS, exporting_engines

    parser = argparse.ArgumentParser(
        prog="refiner-export",
        usage="refiner-export --engine ENGINE [options] | inspect FILE | doctor",
        description="Export a trained checkpoint to an inference engine.",
        epilog=EXAMPLES + "\n" + EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    names = ", ".join(spec.name for spec in exporting_engines())
    parser.add_argument("--engine", required=True, metavar="ENGINE", help=f"one of {names}")
    parser.add_argument("--output", metavar="DIR", help="folder to write (default: refiner-ENGINE-PRECISION)")
    model = parser.add_argument_group("the model")
    model.add_argument("--checkpoint", metavar="PATH", help="file or bundled name (default: the bundled refiner)")
    model.add_argument(
        "--with-lifter",
        metavar="PATH",
        nargs="?",
        const=BUNDLED_LIFTER,
        help="the lifter inside the same graph (default: the bundled one): 2D in, refined 3D out",
    )
    model.add_argument("--flip-test", action="store_true", help="average with the mirrored pass, in the same batch")
    model.add_argument("--steps", metavar="K", type=int, help="denoising steps (default: the checkpoint's)")
    model.add_argument(
        "--hypotheses",
        metavar="H",
        type=int,
        help="diffusion lifter: hypotheses, whose mean the graph gives (default: the checkpoint's)",
    )
    model.add_argument("--frames", metavar="T", type=int, help="frames of a window (default: the checkpoint's)")
    model.add_argument("--streams", metavar="N", type=int, help="causal refiner: streams at a time (default: 1)")
    model.add_argument(
        "--pipelined", action="store_true", help="causal refiner: K neighbouring frames a pass, K - 1 frames later"
    )
    engine = parser.add_argument_group("the engine")
    engine.add_argument("--precision", metavar="P", default="fp32", help=f"{', '.join(PRECISIONS)} (default: fp32)")
    engine.add_argument(
        "--batch", metavar="N|MIN:OPT:MAX", default="1:1:64", help="windows at a time (default: 1:1:64)"
    )
    engine.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of onnx, aoti and torch")
    engine.add_argument("--compute-capability", metavar="X.Y", help="of the GPU that trt-rtx builds for, like 8.9")
    engine.add_argument(
        "--workspace-mb", metavar="N", type=int, help="most memory that TensorRT may use while building"
    )
    engine.add_argument("--timing-cache", metavar="FILE", type=Path, help="TensorRT's, read and written")
    engine.add_argument("--opset", metavar="N", type=int, default=20, help="ONNX operator set, 18 to 22 (default: 20)")
    gate = parser.add_argument_group("the gate")
    gate.add_argument("--windows", metavar="N", type=int, default=100, help="windows of the comparison (default: 100)")
    gate.add_argument("--tolerance-mm", metavar="MM", type=float, help="the allowed joint difference")
    gate.add_argument("--data", metavar="FOLDER", type=Path, help="a motion archive to compare on (default: built-in)")
    other = parser.add_argument_group("the command")
    other.add_argument("--triton", metavar="DIR", type=Path, help="also write a Triton model repository")
    other.add_argument("--no-cache", action="store_true", help="build even what was built before")
    other.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
    other.add_argument("--json", action="store_true", help="one JSON object on standard output, progress on the other")
    return parser


def build_inspect_parser() -> argparse.ArgumentParser:
    """The options of ``refiner-export inspect``."""
    parser = argparse.ArgumentParser(
        prog="refiner-export inspect",
        description="Print what an artefact is: its manifest, checked against its files.",
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("file", type=Path, help="an artefact")
    parser.add_argument("--json", action="store_true", help="the whole manifest")
    return parser


def build_doctor_parser() -> argparse.ArgumentParser:
    """The options of ``refiner-export doctor``."""
    parser = argparse.ArgumentParser(
        prog="refiner-export doctor",
        description="What this machine can build and run, and what to install for the rest.",
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["inspect"]:
        return run(_inspect, build_inspect_parser(), words[1:])
    if words[:1] == ["doctor"]:
        return run(_doctor, build_doctor_parser(), words[1:])
    return run(_export, build_parser(), words)


def _export(arguments: argparse.Namespace) -> None:
    options = options_of(arguments)
    options.check()
    if arguments.triton is not None:
        from refiner_export.triton import check_backend

        check_backend(options.engine)
    from refiner_export.build import command_line

    if arguments.dry_run:
        plan = _plan(options)
        _print(arguments.json, {"dry_run": True, **plan}, [f"{name:14s} {value}" for name, value in plan.items()])
        return
    if options.output.exists() and not options.output.is_dir():
        from refiner.errors import UsageError

        raise UsageError(f"--output {options.output}: is a file, expected a folder")
    from refiner.causal_state import CAUSAL
    from refiner_export.build import export_artefact

    report = _reporter(to_stderr=arguments.json)
    result = export_artefact(options, report, use_cache=not arguments.no_cache)
    facts: dict[str, Any] = {
        "artefact": str(result.path),
        "manifest": str(result.manifest_path),
        "cached": result.cached,
        "stages_s": {title: round(seconds, 3) for title, seconds in result.stages.items()},
        "parity": result.manifest["parity"],
        "command": command_line(options),
    }
    lines = [*_parity_lines(result.described), f"wrote {result.path}"]
    if arguments.triton is not None:
        from refiner_export.triton import write_repository

        facts["triton"] = str(write_repository(result.path, arguments.triton))
        lines.append(f"wrote the Triton model {facts['triton']}")
    loaders = {"refiner": "Refiner.load", CAUSAL: "StreamingRefiner.load"}
    loader = loaders.get(result.described.kind, "Lifter.load")
    lines.append(f"load it with: refiner.{loader}({str(result.path)!r})")
    _print(arguments.json, facts, lines)


def options_of(arguments: argparse.Namespace) -> ExportOptions:
    """The options of an export from the parsed command line."""
    from refiner import bundled
    from refiner.data.clips import data_folder_from_env
    from refiner_export.options import Batch, ExportOptions

    default_refiner = bundled.default_refiner(with_lifter=arguments.with_lifter is not None)
    checkpoint = bundled.by_name(Path(arguments.checkpoint)) if arguments.checkpoint else default_refiner
    lifter = None
    if arguments.with_lifter is not None:
        default = arguments.with_lifter == BUNDLED_LIFTER
        lifter = bundled.default_checkpoint("lifter") if default else bundled.by_name(Path(arguments.with_lifter))
    return ExportOptions(
        engine=arguments.engine,
        output=Path(arguments.output or f"refiner-{arguments.engine}-{arguments.precision}"),
        checkpoint=checkpoint,
        lifter=lifter,
        precision=arguments.precision,
        frames=arguments.frames,
        steps=arguments.steps,
        hypotheses=arguments.hypotheses,
        batch=Batch.parse(arguments.batch),
        flip_test=arguments.flip_test,
        streams=arguments.streams,
        pipelined=arguments.pipelined,
        opset=arguments.opset,
        compute_capability=arguments.compute_capability,
        device=arguments.device,
        workspace_mb=arguments.workspace_mb,
        timing_cache=arguments.timing_cache,
        windows=arguments.windows,
        tolerance_mm=arguments.tolerance_mm,
        data=arguments.data or data_folder_from_env(),
    )


def _plan(options: ExportOptions) -> dict[str, Any]:
    """Describe an export without doing it, as JSON."""
    from refiner.errors import MissingComponentError
    from refiner_export.build import check_readable, command_line
    from refiner_export.cache import build_key, find
    from refiner_export.engines import engine_module

    check_readable(options)
    key = build_key(options)
    missing = None
    try:
        engine_module(options.engine).require(options)
    except MissingComponentError as error:
        missing = str(error)
    return {
        "engine": options.engine,
        "precision": options.precision,
        "checkpoint": str(options.checkpoint),
        "lifter": None if options.lifter is None else str(options.lifter),
        "output": str(options.output),
        "batch": str(options.batch),
        "tolerance_mm": options.mean_tolerance_mm(),
        "built_before": find(key) is not None,
        "missing": missing,
        "command": command_line(options),
    }


def _parity_lines(manifest: Manifest) -> list[str]:
    if manifest.parity is None:
        return []
    lines = [f"{title:18s} {part}" for title, part in manifest.parity.parts.items()]
    return lines if manifest.parity.note is None else [*lines, f"note: {manifest.parity.note}"]


def _inspect(arguments: argparse.Namespace) -> None:
    from refiner_export.inspection import describe_lines, inspect_artefact

    manifest = inspect_artefact(arguments.file)
    _print(arguments.json, manifest.content, describe_lines(manifest, arguments.file))


def _doctor(arguments: argparse.Namespace) -> None:
    from refiner_export.doctor import examine

    rows = examine()
    lines = [f"{row['engine']:10s} build: {row['build']:4s} run: {row['run']:4s} {row['note']}" for row in rows]
    _print(arguments.json, {"engines": rows}, lines)


def _reporter(to_stderr: bool) -> Callable[[str], None]:
    began = time.perf_counter()
    stream = sys.stderr if to_stderr else sys.stdout

    def report(line: str) -> None:
        print(f"[{time.perf_counter() - began:6.1f} s] {line}", file=stream, flush=True)

    return report


def _print(as_json: bool, facts: dict[str, Any], lines: list[str]) -> None:
    print(json.dumps(facts, indent=2) if as_json else "\n".join(lines))
