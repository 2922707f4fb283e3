"""The manifest: what an artefact is, what it was made from, and how close it is to its model.

It lies as JSON beside the artefact; an ONNX graph carries the same in its metadata, less its own hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from refiner import __version__
from refiner.diffusion import ddim_timesteps
from refiner.errors import ArtefactError
from refiner.models import LiftingModule, UnrolledRefiner
from refiner.runtime.engine import INPUTS, OUTPUTS, config_fps
from refiner.runtime.onnx_engine import SCHEMA
from refiner.skeleton import JOINT_NAMES, PARENTS

REQUIRED = (
    "checkpoint",
    "fps",
    "frames",
    "graph_sha256",
    "inputs",
    "joints",
    "kind",
    "model",
    "nodes",
    "opset",
    "outputs",
    "parity",
    "precision",
    "units",
    "versions",
)
_PACKAGES = ("torch", "onnx", "onnxscript", "numpy")
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def describe(
    module: UnrolledRefiner | LiftingModule, checkpoint: Path, opset: int, nodes: dict[str, int]
) -> dict[str, Any]:
    """The manifest of a graph that has not been compared or written yet."""
    config, frames, joints = module.config, module.frames, len(JOINT_NAMES)
    kind = config["kind"]
    shapes: dict[str, list[str | int]] = {
        "pose_2d": ["batch", frames, joints, 2],
        "pose_3d": ["batch", frames, joints, 3],
        "refined_pose_3d": ["batch", frames, joints, 3],
        "image_size": ["batch", 2],
    }
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "refiner": __version__,
        "kind": kind,
        "checkpoint": {"name": checkpoint.name, "sha256": sha256_of(checkpoint)},
        "model": config["model"],
        "frames": frames,
        "fps": config_fps(config),
        "precision": "fp32",
        "joints": {"names": list(JOINT_NAMES), "parents": list(PARENTS)},
        "units": {
            "pose_2d": "pixels",
            "pose_3d": "metres, camera axes (x right, y down, z away)",
            "image_size": "width, height in pixels",
        },
        "inputs": {name: {"type": "float32", "shape": shapes[name]} for name in INPUTS[kind]},
        "outputs": {OUTPUTS[kind]: {"type": "float32", "shape": shapes[OUTPUTS[kind]]}},
        "opset": opset,
        "nodes": nodes,
        "versions": _versions(),
    }
    if isinstance(module, UnrolledRefiner):
        manifest |= {
            "steps": module.steps,
            "timesteps": ddim_timesteps(module.steps, config["diffusion"]["timesteps"])[:-1],
            "diffusion": config["diffusion"],
        }
    if "data_description" in config:
        manifest["data_description"] = config["data_description"]
    return manifest


def load_manifest(artefact: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest beside an artefact. Raises ArtefactError where it is missing, broken or of another file."""
    graph = Path(artefact)
    file = graph.with_suffix(".json")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtefactError(f"there is no manifest at {file}; export the checkpoint again") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtefactError(f"{file} is no JSON ({error}); export the checkpoint again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ArtefactError(f"{file} is no manifest of schema {SCHEMA}; export the checkpoint again")
    missing = [key for key in REQUIRED if key not in manifest]
    if missing:
        raise ArtefactError(f"{file} lacks {', '.join(missing)}; export the checkpoint again")
    if not graph.is_file():
        raise ArtefactError(f"there is no {graph} to the manifest {file}; export the checkpoint again")
    found = sha256_of(graph)
    if found != manifest["graph_sha256"]:
        raise ArtefactError(
            f"{graph} has sha256 {found}, its manifest says {manifest['graph_sha256']}: one of them was changed or "
            "replaced; export the checkpoint again"
        )
    return manifest


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError

    found = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    for name in _RUNTIMES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
