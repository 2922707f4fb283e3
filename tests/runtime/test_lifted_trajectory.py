"""`Lifter.lift(trajectory=True)`: the lifted poses in their place, for lifters of rays and of image coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from refiner import Lifter, Refiner
from refiner.camera import look_at_camera
from refiner.data import DetectorModel, camera_clips
from refiner.data.synthetic import synthetic_motion
from refiner.errors import InputError, UsageError
from refiner.ground import Ground
from refiner.skeleton import COCO17
from refiner.trajectory import root_trajectory

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
SIZE, FOCAL = (1920, 1080), 1450.0
LENS = {"image_size": SIZE, "focal_length": FOCAL}


@pytest.fixture(scope="module")
def clip():
    camera = look_at_camera((4.5, 1.0, 1.6), (0.0, 0.0, 0.9), FOCAL, *SIZE)
    motion = {"Ann": {"Walking": synthetic_motion(7, "Walking", 100)}}
    (seen,) = camera_clips(motion, [camera], detector=DetectorModel.default())
    return seen.pose_2d, camera, camera.to_camera(motion["Ann"]["Walking"].astype(np.float64))


@pytest.fixture(scope="module")
def lifter():
    return Lifter.load("lifter-nano-rays", engine="onnx")


def test_the_poses_are_those_of_lift_in_their_place(lifter, clip):
    pixels, _, truth = clip
    relative = lifter.lift(pixels, fps=50.0, **LENS)
    placed = lifter.lift(pixels, fps=50.0, **LENS, trajectory=True)
    np.testing.assert_allclose(placed - placed[:, :1], relative - relative[:, :1], atol=1e-5)
    expected = root_trajectory(pixels, relative, fps=50.0, **LENS).place(relative)
    np.testing.assert_allclose(placed, expected, atol=1e-5)
    # Synthetic people are of no use to judge a lifter by; the place is roughly right.
    assert np.linalg.norm(placed[:, 0] - truth[:, 0], axis=-1).mean() < 0.15 * truth[..., 2].mean()


def test_the_refiner_keeps_the_place(lifter, clip):
    pixels, _, _ = clip
    placed = lifter.lift(pixels, fps=50.0, **LENS, trajectory=True)
    refined = Refiner.load("refiner-nano-rays", engine="onnx").refine(pixels, placed, fps=50.0, **LENS)
    np.testing.assert_allclose(refined[:, 0], placed[:, 0], atol=1e-5)


def test_height_and_ground_reach_the_trajectory(lifter, clip):
    pixels, camera, _ = clip
    relative = lifter.lift(pixels, None, 50.0, camera=camera)
    options = {"height": 1.9, "ground": Ground.of_camera(camera)}
    placed = lifter.lift(pixels, None, 50.0, camera=camera, trajectory=True, **options)
    found = root_trajectory(pixels, relative, None, 50.0, camera=camera, **options)
    assert found.scale > 1.02
    np.testing.assert_allclose(placed, found.place(relative), atol=1e-5)
    for option, value in options.items():
        with pytest.raises(UsageError, match="belong to trajectory=True"):
            lifter.lift(pixels, **LENS, **{option: value})


def test_confidence_frame_rates_and_joint_sets(lifter):
    rng = np.random.default_rng(0)
    camera = look_at_camera((4.5, 1.0, 1.6), (0.0, 0.0, 0.9), FOCAL, *SIZE)
    world = np.asarray(synthetic_motion(7, "Walking", 60), dtype=np.float64)
    body = camera.project(camera.to_camera(world))
    # COCO's joints: the face around the nose, the limbs of Human3.6M.
    pixels = np.repeat(body[:, 9:10], 17, axis=1) + rng.normal(0, 2, (60, 17, 2))
    pixels[:, 5:] = body[:, [11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3]]
    sure = np.full((60, 17), 0.9)
    sure[20:24, 9] = 0.0
    pixels[20:24, 9] = 5000.0
    options = {"fps": 25.0, "joints": COCO17.name, "confidence": sure}
    placed = lifter.lift(pixels, **LENS, **options, trajectory=True)
    relative = lifter.lift(pixels, **LENS, **options)
    assert placed.shape == (60, 17, 3) and np.isfinite(placed).all()
    np.testing.assert_allclose(placed - placed[:, :1], relative - relative[:, :1], atol=1e-5)
    assert np.abs(np.diff(placed[:, 0], axis=0)).max() < 0.2


def test_a_lifter_of_image_coordinates_takes_the_lens_for_the_place_alone(clip):
    pytest.importorskip("torch", reason="PyTorch is not installed: this lifter is a checkpoint alone")
    pixels, camera, _ = clip
    lifter = Lifter.load("lifter")
    relative = lifter.lift(pixels, SIZE, 50.0)
    placed = lifter.lift(pixels, SIZE, 50.0, camera=camera, trajectory=True)
    near = lifter.lift(pixels, SIZE, 50.0, focal_length=FOCAL / 2, trajectory=True)
    np.testing.assert_allclose(placed - placed[:, :1], relative - relative[:, :1], atol=1e-5)
    assert near[:, 0, 2].mean() / placed[:, 0, 2].mean() == pytest.approx(0.5, rel=0.1)


def test_a_wrong_height_is_refused(lifter, clip):
    with pytest.raises(InputError, match="divide centimetres by 100"):
        lifter.lift(clip[0], fps=50.0, **LENS, trajectory=True, height=178)
