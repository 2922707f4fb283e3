"""What an artefact says of itself, checked against its bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from refiner.causal_state import CAUSAL
from refiner.errors import ArtefactError, MissingComponentError
from refiner.runtime.artefact import check_files, check_manifest, manifest_path, read_manifest
from refiner.runtime.engine import OUTPUTS, input_names
from refiner.runtime.onnx_engine import embedded_manifest

# What of a causal refiner is no state.
POSES = {*input_names(CAUSAL), *input_names(CAUSAL, rays=True), OUTPUTS[CAUSAL]}


def inspect_artefact(file: Path) -> dict[str, Any]:
    """The manifest of ``file``: the one beside it, whose hashes are checked, or the one inside an ONNX graph.

    Nothing is run and no engine is deserialised. Raises ArtefactError.
    """
    if not file.is_file():
        raise ArtefactError(f"there is no artefact at {file}")
    if file.suffix == ".json" and file.with_suffix("").is_file():
        return inspect_artefact(file.with_suffix(""))
    if file.suffix == ".rejected":
        # What a gate refused is read as it is: it cannot be loaded under this name.
        plain = file.name.removesuffix(".rejected").removesuffix(".json")
        return check_manifest(_read_json(file.with_name(f"{plain}.json.rejected")), file)
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
            f"reading the manifest inside {file} needs onnx: pip install 'refiner[export]', or copy {file.name}.json "
            "beside it"
        ) from error
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's own
        raise ArtefactError(f"{file} is no ONNX graph: {error}") from error
    return embedded_manifest({entry.key: entry.value for entry in model.metadata_props}, file)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ArtefactError(f"{file} cannot be read as a manifest: {error}") from error


def describe_lines(manifest: dict[str, Any], file: Path) -> list[str]:
    """The manifest in a few lines."""
    checkpoint, state = manifest.get("checkpoint", {}), manifest.get("state")
    parity = manifest.get("parity", {})
    takes, compared = _windows_or_streams(manifest, parity)
    lines = [
        f"{file.name}: {manifest['kind']} for {manifest['engine']}, {manifest['precision']}",
        f"checkpoint   {checkpoint.get('name')}  sha256 {str(checkpoint.get('sha256'))[:16]}",
        f"model        {manifest.get('model')}",
        takes,
    ]
    if "steps" in manifest:
        lines.append(f"steps        K = {manifest['steps']}, timesteps {manifest.get('timesteps')}")
    for name in ("inputs", "outputs"):
        for tensor, entry in manifest[name].items():
            if state is not None and tensor not in POSES:
                continue  # a hundred tensors of the state
            unit = manifest.get("units", {}).get(tensor, "")
            lines.append(f"{name:12s} {tensor} {entry.get('type')} {entry['shape']} {unit}")
    if "nodes" in manifest:
        lines.append(f"graph        {node_counts(manifest)}, opset {manifest['opset']}")
    if manifest.get("kept_float32") and manifest["precision"] != "fp32":
        kept = ", ".join(f"{count} {name}" for name, count in manifest["kept_float32"].items())
        lines.append(f"in float32   {kept}")
    total = parity.get("total")
    if total is not None:
        lines.append(f"parity       {figures(total)} on {compared}, {parity['motion']}")
    if "note" in parity:
        lines.append(f"note         {parity['note']}")
    machine = manifest.get("built_on")
    if machine:
        gpu = f", {machine['gpu']} ({machine['compute_capability']}, {machine['driver']})" if machine["gpu"] else ""
        lines.append(f"built on     {machine['system']}, {machine['processor']}{gpu}")
    lines.append("versions     " + ", ".join(f"{name} {value}" for name, value in manifest.get("versions", {}).items()))
    return lines


def _windows_or_streams(manifest: dict[str, Any], parity: dict[str, Any]) -> tuple[str, str]:
    """What an artefact takes, and what it was compared on."""
    frames, rate, batch = manifest["frames"], f"at {manifest['fps']:g} frames/s", manifest["batch"]
    state = manifest.get("state")
    if state is None:
        mirrored = ", with the mirrored pass" if manifest.get("mirrored_pass") else ""
        takes = f"windows      {frames} frames {rate}, {batch['min']} to {batch['max']} at a time{mirrored}"
        return takes, f"{parity.get('windows')} windows"
    takes = (
        f"streams      {batch['max']} {rate}; a frame sees {frames} and comes out {state['delay']} later; state: "
        f"{state['form']}"
    )
    return takes, f"{parity.get('windows')} streams of {parity.get('frames')} frames"


def node_counts(manifest: dict[str, Any]) -> str:
    """The size of the graph in words."""
    nodes = manifest["nodes"]
    return f"{sum(nodes.values())} nodes, {nodes.get('Transpose', 0)} transposes"


def figures(part: dict[str, Any]) -> str:
    """One comparison of the manifest's ``parity`` in words."""
    return (
        f"largest {part['largest_mm']:.4f} mm, mean {part['mean_mm']:.4f} mm, MPJPE {part['mpjpe_change_mm']:+.4f} mm"
    )
