"""Files that are damaged at random places become errors of their sequences, and never end a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from refiner.archive.listing import list_archive
from refiner.archive.readers import identity_of, read

SAMPLES = Path(__file__).parent.parent.parent / "examples" / "samples"


def damaged(content, rng):
    """Bytes with some changed, or cut."""
    changed = np.frombuffer(content, np.uint8).copy()
    if rng.random() < 0.3:
        return changed[: rng.integers(4, len(changed))].tobytes()
    # Most of the structure lies at the beginning and at the end.
    places = rng.choice([rng.integers(0, min(400, len(changed))), rng.integers(len(changed)), -rng.integers(1, 400)], 4)
    changed[places] = rng.integers(0, 256, 4)
    return changed.tobytes()


def check(archives, folder, file, seeds):
    content = file.read_bytes()
    failed = 0
    job = archives.job(folder, stated=archives.stated(fps=50.0, image_size=archives.size))
    for seed in range(seeds):
        file.write_bytes(damaged(content, np.random.default_rng(seed)))
        for ref in list_archive(job):
            identity_of(job, ref)
            found = read(job, ref)
            assert bool(found.error) is not bool(found.sequences)
            failed += bool(found.error)
    assert failed > seeds // 4


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_npz(archives):
    file = archives.write("in/clip.npz", 1, frames=20)
    check(archives, file.parent, file, 150)


@pytest.mark.parametrize("name", ["coco.json", "data_2d_custom_walk.npz"])
def test_files_of_detectors(archives, name):
    folder = archives.folder / "in"
    folder.mkdir()
    check(archives, folder, Path(shutil.copy(SAMPLES / name, folder)), 40)


def test_parquet(archives):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra parquet)")
    import pyarrow

    file = archives.folder / "in" / "clips.parquet"
    file.parent.mkdir()
    pixels, _ = archives.clip(1, 20)
    rows = {"sequence": ["a"] * 20, "frame": list(range(20)), "pose_2d": pixels.reshape(20, -1).tolist()}
    parquet.write_table(pyarrow.table({**rows, "joints": ["h36m17"] * 20}), file)
    check(archives, file.parent, file, 100)
