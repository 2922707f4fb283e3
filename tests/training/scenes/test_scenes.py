"""Scenes drawn in batches: bodies, cameras, detectors; each property against its definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from refiner.camera import Camera, human36m_cameras
from refiner.data.detector import DetectorModel
from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion
from refiner.errors import ConfigError
from refiner.skeleton import H36M17, LEFT, RIGHT
from refiner.training.config import SceneConfig
from refiner.training.scenes import SceneSampler
from refiner.training.scenes.cameras import Rigs, Views, random_views, stated_focal_length
from refiner.training.scenes.draws import Draws
from refiner.training.scenes.motion import (
    MotionBank,
    MotionClip,
    Skeleton,
    group_share,
    heading,
    synthetic_clips,
    turn,
)
from refiner.training.scenes.replayed import ReplayedScenes

FRAMES, BATCH = 9, 64
RIG = tuple(human36m_cameras())
# A detector and a user without any fault, so that pixels can be compared with the projection.
FAULTLESS = SceneConfig(
    detector_spread=0.0,
    biased=0.0,
    by_rule=0.0,
    swapped_body=0.0,
    frozen=0.0,
    missing=0.0,
    gaps=0.0,
    hidden=0.0,
    wrong_focal=0.0,
    guessed_focal=0.0,
    barrel=0.0,
    cropped=0.0,
    flip=0.0,
    body_share=(0.3, 0.6),
    off_centre=0.5,
)


def silent_detector() -> DetectorModel:
    nothing = np.zeros(17)
    return dataclasses.replace(
        DetectorModel.default(),
        slow_sigma=nothing,
        jitter_sigma=nothing,
        outlier_probability=nothing,
        swap_probability=0.0,
    )


@pytest.fixture(scope="module")
def motion() -> list[MotionClip]:
    names = list(SYNTHETIC_ACTIONS)[:2]
    return [
        MotionClip(f"P{person}", name, synthetic_motion(person, name, 120), cameras=RIG if person else ())
        for person in range(3)
        for name in names
    ]


def sampler(motion: list[MotionClip], config: SceneConfig, detector: DetectorModel, **options: object) -> SceneSampler:
    given: dict[str, object] = {"frames": FRAMES, "batch": BATCH, "seed": 5, **options}
    return SceneSampler(motion, detector, config, **given)  # type: ignore[arg-type]


def test_a_batch_depends_on_seed_and_step_alone(motion: list[MotionClip]) -> None:
    one, other = (sampler(motion, SceneConfig(), DetectorModel.default()) for _ in range(2))
    other.batch(3)
    first, again, later = one.batch(7), other.batch(7), one.batch(8)
    for name in ("keypoints", "camera", "pose_3d"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(later, name))
    elsewhere = sampler(motion, SceneConfig(), DetectorModel.default(), seed=6).batch(7)
    assert not torch.equal(first.pose_3d, elsewhere.pose_3d)


def test_replayed_batches_are_those_of_the_sampler(motion: list[MotionClip]) -> None:
    """The graph's stand-in runs the operations again, into the same memory, with the generator as it is then."""
    scenes = sampler(motion, SceneConfig(), DetectorModel.default(), batch=4)
    recorded = []

    def record(run, generator):  # type: ignore[no-untyped-def]
        state = generator.get_state()
        held = run()
        generator.set_state(state)
        recorded.append(held)

        def replay() -> None:
            again = run()
            for name in ("keypoints", "camera", "pose_3d"):
                getattr(held, name).copy_(getattr(again, name))

        return replay, held

    replayed = ReplayedScenes(scenes, record)
    for step in (0, 1, 7, 2, 2, 9):
        found, expected = replayed.batch(step), scenes.batch(step)
        for name in ("keypoints", "camera", "pose_3d"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), (step, name)
    assert len(recorded) == 1 and found is recorded[0]


def test_everything_is_finite_and_in_range(motion: list[MotionClip]) -> None:
    for step in range(5):
        batch = sampler(motion, SceneConfig(), DetectorModel.default(), stride=3).batch(step)
        assert batch.keypoints.shape == (BATCH, FRAMES, 17, 3) and batch.pose_3d.shape == (BATCH, FRAMES, 17, 3)
        assert all(getattr(batch, name).isfinite().all() for name in ("keypoints", "camera", "pose_3d"))
        confidence = batch.keypoints[..., 2]
        assert ((confidence >= 0) & (confidence <= 1)).all()
        assert (batch.pose_3d[:, :, 0] == 0).all()
        assert (batch.camera[:, 2] > 200).all() and (batch.camera[:, :2] >= 562).all()


def test_without_faults_pixels_are_the_projection_of_the_pose(motion: list[MotionClip]) -> None:
    batch = sampler(motion, dataclasses.replace(FAULTLESS, fixed_cameras=0.0), silent_detector()).batch(1)
    # The root's place is not in the batch: of all places the one that explains the rays best must explain them.
    size, focal = batch.camera[:, None, None, :2].double(), batch.camera[:, None, None, 2:].double()
    keypoints, pose = batch.keypoints.double(), batch.pose_3d.double()
    rays = (keypoints[..., :2] - size / 2) / focal
    errors = []
    for row, frame in np.ndindex(BATCH, FRAMES):
        there = keypoints[row, frame, :, 2] > 0
        if there.sum() < 12:
            continue
        u, p = rays[row, frame, there].numpy(), pose[row, frame, there].numpy()
        # u (z + p_z) = t_xy + p_xy, linear in the root t.
        rows = np.concatenate(
            [
                np.stack([np.ones(len(u)), np.zeros(len(u)), -u[:, 0]], axis=1),
                np.stack([np.zeros(len(u)), np.ones(len(u)), -u[:, 1]], axis=1),
            ]
        )
        right = np.concatenate([u[:, 0] * p[:, 2] - p[:, 0], u[:, 1] * p[:, 2] - p[:, 1]])
        root = np.linalg.lstsq(rows, right, rcond=None)[0]
        assert root[2] > 0.4
        seen = (root[:2] + p[:, :2]) / (root[2] + p[:, 2:])
        errors.append(float(np.abs(seen - u).max() * batch.camera[row, 2].item()))
    assert len(errors) > 300
    # What is left is the principal point beside the middle (3 in 10 cameras) and the detector's grid of 0.6 pixels.
    assert np.median(errors) < 2.5


def test_views_project_as_the_camera_does() -> None:
    rng = np.random.default_rng(0)
    cameras = human36m_cameras()
    drawn = Rigs([cameras, ()], torch.device("cpu")).draw(
        Draws(0, 0, torch.device("cpu")), torch.zeros(32, dtype=torch.long)
    )
    assert drawn is not None and drawn[0].all()
    views = drawn[1]
    world = rng.normal(0, 0.4, (32, FRAMES, 17, 3)) + np.array([0.0, 0.0, 1.0])
    points = views.to_camera(torch.from_numpy(world.astype(np.float32)))
    pixels = views.project(points)
    chosen = []
    for row in range(32):
        near = [float(np.abs(camera.position - views.eye[row].numpy()).max()) for camera in cameras]
        camera = cameras[int(np.argmin(near))]
        chosen.append(camera.id)
        np.testing.assert_allclose(points[row], camera.to_camera(world[row]), atol=1e-5)
        np.testing.assert_allclose(pixels[row], camera.project(camera.to_camera(world[row])), atol=2e-2)
    assert len(set(chosen)) == 4


def test_random_cameras_see_people_as_configured(motion: list[MotionClip]) -> None:
    config = dataclasses.replace(FAULTLESS, body_share=(0.4, 0.5), focal_length=(0.9, 1.1), height=(1.0, 2.0))
    draws = Draws(0, 0, torch.device("cpu"))
    bank = MotionBank(motion, FRAMES, 1, "cpu")
    world, _, _ = bank.draw(draws, 512, config)
    views = random_views(draws, world, config)
    points = views.to_camera(world)
    assert (points[..., 2] > 0.3).all()
    pixels = views.project(points)
    inside = ((pixels >= 0) & (pixels < views.size[:, None, None])).all(dim=-1)
    assert inside.float().mean() > 0.97
    height = (pixels[..., 1].amax(dim=(1, 2)) - pixels[..., 1].amin(dim=(1, 2))) / views.size[:, 1]
    # Some are foreshortened or lie beside the axis: the middle of them is what was asked for.
    assert 0.33 < height.median() < 0.5
    identity = torch.eye(3).expand(512, 3, 3)
    torch.testing.assert_close(views.rotation @ views.rotation.transpose(1, 2), identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(views.rotation), torch.ones(512), atol=1e-5, rtol=0)


def test_pitch_stays_within_its_limits(motion: list[MotionClip]) -> None:
    config = dataclasses.replace(SceneConfig(), off_centre=0.0, roll=(0.0, 0.0), free_pitch=1.0, pitch=(-30.0, 60.0))
    draws = Draws(1, 0, torch.device("cpu"))
    world, _, _ = MotionBank(motion, FRAMES, 1, "cpu").draw(draws, 512, config)
    views = random_views(draws, world, config)
    # The axis of a camera that looks down has a negative z in the world.
    pitch = torch.rad2deg(torch.asin(-views.rotation[:, 2, 2]))
    assert pitch.min() > -34 and pitch.max() < 63
    assert pitch.min() < -20 and pitch.max() > 50


def test_stated_focal_lengths(motion: list[MotionClip]) -> None:
    draws = Draws(2, 0, torch.device("cpu"))
    world, _, _ = MotionBank(motion, FRAMES, 1, "cpu").draw(draws, 2048, SceneConfig())
    views = random_views(draws, world, SceneConfig())
    config = dataclasses.replace(SceneConfig(), wrong_focal=0.3, guessed_focal=0.2)
    stated = stated_focal_length(draws, views, config)
    true, default = views.focal[:, 0], views.size.amax(dim=1)
    assert abs(float((stated == true).float().mean()) - 0.5) < 0.05
    assert abs(float((stated == default).float().mean()) - 0.2) < 0.04
    wrong = (stated != true) & (stated != default)
    assert abs(float((stated[wrong] / true[wrong]).log().std()) - config.focal_error) < 0.03


def test_bodies_have_the_stature_and_symmetry_asked_for(motion: list[MotionClip]) -> None:
    config = dataclasses.replace(SceneConfig(), stature=(1.45, 2.0), bones=0.1)
    world, _, _ = MotionBank(motion, FRAMES, 1, "cpu").draw(Draws(3, 0, torch.device("cpu")), 512, config)
    length = torch.stack([(world[:, :, j] - world[:, :, p]).norm(dim=-1) for p, j in H36M17.bones], dim=-1)
    # Bones keep their length within a window.
    assert (length.std(dim=1) < 1e-4).all()
    joints = [joint for _, joint in H36M17.bones]
    for left, right in zip(LEFT, RIGHT, strict=True):
        a, b = length[:, 0, joints.index(left)], length[:, 0, joints.index(right)]
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0.02)
    standing = length[:, 0][:, [joints.index(joint) for joint in (3, 2, 7, 8, 9, 10)]].sum(dim=-1) + 0.09
    assert standing.min() > 1.45 - 1e-3 and standing.max() < 2.0 + 1e-3
    assert standing.std() > 0.1


def test_recombined_people_keep_their_legs_and_bone_lengths(motion: list[MotionClip]) -> None:
    skeleton = Skeleton(torch.device("cpu"))
    one = torch.from_numpy(motion[0].world[None, :FRAMES].astype(np.float32))
    other = torch.from_numpy(motion[3].world[None, 20 : 20 + FRAMES].astype(np.float32))
    bones = skeleton.bones_of(one)
    mixed = skeleton.joints_of(one[:, :, 0], skeleton.upper_body_of(other, one, bones))
    torch.testing.assert_close(mixed[:, :, :7], one[:, :, :7], atol=1e-5, rtol=0)
    torch.testing.assert_close(skeleton.bones_of(mixed).norm(dim=-1), bones.norm(dim=-1), atol=1e-5, rtol=0)
    # The borrowed bones have the donor's directions, turned by the difference of the headings.
    angle = heading(one) - heading(other)
    expected = torch.nn.functional.normalize(turn(skeleton.bones_of(other), angle)[:, :, 7:], dim=-1)
    torch.testing.assert_close(
        torch.nn.functional.normalize(skeleton.bones_of(mixed)[:, :, 7:], dim=-1), expected, atol=1e-4, rtol=0
    )


def test_joints_of_undoes_bones_of(motion: list[MotionClip]) -> None:
    skeleton = Skeleton(torch.device("cpu"))
    world = torch.from_numpy(motion[1].world.astype(np.float64)).float()
    torch.testing.assert_close(skeleton.joints_of(world[:, 0], skeleton.bones_of(world)), world, atol=1e-5, rtol=0)


def test_windows_take_every_third_frame(motion: list[MotionClip]) -> None:
    bank = MotionBank(motion, FRAMES, 3, "cpu")
    config = dataclasses.replace(SceneConfig(), other_strides=0.3)
    _, _, stride = bank.draw(Draws(4, 0, torch.device("cpu")), 2048, config)
    shares = torch.bincount(stride, minlength=4)[1:] / 2048
    assert shares[0] == pytest.approx(0.1, abs=0.03) and shares[2] == pytest.approx(0.8, abs=0.04)
    short = [MotionClip("S", "A", clip.world[: 2 * FRAMES]) for clip in motion]
    _, _, stride = MotionBank(short, FRAMES, 3, "cpu").draw(Draws(4, 0, torch.device("cpu")), 256, config)
    assert stride.max() == 2


def test_only_fixed_clips_are_seen_by_the_archive_s_cameras(motion: list[MotionClip]) -> None:
    config = dataclasses.replace(FAULTLESS, fixed_cameras=1.0)
    free = [dataclasses.replace(clip, cameras=()) for clip in motion]
    sizes = sampler(free, config, silent_detector()).batch(0).camera[:, :2]
    assert not ((sizes == torch.tensor([1000.0, 1002.0])).all(dim=1)).any()
    own = sampler([dataclasses.replace(clip, cameras=RIG) for clip in motion], config, silent_detector()).batch(0)
    focal = {round(float(np.mean(camera.focal_length)), 1) for camera in human36m_cameras()}
    assert {round(float(value), 1) for value in own.camera[:, 2]} <= focal


def test_episodes_have_their_share_and_length() -> None:
    draws = Draws(9, 0, torch.device("cpu"))
    active = draws.episodes(torch.full((1,), 0.2), 8.0, 4000, 60)
    assert float(active.float().mean()) == pytest.approx(0.2, abs=0.01)
    ends = active[:, :-1] & ~active[:, 1:]
    # An active frame is the last of its episode with the probability 1 / length.
    assert float(ends.sum() / active[:, :-1].sum()) == pytest.approx(1 / 8, abs=0.01)


def test_swaps_missing_joints_and_gaps_come_as_often_as_configured(motion: list[MotionClip]) -> None:
    base = dataclasses.replace(FAULTLESS, fixed_cameras=0.0, body_share=(0.3, 0.4), off_centre=0.0)
    whole = sampler(motion, base, silent_detector(), batch=1024).batch(2)
    lost = sampler(motion, dataclasses.replace(base, missing=0.1), silent_detector(), batch=1024).batch(2)
    gaps = sampler(motion, dataclasses.replace(base, gaps=0.1), silent_detector(), batch=1024).batch(2)
    swaps = sampler(motion, dataclasses.replace(base, swapped_body=0.2), silent_detector(), batch=1024).batch(2)

    def missing(batch: object) -> torch.Tensor:
        return batch.keypoints[..., 2] == 0  # type: ignore[attr-defined]

    assert float(missing(whole).float().mean()) < 0.02
    assert 0.09 < float(missing(lost).float().mean()) < 0.16
    assert float(missing(gaps).all(dim=-1).float().mean()) == pytest.approx(0.1, abs=0.02)
    order = list(H36M17.flip_order)
    straight = (swaps.keypoints[..., :2] - whole.keypoints[..., :2]).norm(dim=-1).amax(dim=-1) < 5
    crossed = (swaps.keypoints[..., :2] - whole.keypoints[:, :, order, :2]).norm(dim=-1).amax(dim=-1) < 5
    assert float((crossed & ~straight).float().mean()) == pytest.approx(0.2, abs=0.04)
    assert float((crossed | straight).float().mean()) > 0.97


def test_mirrored_batches_are_mirror_images(motion: list[MotionClip]) -> None:
    base = dataclasses.replace(FAULTLESS, fixed_cameras=0.0)
    plain, mirrored = (
        sampler(motion, dataclasses.replace(base, flip=flip), silent_detector()).batch(4) for flip in (0.0, 1.0)
    )
    order = list(H36M17.flip_order)
    sign = torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(mirrored.pose_3d, plain.pose_3d[:, :, order] * sign)
    width = plain.camera[:, None, None, 0]
    torch.testing.assert_close(mirrored.keypoints[..., 0], width - plain.keypoints[:, :, order, 0], atol=1e-3, rtol=0)
    assert torch.equal(mirrored.keypoints[..., 2], plain.keypoints[:, :, order, 2])


def test_clips_shorter_than_a_window_are_refused(motion: list[MotionClip]) -> None:
    short = [MotionClip("S", "A", motion[0].world[:FRAMES])]
    with pytest.raises(ConfigError, match="no clip has the 10 frames"):
        MotionBank(short, FRAMES + 1, 1, "cpu")


def test_views_choose_row_by_row() -> None:
    cameras = human36m_cameras()

    def views(camera: Camera) -> Views:
        drawn = Rigs([[camera]], torch.device("cpu")).draw(
            Draws(0, 0, torch.device("cpu")), torch.zeros(4, dtype=torch.long)
        )
        assert drawn is not None
        return drawn[1]

    chosen = torch.tensor([True, False, True, False])
    mixed = views(cameras[0]).where(chosen, views(cameras[1]))
    np.testing.assert_allclose(mixed.eye[0], cameras[0].position, atol=1e-5)
    np.testing.assert_allclose(mixed.eye[1], cameras[1].position, atol=1e-5)


def test_every_clip_has_the_cameras_of_its_own_person() -> None:
    one, other = human36m_cameras("S1"), human36m_cameras("S5")
    rigs = Rigs([one, (), other[:2]], torch.device("cpu"))
    drawn = rigs.draw(Draws(0, 0, torch.device("cpu")), torch.tensor([0, 1, 2] * 40))
    assert drawn is not None
    there, views = drawn
    assert there.tolist() == [True, False, True] * 40
    for row in range(120):
        if row % 3 == 1:
            continue
        own = one if row % 3 == 0 else other[:2]
        assert min(float(np.abs(camera.position - views.eye[row].numpy()).max()) for camera in own) < 1e-4
    assert Rigs([(), ()], torch.device("cpu")).draw(Draws(0, 0, torch.device("cpu")), torch.tensor([0, 1])) is None


def test_synthetic_motion_takes_its_share(motion: list[MotionClip]) -> None:
    made = synthetic_clips(motion, 0.25)
    share = group_share([*motion, *made])
    assert share[len(motion) :].sum() / share.sum() == pytest.approx(0.25)
    assert len({clip.subject for clip in made}) == 24 and not any(clip.cameras for clip in made)
