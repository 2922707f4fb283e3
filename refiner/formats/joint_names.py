"""Whether the names that a file gives to its keypoints are those of a joint set, in their order."""

from __future__ import annotations

import re
from collections.abc import Sequence

from refiner.errors import ArchiveError
from refiner.skeleton import H36M17, JointSet

LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def check_names(names: Sequence[object], joints: JointSet, where: str) -> None:
    """Check the limbs, whose names are much the same in all programs: side and part.

    Names of the face, the trunk and the feet differ from program to program, and are not compared.

    Raises:
        ArchiveError: A limb stands in another place than in the joint set.
    """
    given, expected = ([_limb(str(name), joints) for name in part] for part in (names, joints.joint_names))
    if given[: len(expected)] != expected or any(given[len(expected) :]):
        raise ArchiveError(
            f"{where} has the keypoints {', '.join(map(str, names))}; expected those of {joints.name}: "
            f"{', '.join(joints.joint_names)}"
        )


def _limb(name: str, joints: JointSet) -> tuple[str, str] | None:
    """The side and the part of a limb; None for another joint. Human3.6M's feet are the ankles."""
    text = name.lower().replace("-", "_").replace(" ", "_")
    side = next((side for side in ("left", "right") if side in text), None)
    if side is None:
        short = re.match(r"([lr])_?(?=[a-z])", text)
        side = {"l": "left", "r": "right"}[short[1]] if short else None
    part = next((part for part in LIMBS if re.search(rf"{part}(?!s?_?(inner|outer))", text)), None)
    if part is None and joints is H36M17 and text.endswith("foot"):
        part = "ankle"
    return None if side is None or part is None else (side, part)
