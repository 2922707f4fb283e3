"""Synthetic motion as arrays, as an archive and as a motion folder."""

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
    """A person doing ``action`` (one of `SYNTHETIC_ACTIONS`): ``(frames, 17, 3)`` float32 world metres.

    Human3.6M's 17 joints, z up, floor at z = 0, within 1.5 m of the middle of the room, where Human3.6M's
    four cameras see all of it. Frame i is at ``i / fps`` s. The person is that of ``Body.from_seed(seed)``
    unless ``body`` is given; the same seed gives the same numbers, another number of frames the same motion
    for longer or shorter, and another rate the same motion at other times. Raises UsageError for an unknown
    action, a seed below 0 or a rate that is not positive, EmptySequenceError for less than one frame.
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
    """Synthetic people in the layout of `load_positions_3d`: subject -> clip key -> ``(frames, 17, 3)``.

    ``subjects``: how many (``SYN1``, ``SYN2``, ...) or their names; each has one body, ``clips`` clips of
    every action (``Walking``, ``Walking 1``, ...) of ``frames`` frames at 50 frames/s. A person's motion
    depends on the seed and on the person's place alone. Raises as `synthetic_motion`, and UsageError for
    nobody or less than one clip.
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
    """A split of synthetic people: the last third (at least one) for test, the one before them for
    validation, the others for training. Raises UsageError for fewer than three people."""
    names = tuple(subjects)
    if len(names) < 3:
        raise UsageError(
            f"{len(names)} synthetic people cannot be split into training, validation and test; expected at least 3"
        )
    test = max(1, len(names) // 3)
    train, held = names[: -test - 1], names[-test - 1 : -test]
    return ArchiveDescription("synthetic motion", _FPS, train, held, names[-test:])


def synthetic_folder(
    seed: int,
    subjects: int = 6,
    frames: int = 300,
    actions: Sequence[str] = SYNTHETIC_ACTIONS,
    clips: int = 1,
) -> MotionFolder:
    """A `MotionFolder` of synthetic people before Human3.6M's cameras, with the default detector model."""
    positions = synthetic_archive(seed, subjects, frames, actions, clips)
    return MotionFolder(positions, human36m_cameras(), synthetic_description(positions), DetectorModel.default())


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UsageError(f"the seed is {seed}; expected 0 or above")


def _clip_seed(seed: int, person: int, clip: int) -> int:
    return int(np.random.SeedSequence([seed, person, clip]).generate_state(1, np.uint64)[0])
