"""Engines whose output is known by formula, in NumPy and as a graph, so that only the runtime is tested.

Tests import `native_models`, which lies beside them, by its name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from refiner.runtime.engine import ModelDefaults
from refiner.skeleton import JOINT_NAMES

# The models that tests of the native engine share.
sys.path.insert(0, str(Path(__file__).parent))

FRAMES = 9


class RampEngine(ModelDefaults):
    """0.9 x the 3D pose plus a ramp over the window plus a share of the normalised 2D: depends on all it is given."""

    frames = FRAMES
    fps = 50.0
    least_batch, largest_batch = 1, 2**31 - 1
    rays = False
    reach = None

    def __init__(self, kind: str = "refiner", ramp: float = 0.1) -> None:
        self.ramp = ramp
        self.kind, self.steps, self.engine = kind, 2, "ramp"
        self.metadata = {"kind": kind, "steps": 2, "engine": "ramp"}
        self.batches: list[int] = []

    def __call__(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        pose_2d, image_size = inputs[0], inputs[-1]
        assert all(part.dtype == np.float32 and part.flags.c_contiguous for part in inputs)
        assert pose_2d.shape[1:] == (FRAMES, 17, 2) and image_size.shape == (len(pose_2d), 2)
        self.batches.append(len(pose_2d))
        screen = (pose_2d / image_size[:, None, None, :]).sum(axis=-1, keepdims=True)
        ramp = np.linspace(-self.ramp, self.ramp, FRAMES, dtype=np.float32).reshape(1, FRAMES, 1, 1)
        base = 0.9 * inputs[1] if len(inputs) == 3 else np.zeros((*pose_2d.shape[:-1], 3), np.float32)
        return np.asarray(base + ramp + 0.05 * screen, np.float32)


def ramp_manifest(batch: str | int = "batch") -> dict[str, Any]:
    """What refiner-export would write of the ramp refiner."""
    shapes = {"pose_2d": [batch, FRAMES, 17, 2], "pose_3d": [batch, FRAMES, 17, 3], "image_size": [batch, 2]}
    least, most = (1, 1000) if batch == "batch" else (batch, batch)
    return {
        "schema": 2,
        "kind": "refiner",
        "engine": "onnx",
        "precision": "fp32",
        "frames": FRAMES,
        "fps": 50.0,
        "steps": 2,
        "batch": {"min": least, "opt": least, "max": most},
        "joints": {"names": list(JOINT_NAMES)},
        "inputs": {name: {"type": "float32", "shape": shape} for name, shape in shapes.items()},
        "outputs": {"refined_pose_3d": {"type": "float32", "shape": shapes["pose_3d"]}},
    }


@pytest.fixture
def ramp_engine() -> RampEngine:
    return RampEngine()


@pytest.fixture
def level_engine() -> RampEngine:
    """Without the ramp: what it does to a frame depends on that frame alone."""
    return RampEngine(ramp=0.0)


@pytest.fixture
def ramp_lifter() -> RampEngine:
    return RampEngine("lifter")


@pytest.fixture
def clip() -> Callable[..., tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """``clip(frames, seed, fps)`` -> smooth 2D in pixels and 3D in metres, four metres in front of the camera."""

    def make(frames: int, seed: int = 0, fps: float = 50.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = np.random.default_rng(seed)
        time = np.arange(frames)[:, None, None] / fps
        body = rng.normal(0, 0.4, (1, 17, 3)) + 0.1 * np.sin(
            2 * np.pi * (rng.uniform(0.2, 1.5, (1, 17, 3)) * time + rng.uniform(size=(1, 17, 3)))
        )
        body += np.array([0.2, 0.1, 4.0])
        pixels = 1100 * body[..., :2] / body[..., 2:] + np.array([500, 501])
        return pixels.astype(np.float32), body.astype(np.float32)

    return make


@pytest.fixture
def write_graph(tmp_path: Path) -> Callable[..., Path]:
    """Write the ramp refiner as an ``.onnx`` file; keywords change what is in it."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: the test's graph cannot be built")
    from onnx import TensorProto, helper, numpy_helper

    def write(name: str = "ramp.onnx", manifest: Any = None, **changes: Any) -> Path:
        frames = changes.get("frames", FRAMES)
        kind = changes.get("type", TensorProto.FLOAT)
        batch = changes.get("batch", "batch")
        tensor = helper.make_tensor_value_info
        ramp = np.linspace(-0.1, 0.1, FRAMES, dtype=np.float32).reshape(1, FRAMES, 1, 1)
        constants = {
            "ramp": ramp,
            "nine": np.array(0.9, np.float32),
            "share": np.array(0.05, np.float32),
            "last": np.array([-1], np.int64),
            "grid": np.array([1, 2], np.int64),
        }
        nodes = [
            helper.make_node("Unsqueeze", ["image_size", "grid"], ["size"]),
            helper.make_node("Div", ["pose_2d", "size"], ["screen"]),
            helper.make_node("ReduceSum", ["screen", "last"], ["sum"], keepdims=1),
            helper.make_node("Mul", ["sum", "share"], ["shared"]),
            helper.make_node("Mul", ["pose_3d", "nine"], ["most"]),
            helper.make_node("Add", ["most", "ramp"], ["ramped"]),
            helper.make_node("Add", ["ramped", "shared"], [changes.get("output", "refined_pose_3d")]),
        ]
        graph = helper.make_graph(
            nodes,
            "ramp",
            [
                tensor("pose_2d", kind, [batch, frames, 17, 2]),
                tensor("pose_3d", kind, [batch, frames, 17, 3]),
                tensor("image_size", kind, [batch, 2]),
            ],
            [tensor(changes.get("output", "refined_pose_3d"), kind, [batch, frames, 17, 3])],
            [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
        )
        if kind != TensorProto.FLOAT:
            for entry in graph.initializer:
                if entry.data_type == TensorProto.FLOAT:
                    entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry).astype(np.float64), entry.name))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        if manifest is None:
            manifest = ramp_manifest(changes.get("declared", batch))
        if manifest:
            stored = manifest if isinstance(manifest, str) else json.dumps(manifest)
            helper.set_model_props(model, {"refiner": stored})
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return write
