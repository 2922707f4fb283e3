"""Run by check-video where refiner is installed with cpu, video and mediapipe: a real video goes all the way."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import bvhio
import numpy as np
import trc
from refiner_bench.real.packages import SPORTS2D, package_files

import refiner
from refiner.formats.bvh import NAMES
from refiner.formats.trc import MARKERS

BIN = Path(sys.executable).parent
CAMERA = np.array([1.0, -1.0, -1.0])
FRAMES, SIZE = 230, (1768.0, 994.0)
# The man on the roof is followed from his first frames to his jump: the bundled detections have him in 166 of them.
LEAST_FRAMES = 150
STATUSES = {"ok", "warm-up", "degraded", "invalid"}


def main(checkout: Path) -> None:
    if checkout in Path(refiner.__file__).parents:
        sys.exit(f"refiner was imported from the checkout: {refiner.__file__}")
    for name in ("torch", "safetensors", "onnx"):
        if importlib.util.find_spec(name) is not None:
            sys.exit(f"{name} is installed: this environment does not show what ONNX Runtime alone does")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (clip,) = package_files(SPORTS2D, work / "cache").values()
        check_recording(clip, work / "people")
        check_stream(clip)
    print("a real video became npz, TRC, BVH, an overlay and lines of a stream")


def check_recording(clip: Path, folder: Path) -> None:
    """``refiner-refine CLIP``: every file that it writes."""
    words = [BIN / "refiner-refine", clip, "--output", folder]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    print(told, end="")
    share = re.search(r"the refinement took ([\d.]+)% of the time without the detector$", told.strip())
    assert share is not None, told
    print(f"share of the refinement: {share[1]} %")
    with np.load(folder / "person0.npz") as stored:
        person = {name: stored[name] for name in stored.files}
    refined = person["refined_pose_3d"]
    assert refined.shape == person["lifted_pose_3d"].shape == (FRAMES, 17, 3), refined.shape
    assert tuple(person["image_size"]) == SIZE and abs(float(person["fps"]) - 30) < 1e-6
    assert person["pose_2d"].shape == (FRAMES, 33, 2) and str(person["joints"]) == "mediapipe33"
    shown = np.zeros(FRAMES, dtype=bool)
    for begin, end in person["parts"]:
        shown[begin:end] = True
    assert shown.sum() >= LEAST_FRAMES and person["seen"].sum() >= LEAST_FRAMES, (shown.sum(), person["seen"].sum())
    assert np.isfinite(refined[shown]).all() and np.isnan(refined[~shown]).all()
    legs = np.linalg.norm(refined[shown][:, [2, 3]] - refined[shown][:, [1, 2]], axis=-1)
    assert ((legs > 0.25) & (legs < 0.65)).mean() > 0.99, np.percentile(legs, [0, 1, 50, 99, 100])
    check_trc(folder / "person0.trc", refined)
    begin, end = max(person["parts"].tolist(), key=lambda part: part[1] - part[0])
    check_bvh(folder / "person0.bvh", refined[begin:end])
    check_overlay(folder / "overlay.mp4")


def check_trc(file: Path, refined: np.ndarray) -> None:
    """The markers, read by trc-data-reader."""
    data = trc.TRCData()
    data.load(str(file))
    assert (data["NumFrames"], data["DataRate"], data["Units"]) == (FRAMES, 30.0, "m")
    assert list(data["Markers"]) == list(MARKERS)
    markers = np.array([data[name] for name in MARKERS], dtype=float).swapaxes(0, 1) * CAMERA
    body = markers - markers[:, :1]
    seen = np.isfinite(refined).all(axis=(1, 2))
    np.testing.assert_allclose(body[seen], (refined - refined[:, :1])[seen], atol=1e-5)
    assert np.isnan(body[~seen]).all()


def check_bvh(file: Path, refined: np.ndarray) -> None:
    """The skeleton, read by bvhio. Its bones have one length, so that joints lie off the poses by a little."""
    container = bvhio.readAsBvh(str(file))
    assert container.FrameCount == len(refined) and abs(container.FrameTime - 1 / 30) < 1e-5
    root = bvhio.readAsHierarchy(str(file))
    errors = []
    for frame in range(0, len(refined), 20):
        root.loadPose(frame)
        placed = {joint.Name: np.array(list(joint.PositionWorld)) / 100 * CAMERA for joint, _, _ in root.layout()}
        hips = placed[NAMES[0]]
        for index, name in enumerate(NAMES):
            if name in placed:
                wanted = refined[frame, index] - refined[frame, 0]
                errors.append(np.linalg.norm(placed[name] - hips - wanted))
    assert len(errors) > 60 and np.mean(errors) < 0.05, (len(errors), np.mean(errors))


def check_overlay(file: Path) -> None:
    """Every frame of the video, none black, with the poses beside it."""
    with av.open(str(file)) as read:
        images = [frame.to_ndarray(format="rgb24") for frame in read.decode(video=0)]
        assert abs(float(read.streams.video[0].average_rate) - 30) < 0.1
    assert len(images) == FRAMES
    width = round(images[0].shape[0] * SIZE[0] / SIZE[1])
    for number, image in enumerate(images):
        film, panel = image[:, :width].astype(float), image[:, width:].astype(float)
        assert film.mean() > 40 and film.std() > 20, (number, film.mean(), film.std())
        assert panel.size and panel.max() > 100, (number, panel.max())
    changes = [np.abs(one.astype(int) - two).mean() for one, two in itertools.pairwise(images)]
    assert np.median(changes) > 0.05


def check_stream(clip: Path) -> None:
    """``refiner-stream --camera CLIP``: all frames, and again at the pace of a camera."""
    for options in (["--full-speed"], []):
        words = [BIN / "refiner-stream", "--camera", clip, *options]
        told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        answers = [json.loads(line) for line in told.splitlines()]
        assert answers and {answer["status"] for answer in answers} <= STATUSES, told[:500]
        for answer in answers:
            pose, spread = np.array(answer["pose_3d"]), np.array(answer["std"])
            assert pose.shape == (17, 3) and spread.shape == (17,)
            assert np.isfinite(pose).all() and (spread > 0).sum() >= 16
        people = [(answer["person_id"], answer["timestamp"]) for answer in answers]
        assert len(set(people)) == len(people) and all(0 <= second < FRAMES / 30 for _, second in people)
        if options:
            assert sum(number == 0 for number, _ in people) >= LEAST_FRAMES
            assert sum(answer["status"] == "ok" for answer in answers) > LEAST_FRAMES / 2
        print(f"stream {' '.join(options)}: {len(answers)} lines")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
