"""A detector's file with several people, from JSON to 3D: each is the person that the lifter makes alone."""

from __future__ import annotations

import numpy as np
import pytest

from refiner import Lifter, Refiner
from refiner.data.synthetic import synthetic_motion
from refiner.errors import InputWarning, UnitError, UsageError
from refiner.formats import Detections, Person
from refiner.ground import Ground
from refiner.runtime.people import refine_people, save_person
from refiner.skeleton import H36M17
from refiner.trajectory import Placement

SIZE, FOCAL = (1280.0, 720.0), 900.0

pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture(scope="module")
def models():
    return Lifter.load("lifter-nano-rays"), Refiner.load("refiner-nano-rays")


def seen(x, seed, frames=40):
    """2D poses of a walking person in front of the camera, x metres to the side."""
    motion = np.asarray(synthetic_motion(seed, "Walking", frames), dtype=np.float64)
    body = motion[..., [0, 2, 1]] * [1, -1, 1]
    body += [x, 0, 5] - body[:, :1].mean(axis=0) * [1, 1, 1]
    return FOCAL * body[..., :2] / body[..., 2:] + np.array(SIZE) / 2


def detections(frames, size=SIZE):
    return Detections(tuple(map(tuple, frames)), H36M17, "test", size, 50.0)


def person(pose, missing=()):
    pose, sure = pose.copy(), np.full(17, 0.9)
    pose[list(missing)], sure[list(missing)] = np.nan, 0.0
    return Person(pose, sure)


def test_each_person_is_lifted_and_refined_as_alone(models):
    lifter, refiner = models
    left, right = seen(-1.0, 3), seen(1.0, 4)
    frames = [[person(left[i]), person(right[i])][:: 1 if i % 2 else -1] for i in range(40)]
    found = list(refine_people(detections(frames), lifter, refiner, focal_length=FOCAL))
    assert [entry.number for entry in found] == [0, 1]
    if np.nanmean(found[0].pose_2d[..., 0]) > SIZE[0] / 2:
        found.reverse()
    for entry, pose in zip(found, (left, right), strict=True):
        lens = {"fps": 50.0, "focal_length": FOCAL, "confidence": np.full((40, 17), 0.9)}
        lifted = lifter.lift(pose, SIZE, **lens)
        np.testing.assert_allclose(entry.lifted, lifted, atol=1e-5)
        np.testing.assert_allclose(entry.refined, refiner.refine(pose, lifted, SIZE, **lens), atol=1e-5)
        assert entry.seen.all() and not entry.guessed.any() and entry.parts == ((0, 40),)


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_gaps_are_no_poses(models):
    pose = seen(0.0, 3, 100)
    frames = [[person(pose[i])] if i not in range(10, 15) and i not in range(30, 70) else [] for i in range(100)]
    frames[80] = [person(pose[80], missing=(3, 16))]
    (entry,) = refine_people(detections(frames), *models, focal_length=FOCAL)
    assert entry.parts == ((0, 30), (70, 100))
    assert np.isnan(entry.refined[30:70]).all() and np.isfinite(entry.refined[:30]).all()
    assert entry.guessed[10:15].all() and not entry.guessed[:10].any()
    assert np.flatnonzero(entry.guessed[80]).tolist() == [3, 16]
    assert not entry.seen[10:15].any() and entry.seen[15:30].all()


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
def test_a_person_keeps_one_size_and_one_floor_over_a_gap(models, tmp_path):
    pose = seen(0.0, 3, 100)
    frames = [[person(pose[i])] if i not in range(30, 70) else [] for i in range(100)]
    known = Placement(1.75, Ground(0.0, 1.0))
    (entry,) = refine_people(detections(frames), *models, focal_length=FOCAL, placement=known)
    (plain,) = refine_people(detections(frames), *models, focal_length=FOCAL)
    found = entry.trajectory
    assert found is not None and plain.trajectory is None
    assert found.guessed[30:70].all() and not found.guessed[:30].any()
    # Where nobody is seen there is no pose, and the root goes straight on.
    assert np.isnan(entry.refined[30:70]).all()
    straight = np.linspace(found.root[29], found.root[70], 42)
    np.testing.assert_allclose(found.root[29:71], straight, atol=1e-4)
    relative = (entry.refined - entry.refined[:, :1]) / found.scale
    np.testing.assert_allclose(relative, plain.refined - plain.refined[:, :1], atol=1e-5)
    save_person(entry, tmp_path, 50.0, SIZE, "h36m17")
    with np.load(tmp_path / "person0.npz") as stored:
        assert np.isnan(stored["root"][30:70]).all() and not stored["root_guessed"].any()
        np.testing.assert_array_equal(stored["root"][:30], entry.refined[:30, 0])
        np.testing.assert_allclose(stored["level_pose_3d"], entry.in_the_room)


def test_one_of_several_is_chosen(models):
    frames = [[person(seen(0.0, 3)[i]), person(seen(1.5, 4)[i])] for i in range(20)]
    (entry,) = refine_people(detections(frames), *models, focal_length=FOCAL, people=[1])
    assert entry.number == 1
    with pytest.raises(UsageError, match="no person 2; the file shows 2: 0 to 1"):
        next(refine_people(detections(frames), *models, focal_length=FOCAL, people=[2]))


def test_somebody_of_whom_hardly_anything_is_seen(models):
    pose = seen(0.0, 3)
    frames = [[person(pose[i]), person(pose[i] + 400, missing=[*range(3, 7), *range(11, 17)])] for i in range(20)]
    with pytest.warns(InputWarning, match="person 1 never shows 6 joints"):
        found = list(refine_people(detections(frames), *models, focal_length=FOCAL))
    assert [entry.number for entry in found] == [0]


def test_the_size_of_the_image_must_be_known(models):
    frames = [[person(seen(0.0, 3)[i])] for i in range(5)]
    with pytest.raises(UnitError, match="size of the image"):
        next(refine_people(detections(frames, size=None), *models))


def test_a_person_is_saved_for_other_programs(models, tmp_path):
    frames = [[person(seen(0.0, 3)[i])] for i in range(30)]
    (entry,) = refine_people(detections(frames), *models, focal_length=FOCAL)
    files = save_person(entry, tmp_path, 50.0, SIZE, "h36m17")
    assert [file.name for file in files] == ["person0.npz", "person0.trc", "person0.bvh"]
    with np.load(files[0]) as stored:
        np.testing.assert_array_equal(stored["refined_pose_3d"], entry.refined)
        assert stored["parts"].tolist() == [[0, 30]] and str(stored["joints"]) == "h36m17"
    assert "NumMarkers" in files[1].read_text() and files[2].read_text().startswith("HIERARCHY")
