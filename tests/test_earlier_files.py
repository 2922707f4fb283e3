"""Checkpoints and artefacts of version 0.1.0 load, and give the poses that they gave when they were made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from refiner import Lifter, Refiner, StreamingRefiner

FILES = Path(__file__).parent / "earlier"
CHECKPOINTS = ("refiner", "refiner-rays", "lifter-rays", "refiner-causal")
SIZE, FOCAL_LENGTH = (1280.0, 720.0), 900.0


def poses(path: Path, pose_2d: NDArray[np.float32], pose_3d: NDArray[np.float32]) -> NDArray[np.float32]:
    """The 60 poses ``(F, 17, 3)`` that a file makes of a sequence."""
    lens = {} if "rays" not in str(path) and "causal" not in str(path) else {"focal_length": FOCAL_LENGTH}
    if "lifter" in str(path):
        return Lifter.load(path).lift(pose_2d, SIZE, **lens)
    if "causal" not in str(path):
        return Refiner.load(path).refine(pose_2d, pose_3d, SIZE, **lens)
    live = StreamingRefiner.load(path, mode="causal", image_size=SIZE, **lens)
    frames = [live.push(*pair, index / 50) for index, pair in enumerate(zip(pose_2d, pose_3d, strict=True))]
    return np.stack([frame.pose_3d for ready in [*frames, live.flush()] for frame in ready])


def every_file() -> list[Path]:
    artefacts = [path for ending in ("onnx", "xml") for path in sorted(FILES.glob(f"*/*.{ending}"))]
    return [*(FILES / f"{name}.safetensors" for name in CHECKPOINTS), *artefacts]


@pytest.mark.parametrize("path", every_file(), ids=lambda path: path.relative_to(FILES).as_posix())
def test_a_file_of_an_earlier_version_gives_the_same_poses(path: Path) -> None:
    needed = {".safetensors": "torch", ".onnx": "onnxruntime", ".xml": "openvino"}[path.suffix]
    pytest.importorskip(needed, reason=f"{needed} is not installed")
    with np.load(FILES / "poses.npz") as stored:
        name = path.stem if path.suffix == ".safetensors" else path.parent.name
        found = poses(path, stored["pose_2d"], stored["pose_3d"])
        assert found.shape == (60, 17, 3)
        np.testing.assert_allclose(found, stored[name], atol=1e-5)


def test_there_is_a_file_of_every_kind() -> None:
    assert len(every_file()) == len(CHECKPOINTS) + 6
