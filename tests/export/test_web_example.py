"""The web example: its stream in JavaScript gives what `StreamingRefiner` gives, for any frames, and in a browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from refiner_bench.real.packages import SPORTS2D, UnavailableError, cache_folder, package_files

from refiner import StreamingRefiner
from refiner.camera import human36m_cameras
from refiner.data import DetectorModel
from refiner.data.synthetic import synthetic_motion
from refiner.errors import DefaultLensWarning, InputError

EXAMPLE = Path(__file__).parents[2] / "export" / "examples" / "web"
# The two runtimes add in different orders, and poses are saved to a hundredth of a millimetre.
LARGEST_M = 1e-4
# Bone lengths are counted in bins of a millimetre: one that lies at an edge may fall into the bin beside it.
LARGEST_POOLED_M = 2e-3
CAMERA = human36m_cameras()[0]
FOCAL = float(CAMERA.focal_length[0])
FRAMES = 60
# MediaPipe's landmarks from Human3.6M's joints; the face, hands and feet, which the conversion does not use, lie on the
# nearest joint. The ears lie half-way between nose and head.
MEDIAPIPE = [9] * 7 + [10, 10, 9, 9, 11, 14, 12, 15, 13, 16, 13, 16, 13, 16, 13, 16, 4, 1, 5, 2, 6, 3, 6, 3, 6, 3]


def missing(what):
    """Skip a test by the name of what is missing; fail where REFINER_WEB_REQUIRED is set, as .ci/check-web does."""
    if os.environ.get("REFINER_WEB_REQUIRED"):
        pytest.fail(f"{what}, and REFINER_WEB_REQUIRED is set")
    pytest.skip(what)


@pytest.fixture(scope="module")
def node():
    """Node, where the packages of the example are installed."""
    found = shutil.which("node")
    if found is None:
        missing("node is missing")
    if not (EXAMPLE / "node_modules").is_dir():
        missing(f"the packages of the web example are missing: npm ci in {EXAMPLE}")
    return found


@pytest.fixture(scope="module")
def chromium():
    """The path of a Chromium."""
    found = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if found is None:
        missing("chromium is missing")
    return found


@pytest.fixture(scope="module")
def clip():
    """A real video of one person, from a package of the Python registry."""
    try:
        (video,) = package_files(SPORTS2D, cache_folder()).values()
    except UnavailableError as error:
        missing(f"the real video is missing: {error}")
    return video


def keypoints(action, frames, joints, seed):
    """Noisy pixels ``(F, J, 2)`` and confidence ``(F, J)`` of a person before a camera, at 50 frames/s."""
    generator = np.random.default_rng(seed)
    pixels = CAMERA.project(CAMERA.to_camera(synthetic_motion(seed, action, frames)))
    seen = DetectorModel.default().detect(pixels, generator)
    if joints == "mediapipe33":
        seen = seen[:, MEDIAPIPE]
    return seen, generator.uniform(0.3, 1.0, seen.shape[:2])


def saved(seen, confidence, times):
    """Frames as the page saves them; None for NaN."""
    return [
        {
            "timestamp": float(time),
            "pose_2d": [[None if np.isnan(x) else float(x) for x in point] for point in points],
            "confidence": [None if np.isnan(score) else float(score) for score in scores],
        }
        for time, points, scores in zip(times, seen, confidence, strict=True)
    ]


def regular(generator, frames, fps):
    return np.arange(frames) / fps


def jittered(generator, frames, fps):
    return (np.arange(frames) + generator.uniform(-0.4, 0.4, frames)) / fps


def with_gaps(generator, frames, fps):
    """Frames that never came, and one gap after which the person begins anew."""
    steps = generator.choice([1, 1, 1, 1, 2, 4], frames).astype(float)
    steps[frames // 2] = 0.9 * fps
    return 100.0 + np.cumsum(steps) / fps


def out_of_order(generator, frames, fps):
    times = np.arange(frames) / fps
    times[10] = times[9]
    times[20] = times[15]
    return times


TIMES = [regular, jittered, with_gaps, out_of_order]


def stream(times, fps, joints="mediapipe33", holes=0.0, seed=0, **options):
    """A stream of 90 frames: `holes` is the share of joints that are missing, in each of the ways of detectors."""
    generator = np.random.default_rng([seed, int(10 * fps)])
    seen, confidence = keypoints(["Walking", "Boxing", "SittingDown"][seed % 3], FRAMES, joints, seed + 1)
    missing = generator.uniform(size=confidence.shape) < holes
    ways = generator.integers(0, 5, confidence.shape)
    for way, value in enumerate((np.nan, 0.0, -1.0, 1e9)):
        seen[missing & (ways == way)] = value
    confidence[missing & (ways == 4)] = generator.choice([0.0, np.nan, -0.5])
    if holes:
        confidence[30] = 0.0  # too few joints
        seen[0, :3] = np.nan
    return {
        "image_size": list(CAMERA.image_size),
        "focal_length": FOCAL,
        "options": {"joints": joints, **options},
        "frames": saved(seen, confidence, times(generator, len(seen), fps)),
    }


def in_python(log):
    """What Python gives for the frames of a log: refined frames, and how many were refused."""
    options = log.get("options", log)
    # What the page assumed is not stated to Python either: both say so in their reasons.
    stated = log.get("focal_length_stated", True)
    with contextlib.nullcontext() if stated else pytest.warns(DefaultLensWarning):
        live = StreamingRefiner.load(
            engine="onnx",
            image_size=log["image_size"],
            focal_length=log["focal_length"] if stated else None,
            joints=options["joints"],
            lifter=True,
            pool_shape=options.get("poolShape", options.get("pool_shape", False)),
            smoothing=options.get("smoothing", False),
            threads=1,
        )
    refined, refused = [], 0
    for frame in log["frames"]:
        try:
            refined += live.push(frame["pose_2d"], None, frame["timestamp"], confidence=frame["confidence"])
        except InputError:
            refused += 1
    return refined, refused


def differences(refined, expected, largest_m=LARGEST_M):
    """The names of what differs between a list of saved frames and Python's frames; an empty list where all is well."""
    assert len(refined) == len(expected)
    found = []
    for index, (mine, frame) in enumerate(zip(refined, expected, strict=True)):
        for name, theirs in (("pose_3d", frame.pose_3d), ("given_3d", frame.given_3d)):
            largest = float(np.abs(np.asarray(mine[name]) - theirs).max())
            if not largest <= (largest_m if name == "pose_3d" else LARGEST_M):
                found.append(f"frame {index}: {name} {1000 * largest:.2f} mm apart")
        exact = (frame.timestamp, frame.status, list(frame.reasons), np.flatnonzero(frame.infilled).tolist())
        if (own := tuple(mine[name] for name in ("timestamp", "status", "reasons", "infilled"))) != exact:
            found.append(f"frame {index}: {own}, in Python {exact}")
    return found


def streams():
    """Streams of every kind of time-stamps and of missing joints, at the model's rate and at others."""
    return [
        stream(regular, 50.0),
        stream(jittered, 29.97, seed=1),
        stream(with_gaps, 24.0, holes=0.15, seed=2),
        stream(out_of_order, 60.0, holes=0.15, seed=3),
        stream(jittered, 50.0, joints="h36m17", holes=0.3, seed=4),
        stream(with_gaps, 25.0, holes=0.1, seed=5, poolShape=True, smoothing=True),
    ]


def run(node, *words, **options):
    """Run a script of the example; returns what it prints."""
    done = subprocess.run([node, *words], cwd=EXAMPLE, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_any_stream_is_refined_as_in_python(node):
    given = streams()
    results = json.loads(run(node, "test/replay.js", input=json.dumps(given)))
    for log, result in zip(given, results, strict=True):
        expected, refused = in_python(log)
        assert refused == result["refused"] == 0
        assert len(expected) > 40
        pooled = log["options"].get("poolShape", False)
        assert differences(result["refined"], expected, LARGEST_POOLED_M if pooled else LARGEST_M) == []


def test_frames_that_python_refuses_are_refused(node):
    log = stream(regular, 50.0)
    width, height = log["image_size"]
    good = log["frames"][:5]
    shares = [[None if x is None else x / width, None if y is None else y / height] for x, y in good[1]["pose_2d"]]
    bad = [
        {**good[1], "pose_2d": shares},
        {**good[1], "pose_2d": good[1]["pose_2d"][:17]},
        {**good[1], "confidence": good[1]["confidence"][:17]},
        {**good[1], "pose_2d": [[*point, 1.0] for point in good[1]["pose_2d"]]},
        {**good[1], "pose_2d": [["1", "2"], *good[1]["pose_2d"][1:]]},
        {**good[1], "timestamp": None},
    ]
    log["frames"] = [good[0], *bad, *good[1:]]
    (result,) = json.loads(run(node, "test/replay.js", input=json.dumps([log])))
    expected, refused = in_python(log)
    assert refused == result["refused"] == len(bad)
    # The stream goes on as if the frames had not come.
    assert len(expected) == len(good)
    assert differences(result["refined"], expected) == []


def test_python_reads_what_the_page_saves_by_the_lines_of_readme(node, tmp_path, monkeypatch):
    given = stream(jittered, 30.0, seed=1)
    (result,) = json.loads(run(node, "test/replay.js", input=json.dumps([given])))
    log = {"image_size": given["image_size"], "focal_length": FOCAL, "joints": "mediapipe33"}
    log |= {"pool_shape": False, "smoothing": False, "frames": given["frames"]}
    (tmp_path / "refined.json").write_text(json.dumps(log))
    (lines,) = re.findall(r"^```python\n(.*?)^```$", (EXAMPLE / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    printed = []
    exec(compile(lines, "README.md", "exec"), {"print": lambda *words: printed.append(words)})
    assert [words[:2] for words in printed] == [(frame["timestamp"], frame["status"]) for frame in result["refined"]]
    poses = [frame["pose_3d"] for frame in result["refined"]]
    np.testing.assert_allclose([words[2] for words in printed], poses, atol=LARGEST_M)


def test_commands_of_readme_are_there():
    blocks = re.findall(r"^```sh\n(.*?)^```$", (EXAMPLE / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line, comments=True) for line in "".join(blocks).splitlines()]
    assert {words[0] for words in commands} == {"npm", "node", "python3"}
    scripts = json.loads((EXAMPLE / "package.json").read_text())["scripts"]
    browser = (EXAMPLE / "test" / "browser.js").read_text()
    options = set(re.findall(r'^    "?([a-z-]+)"?: \{ type', browser, re.MULTILINE))
    for words in commands:
        if words[0] == "npm":
            assert words[1] == "ci" or (words[1] == "run" and words[2] in scripts), words
        elif words[0] == "node":
            assert (EXAMPLE / words[1]).is_file(), words
            assert {word[2:] for word in words if word.startswith("--")} <= options, words


@pytest.mark.slow
def test_the_page_refines_a_real_video_as_python_does(node, chromium, clip, tmp_path):
    run(node, "scripts/build.js")
    target = tmp_path / "refined.json"
    # A focal length that is stated is in the log. Bins of bone lengths (see above) would hide small differences.
    words = ("--focal", "1500", "--own-bones")
    run(node, "test/browser.js", clip, target, *words, env={**os.environ, "CHROMIUM": chromium})
    log = json.loads(target.read_text())
    expected, refused = in_python(log)
    assert (log["joints"], log["image_size"], log["focal_length"]) == ("mediapipe33", [1768, 994], 1500)
    assert not log["pool_shape"] and not log["smoothing"] and not log["dropped"]
    # 230 pictures, a few of them without a person; the browser may leave out a few.
    assert refused == 0 and len(expected) > 180
    times = [frame["timestamp"] for frame in log["frames"]]
    assert 6.5 < times[-1] - times[0] < 7.7
    assert sum(frame.status == "ok" for frame in expected) > 100
    assert differences(log["refined"], expected) == []


def webcam_of(clip, target, pictures):
    """Write the first pictures of a video, small, as the file of an imitated webcam (YUV4MPEG2)."""
    av = pytest.importorskip("av", reason="av is not installed: no webcam can be imitated")
    with av.open(str(clip)) as video, target.open("wb") as file:
        file.write(b"YUV4MPEG2 W640 H360 F30:1 Ip A1:1 C420jpeg\n")
        for picture, _ in zip(video.decode(video=0), range(pictures), strict=False):
            file.write(b"FRAME\n" + picture.reformat(640, 360, "yuvj420p").to_ndarray().tobytes())


@pytest.mark.slow
def test_the_page_refines_a_webcam_as_python_does(node, chromium, clip, tmp_path):
    run(node, "scripts/build.js")
    webcam, target = tmp_path / "webcam.y4m", tmp_path / "refined.json"
    webcam_of(clip, webcam, 60)
    words = ("--camera", "--own-bones", "--stop-after", "20")
    run(node, "test/browser.js", webcam, target, *words, env={**os.environ, "CHROMIUM": chromium})
    log = json.loads(target.read_text())
    expected, refused = in_python(log)
    # The focal length is not stated: the longer side of the picture.
    assert (log["image_size"], log["focal_length"], log["focal_length_stated"]) == ([640, 360], 640, False)
    assert refused == 0 and len(expected) >= 20
    assert differences(log["refined"], expected) == []
