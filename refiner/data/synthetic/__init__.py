"""Built-in synthetic motion of procedural people with human proportions and joint limits. It needs no download.

Rules and seeds produce the motion. It is useful for tests, for demonstrations and as an addition to real training data.
Errors on it do not measure the accuracy of a model on real people.
"""

from __future__ import annotations

from refiner.data.synthetic.archive import (
    SYNTHETIC_ACTIONS,
    synthetic_archive,
    synthetic_description,
    synthetic_folder,
    synthetic_motion,
)
from refiner.data.synthetic.body import JOINT_LIMITS_DEG, Body

__all__ = [
    "JOINT_LIMITS_DEG",
    "SYNTHETIC_ACTIONS",
    "Body",
    "synthetic_archive",
    "synthetic_description",
    "synthetic_folder",
    "synthetic_motion",
]
