"""Built-in motion: procedural people with human proportions and joint limits, moving without any download.

It is synthetic, made by rules and seeds, and reads nothing: good for tests, for a demonstration and as an
addition to real training data; not a measure of how well a model does on people.
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
