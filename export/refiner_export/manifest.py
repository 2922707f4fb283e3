"""Write the manifest of an artefact: its description, its origin, and its difference from its model.

The manifest is JSON in a file beside the artefact. An ONNX graph also holds it in its metadata, without the hashes of
files. Other artefacts hold nothing but their engine's format, so that all tools of that engine can read them.
"""

from __future__ import annotations

import hashlib
import platform
from typing import Any

import onnx

from refiner import __version__
from refiner.causal_state import step_inputs, step_outputs
from refiner.diffusion import ddim_timesteps
from refiner.files import sha256_of
from refiner.machine import processor_name
from refiner.model_spec import ModelSpec
from refiner.models.causal import CarriedStep, CausalStep
from refiner.runtime.causal import layout_entry
from refiner.runtime.engine import OUTPUTS, window_inputs
from refiner.runtime.manifest import SCHEMA
from refiner.skeleton import JOINT_NAMES, PARENTS
from refiner_export.gpu import device_at_hand
from refiner_export.graph import count_nodes
from refiner_export.options import Batch, ExportOptions
from refiner_export.precision import TypedGraph
from refiner_export.source import Source, checkpoints_of
from refiner_export.versions import versions


def describe(source: Source, typed: TypedGraph | None, options: ExportOptions) -> dict[str, Any]:
    """The manifest of an artefact as JSON, still without ``build``, ``parity`` and ``files``.

    ``typed``: the graph; None for an engine that takes the PyTorch module.
    """
    config, frames = source.config, source.frames
    inputs, outputs = _tensors(source, options)
    batch = options.batch
    if isinstance(source.module, CausalStep | CarriedStep):
        streams = source.module.layout.streams
        batch = Batch(streams, streams, streams)
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "refiner": __version__,
        "kind": source.kind,
        "engine": options.engine,
        "precision": options.precision,
        **{name: {"name": path.name, "sha256": sha256_of(path)} for name, path in checkpoints_of(options).items()},
        "model": config["model"],
        "frames": frames,
        "trained_frames": source.trained_frames,
        "batch": {"min": batch.least, "opt": batch.best, "max": batch.most},
        "mirrored_pass": options.flip_test,
        "fps": source.spec.fps,
        # The distance, in frames of the sequence, between two neighbouring frames of a window.
        "stride": source.spec.stride,
        # The order of inputs and outputs, and the joint set that the weights were trained on. The graph converts.
        "joints": {"names": list(JOINT_NAMES), "parents": list(PARENTS), "trained_on": source.spec.joints},
        "units": {
            "pose_2d": "pixels",
            "keypoints": "x, y in pixels, confidence 0 (missing) to 1",
            "pose_3d": "metres, camera axes (x right, y down, z away)",
            "image_size": "width, height in pixels",
            "camera": "width, height, focal length in pixels",
            "action": "place among actions, behind them unknown, below 0 to be guessed from the 2D poses",
        },
        "inputs": {name: {"type": "float32", "shape": shape} for name, shape in inputs.items()},
        "outputs": {name: {"type": "float32", "shape": shape} for name, shape in outputs.items()},
        "versions": versions(),
        "built_on": _machine(),
        "data_description": config.get("data_description"),
    }
    if typed is not None:
        manifest |= {
            # The opset of bf16 can be newer than that of the options.
            "opset": next(entry.version for entry in typed.model.opset_import if entry.domain in ("", "ai.onnx")),
            "nodes": count_nodes(typed.model),
            "graph_sha256": graph_hash(typed.model),
            "kept_float32": typed.kept_float32,
        }
    if isinstance(source.module, CausalStep | CarriedStep):
        carried = isinstance(source.module, CarriedStep)
        layout = source.module.layout
        manifest["state"] = {
            # "entries": the caller writes the values of each frame into the ring buffers. "carried": the outputs next_*
            # are the state after the frame.
            "form": "carried" if carried else "entries",
            "layout": layout_entry(layout),
            "delay": layout.delay,
            "values_at": layout.values_at,
            "keys_at": layout.keys_at,
        }
    if "uncertainty" in config:
        # Streams compute the standard deviation of each joint from this.
        manifest["uncertainty"] = config["uncertainty"]
    if source.lifter_config is not None:
        manifest["lifter_model"] = source.lifter_config["model"]
        if ModelSpec.of_config(source.lifter_config).is_sampled_lifter:
            manifest["lifter_sampling"] = source.lifter_config["sampling"]
    if source.actions:
        manifest["actions"] = list(source.actions)
    if source.steps is not None:
        manifest["steps"] = source.steps
    if source.spec.is_sampled_lifter:
        manifest["sampling"] = config["sampling"]
    elif source.steps is not None and source.spec.is_denoiser:
        timesteps = ddim_timesteps(source.steps, config["diffusion"]["timesteps"])[:-1]
        manifest |= {"timesteps": timesteps, "diffusion": config["diffusion"]}
    return manifest


def _tensors(source: Source, options: ExportOptions) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """The shapes of a model's inputs and outputs."""
    if isinstance(source.module, CausalStep | CarriedStep):
        carried, layout = isinstance(source.module, CarriedStep), source.module.layout
        shapes = step_inputs(layout, carried), step_outputs(layout, carried)
        inputs, outputs = ({name: list(shape) for name, shape in tensors.items()} for tensors in shapes)
        return inputs, outputs
    batch: str | int = options.batch.most if options.batch.fixed else "batch"
    window = window_inputs(source.kind, source.frames, source.rays)
    output = [batch, source.frames, len(JOINT_NAMES), 3]
    return {name: [batch, *shape] for name, shape in window.items()}, {OUTPUTS[source.kind]: output}


def _machine() -> dict[str, str | None]:
    """The machine of the export. Some artefacts only run on such machines; their entry ``build`` tells."""
    gpu = device_at_hand()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "gpu": None if gpu is None else gpu.name,
        "compute_capability": None if gpu is None else gpu.compute_capability,
        "driver": None if gpu is None else gpu.driver,
    }


def graph_hash(model: onnx.ModelProto) -> str:
    """The hash of a graph and its weights without its metadata. The same graph has the same hash for every engine."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()
