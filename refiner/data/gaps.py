"""Frames of a recording that show nobody: short gaps are bridged, long ones have no pose."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.arrays import as_array
from refiner.errors import EmptySequenceError

# A frame with fewer detected joints of Human3.6M does not determine a pose, offline and in a stream.
LEAST_JOINTS = 6
# A person may be out of sight for this long, and the poses in between are guessed. After a longer gap a recording has a
# new part, and a stream begins anew; the frames of the gap have no pose.
LONGEST_GAP_S = 0.5


def shows_person(seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether ``(..., 17)`` seen joints are enough for a pose: ``(...,)``."""
    return np.asarray(np.count_nonzero(seen, axis=-1) >= LEAST_JOINTS)


def parts_between_gaps(sights: NDArray[np.bool_], rate: float) -> tuple[tuple[int, int], ...]:
    """The stretches of frames that have poses.

    Args:
        sights: ``(F,)``, the frames that show the person.
        rate: frames/s.

    Returns:
        (begin, end) of each part. Every part begins and ends with a sight; inside, no gap is longer than
        `LONGEST_GAP_S`.
    """
    shown = np.flatnonzero(sights)
    if not len(shown):
        return ()
    splits = np.flatnonzero(np.diff(shown) > LONGEST_GAP_S * rate + 1) + 1
    return tuple((int(part[0]), int(part[-1]) + 1) for part in np.split(shown, splits))


def fill_absent(pose_3d: ArrayLike) -> tuple[NDArray[np.bool_], ArrayLike]:
    """Find the frames of 3D poses ``(F, J, 3)`` that are NaN as a whole, and give them the poses between others.

    Returns:
        ``(F,)`` the frames that have no pose, and the poses with all frames filled. What is no sequence of poses comes
        back as it is, for the checks of `refiner.data.inputs`.

    Raises:
        EmptySequenceError: no frame has a pose.
    """
    array = as_array(pose_3d, "pose_3d", "expected (frames, joints, 3)")
    if array.ndim != 3 or array.dtype.kind != "f" or not len(array):
        return np.zeros(len(array) if array.ndim else 0, dtype=bool), pose_3d
    absent = np.isnan(array).all(axis=(1, 2))
    if not absent.any():
        return absent, pose_3d
    if absent.all():
        raise EmptySequenceError(f"pose_3d is NaN in all of its {len(array)} frames; expected poses")
    known, frames = np.flatnonzero(~absent), np.arange(len(array))
    filled = array.copy()
    for index in np.ndindex(array.shape[1:]):
        filled[(absent, *index)] = np.interp(frames[absent], known, array[(known, *index)])
    return absent, filled
