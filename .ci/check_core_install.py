"""Checks an installation without extras. check-core-install runs it in an environment with core dependencies only."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

import refiner
from refiner import Refiner, RefinerError, native
from refiner.evaluation import p_mpjpe

COMMANDS = tuple(f"refiner-{name}" for name in ("train", "refine", "evaluate", "convert", "export", "bench", "demo"))
PACKAGED = (
    "py.typed",
    "data/human36m_cameras.json",
    "configs/refiner-small.toml",
    "evaluation/papers/d3prefiner_per_action.csv",
    "native.py",
)


def main(checkout: Path) -> None:
    installed = Path(refiner.__file__).parent
    if checkout in installed.parents and ".venv" not in installed.parts:
        sys.exit(f"refiner was imported from the checkout: {installed}")
    for name in ("torch", "onnx", "onnxruntime", "matplotlib"):
        if importlib.util.find_spec(name) is not None:
            sys.exit(f"{name} is installed: this environment does not show what the core alone does")
    for name in PACKAGED:
        if not (installed / name).is_file():
            sys.exit(f"the wheel lacks refiner/{name}")

    rng = np.random.default_rng(7)
    target = rng.normal(size=(64, 17, 3))
    errors = native.p_mpjpe(target + rng.normal(scale=0.03, size=target.shape), target)
    if errors.shape != (64,) or not np.all((errors > 0.01) & (errors < 0.1)):
        sys.exit(f"native.p_mpjpe gave {errors}")
    moved = 1.3 * target[:, :, [1, 2, 0]] + 0.5  # a rotation, a scale and a shift
    if p_mpjpe(moved, target).max() > 1e-6:
        sys.exit("p_mpjpe does not undo a similarity transform")

    if Refiner.load().metadata["engine"] != "native":
        sys.exit("Refiner.load() did not take the native engine")
    try:
        Refiner.load(engine="onnx")
    except RefinerError as error:
        if "pose-refiner[" not in str(error):
            sys.exit(f"an engine that is missing does not name the extra: {error}")
        print(f"an engine that is missing: {error}")
    else:
        sys.exit("engine='onnx' worked without ONNX Runtime")

    for command in COMMANDS:
        subprocess.run([Path(sys.executable).parent / command, "--help"], check=True, stdout=subprocess.DEVNULL)
    print(f"core installation works: refiner {refiner.__version__} in {installed}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
