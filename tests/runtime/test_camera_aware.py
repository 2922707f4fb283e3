"""Models that see rays, through Lifter, Refiner and streams: the lens, the place in the image, missing joints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refiner.camera import Camera, human36m_cameras, look_at_camera
from refiner.data import blend_phases, merge_phases
from refiner.data.swaps import ARMS, LEGS, exchange_sides
from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion
from refiner.errors import DefaultLensWarning, EmptySequenceError, InputError, InputWarning, JointOrderError, UnitError
from refiner.model_files.build import build_model
from refiner.model_files.checkpoint import save_checkpoint
from refiner.runtime import Lifter, Refiner
from refiner.runtime.streaming import StreamingRefiner
from refiner.skeleton import from_h36m17
from refiner.training.config import Config, ModelConfig

FRAMES, STRIDE = 9, 3
SIZE = (1000, 1000)


def rays_checkpoint(path: Path, kind: str, causal: bool = False, stride: int = 1, place: bool = True) -> Path:
    """A network with random weights; without ``place`` it does not look at where in the image a person is seen."""
    torch.manual_seed({"lifter": 1, "refiner": 2}[kind])
    model = ModelConfig(dim=16, blocks=2, heads=2, mlp_ratio=2, joint_embedding=True, input="rays", causal=causal)
    config = dataclasses.asdict(Config(kind=kind, frames=FRAMES, stride=stride, model=model))  # type: ignore[arg-type]
    network = build_model(config)
    tensors = {f"model.{name}": value.detach() for name, value in network.named_parameters()}
    if not place:
        tensors["model.pose_emb.weight"][:, 2:4] = 0.0
    if kind == "refiner":
        tensors["error_scale"] = torch.full((51,), 0.05)
    save_checkpoint(path, config, tensors)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rays")
    return {
        "lifter": rays_checkpoint(folder / "lifter.safetensors", "lifter"),
        "placeless": rays_checkpoint(folder / "placeless.safetensors", "lifter", place=False),
        "strided": rays_checkpoint(folder / "strided.safetensors", "lifter", stride=STRIDE),
        "refiner": rays_checkpoint(folder / "refiner.safetensors", "refiner"),
        "causal": rays_checkpoint(folder / "causal.safetensors", "refiner", causal=True),
    }


def motion(frames: int = 60) -> np.ndarray:
    return np.asarray(synthetic_motion(3, next(iter(SYNTHETIC_ACTIONS)), frames), np.float64)


def view(focal: float = 1100.0, size: tuple[int, int] = SIZE, aim: float = 0.9) -> Camera:
    world = motion()
    middle = world.reshape(-1, 3).mean(axis=0)
    return look_at_camera(middle + np.array([4.0, 1.0, 0.6]), middle + np.array([0, 0, aim - 0.9]), focal, *size)


def seen(camera: Camera) -> np.ndarray:
    return np.asarray(camera.project(camera.to_camera(motion())))


def test_resolution_and_lens_make_no_difference(models: dict[str, Path]) -> None:
    lifter = Lifter.load(models["lifter"])
    expected = lifter.lift(seen(view()), SIZE, focal_length=1100.0)
    for focal, size in [(2200.0, (2000, 2000)), (2200.0, (3840, 2160)), (700.0, (720, 1280)), (550.0, (500, 500))]:
        found = lifter.lift(seen(view(focal, size)), size, focal_length=focal)
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_calibrated_camera_equals_its_ideal_twin(models: dict[str, Path]) -> None:
    lifter = Lifter.load(models["lifter"])
    lens = human36m_cameras()[1]
    bent = dataclasses.replace(view(), radial=lens.radial, tangential=lens.tangential, center=np.array([520.0, 490.0]))
    found = lifter.lift(seen(bent), None, camera=bent)
    np.testing.assert_allclose(found, lifter.lift(seen(view()), SIZE, focal_length=1100.0), atol=2e-4)
    # Without it the distortion is in the pose.
    assert np.abs(lifter.lift(seen(bent), SIZE, focal_length=1100.0) - found).max() > 1e-3


def test_a_person_elsewhere_in_the_image_is_lifted_alike(models: dict[str, Path]) -> None:
    """The pose in the world is nearly the same, wherever the camera looks: but for a turn about the ray, the network is
    told the place alone, which this one does not look at."""
    lifter = Lifter.load(models["placeless"])
    straight, beside = view(), view(aim=1.5)
    first = lifter.lift(seen(straight), None, camera=straight) @ straight.rotation
    other = lifter.lift(seen(beside), None, camera=beside) @ beside.rotation
    screen = np.abs(seen(straight) - seen(beside)).mean()
    assert screen > 50
    assert np.abs(first - other).mean() < 0.01 * np.abs(first).mean()


def test_missing_joints_do_not_reach_the_network(models: dict[str, Path]) -> None:
    lifter = Lifter.load(models["lifter"])
    given, sure = seen(view()), np.ones((60, 17))
    sure[10:14, [2, 3]] = 0.0
    expected = lifter.lift(given, SIZE, focal_length=1100.0, confidence=sure)
    wild = given.copy()
    wild[10:14, [2, 3]] = np.nan
    np.testing.assert_allclose(lifter.lift(wild, SIZE, focal_length=1100.0), expected, atol=1e-4)
    assert np.abs(expected - lifter.lift(given, SIZE, focal_length=1100.0)).max() > 1e-3


@pytest.mark.parametrize("name", ["lifter", "strided"])
@pytest.mark.parametrize("frames", [1, 5, 9, 26, 60])
def test_sequences_of_any_length(models: dict[str, Path], name: str, frames: int) -> None:
    lifter = Lifter.load(models[name])
    assert lifter.stride == (STRIDE if name == "strided" else 1)
    lifted = lifter.lift(seen(view())[:frames], SIZE, focal_length=1100.0)
    assert lifted.shape == (frames, 17, 3) and np.isfinite(lifted).all()


def test_strided_windows_are_the_phases_of_the_sequence(models: dict[str, Path]) -> None:
    strided, plain = Lifter.load(models["strided"]), Lifter.load(models["lifter"])
    given = seen(view())
    found = strided.lift(given, SIZE, focal_length=1100.0)
    # The weights are the same.
    phases = [plain.lift(given[phase::STRIDE], SIZE, focal_length=1100.0) for phase in range(STRIDE)]
    apart = merge_phases(phases, len(given))
    np.testing.assert_allclose(found, blend_phases(apart, STRIDE), atol=1e-5)
    assert np.abs(found - apart).max() > 1e-4


def test_without_a_focal_length_the_default_is_taken_and_told(models: dict[str, Path]) -> None:
    lifter = Lifter.load(models["lifter"])
    with pytest.warns(DefaultLensWarning, match="1000 pixels are taken"):
        found = lifter.lift(seen(view()), SIZE)
    np.testing.assert_array_equal(found, lifter.lift(seen(view()), SIZE, focal_length=1000.0))


def test_models_of_screen_coordinates_say_that_they_ignore_the_lens() -> None:
    lifter = Lifter.load("lifter")
    assert not lifter.sees_rays and lifter.stride == 1
    given = seen(view())
    with pytest.warns(InputWarning, match="makes no use of focal_length"):
        found = lifter.lift(given, SIZE, focal_length=1100.0)
    np.testing.assert_array_equal(found, lifter.lift(given, SIZE))
    with pytest.raises(UnitError, match="Millimetres"):
        lifter.lift(given, SIZE, focal_length=35.0)


def test_missing_joints_are_filled_in_for_models_of_screen_coordinates_too() -> None:
    lifter = Lifter.load("lifter")
    given, sure = seen(view()), np.ones((60, 17))
    sure[10:12, 3] = 0.0
    spoilt = given.copy()
    spoilt[10:12, 3] = 1.0
    found = lifter.lift(spoilt, SIZE, confidence=sure)
    assert np.abs(found - lifter.lift(given, SIZE)).max() < 0.05
    assert np.abs(lifter.lift(spoilt, SIZE) - found).max() > 0.1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"focal_length": 35.0}, UnitError),
        ({"focal_length": -1.0}, InputError),
        ({"focal_length": float("nan")}, InputError),
        ({"camera": human36m_cameras()[1]}, InputError),
    ],
)
def test_impossible_lenses_are_refused_everywhere(
    models: dict[str, Path], options: dict[str, Any], error: type[Exception]
) -> None:
    given, size = seen(view()), (1000, 900)
    pose = np.random.default_rng(0).normal(0, 0.3, (60, 17, 3))
    with pytest.raises(error):
        Lifter.load(models["lifter"]).lift(given, size, **options)
    with pytest.raises(error):
        Refiner.load(models["refiner"]).refine(given, pose, size, **options)
    with pytest.raises(error):
        StreamingRefiner.load(models["causal"], lifter=models["lifter"], image_size=size, **options)


def test_nobody_at_all_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(EmptySequenceError, match="no joint"):
        Lifter.load(models["lifter"]).lift(np.full((5, 17, 2), np.nan), SIZE, focal_length=1100.0)


@pytest.mark.parametrize("name", ["refiner", "causal"])
def test_refiner_keeps_the_root_and_turns_with_the_camera(models: dict[str, Path], name: str) -> None:
    refiner = Refiner.load(models[name])
    camera = view()
    points = camera.to_camera(motion())
    rng = np.random.default_rng(1)
    pose = points + rng.normal(0, 0.03, points.shape)
    refined = refiner.refine(seen(camera), pose, SIZE, focal_length=1100.0)
    np.testing.assert_allclose(refined[:, 0], pose[:, 0], atol=1e-5)
    assert np.isfinite(refined).all() and np.abs(refined - pose).max() > 1e-3
    # The same person by twice the pixels.
    other = view(2200.0, (2000, 2000))
    again = refiner.refine(seen(other), pose, (2000, 2000), focal_length=2200.0)
    np.testing.assert_allclose(again, refined, atol=2e-4)


@pytest.mark.filterwarnings("ignore:pose_3d does not fit")  # the lifter has random weights
@pytest.mark.parametrize("name", ["lifter", "strided"])
def test_a_stream_gives_what_the_pass_over_the_sequence_gives(models: dict[str, Path], name: str) -> None:
    """The causal refiner behind a lifter, whose newest frame is the last of its window."""
    stream = StreamingRefiner.load(models["causal"], lifter=models[name], image_size=SIZE, focal_length=1100.0)
    given = seen(view())
    frames = [frame for index in range(60) for frame in stream.push(given[index], None, index / 50)]
    assert len(frames) == 60 and all(np.isfinite(frame.pose_3d).all() for frame in frames)
    lifted = np.stack([frame.given_3d for frame in frames])
    stride = STRIDE if name == "strided" else 1
    span = (FRAMES - 1) * stride
    lifter = Lifter.load(models["lifter"], hop=1)
    for index in (span, span + 5, 59):
        window = given[index - span : index + 1 : stride]
        np.testing.assert_allclose(lifted[index], lifter.lift(window, SIZE, focal_length=1100.0)[-1], atol=1e-4)
    live = Lifter.load(models[name], live=True).lift(given, SIZE, focal_length=1100.0)
    np.testing.assert_allclose(lifted, live, atol=1e-4)
    expected = Refiner.load(models["causal"]).refine(given, lifted, SIZE, focal_length=1100.0)
    np.testing.assert_allclose(np.stack([frame.pose_3d for frame in frames]), expected, atol=1e-4)


def test_the_default_refiner_knows_poses_of_another_joint_order() -> None:
    """As in training: the clips that its lifter lifts. Not: joints in another order."""
    refiner, lifter = Refiner.load(), Lifter.load()
    camera = view()
    lens = {"image_size": SIZE, "camera": camera}
    lifted = lifter.lift(seen(camera), **lens)
    familiar = refiner.compare_input(seen(camera), lifted, **lens)
    assert familiar is not None and familiar.unusual_share < 0.02 and not familiar.warnings
    with pytest.raises(JointOrderError, match="MPI-INF-3DHP"):
        refiner.compare_input(seen(camera), from_h36m17(lifted, "3dhp"), **lens)
    another = refiner.compare_input(seen(camera), lifted * np.float32([-1, -1, 1]), **lens)
    assert another.unusual_share > 0.5 and another.warnings
    # Frames with a missing joint are left out; where there is no other, nothing is said.
    sure = np.ones((60, 17))
    sure[1:, 4] = 0.0
    assert refiner.compare_input(seen(camera), lifted, confidence=sure, **lens).unusual_share == 0.0
    sure[:, 4] = 0.0
    assert refiner.compare_input(seen(camera), lifted, confidence=sure, **lens) is None
    with pytest.raises(EmptySequenceError, match="shows 6 joints"):
        refiner.compare_input(seen(camera), lifted, confidence=np.eye(17)[0] + 0 * sure, **lens)


def test_a_stream_masks_missing_joints(models: dict[str, Path]) -> None:
    given = seen(view())
    streams = [
        StreamingRefiner.load(models["causal"], lifter=models["lifter"], image_size=SIZE, focal_length=1100.0)
        for _ in range(2)
    ]
    sure = np.ones(17)
    sure[3] = 0.0
    for index in range(20):
        hurt = given[index].copy()
        hurt[3] = np.nan
        by_nan = streams[0].push(hurt, None, index / 50)
        by_confidence = streams[1].push(given[index], None, index / 50, confidence=sure)
        np.testing.assert_allclose(by_nan[0].pose_3d, by_confidence[0].pose_3d, atol=1e-5)
        assert by_nan[0].infilled[3] and by_nan[0].status == "degraded"


def test_frames_bring_their_own_lens(models: dict[str, Path]) -> None:
    """A camera that zooms: every frame says its focal length."""
    fixed, zooming = (
        StreamingRefiner.load(models["causal"], lifter=models["lifter"], image_size=SIZE, focal_length=1100.0)
        for _ in range(2)
    )
    for index in range(12):
        focal = 1100.0 + 20 * index
        given, zoomed = seen(view())[index], seen(view(focal))[index]
        expected = fixed.push(given, None, index / 50)[0].pose_3d
        found = zooming.push(zoomed, None, index / 50, focal_length=focal)[0].pose_3d
        np.testing.assert_allclose(found, expected, atol=2e-4)
    with pytest.raises(UnitError, match="Millimetres"):
        zooming.push(seen(view())[12], None, 12 / 50, focal_length=28.0)


def test_windows_in_streams_take_models_of_every_frame_alone(models: dict[str, Path]) -> None:
    from refiner.errors import UsageError

    with pytest.raises(UsageError, match="every 3"):
        StreamingRefiner.load(
            models["refiner"], "window", lifter=models["strided"], image_size=SIZE, focal_length=1100.0
        )
    stream = StreamingRefiner.load(
        models["refiner"], "window", lifter=models["lifter"], image_size=SIZE, focal_length=1100.0
    )
    ready = [frame for index in range(15) for frame in stream.push(seen(view())[index], None, index / 50)]
    assert len(ready) == 15 and all(np.isfinite(frame.pose_3d).all() for frame in ready)


def test_swapped_sides_are_exchanged_in_2d_and_in_3d(models: dict[str, Path]) -> None:
    """What another estimator makes of a swapped view is swapped as well."""
    refiner, camera = Refiner.load(models["refiner"]), view()
    body = camera.to_camera(motion())
    swapped = np.arange(60) // 15 == 2
    hurt_2d, hurt_3d = (exchange_sides(pose, swapped, (*LEGS, *ARMS)) for pose in (seen(camera), body))
    expected = refiner.refine(seen(camera), body, None, camera=camera)
    for given, poses in ((hurt_2d, hurt_3d), (hurt_2d, body), (seen(camera), hurt_3d)):
        with pytest.warns(InputWarning, match="swapped in 15 of 60 frames, first frame 30"):
            found = refiner.refine(given, poses, None, camera=camera)
        np.testing.assert_allclose(found, expected, atol=1e-5)
