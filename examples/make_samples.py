"""Write a small sample file of every format that the commands read, from built-in motion.

    python examples/make_samples.py --output examples/samples

The folder `examples/samples` holds what this program wrote: a person who walks for two thirds of a second, as each
program would write it. `examples/samples/README.md` lists the files and the commands that read them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refiner.camera import human36m_cameras, look_at_camera
from refiner.data import DetectorModel
from refiner.data.synthetic import synthetic_motion
from refiner.skeleton import BODY25, COCO17, HALPE26, MEDIAPIPE33, MPI_INF_3DHP, JointSet, from_h36m17

SIZE, FOCAL, FPS, FRAMES = (1280, 720), 1150.0, 25, 16
# Joints of the detectors that Human3.6M's joints stand for.
TRUNK = {"neck": 8, "mid_hip": 0, "pelvis": 0, "head_top": 10}
# Where MediaPipe's other landmarks are put: it marks them as not visible.
NEAR = {"eye": "nose", "mouth": "nose", "pinky": "wrist", "index": "wrist", "thumb": "wrist", "heel": "ankle"}


def recording(size: tuple[int, int] = SIZE, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """What a detector sees, ``(F, 17, 2)`` pixels, and the true poses, ``(F, 17, 3)`` metres before the camera."""
    camera = look_at_camera((0.5, -4.5, 1.3), (0.1, 0.0, 0.95), FOCAL * size[0] / SIZE[0], *size)
    points = camera.to_camera(synthetic_motion(seed, "Walking", FRAMES * 2)[::2].astype(np.float64))
    return DetectorModel.default().detect(camera.project(points), np.random.default_rng(seed)), points


def keypoints(pose: np.ndarray, joints: JointSet) -> np.ndarray:
    """``(17, 2)`` pixels in another joint set, with a confidence: ``(J, 3)``; zeros where a joint is not known."""
    known = dict(zip(COCO17.joint_names, from_h36m17(pose, COCO17), strict=True))
    known |= {name: pose[joint] for name, joint in TRUNK.items()}
    rows = [[*known[name], 0.9] if name in known else [0.0, 0.0, 0.0] for name in joints.joint_names]
    return np.round(np.array(rows), 2)


def write_json(file: Path, content: Any) -> None:
    """Write JSON without blanks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def write_detections(folder: Path, pixels: np.ndarray) -> None:
    """The files of detectors."""
    results, instances, annotations, landmarks = [], [], [], []
    for frame, pose in enumerate(pixels):
        body = keypoints(pose, BODY25).ravel().tolist()
        person = {"person_id": [-1], "pose_keypoints_2d": body}
        write_json(folder / "openpose" / f"walk_{frame:012d}_keypoints.json", {"version": 1.3, "people": [person]})
        halpe, coco = keypoints(pose, HALPE26), keypoints(pose, COCO17)
        results.append({"image_id": f"{frame}.jpg", "keypoints": halpe.ravel().tolist(), "score": 2.9, "idx": 1})
        instance = {"keypoints": coco[:, :2].tolist(), "keypoint_scores": coco[:, 2].tolist()}
        instances.append({"frame_id": frame, "instances": [instance]})
        marks = np.where(coco[:, 2:] > 0, 2, 0)
        annotation = np.concatenate([coco[:, :2], marks], axis=1)
        annotations.append({"image_id": frame, "category_id": 1, "keypoints": annotation.ravel().tolist()})
        landmarks.append({"pose_landmarks": mediapipe(pose)})
    images = [{"id": n, "file_name": f"{n:06d}.jpg", "width": SIZE[0], "height": SIZE[1]} for n in range(len(pixels))]
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO17.joint_names)}]
    write_json(folder / "alphapose.json", results)
    write_json(folder / "mmpose.json", {"meta_info": {"dataset_name": "coco"}, "instance_info": instances})
    write_json(folder / "coco.json", {"images": images, "annotations": annotations, "categories": categories})
    write_json(folder / "mediapipe.json", landmarks)
    coco = np.stack([keypoints(pose, COCO17)[:, :2] for pose in pixels]).astype(np.float32)
    sides = [list(COCO17.left), list(COCO17.right)]
    metadata = {"layout_name": "coco", "num_joints": 17, "keypoints_symmetry": sides}
    metadata["video_metadata"] = {"walk.mp4": {"w": SIZE[0], "h": SIZE[1]}}
    np.savez_compressed(
        folder / "data_2d_custom_walk.npz", positions_2d={"walk.mp4": {"custom": [coco]}}, metadata=metadata
    )


def mediapipe(pose: np.ndarray) -> list[dict[str, float]]:
    """The landmarks of one frame, as shares of the image."""
    rows = dict(zip(MEDIAPIPE33.joint_names, keypoints(pose, MEDIAPIPE33), strict=True))
    found = []
    for name, (x, y, sure) in rows.items():
        if sure == 0.0:
            side, _, part = name.partition("_")
            near = next((joint for word, joint in NEAR.items() if word in part), "ankle")
            x, y, _ = rows[near if near == "nose" else f"{side}_{near}"]
        share = {"x": round(float(x) / SIZE[0], 4), "y": round(float(y) / SIZE[1], 4)}
        found.append(share | {"visibility": round(float(sure), 1)})
    return found


def write_3d(folder: Path, pixels: np.ndarray, points: np.ndarray) -> None:
    """Arrays, and 3D poses as other programs write them."""
    poses = points + np.random.default_rng(1).normal(0.0, 0.02, points.shape)
    poses -= poses[:, :1]
    room = poses @ human36m_cameras()[0].rotation
    room[..., 2] -= room[..., 2].min(axis=1, keepdims=True)
    low, high = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
    scale = float((high - low).max()) / 2.0
    depth = (points[..., 2:] - points[:, :1, 2:]) * FOCAL / points[:, :1, 2:]
    arrays = {
        "pose_2d": pixels,
        "confidence": np.full(pixels.shape[:2], 0.9),
        "pose_3d": poses,
        "room": room,
        "X3D": np.concatenate([pixels - (low + high) / 2.0, depth], axis=-1) / scale,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array.astype(np.float32))
    lines = [
        json.dumps({"timestamp": index / FPS, "pose_2d": np.round(pose, 1).tolist()}, separators=(",", ":"))
        for index, pose in enumerate(pixels)
    ]
    (folder / "frames.jsonl").write_text("\n".join(lines) + "\n")


def write_data_sets(folder: Path) -> None:
    """A folder of motion, and MPI-INF-3DHP's test set in the form that lifters use."""
    motion = folder / "motion"
    motion.mkdir(exist_ok=True)
    people = {
        name: {"Walking 1": synthetic_motion(seed, "Walking", 40)} for seed, name in enumerate(("S1", "S5", "S9"))
    }
    np.savez_compressed(motion / "data_3d_walk.npz", positions_3d=people)
    split = {"train": ["S1", "S5"], "test": ["S9"]}
    (motion / "clips.json").write_text(json.dumps({"fps": 50, "split": split}, indent=2) + "\n")
    sequences = {}
    for number, (name, size) in enumerate({"TS1": (2048, 2048), "TS5": (1920, 1080)}.items()):
        pixels, points = recording(size, number)
        arrays = {"data_2d": pixels, "data_3d": 1000.0 * points}
        sequences[name] = {key: from_h36m17(value, MPI_INF_3DHP).astype(np.float32) for key, value in arrays.items()}
        sequences[name]["valid"] = np.ones(FRAMES, np.float32)
    np.savez_compressed(folder / "data_test_3dhp.npz", data=sequences)


def build_parser() -> argparse.ArgumentParser:
    """The options of the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("samples"), help="folder to write (default: samples)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; returns its exit code."""
    folder = build_parser().parse_args(argv).output
    folder.mkdir(parents=True, exist_ok=True)
    pixels, points = recording()
    write_detections(folder, pixels)
    write_3d(folder, pixels, points)
    write_data_sets(folder)
    files = [file for file in folder.rglob("*") if file.is_file()]
    print(f"wrote {len(files)} files, {sum(file.stat().st_size for file in files) // 1024} KB, into {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
