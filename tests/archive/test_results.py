"""Every kind of input: each sequence gets what `Lifter.lift` and `Refiner.refine` give for it alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refiner import Lifter, Refiner
from refiner.archive.listing import is_archive
from refiner.archive.models import model_file
from refiner.archive.run import refine_archive
from refiner.errors import ArchiveError, MissingComponentError
from refiner.formats import follow, read_detections
from refiner.skeleton import H36M17, from_h36m17

SAMPLES = Path(__file__).parent.parent.parent / "examples" / "samples"
# Halpe's 26 joints of Human3.6M's 17; what these lack (face, feet) lies on the nearest joint.
HALPE = [9, 9, 9, 9, 9, 11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3, 10, 8, 0, 6, 3, 6, 3, 6, 3]
pytestmark = pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")


@pytest.fixture(scope="module")
def models():
    return Lifter.load("live-lifter"), Refiner.load("window")


def expected(models, pose_2d, pose_3d=None, joints_3d=None, **given):
    """The refined poses of one sequence by itself."""
    lifter, refiner = models
    if pose_3d is None:
        pose_3d, joints_3d = lifter.lift(pose_2d, **given), H36M17.name
    return refiner.refine(pose_2d, pose_3d, joints_3d=joints_3d, **given)


def result(job, name):
    return np.load(Path(job.output, f"{name}.npz"))["refined_pose_3d"]


def check(job, name, poses):
    found = result(job, name)
    assert found.dtype == np.float32 and found.shape == poses.shape
    np.testing.assert_array_equal(np.isnan(found), np.isnan(poses))
    np.testing.assert_allclose(found, poses, atol=2e-5)


def test_npz_of_mixed_rates_joints_and_sizes(archives, models):
    lens = {"image_size": archives.size, "focal_length": archives.focal}
    pixels, poses = archives.clip(1, 80)
    archives.write("in/a.npz", 1, 80)
    archives.write("in/deep/b.npz", 1, 80, fps=25)
    archives.write("in/c.npz", 1, 80, pose_2d=from_h36m17(pixels, "coco17"), joints="coco17", pose_3d=None)
    archives.write("in/d.npz", 1, 80, pose_2d=pixels[:, HALPE], joints=None, fps=60)
    confidence = np.random.default_rng(0).uniform(0, 1, (80, 17))
    archives.write("in/e.npz", 1, 80, confidence=confidence, image_size=(2000, 1500), focal_length=2000.0)
    gap = pixels.copy()
    gap[20:60] = np.nan
    archives.write("in/f.npz", 1, 80, pose_2d=gap)
    job = archives.job(archives.folder / "in", least_confidence=0.2)
    summary = refine_archive(job)
    assert (summary.done, summary.failed, summary.frames) == (6, (), 480)
    given = {**lens, "fps": 50, "least_confidence": 0.2}
    check(job, "a", expected(models, pixels, poses, **given))
    check(job, "deep-b", expected(models, pixels, poses, **{**given, "fps": 25}))
    check(job, "c", expected(models, from_h36m17(pixels, "coco17"), joints="coco17", **given))
    halpe = pixels[:, HALPE]
    check(job, "d", expected(models, halpe, poses, "h36m17", joints="halpe26", **{**given, "fps": 60}))
    large = {**given, "image_size": (2000, 1500), "focal_length": 2000.0}
    check(job, "e", expected(models, pixels, poses, confidence=confidence, **large))
    check(job, "f", expected(models, gap, poses, **given))
    assert np.isnan(result(job, "f")[20:60]).all() and np.isfinite(result(job, "f")[:20]).all()
    assert summary.notes["resampled"] == 2 and summary.notes["guessed joints"] == 1


@pytest.mark.parametrize("name", ["causal", "refiner"])
def test_other_kinds_of_refiners(archives, name):
    refiner = Refiner.load(name)
    job = archives.job(archives.many(5, 70), refiner=model_file(name, "refiner"))
    assert refine_archive(job).done == 5
    for seed in range(5):
        pixels, poses = archives.clip(seed, 70 + seed % 3)
        given = {"focal_length": archives.focal} if refiner.sees_rays else {}
        check(job, f"clip{seed:02d}", refiner.refine(pixels, poses, archives.size, fps=50, **given))


def test_options_reach_the_models(archives):
    refiner = Refiner.load("window", steps=1, pool_shape=True, smoothing=True)
    job = archives.job(
        archives.many(2), refiner=model_file("window", "refiner", steps=1), pool_shape=True, smoothing=True
    )
    refine_archive(job)
    pixels, poses = archives.clip(1, 51)
    check(job, "clip01", refiner.refine(pixels, poses, archives.size, fps=50, focal_length=archives.focal))


def test_poses_in_the_axes_of_a_room_are_turned(archives, models):
    """As ``refiner-refine --pose-3d`` does it."""
    from refiner.formats import to_camera_metres

    pixels, poses = archives.clip(1, 80)
    body = poses - poses[:, :1]
    angle = np.deg2rad(50)
    room = np.stack([body[..., 0], body[..., 2], -body[..., 1]], axis=-1) @ np.array(
        [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    archives.write("in/room.npz", 1, 80, pose_3d=room)
    job = archives.job(archives.folder / "in")
    assert refine_archive(job).done == 1
    given = {"image_size": archives.size, "focal_length": archives.focal}
    turned = to_camera_metres(room, pixels, **given)
    assert turned.kind == "room"
    check(job, "room", expected(models, pixels, turned.pose_3d, **given, fps=50))


def test_npy_files_and_statements(archives, models):
    folder = archives.folder / "in"
    (folder / "dance").mkdir(parents=True)
    pixels, poses = archives.clip(1)
    np.save(folder / "dance" / "pose_2d.npy", pixels)
    np.save(folder / "dance" / "pose_3d.npy", poses)
    np.save(folder / "run.pose_2d.npy", from_h36m17(pixels, "coco17"))
    np.save(folder / "run.confidence.npy", np.full((50, 17), 0.8))
    np.save(folder / "stray.npy", pixels)
    (folder / "notes.txt").write_text("left out")
    (folder / ".hidden.npz").write_bytes(b"")
    statements = {
        "run": {"joints": "coco17", "fps": 25},
        "*": {"image_size": archives.size, "focal_length": list(archives.focal), "joints": "h36m17", "fps": 50},
    }
    (folder / "sequences.json").write_text(json.dumps(statements))
    job = archives.job(folder)
    summary = refine_archive(job)
    assert summary.done == 2 and [name for name, _ in summary.failed] == ["stray"]
    lens = {"image_size": archives.size, "focal_length": archives.focal}
    check(job, "dance", expected(models, pixels, poses, **lens, fps=50))
    given = {**lens, "fps": 25, "joints": "coco17", "confidence": np.full((50, 17), 0.8)}
    check(job, "run", expected(models, from_h36m17(pixels, "coco17"), **given))
    # What is said about a sequence belongs to its recipe.
    statements["run"]["fps"] = 30
    (folder / "sequences.json").write_text(json.dumps(statements))
    refine_archive(job)
    check(job, "run", expected(models, from_h36m17(pixels, "coco17"), **{**given, "fps": 30}))
    (folder / "sequences.json").write_text('{"run": {"rate": 3}}')
    with pytest.raises(ArchiveError, match="unknown 'rate'"):
        refine_archive(job)


def test_files_of_detectors(archives, models):
    folder = archives.folder / "in"
    folder.mkdir()
    for name in ("coco.json", "alphapose.json", "mmpose.json", "mediapipe.json", "data_2d_custom_walk.npz"):
        shutil.copy(SAMPLES / name, folder)
    shutil.copy(SAMPLES / "data_test_3dhp.npz", folder)
    shutil.copytree(SAMPLES / "openpose", folder / "openpose")
    stated = archives.stated(fps=50.0, image_size=(1000.0, 1002.0))
    job = archives.job(folder, stated=stated)
    summary = refine_archive(job)
    # MediaPipe's sample and the others show one person or more each.
    assert not summary.failed and summary.done >= 7
    compared = 0
    for file in Path(job.output).glob("*/person*.npz"):
        source = next((path for path in folder.iterdir() if path.stem == file.parent.name), None)
        if source is None:
            assert file.parent.name.startswith("data_test_3dhp-")
            continue
        found = read_detections(source)
        found = found.in_pixels(found.image_size or stated.image_size)
        track = follow(found)[int(file.stem.removeprefix("person"))]
        given = {"image_size": found.image_size, "fps": found.fps or 50, "joints": found.joints.name}
        poses = expected(models, track.keypoints, confidence=track.confidence, **given)
        check(job, f"{file.parent.name}/{file.stem}", poses)
        compared += 1
    assert compared >= 6


@pytest.mark.parametrize("with_3d", [False, True])
def test_the_layout_of_the_field(archives, models, with_3d):
    clips = {
        (subject, action): archives.clip(seed, 40 + seed)
        for seed, (subject, action) in enumerate(
            [("S1", "Walking 1"), ("S1", "walking 1"), ("S9", "a/b"), ("S9", "Broken")]
        )
    }
    positions_2d, positions_3d = {}, {}
    for (subject, action), (pixels, poses) in clips.items():
        positions_2d.setdefault(subject, {})[action] = [pixels.astype(np.float32), (pixels + 5).astype(np.float32)]
        positions_3d.setdefault(subject, {})[action] = [poses.astype(np.float32)] * 2
    positions_2d["S9"]["Broken"][1][:] = np.nan
    file, other = archives.folder / "data_2d_x.npz", archives.folder / "data_3d_x.npz"
    metadata = {
        "layout_name": "h36m",
        "num_joints": 17,
        "keypoints_symmetry": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]],
    }
    np.savez(file, positions_2d=positions_2d, metadata=metadata)
    np.savez(other, positions_3d=positions_3d)
    assert is_archive(file)
    stated = archives.stated(fps=50.0, image_size=archives.size, focal_length=archives.focal)
    job = archives.job(file, stated=stated, pose_3d=str(other) if with_3d else None)
    summary = refine_archive(job)
    assert summary.done == 7 and [name for name, _ in summary.failed] == ["S9/Broken/1"]
    given = {"image_size": archives.size, "focal_length": archives.focal, "fps": 50}
    pixels, poses = clips["S9", "a/b"]
    moved = (pixels + 5).astype(np.float32)
    check(job, "S9-a-b-1", expected(models, moved, poses.astype(np.float32) if with_3d else None, **given))
    # Names that differ in their case alone end in a hash.
    assert sorted(file.name.lower()[:13] for file in Path(job.output).glob("S1-[Ww]*-0-*.npz")) == ["s1-walking_1-"] * 2
    # A change of one clip does not do the others again.
    positions_2d["S1"]["Walking 1"][0][3] += 1
    np.savez(file, positions_2d=positions_2d, metadata=metadata)
    again = refine_archive(replace(job, chunk_frames=10))
    assert again.earlier == 0
    positions_2d["S1"]["Walking 1"][0][3] += 1
    np.savez(file, positions_2d=positions_2d, metadata=metadata)
    assert refine_archive(replace(job, chunk_frames=10)).earlier == 6


def test_what_is_an_archive(archives):
    assert is_archive(archives.many(1))
    assert not is_archive(SAMPLES / "openpose") and not is_archive(SAMPLES / "coco.json")
    assert not is_archive(SAMPLES / "data_2d_custom_walk.npz") and not is_archive(SAMPLES / "data_test_3dhp.npz")
    assert not is_archive(archives.folder / "missing") and not is_archive(SAMPLES / "pose_2d.npy")
    (archives.folder / "empty").mkdir()
    assert not is_archive(archives.folder / "empty")


def test_trc_and_bvh_hold_the_refined_poses(archives):
    pixels, _ = archives.clip(1, 120)
    pixels[40:100] = np.nan
    archives.write("in/gap.npz", 1, 120, pose_2d=pixels, first_frame=7)
    job = archives.job(archives.folder / "in", formats=("npz", "trc", "bvh"))
    refine_archive(job)
    poses = result(job, "gap")
    lines = Path(job.output, "gap.trc").read_text().splitlines()
    assert lines[0].endswith("gap.trc") and len(lines) == 6 + 120
    assert lines[6].startswith("8\t")
    first = np.array([float(cell) for cell in lines[6].split("\t")[2:5]])
    np.testing.assert_allclose(first, poses[0, 0] * [1, -1, -1], atol=1e-5)
    # The longest part alone.
    assert "Frames: 40" in Path(job.output, "gap.bvh").read_text()


def rows_of(archives, seeds, frames=50):
    import pyarrow

    rows = {name: [] for name in ("sequence", "frame", "pose_2d", "pose_3d", "confidence", "fps", "joints")}
    for seed in seeds:
        pixels, poses = archives.clip(seed, frames)
        for frame in range(frames):
            rows["sequence"].append(f"walk/{seed}")
            rows["frame"].append(frame + 10)
            rows["pose_2d"].append(pixels[frame].ravel().tolist())
            rows["pose_3d"].append(None if seed % 2 else poses[frame].ravel().tolist())
            rows["confidence"].append(None if seed == 0 else [0.9] * 17)
            rows["fps"].append(25.0 if seed else 50.0)
            rows["joints"].append("h36m17")
    return pyarrow.table(rows)


@pytest.mark.parametrize("row_group", [30, 100_000])
def test_parquet(archives, models, monkeypatch, row_group):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra parquet)")
    monkeypatch.setattr("refiner.archive.parquet_files.BATCH_ROWS", 64)
    table = rows_of(archives, range(4))
    # A frame that is left out, and one without a person.
    table = table.slice(0, 20).to_pylist() + table.slice(21).to_pylist()
    table[70]["pose_2d"] = None
    import pyarrow

    file = archives.folder / "clips.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(table), file, row_group_size=row_group)
    assert is_archive(file)
    stated = archives.stated(image_size=archives.size, focal_length=archives.focal)
    job = archives.job(file, stated=stated, formats=("npz", "parquet"), chunk_frames=110)
    summary = refine_archive(job)
    assert (summary.done, summary.failed) == (4, ())
    lens = {"image_size": archives.size, "focal_length": archives.focal}
    pixels, poses = archives.clip(0)
    pixels[20], poses[20] = np.nan, np.nan
    check(job, "walk-0", expected(models, pixels, poses, **lens, fps=50))
    pixels, _ = archives.clip(1)
    pixels[21] = np.nan
    check(job, "walk-1", expected(models, pixels, **lens, fps=25, confidence=np.full((50, 17), 0.9)))
    pixels, poses = archives.clip(2)
    check(job, "walk-2", expected(models, pixels, poses, **lens, fps=25, confidence=np.full((50, 17), 0.9)))
    written = parquet.read_table(Path(job.output, "walk-2.parquet"))
    assert written["frame"].to_pylist() == list(range(10, 60)) and set(written["sequence"].to_pylist()) == {"walk/2"}
    back = np.array(written["refined_pose_3d"].to_pylist(), np.float32).reshape(50, 17, 3)
    np.testing.assert_array_equal(back, result(job, "walk-2"))
    # A change of one sequence does its chunk again, and the others stay.
    table[-1]["pose_2d"][0] += 1
    parquet.write_table(pyarrow.Table.from_pylist(table), file, row_group_size=row_group)
    assert 0 < refine_archive(job).earlier < 4


def test_parquet_that_cannot_be_used(archives):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra parquet)")
    import pyarrow

    file = archives.folder / "clips.parquet"
    table = rows_of(archives, range(2), 5)
    job = archives.job(file, stated=archives.stated(image_size=archives.size))
    for damaged, message in (
        (table.drop_columns(["frame"]), "no column frame"),
        (pyarrow.concat_tables([table, table.slice(0, 2)]), "in several places"),
    ):
        parquet.write_table(damaged, file)
        with pytest.raises(ArchiveError, match=message):
            refine_archive(job)
    file.write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ArchiveError, match="no whole Parquet file"):
        refine_archive(job)
    rows = table.to_pylist()
    rows[1]["frame"] = 10
    rows[6]["fps"] = 60.0
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    failed = dict(refine_archive(job).failed)
    assert "do not rise" in failed["walk/0"] and "fps is not the same" in failed["walk/1"]


def test_without_pyarrow_the_message_says_what_to_install(archives, monkeypatch, capsys):
    import sys

    from refiner.cli.refine import main

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (archives.folder / "clips.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingComponentError, match=r"pose-refiner\[parquet\]"):
        refine_archive(archives.job(archives.folder / "clips.parquet"))
    folder = archives.many(1)
    assert main([str(folder), "--output", str(archives.folder / "out"), "--formats", "parquet"]) == 3
    assert "pose-refiner[parquet]" in capsys.readouterr().err
