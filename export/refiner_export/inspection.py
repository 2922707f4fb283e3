"""Read the manifest of an artefact, check it against the files, and describe it in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refiner.causal_state import CAUSAL
from refiner.errors import ArtefactError, MissingComponentError
from refiner.json_text import JsonError, parse_json
from refiner.runtime.engine import OUTPUTS, input_names
from refiner.runtime.manifest import FileEntry, Manifest, check_files, manifest_path, parse_manifest, read_manifest
from refiner.runtime.onnx_engine import embedded_manifest

# The tensors of a causal refiner that do not belong to its state.
POSES = {*input_names(CAUSAL), *input_names(CAUSAL, rays=True), OUTPUTS[CAUSAL]}


def inspect_artefact(file: Path) -> Manifest:
    """Read the manifest beside an artefact, and check its hashes; or read the manifest inside an ONNX graph.

    No code of the artefact is run.

    Raises:
        ArtefactError: there is no artefact or manifest, or they do not fit together.
        MissingComponentError: the manifest is inside a graph, and onnx is not installed.
    """
    if not file.is_file():
        raise ArtefactError(f"there is no artefact at {file}")
    if file.suffix == ".json" and file.with_suffix("").is_file():
        return inspect_artefact(file.with_suffix(""))
    if file.suffix == ".rejected":
        # The hashes of a rejected artefact are not checked, because nothing can load it under this name.
        plain = file.name.removesuffix(".rejected").removesuffix(".json")
        return parse_manifest(_read_json(file.with_name(f"{plain}.json.rejected")), file)
    if manifest_path(file).is_file():
        manifest = read_manifest(file)
        check_files(manifest, file)
        return manifest
    if file.suffix != ".onnx":
        return read_manifest(file)
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"reading the manifest inside {file} needs onnx: pip install 'pose-refiner[export]', or copy "
            f"{file.name}.json beside it"
        ) from error
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's exceptions
        raise ArtefactError(f"{file} is no ONNX graph: {error}") from error
    return embedded_manifest({entry.key: entry.value for entry in model.metadata_props}, file)


def _read_json(file: Path) -> Any:
    try:
        return parse_json(file.read_bytes())
    except (OSError, JsonError) as error:
        raise ArtefactError(f"{file} cannot be read as a manifest: {error}") from error


def describe_lines(manifest: Manifest, file: Path) -> list[str]:
    """Describe the artefact ``file`` by its manifest, in a few lines."""
    content, made_from = manifest.content, manifest.checkpoint or FileEntry("?", "?")
    takes, compared = _windows_or_streams(manifest)
    lines = [
        f"{file.name}: {manifest.kind} for {manifest.engine}, {manifest.precision}",
        f"checkpoint   {made_from.name}  sha256 {made_from.sha256[:16]}",
        f"model        {content.get('model')}",
        takes,
    ]
    if manifest.steps is not None:
        lines.append(f"steps        K = {manifest.steps}, timesteps {content.get('timesteps')}")
    for name, tensors in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        for tensor, shape in tensors.items():
            if manifest.state is not None and tensor not in POSES:
                continue  # the state has about a hundred tensors
            unit = content.get("units", {}).get(tensor, "")
            lines.append(f"{name:12s} {tensor} float32 {list(shape)} {unit}")
    if "nodes" in content:
        lines.append(f"graph        {node_counts(content['nodes'])}, opset {content['opset']}")
    if content.get("kept_float32") and manifest.precision != "fp32":
        float32_nodes = ", ".join(f"{count} {name}" for name, count in content["kept_float32"].items())
        lines.append(f"in float32   {float32_nodes}")
    if manifest.parity is not None:
        lines.append(f"parity       {manifest.parity.total} on {compared}, {manifest.parity.motion}")
        if manifest.parity.note is not None:
            lines.append(f"note         {manifest.parity.note}")
    machine = content.get("built_on")
    if machine:
        gpu = f", {machine['gpu']} ({machine['compute_capability']}, {machine['driver']})" if machine["gpu"] else ""
        lines.append(f"built on     {machine['system']}, {machine['processor']}{gpu}")
    lines.append("versions     " + ", ".join(f"{name} {value}" for name, value in manifest.versions.items()))
    return lines


def _windows_or_streams(manifest: Manifest) -> tuple[str, str]:
    """Describe the inputs of an artefact, and the motion of its comparison."""
    rate, batch, parity = f"at {manifest.fps:g} frames/s", manifest.batch, manifest.parity
    windows = None if parity is None else parity.windows
    if manifest.state is None:
        mirrored = ", with the mirrored pass" if manifest.mirrored_pass else ""
        takes = f"windows      {manifest.frames} frames {rate}, {batch.least} to {batch.most} at a time{mirrored}"
        return takes, f"{windows} windows"
    takes = (
        f"streams      {batch.most} {rate}; a frame sees {manifest.frames} and comes out {manifest.state.delay} later; "
        f"state: {manifest.state.form}"
    )
    return takes, f"{windows} streams of {None if parity is None else parity.frames} frames"


def node_counts(nodes: Mapping[str, int]) -> str:
    """The size of a graph in words; ``nodes`` counts its operators by name."""
    return f"{sum(nodes.values())} nodes, {nodes.get('Transpose', 0)} transposes"
