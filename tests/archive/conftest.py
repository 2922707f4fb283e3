"""Small archives, and what the tests of archives share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from refiner.archive.job import Job
from refiner.archive.models import model_file
from refiner.archive.sequences import Stated
from refiner.camera import human36m_cameras
from refiner.data.synthetic import synthetic_motion

VIEW = human36m_cameras()[0]


class Archives:
    """Makes archives below a folder, and jobs for them."""

    size = VIEW.image_size
    focal = VIEW.focal_length

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clip(self, seed, frames=50):
        """Pixels ``(F, 17, 2)`` and poses ``(F, 17, 3)`` in camera metres, both with errors."""
        rng = np.random.default_rng(seed)
        poses = VIEW.to_camera(synthetic_motion(seed, "Walking", max(frames, 2)))[:frames]
        pixels = VIEW.project(poses) + rng.normal(0, 2, (frames, 17, 2))
        return pixels, poses + rng.normal(0, 0.02, poses.shape)

    def write(self, file, seed, frames=50, **changes):
        """An .npz of one sequence; a change of None leaves an entry out."""
        pixels, poses = self.clip(seed, frames)
        arrays = {
            "pose_2d": pixels,
            "pose_3d": poses,
            "fps": 50.0,
            "joints": "h36m17",
            "image_size": self.size,
            "focal_length": self.focal,
            **changes,
        }
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
        return path

    def many(self, count, frames=50, name="in"):
        """A folder of sequences ``clip00``, ``clip01`` and so on."""
        for seed in range(count):
            self.write(f"{name}/clip{seed:02d}.npz", seed, frames + seed % 3)
        return self.folder / name

    @staticmethod
    def stated(**values):
        return Stated(**values)

    def job(self, archive, output="out", **options):
        given = {"refiner": model_file("window", "refiner"), "lifter": model_file("live-lifter", "lifter"), **options}
        return Job(str(archive), str(self.folder / output), **given)


@pytest.fixture
def archives(tmp_path):
    return Archives(tmp_path)


@pytest.fixture
def tree():
    """The content of a folder: the bytes of each file by its path below the folder."""

    def read(folder):
        folder = Path(folder)
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    return read
