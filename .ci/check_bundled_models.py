"""Run by check-core-install: the bundled models run without PyTorch, natively and in ONNX Runtime."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from refiner import Lifter, Refiner, StreamingRefiner

SIZE, FOCAL_LENGTH = (1280, 720), 900.0
BIN = Path(sys.executable).parent


def main(poses: Path, engine: str) -> None:
    absent = ("torch", "safetensors", "onnx") + (("onnxruntime",) if engine == "native" else ())
    for name in absent:
        if importlib.util.find_spec(name) is not None:
            sys.exit(f"{name} is installed: this environment does not show what is needed")
    with np.load(poses) as stored:
        pose_2d = stored["pose_2d"]
    lifted = Lifter.load(engine=engine).lift(pose_2d, SIZE, focal_length=FOCAL_LENGTH)
    refined = Refiner.load(engine=engine).refine(pose_2d, lifted, SIZE, focal_length=FOCAL_LENGTH)
    moved = np.linalg.norm(refined - lifted, axis=-1).mean()
    if not 1e-4 < moved < 0.1:
        sys.exit(f"the refiner moved the joints by {moved} m")
    live = StreamingRefiner.load(engine=engine, image_size=SIZE, lifter=True, focal_length=FOCAL_LENGTH)
    frames = [frame for index, row in enumerate(pose_2d) for frame in live.push(row, None, index / 50)]
    if len(frames) != len(pose_2d):
        sys.exit(f"{len(frames)} of {len(pose_2d)} frames came out of the stream")
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        np.save(files / "2d.npy", pose_2d)
        lens = ["--image-size", "1280", "720", "--focal-length", "900"]
        words = ["--pose-2d", str(files / "2d.npy"), "--output", str(files / "refined.npy")]
        subprocess.run([BIN / "refiner-refine", *words, *lens], check=True)
        # The commands take the native engine.
        np.testing.assert_allclose(np.load(files / "refined.npy"), refined, atol=1e-5)
        lines = "\n".join(
            json.dumps({"timestamp": index / 50, "pose_2d": row.tolist()}) for index, row in enumerate(pose_2d)
        )
        told = subprocess.run(
            [BIN / "refiner-stream", *lens, "--lifter", "bundled"],
            input=lines + "\n",
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if len(told.splitlines()) != len(pose_2d):
            sys.exit(f"refiner-stream gave {len(told.splitlines())} lines for {len(pose_2d)} frames")
    print(f"the bundled models run in the engine {engine}, without PyTorch")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
