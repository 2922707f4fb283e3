"""Build an artefact and its manifest from a checkpoint: read, trace, type, compile, compare, describe."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner import bundled
from refiner.causal_state import CAUSAL
from refiner.errors import CheckpointError, MissingComponentError, ParityError
from refiner.files import atomic_write_text, give_usual_permissions, naming_full_disk, sha256_of
from refiner.runtime.manifest import Manifest, manifest_path, read_manifest
from refiner_export import cache
from refiner_export.engines import Graph, Report, engine_module
from refiner_export.inspection import node_counts
from refiner_export.options import DEFAULT_OPSET, DEFAULT_WINDOWS, Batch, ExportOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from refiner_export.precision import TypedGraph
    from refiner_export.source import Source

CALIBRATION_SEED, CALIBRATION_WINDOWS = 77, 96
# int8 may move the joints of the calibration windows by this much on average, which hardly changes MPJPE. Layers that
# would move them further stay in float32.
INT8_LIMIT_MM = 2.5
# The share of its tolerance that bf16 may use on the calibration windows. The gate compares on other windows.
BF16_SHARE, SENSITIVITY_WINDOWS = 0.85, 32


@dataclass(frozen=True)
class ExportResult:
    """An exported artefact.

    Attributes:
        path: the file of the artefact.
        manifest_path: the file of its manifest.
        described: the manifest, parsed.
        cached: the artefact was built before and copied from the cache.
        stages: the seconds of each stage of the build, by title; empty where it was copied.
    """

    path: Path
    manifest_path: Path
    described: Manifest
    cached: bool = False
    stages: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON."""
        return self.described.content


def export_artefact(options: ExportOptions, report: Report = lambda line: None, use_cache: bool = True) -> ExportResult:
    """Export a checkpoint to the output folder of the options.

    The artefact is compared with float32 PyTorch before it gets its final name. No half-written file ever gets one.

    Args:
        options: the checkpoint, the engine and the rest.
        report: called with lines about the progress.
        use_cache: copy the artefact from the cache where the same export was made before.

    Raises:
        ParityError: the artefact differs too much from PyTorch. It is then kept as ``*.rejected``.
        MissingComponentError: the engine or a device is missing. For TensorRT the ONNX graph is written nevertheless.
        ExportError, CheckpointError, UsageError: the checkpoint cannot be exported with these options.
    """
    options.check()
    check_readable(options)
    key = cache.build_key(options)
    earlier = cache.find(key) if use_cache else None
    if earlier is not None:
        path = cache.copy_artefact(earlier, options.output)
        report(f"built before (key {key}); copied to {path}")
        return ExportResult(path, manifest_path(path), read_manifest(path), cached=True)
    _require_packages()
    try:
        engine_module(options.engine).require(options)
    except MissingComponentError as error:
        if not options.spec.built_elsewhere:
            raise
        raise _with_graph(error, options, report) from error
    result = _build(options, report)
    cache.keep(key, result.path)
    return result


def artefact_name(kind: str, frames: int, steps: int | None, options: ExportOptions, suffix: str) -> str:
    """The file name of an artefact, like ``refiner-f27-j17-k2-fp32.onnx``. Other options give another name."""
    parts = [kind, f"f{frames}", "j17"]
    if steps is not None:
        parts.append(f"k{steps}")
    if options.hypotheses is not None:
        parts.append(f"h{options.hypotheses}")
    if options.flip_test:
        parts.append("flip")
    if options.streams is not None:
        parts.append(f"s{options.streams}")
    if options.pipelined:
        parts.append("pipelined")
    if options.batch != Batch():
        parts.append(f"b{str(options.batch).replace(':', '-')}")
    parts.append(options.precision)
    if options.opset != DEFAULT_OPSET:
        parts.append(f"opset{options.opset}")
    if options.engine == "trt-rtx":
        parts.append("rtx")
    if options.compute_capability is not None:
        parts.append(f"sm{options.compute_capability.replace('.', '')}")
    if options.device != "cpu":
        parts.append(options.device)
    return "-".join(parts) + suffix


@dataclass(frozen=True)
class Assembly:
    """An artefact that is compiled, but not yet compared with PyTorch.

    Attributes:
        graph: the modules and the graph that it was compiled from.
        manifest: its manifest as JSON, still without ``parity`` and ``files``.
        target: its file.
    """

    graph: Graph
    manifest: dict[str, Any]
    target: Path


def assemble(options: ExportOptions, folder: Path, clock: Clock) -> Assembly:
    """Build an artefact with its manifest in the empty ``folder``: read, trace, type and compile.

    The caller compares the artefact with PyTorch.
    """
    from refiner_export.manifest import describe
    from refiner_export.source import read_source

    with clock.stage(f"reading {options.checkpoint}"):
        source = read_source(options)
        if source.frames != source.trained_frames:
            clock.report(f"  note: trained on windows of {source.trained_frames} frames, exported for {source.frames}")
    float32_branches: list[str] = []
    if options.chooses_branches:
        with clock.stage("measuring which branches bf16 leaves in float32"):
            float32_branches = _float32_branches(source, options)
        clock.report(f"  in float32: {', '.join(float32_branches) or 'none'}")
    typed = None
    if not options.spec.takes_module:
        with clock.stage(f"tracing the {source.kind}: {source.frames} frames, opset {options.opset}"):
            typed = _typed_graph(source, options, float32_branches)
    manifest = describe(source, typed, options)
    if float32_branches:
        manifest["float32_branches"] = float32_branches
    if typed is not None:
        clock.report(f"  {node_counts(manifest['nodes'])}")
    engine = engine_module(options.engine)
    target = folder / artefact_name(source.kind, source.frames, source.steps, options, options.spec.suffix)
    graph = Graph(source, typed, tuple(float32_branches))
    with clock.stage(f"compiling for {options.engine}, {options.precision}"):
        began = time.perf_counter()
        manifest["build"] = engine.compile_graph(graph, options, target, clock.report)
        manifest["build"]["seconds"] = round(time.perf_counter() - began, 2)
    _write(folder, target, manifest, graph)
    return Assembly(graph, manifest, target)


def _build(options: ExportOptions, report: Report) -> ExportResult:
    """Build the artefact, compare it with PyTorch, and move it to the output folder."""
    from refiner_export.gate import judge
    from refiner_export.parity import compare_artefact, compare_stream

    clock = Clock(report)
    with _build_folder(options.output) as folder:
        assembly = assemble(options, folder, clock)
        with clock.stage("comparing with PyTorch"):
            compare = compare_stream if assembly.graph.source.kind == CAUSAL else compare_artefact
            parity = compare(assembly.graph, options, assembly.target)
            assembly.manifest["parity"] = parity
        _write(folder, assembly.target, assembly.manifest, assembly.graph)
        try:
            judge(parity["total"], options)
        except ParityError as error:
            raise ParityError(f"{error}. It is kept as {_reject(folder, options.output)}") from error
        path = _publish(folder, assembly.target, options.output)
    return ExportResult(path, manifest_path(path), read_manifest(path), stages=clock.stages)


def _typed_graph(source: Source, options: ExportOptions, float32_branches: Collection[str]) -> TypedGraph:
    """Trace the module, and give the graph the types of the precision."""
    from refiner.models.causal import CarriedStep, CausalStep
    from refiner.runtime.engine import input_names
    from refiner_export.graph import example_inputs, trace, trace_step
    from refiner_export.precision import quantise_graph, type_graph
    from refiner_export.sensitivity import order_of_branches

    if isinstance(source.module, CausalStep | CarriedStep):
        return type_graph(trace_step(source.module, options.opset), "fp32")
    model = trace(source.module, source.kind, options.opset, options.batch.most if options.batch.fixed else None)
    if options.precision != "int8":
        example = tuple(value.numpy() for value in example_inputs(source.kind, source.frames, 1, source.rays))
        order = order_of_branches(source.module, example) if float32_branches else []
        indices = [index for index, name in enumerate(order) if name in float32_branches]
        return type_graph(model, options.precision, indices)  # type: ignore[arg-type]
    windows, size = _calibration_windows(source, options), _calibration_batch(options)
    names = input_names(source.kind, source.rays)
    feeds = [
        dict(zip(names, (array[first : first + size] for array in windows), strict=True))
        for first in range(0, len(windows[0]) - size + 1, size)
    ]
    return quantise_graph(model, feeds, limit_mm=INT8_LIMIT_MM)


def _calibration_batch(options: ExportOptions) -> int:
    return options.batch.most if options.batch.fixed else 8


def _calibration_windows(source: Source, options: ExportOptions) -> tuple[NDArray[np.float32], ...]:
    """The inputs of the model for windows of the training people, enough for two batches."""
    from refiner_export.gate import gate_windows

    calibration = dataclasses.replace(options, windows=max(CALIBRATION_WINDOWS, 2 * _calibration_batch(options)))
    windows = gate_windows(
        calibration, source.frames, seed=CALIBRATION_SEED, part="train", rays=source.rays, stride=source.spec.stride
    )
    return windows.of_kind(source.kind, len(source.actions), source.rays)


def _float32_branches(source: Source, options: ExportOptions) -> list[str]:
    """The names of the branches that bf16 must leave in float32 so that the artefact passes the gate."""
    import torch

    from refiner.models.causal import CarriedStep, CausalStep
    from refiner_export.sensitivity import sensitive_branches

    windows = tuple(array[:SENSITIVITY_WINDOWS] for array in _calibration_windows(source, options))
    limit = BF16_SHARE * options.mean_tolerance_mm()
    # A causal refiner is only exported in float32.
    assert not isinstance(source.module, CausalStep | CarriedStep)
    return sensitive_branches(source.module, windows, torch.bfloat16, limit)


def _write(folder: Path, target: Path, manifest: dict[str, Any], graph: Graph) -> None:
    """Write the manifest beside the artefact. An ONNX graph also holds it inside, so the graph is written again."""
    if target.suffix == ".onnx":
        import onnx

        from refiner.runtime.onnx_engine import METADATA_KEY
        from refiner.runtime.onnx_file import add_hash

        onnx.helper.set_model_props(graph.model, {METADATA_KEY: json.dumps(manifest)})
        onnx.save(graph.model, target)
        add_hash(target)
    others = sorted(path for path in folder.iterdir() if path not in (target, manifest_path(target)))
    files = {path.name: sha256_of(path) for path in (target, *others)}
    atomic_write_text(manifest_path(target), json.dumps({**manifest, "files": files}, indent=2) + "\n")


@contextlib.contextmanager
def _build_folder(output: Path) -> Iterator[Path]:
    """A temporary folder inside ``output`` for unfinished files.

    It is removed at the end. ``output`` is removed too where this function made it and it is still empty.
    """
    created = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".building-", dir=output))
    try:
        with naming_full_disk(output):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if created:
            with contextlib.suppress(OSError):
                output.rmdir()


def _publish(folder: Path, target: Path, output: Path) -> Path:
    """Move all files to their final names, and return the path of the artefact.

    The old manifest is removed first and the new one moved last, so that an interrupt leaves no manifest beside files
    that it does not describe.
    """
    manifest = manifest_path(target)
    (output / manifest.name).unlink(missing_ok=True)
    for path in sorted(folder.iterdir()):
        if path != manifest:
            give_usual_permissions(path)
            os.replace(path, output / path.name)
    os.replace(manifest, output / manifest.name)
    return output / target.name


def _reject(folder: Path, output: Path) -> str:
    """Move all files to ``*.rejected`` names, and return these names."""
    names = []
    for path in sorted(folder.iterdir()):
        rejected = output / f"{path.name}.rejected"
        os.replace(path, rejected)
        names.append(str(rejected))
    return ", ".join(names)


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        import safetensors  # noqa: F401
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"exporting needs {error.name}, which is not installed: pip install 'pose-refiner[export,cpu]' "
            "(or gpu instead of cpu)"
        ) from error


def check_readable(options: ExportOptions) -> None:
    """Raises CheckpointError for a missing checkpoint, before the checkpoints are hashed."""
    for name, path in (("refiner", options.checkpoint), ("lifter", options.lifter)):
        if path is None or path.is_file():
            continue
        if path.parent == bundled.FOLDER:
            raise CheckpointError(f"this installation holds no bundled {name} ({path}); name a checkpoint")
        raise CheckpointError(f"there is no checkpoint at {path}; {bundled.expected_at(path)}")


def _with_graph(error: MissingComponentError, options: ExportOptions, report: Report) -> MissingComponentError:
    """Export the ONNX graph where the engine is missing.

    Returns:
        An error that names the missing component, the graph, and the command for the target machine.
    """
    plain = dataclasses.replace(
        options, engine="onnx", compute_capability=None, timing_cache=None, workspace_mb=None, device="cpu"
    )
    report(f"{error}; writing the ONNX graph alone, for a machine that has it")
    try:
        graph = _build(plain, report).path
    except MissingComponentError as other:
        return MissingComponentError(f"{error}. The ONNX graph could not be written either: {other}")
    lines = [
        f"{error}",
        f"The ONNX graph is kept: {graph}",
        f"On the target machine: {command_line(options)}",
    ]
    if options.engine == "trt":
        rtx = dataclasses.replace(options, engine="trt-rtx", compute_capability="8.6", timing_cache=None)
        lines.append(f"What builds without a GPU is TensorRT for RTX: {command_line(rtx)}")
    return MissingComponentError("\n".join(lines))


def command_line(options: ExportOptions) -> str:
    """The command line of an export. Options at their default, bundled checkpoints among them, are left out."""
    words = ["refiner-export", "--engine", options.engine, "--precision", options.precision]
    if options.checkpoint != bundled.default_refiner(with_lifter=options.lifter is not None):
        words += ["--checkpoint", shlex.quote(str(options.checkpoint))]
    if options.lifter is not None:
        words.append("--with-lifter")
        if options.lifter != bundled.default_checkpoint("lifter"):
            words.append(shlex.quote(str(options.lifter)))
    values = {
        "--frames": options.frames,
        "--steps": options.steps,
        "--hypotheses": options.hypotheses,
        "--batch": None if options.batch == Batch() else options.batch,
        "--streams": options.streams,
        "--opset": None if options.opset == DEFAULT_OPSET else options.opset,
        "--device": None if options.device == "cpu" else options.device,
        "--compute-capability": options.compute_capability,
        "--workspace-mb": options.workspace_mb,
        "--timing-cache": options.timing_cache,
        "--windows": None if options.windows == DEFAULT_WINDOWS else options.windows,
        "--tolerance-mm": options.tolerance_mm,
        "--data": options.data,
    }
    for flag, value in values.items():
        if value is not None:
            words += [flag, shlex.quote(str(value))]
    words += [flag for flag, on in (("--flip-test", options.flip_test), ("--pipelined", options.pipelined)) if on]
    return " ".join(words)


class Clock:
    """Measures and reports the stages of a build.

    Args:
        report: called with a line at the begin and the end of each stage.
    """

    def __init__(self, report: Report = lambda line: None) -> None:
        self.report = report
        self.stages: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Measure the time of a ``with`` block."""
        self.report(f"{title} ...")
        began = time.perf_counter()
        yield
        self.stages[title] = time.perf_counter() - began
        self.report(f"  {self.stages[title]:.1f} s")
