"""PyTorch and AOTInductor on a CUDA device: replayed graphs against the CPU's eager result."""

from __future__ import annotations

import numpy as np
import pytest

from refiner import bundled
from refiner.engines import EngineOptions
from refiner.runtime import Refiner
from refiner.runtime.loading import open_engine

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

CHECKPOINT = bundled.checkpoint("refiner")


def windows(batch, seed):
    rng = np.random.default_rng(seed)
    pose_2d = rng.uniform(200, 800, (batch, 27, 17, 2)).astype(np.float32)
    pose_3d = rng.normal(0, 0.4, (batch, 27, 17, 3)).astype(np.float32)
    return pose_2d, pose_3d, np.tile(np.float32([1000, 1002]), (batch, 1))


@pytest.mark.parametrize("name", ["torch", "torch-compile"])
def test_pytorch_on_the_device(name):
    reference = open_engine(CHECKPOINT, "refiner", EngineOptions("torch"))
    engine = open_engine(CHECKPOINT, "refiner", EngineOptions(name, device="cuda"))
    for seed, batch in enumerate((1, 4, 1, 64, 4)):
        inputs = windows(batch, seed)
        assert 1000 * np.abs(engine(*inputs) - reference(*inputs)).max() < 0.05  # products in TF32 are off by default


@pytest.mark.parametrize(("precision", "mean_mm"), [("fp32", 0.01), ("fp16", 0.5), ("bf16", 0.5)])
def test_aotinductor_on_the_device(tmp_path, precision, mean_mm):
    pytest.importorskip("refiner_export", reason="refiner-export is not installed")
    from refiner_export import Batch, ExportOptions, export_artefact

    options = ExportOptions("aoti", tmp_path, CHECKPOINT, precision=precision, device="cuda", batch=Batch(1, 8, 64))
    path = export_artefact(options, use_cache=False).path  # its gate runs on the device
    reference, engine = Refiner.load(CHECKPOINT), Refiner.load(path)
    for seed, batch in enumerate((1, 4, 1, 64, 4)):
        inputs = windows(batch, seed)
        distance = np.linalg.norm(engine._engine(*inputs) - reference._engine(*inputs), axis=-1)
        assert 1000 * distance.mean() < mean_mm


def test_replayed_scenes_are_the_sampler_s():
    from refiner.data.detector import DetectorModel
    from refiner.data.synthetic import synthetic_motion
    from refiner.training.config import SceneConfig
    from refiner.training.scenes import SceneSampler
    from refiner.training.scenes.motion import MotionClip
    from refiner.training.scenes.replayed import FIRST_BATCHES, ReplayedScenes

    clips = [MotionClip("one", "Walking", synthetic_motion(1, "Walking", 300))]
    scenes = SceneSampler(clips, DetectorModel.default(), SceneConfig(), 27, 16, 5, "cuda", 3)
    replayed = ReplayedScenes(scenes)
    for step in [*range(FIRST_BATCHES + 3), 2, 2, 1000]:
        found, expected = replayed.batch(step), scenes.batch(step)
        for name in ("keypoints", "camera", "pose_3d"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), (step, name)
