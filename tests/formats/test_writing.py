"""TRC and BVH, read back by other programs' libraries where they are installed, and by a few lines here."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.data.synthetic import synthetic_motion
from refiner.errors import NonFiniteError, ShapeError, UsageError
from refiner.formats.bvh import NAMES, write_bvh
from refiner.formats.trc import MARKERS, write_trc
from refiner.skeleton import H36M17

CAMERA = np.array([1.0, -1.0, -1.0])


@pytest.fixture(scope="module")
def walk():
    """A walk in camera axes, 4 m away; its body is rigid in the trunk."""
    motion = np.asarray(synthetic_motion(3, "Walking", 40), dtype=np.float64)
    return (motion[..., [0, 2, 1]] * [1.0, -1.0, 1.0]) + [0.0, 0.0, 4.0]


def read_bvh(path):
    """Joints and positions ``(F, J, 3)`` in metres, by the definition of the format: no code of ours."""
    words = iter(path.read_text().split())
    names, parents, offsets, channels, stack = [], [], [], [], []
    for word in words:
        if word in ("ROOT", "JOINT", "End"):
            names.append(next(words))
            parents.append(stack[-1] if stack else -1)
            channels.append([])
        elif word == "{":
            stack.append(len(names) - 1)
        elif word == "}":
            stack.pop()
        elif word == "OFFSET":
            offsets.append([float(next(words)) for _ in range(3)])
        elif word == "CHANNELS":
            channels[-1] = [next(words) for _ in range(int(next(words)))]
        elif word == "MOTION":
            break
    assert next(words) == "Frames:"
    frames = int(next(words))
    assert (next(words), next(words)) == ("Frame", "Time:")
    time = float(next(words))
    values = np.array(list(words), dtype=float).reshape(frames, -1)
    found = np.zeros((frames, len(names), 3))
    for frame in range(frames):
        row, world = iter(values[frame]), []
        for joint, parent in enumerate(parents):
            turn, shift = np.eye(3), np.array(offsets[joint])
            for channel in channels[joint]:
                value = next(row)
                axis = "XYZ".index(channel[0])
                if channel.endswith("position"):
                    shift[axis] += value
                else:
                    angle, (a, b) = np.deg2rad(value), [(1, 2), (2, 0), (0, 1)][axis]
                    part = np.eye(3)
                    part[[a, b], [a, b]] = np.cos(angle)
                    part[a, b], part[b, a] = -np.sin(angle), np.sin(angle)
                    turn = turn @ part
            before, origin = (world[parent], found[frame, parent]) if parent >= 0 else (np.eye(3), np.zeros(3))
            found[frame, joint] = origin + before @ shift
            world.append(before @ turn)
    return names, found / 100.0, time


def joints_of(names, found):
    """The joints in the order of Human3.6M; the ends carry no names and come in the order of the file."""
    ends = iter(["RFoot", "LFoot", "Head", "LWrist", "RWrist"])
    named = {(next(ends) if name == "Site" else name): found[:, index] for index, name in enumerate(names)}
    return np.stack([named[name] for name in NAMES], axis=1)


def test_a_walk_comes_back_from_bvh(walk, tmp_path):
    error = write_bvh(tmp_path / "walk.bvh", walk, 50.0)
    names, found, time = read_bvh(tmp_path / "walk.bvh")
    again = joints_of(names, found) * CAMERA
    assert time == pytest.approx(0.02) and error < 0.01
    assert np.linalg.norm(again - walk, axis=-1).mean() == pytest.approx(error, abs=1e-4)


def test_a_body_of_fixed_bones_comes_back_exactly(tmp_path):
    """Poses that a skeleton with random rotations makes, in all joints but the stiff trunk."""
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(0)
    rest = np.asarray(synthetic_motion(5, "Walking", 2), dtype=np.float64)[0]
    offsets = rest - rest[[max(parent, 0) for parent in H36M17.parents]]
    pose = np.zeros((30, 17, 3))
    for frame in range(30):
        trunk = Rotation.random(random_state=frame)
        world = dict.fromkeys((0, 7, 8), trunk)
        for parent, joint in sorted(H36M17.bones, key=lambda bone: bone[1]):
            pose[frame, joint] = pose[frame, parent] + world.get(parent, trunk).apply(offsets[joint])
            if joint not in (7, 8):
                world[joint] = Rotation.from_rotvec(rng.normal(0, 1.0, 3)) * world.get(parent, trunk)
    pose = pose * CAMERA
    write_bvh(tmp_path / "random.bvh", pose, 30.0)
    names, found, _ = read_bvh(tmp_path / "random.bvh")
    again = joints_of(names, found) * CAMERA
    # Hips and shoulders are a least-squares fit of the rest pose's shape.
    limbs = np.linalg.norm(np.diff(again[:, [1, 2, 3]], axis=1), axis=-1)
    np.testing.assert_allclose(limbs, np.linalg.norm(np.diff(pose[:, [1, 2, 3]], axis=1), axis=-1), atol=1e-4)
    for parent, joint in ((1, 2), (2, 3), (4, 5), (5, 6), (11, 12), (12, 13), (14, 15), (15, 16)):
        np.testing.assert_allclose(
            again[:, joint] - again[:, parent], pose[:, joint] - pose[:, parent], atol=2e-4, err_msg=NAMES[joint]
        )


def test_a_walk_comes_back_from_trc(walk, tmp_path):
    missing = walk.copy()
    missing[3, 5] = np.nan
    write_trc(tmp_path / "walk.trc", missing, 50.0)
    lines = (tmp_path / "walk.trc").read_text().split("\n")
    assert lines[0] == "PathFileType\t4\t(X/Y/Z)\twalk.trc" and lines[2].split("\t")[2:5] == ["40", "17", "m"]
    assert [name for name in lines[3].split("\t")[2:] if name] == list(MARKERS) and lines[5] == ""
    rows = [line.split("\t") for line in lines[6:] if line]
    assert {len(row) for row in rows} == {2 + 3 * 17}
    np.testing.assert_allclose([float(row[1]) for row in rows], np.arange(40) / 50.0)
    found = np.array([[float(cell or "nan") for cell in row[2:]] for row in rows]).reshape(40, 17, 3)
    np.testing.assert_allclose(found * CAMERA, missing, atol=1e-6)


def test_other_libraries_read_what_is_written(walk, tmp_path):
    write_bvh(tmp_path / "walk.bvh", walk, 50.0)
    bvhio = pytest.importorskip("bvhio", reason="bvhio is not installed: BVH is read by the lines above alone")
    root = bvhio.readAsHierarchy(str(tmp_path / "walk.bvh"))
    names, found, _ = read_bvh(tmp_path / "walk.bvh")
    root.loadPose(20)
    for joint, _, _ in root.layout():
        if joint.Name in names:
            expected = 100.0 * found[20, names.index(joint.Name)]
            np.testing.assert_allclose(list(joint.PositionWorld), expected, atol=0.01, err_msg=joint.Name)


@pytest.mark.parametrize("write", [write_bvh, write_trc])
def test_what_cannot_be_written(write, walk, tmp_path):
    for fps in (0, -5, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="frames per second"):
            write(tmp_path / "a", walk, fps)
    with pytest.raises(ShapeError):
        write(tmp_path / "a", walk[:, :5], 50.0)
    with pytest.raises(ShapeError):
        write(tmp_path / "a", walk[:0], 50.0)
    with pytest.raises(NonFiniteError, match="no missing joints"):
        write_bvh(tmp_path / "a", np.full_like(walk, np.nan), 50.0)
    with pytest.raises(UsageError, match="no blanks"):
        write_trc(tmp_path / "a", walk[:, :1], 50.0, ["left knee"])
    assert not (tmp_path / "a").exists()


def test_a_marker_library_reads_what_is_written(walk, tmp_path):
    trc = pytest.importorskip("trc", reason="trc-data-reader is not installed: TRC is read by the lines above alone")
    write_trc(tmp_path / "walk.trc", walk, 50.0)
    data = trc.TRCData()
    data.load(str(tmp_path / "walk.trc"))
    assert (data["NumFrames"], data["DataRate"], data["Units"]) == (40, 50.0, "m")
    assert list(data["Markers"]) == list(MARKERS)
    np.testing.assert_allclose(np.array(data["LKnee"]) * CAMERA, walk[:, 5], atol=1e-6)
