"""Training models that see rays: lifter and refiner on scenes, in the axes of the virtual cameras."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from refiner.errors import ConfigError
from refiner.model_files.checkpoint import load_checkpoint
from refiner.models.canonical import canonical_pose, from_virtual_camera, to_virtual_camera
from refiner.runtime import Lifter, Refiner
from refiner.training.runs import train_lifter, train_refiner
from refiner.training.scene_refiner import LiftedScenes, RayLifter, canonical_clip, scene_length
from refiner.training.scene_tasks import RayLifterTask, SceneWindows, validation_clips
from refiner.training.scenes import SceneSampler
from refiner.training.scenes.motion import MotionClip
from refiner.training.tasks import ValidationWindows

RAYS = {"model": {"input": "rays"}, "scene": {"synthetic": 0.0}}
STRIDE = 3


@pytest.fixture
def lifter(people, tiny, tmp_path):
    """A lifter of rays with a stride, trained for a moment."""
    return train_lifter(tiny("lifter", stride=STRIDE, **RAYS), people, tmp_path / "lifter", quiet=True)


def test_a_lifter_trains_resumes_and_runs(people, tiny, tmp_path):
    config = tiny("lifter", stride=STRIDE, **RAYS)
    whole = load_checkpoint(train_lifter(config, people, tmp_path / "whole", quiet=True).with_name("last.safetensors"))
    # No time is left after the first step; the same command goes on.
    train_lifter(config, people, tmp_path / "parts", quiet=True, minutes=0.0)
    parts = train_lifter(config, people, tmp_path / "parts", quiet=True).with_name("last.safetensors")
    for name, value in load_checkpoint(parts).tensors.items():
        assert torch.equal(value, whole.tensors[name])
    curve = whole.config["metrics"]["validation"]
    assert curve["mpjpe_mm"] == pytest.approx((curve["archive_mpjpe_mm"] + curve["random_mpjpe_mm"]) / 2)
    clip = people.clips("validation")[0]
    lifted = Lifter.load(parts).lift(clip.pose_2d, clip.image_size, camera=clip.lens)
    assert lifted.shape == clip.pose_3d.shape and np.isfinite(lifted).all()


def test_the_loss_is_the_distance_in_camera_axes(people, tiny):
    config = tiny("lifter", **RAYS)
    clips = [MotionClip("S1", "A", people.positions["S1"]["Walking"])]
    batch = SceneSampler(clips, people.detector, config.scene, 9, 4, 0).batch(0)

    class Still(torch.nn.Module):
        """Says the same pose of everybody, in its own axes."""

        def __init__(self):
            super().__init__()
            self.pose = torch.nn.Parameter(torch.randn(17, 3))

        def forward(self, seen):
            return self.pose.expand(*seen.shape[:2], 17, 3)

    model = Still()
    task = RayLifterTask(config, model, None)
    _, rotation = canonical_pose(batch.keypoints, batch.camera)
    said = from_virtual_camera((model.pose - model.pose[:1]).expand(4, 9, 17, 3), rotation)
    expected = (said - batch.pose_3d).norm(dim=-1).mean()
    torch.testing.assert_close(task.loss(batch, 0), expected, atol=1e-5, rtol=1e-5)


def test_validation_sees_every_frame_once_by_both_kinds_of_cameras(people):
    clips = validation_clips(people)
    assert {group for group, _ in clips} == {"archive", "random"}
    windows = SceneWindows.of_clips(clips, 9, STRIDE)
    assert windows.scored.sum() == sum(clip.frames for _, clip in clips)
    assert windows.mpjpe_mm(windows.pose_3d)["mpjpe_mm"] == 0.0
    shifted = windows.pose_3d.copy()
    shifted[:, :, 1:, 0] += 0.017
    found = windows.mpjpe_mm(shifted)
    assert all(value == pytest.approx(16.0, abs=1e-3) for value in found.values())
    # The same cameras and detections every time.
    again = SceneWindows.of_clips(validation_clips(people), 9, STRIDE)
    np.testing.assert_array_equal(again.keypoints, windows.keypoints)


def test_errors_in_canonical_axes_are_those_in_camera_axes(people):
    clip = people.clips("validation")[1]
    features, truth = canonical_clip(clip)
    _, rotation = canonical_pose(
        torch.from_numpy(np.concatenate([clip.pose_2d, np.ones((*clip.pose_2d.shape[:2], 1), np.float32)], -1))[None],
        torch.tensor([[*map(float, clip.image_size), float(clip.lens.focal_length.mean())]]),
    )
    rng = np.random.default_rng(0)
    said = clip.pose_3d + rng.normal(0, 0.05, clip.pose_3d.shape).astype(np.float32)
    in_camera = np.linalg.norm((said - said[:, :1]) - clip.pose_3d, axis=-1).mean() * 1000
    canonical = to_virtual_camera(torch.from_numpy(said)[None], rotation)[0].numpy()
    windows = ValidationWindows([(features, truth)], clip.frames)
    assert windows.mpjpe_mm(canonical[None]) == pytest.approx(in_camera, rel=1e-4)


def test_scenes_are_lifted_phase_by_phase_and_cut(people, tiny, lifter):
    config = tiny("refiner", **RAYS)
    ray_lifter = RayLifter.of_checkpoint(load_checkpoint(lifter), "cpu")
    assert (ray_lifter.frames, ray_lifter.stride) == (9, STRIDE)
    assert scene_length(9, [ray_lifter]) == 27
    clips = [MotionClip("S1", "A", people.positions["S1"]["Walking"])]
    scenes = SceneSampler(clips, people.detector, config.scene, 27, 2, 0)
    windows = LiftedScenes(scenes, [ray_lifter], 9).batch(5)
    assert windows.pose_2d.shape == (6, 9, 17, 6) and windows.lifted.shape == windows.pose_3d.shape == (6, 9, 17, 3)
    features, rotation = canonical_pose(scenes.batch(5).keypoints, scenes.batch(5).camera)
    np.testing.assert_allclose(windows.pose_2d.reshape(2, 27, 17, 6), features.numpy())
    truth = to_virtual_camera(scenes.batch(5).pose_3d, rotation).numpy()
    np.testing.assert_allclose(windows.pose_3d.reshape(2, 27, 17, 3), truth, atol=1e-6)
    whole = windows.lifted.reshape(2, 27, 17, 3)
    for phase in range(STRIDE):
        pose = ray_lifter.network(features[:, phase::STRIDE]).detach()
        np.testing.assert_allclose(whole[:, phase::STRIDE], (pose - pose[:, :, :1]).numpy(), atol=1e-5)
    assert (windows.lifted[:, :, 0] == 0).all()


# A lifter that has hardly learnt anything.
@pytest.mark.filterwarnings("ignore:pose_3d does not fit pose_2d:refiner.errors.InputWarning")
def test_a_refiner_trains_on_scenes_and_runs(people, tiny, tmp_path, lifter, monkeypatch):
    # The runtime takes back what the simulated detector swaps; validation sees it as it is.
    monkeypatch.setattr("refiner.data.keypoints.find_swapped_sides", lambda *given: [])
    config = tiny("refiner", lifter=str(lifter), **RAYS)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, batch=6))
    path = train_refiner(config, people, tmp_path / "refiner", quiet=True)
    checkpoint = load_checkpoint(path)
    assert checkpoint.config["model"]["input"] == "rays" and checkpoint.tensors["noise.gain"].shape == (51, 85)
    # What validation says of the lifter is what the runtime makes of the same clips.
    clips = [clip for _, clip in validation_clips(people)]
    runtime = Lifter.load(lifter, hop=4)
    errors, frames = 0.0, 0
    for clip in clips:
        lens = float(np.mean(clip.lens.focal_length))
        lifted = runtime.lift(clip.pose_2d, clip.image_size, focal_length=lens)
        errors += float(np.linalg.norm(lifted - clip.pose_3d, axis=-1).mean(axis=-1).sum()) * 1000
        frames += clip.frames
    said = checkpoint.config["metrics"]["validation"]["lifter_mpjpe_mm"]
    assert said == pytest.approx(errors / frames, rel=1e-3)
    refiner = Refiner.load(path)
    clip = clips[0]
    lifted = runtime.lift(clip.pose_2d, clip.image_size, camera=clip.lens)
    refined = refiner.refine(clip.pose_2d, lifted, clip.image_size, camera=clip.lens)
    assert np.isfinite(refined).all() and np.abs(refined - lifted).max() > 0


def test_what_does_not_go_together_is_refused(people, tiny, tmp_path, lifter):
    screen = train_lifter(tiny("lifter"), people, tmp_path / "screen", quiet=True)
    with pytest.raises(ConfigError, match="on a lifter that sees rays"):
        train_refiner(tiny("refiner", lifter=str(screen), **RAYS), people, tmp_path / "a", quiet=True)
    with pytest.raises(ConfigError, match="takes every frame"):
        train_refiner(tiny("refiner", lifter=str(lifter), stride=3, **RAYS), people, tmp_path / "b", quiet=True)
    with pytest.raises(ConfigError, match="27 frames, the refiner windows of 8"):
        train_refiner(tiny("refiner", lifter=str(lifter), frames=8, **RAYS), people, tmp_path / "c", quiet=True)
    diffusion = tiny("lifter", model={"input": "rays", "architecture": "d3dp"}, scene={"synthetic": 0.0})
    with pytest.raises(ConfigError, match="sees screen coordinates alone"):
        train_lifter(diffusion, people, tmp_path / "d", quiet=True)
