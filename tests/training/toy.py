"""A small synthetic archive and tiny configurations, for tests and for the processes that tests start."""

from __future__ import annotations

from typing import Any

import numpy as np

from refiner.camera import human36m_cameras
from refiner.data import ArchiveDescription, DetectorModel, MotionFolder
from refiner.training.config import Config, config_from_dict


def toy_people() -> MotionFolder:
    """Three people whose joints swing smoothly about a standing body."""
    rng = np.random.default_rng(0)
    rest = rng.normal(0, 0.3, (17, 3)) + np.array([0, 0, 1.0])
    archive = {}
    for person in ("S1", "S2", "S5"):
        time = np.arange(120)[:, None, None] / 50
        swing = 0.1 * np.sin(2 * np.pi * (rng.uniform(0.3, 1.5, (1, 17, 3)) * time + rng.random((1, 17, 3))))
        archive[person] = {"Walking": (rest + swing).astype(np.float32), "Boxing 1": (rest - swing).astype(np.float32)}
    description = ArchiveDescription("made up", 50.0, ("S1", "S2"), ("S5",), ())
    return MotionFolder(archive, human36m_cameras(), description, DetectorModel.default())


def toy_config(kind: str, **changes: Any) -> Config:
    """A configuration of a kind, of a size that trains in a second."""
    content: dict[str, Any] = {
        "kind": kind,
        "frames": 9,
        "model": {"dim": 16, "blocks": 1, "heads": 4, "mlp_ratio": 2, "joint_embedding": True},
        "training": {"steps": 6, "batch": 4, "validate_every": 3, "threads": 1},
        "noise": {"fit_frames": 400},
    }
    for section, values in changes.items():
        content[section] = {**content.get(section, {}), **values} if isinstance(values, dict) else values
    return config_from_dict(content)
