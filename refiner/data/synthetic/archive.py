"""Synthetic motion as an array, as an archive and as a motion folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from refiner.camera import human36m_cameras
from refiner.data.clips import MotionFolder
from refiner.data.description import ArchiveDescription
from refiner.data.detector import DetectorModel
from refiner.data.resample import frame_times
from refiner.data.synthetic.actions import ACTIONS
from refiner.data.synthetic.body import Body, turn_z
from refiner.data.synthetic.scene import Scene
from refiner.errors import EmptySequenceError, UsageError

SYNTHETIC_ACTIONS = tuple(ACTIONS)
_FPS = 50.0


def synthetic_motion(
    seed: int, action: str, frames: int, fps: float = _FPS, *, body: Body | None = None
) -> NDArray[np.float32]:
    """Generate one motion of a synthetic person.

    The person stays within 1.5 m of the middle of the room, where Human3.6M's four cameras see the whole body. The same
    seed gives the same numbers. Another number of frames gives a longer or shorter part of the same motion, and another
    frame rate samples the same motion at other times.

    Args:
        seed: The seed of the motion, 0 or above.
        action: One of `SYNTHETIC_ACTIONS`.
        frames: The number of frames; frame i is at time ``i / fps``.
        fps: The frame rate, frames/s.
        body: The body of the person. None: ``Body.from_seed(seed)``.

    Returns:
        ``(frames, 17, 3)`` float32 in world metres and Human3.6M's 17 joints; z is up, and the floor is at z = 0.

    Raises:
        UsageError: The action is unknown, the seed is negative or the frame rate is not positive.
        EmptySequenceError: ``frames`` is below 1.
    """
    if action not in ACTIONS:
        raise UsageError(f"there is no synthetic action {action!r}; choose among {', '.join(ACTIONS)}")
    if frames < 1:
        raise EmptySequenceError(f"{frames} frames of synthetic motion were asked for; expected at least one")
    _check_seed(seed)
    rng = np.random.default_rng([seed, 1 + SYNTHETIC_ACTIONS.index(action)])
    turn = turn_z(rng.uniform(0.0, 2.0 * np.pi))
    offset = np.append(rng.uniform(-0.12, 0.12, 2), 0.0)
    scene = Scene(body or Body.from_seed(seed), frame_times(frames, fps), rng)
    return np.asarray(ACTIONS[action](scene) @ turn.T + offset, np.float32)


def synthetic_archive(
    seed: int,
    subjects: int | Sequence[str] = 6,
    frames: int = 300,
    actions: Sequence[str] = SYNTHETIC_ACTIONS,
    clips: int = 1,
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Generate an archive of synthetic people in the layout of `load_positions_3d`.

    The motion of a person depends only on the seed and on the index of the person.

    Args:
        seed: The seed of the archive, 0 or above.
        subjects: The number of subjects (``SYN1``, ``SYN2``, ...) or their names. Each subject has one body.
        frames: The number of frames of a clip, at 50 frames/s.
        actions: The actions of every subject.
        clips: The number of clips of every action (``Walking``, ``Walking 1``, ...).

    Returns:
        Subject -> clip key -> ``(frames, 17, 3)`` float32 in world metres.

    Raises:
        UsageError: There is no subject or no clip; see also `synthetic_motion`.
        EmptySequenceError: ``frames`` is below 1.
    """
    names = [f"SYN{index + 1}" for index in range(subjects)] if isinstance(subjects, int) else list(subjects)
    if not names or clips < 1:
        raise UsageError(f"{len(names)} subjects with {clips} clips of each action; expected at least one")
    _check_seed(seed)
    archive: dict[str, dict[str, NDArray[np.float32]]] = {}
    for person, name in enumerate(names):
        body = Body.from_seed([seed, person])
        archive[name] = {
            action if clip == 0 else f"{action} {clip}": synthetic_motion(
                _clip_seed(seed, person, clip), action, frames, body=body
            )
            for action in actions
            for clip in range(clips)
        }
    return archive


def synthetic_description(subjects: Sequence[str] | Mapping[str, object]) -> ArchiveDescription:
    """Split synthetic people into training, validation and test subjects.

    The last third (at least one) are test subjects, the one before them is the validation subject, and the others are
    training subjects. Raises UsageError for fewer than three people.
    """
    names = tuple(subjects)
    if len(names) < 3:
        raise UsageError(
            f"{len(names)} synthetic people cannot be split into training, validation and test; expected at least 3"
        )
    test = max(1, len(names) // 3)
    train, validation = names[: -test - 1], names[-test - 1 : -test]
    return ArchiveDescription("synthetic motion", _FPS, train, validation, names[-test:])


def synthetic_folder(
    seed: int,
    subjects: int = 6,
    frames: int = 300,
    actions: Sequence[str] = SYNTHETIC_ACTIONS,
    clips: int = 1,
) -> MotionFolder:
    """Generate a `MotionFolder` of synthetic people with Human3.6M's cameras and the default detector model.

    The arguments and errors are the same as for `synthetic_archive`.
    """
    positions = synthetic_archive(seed, subjects, frames, actions, clips)
    return MotionFolder(positions, human36m_cameras(), synthetic_description(positions), DetectorModel.default())


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UsageError(f"the seed is {seed}; expected 0 or above")


def _clip_seed(seed: int, person: int, clip: int) -> int:
    return int(np.random.SeedSequence([seed, person, clip]).generate_state(1, np.uint64)[0])
