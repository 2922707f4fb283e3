"""Read files of an estimator's predictions with the ground truth, to train a refiner for any estimator.

The file is an ``.npz`` with one row per frame, clip after clip:

    pose_2d      (F, 17, 2)  the 2D input of the estimator, pixels
    pose_3d      (F, 17, 3)  its prediction, metres, camera axes; the root may be anywhere
    target_3d    (F, 17, 3)  the ground truth, in the same form
    clip         (F,)        a number or name, the same for all frames of a clip
    person       (F,)        a number or name; at least two people, one of whom is used for validation
    image_size   (2,) or (F, 2)  width and height in pixels
    fps          a number

The predictions should be for people whom the estimator was not trained on. Its errors on its own training people are
smaller than its errors in use.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.camera import normalise_screen
from refiner.data.inputs import check_image_size, check_pose_2d, check_pose_3d
from refiner.data.pairs import MistakeCount
from refiner.data.safe_npz import load_npz
from refiner.data.windows import window_span
from refiner.errors import ArchiveError, ConfigError, InputError
from refiner.skeleton import flip_pose, joint_set
from refiner.training.windows import Windows

FIELDS = ("pose_2d", "pose_3d", "target_3d", "clip", "person", "image_size", "fps")


@dataclass(frozen=True, eq=False)
class PredictedClip:
    """One clip of a file of predictions.

    Attributes:
        person: the person's name.
        pose_2d: 2D poses in image coordinates, ``(F, 17, 2)``.
        lifted: the predictions, ``(F, 17, 3)`` metres, root at 0.
        truth: the ground truth, ``(F, 17, 3)`` metres, root at 0.
        name: the clip's name in the file.
        pixels: the 2D poses as the file has them, ``(F, 17, 2)``.
        image_size: (width, height) in pixels.
    """

    person: str
    pose_2d: NDArray[np.float32]
    lifted: NDArray[np.float32]
    truth: NDArray[np.float32]
    name: str
    pixels: NDArray[np.float32]
    image_size: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Predictions:
    """The content of a file of predictions; ``fps`` is the frame rate of every clip."""

    name: str
    fps: float
    clips: tuple[PredictedClip, ...]

    @property
    def people(self) -> list[str]:
        """The names of all people, sorted."""
        return sorted({clip.person for clip in self.clips})

    def of(self, people: list[str]) -> list[PredictedClip]:
        """The clips of these people."""
        return [clip for clip in self.clips if clip.person in people]


def load_predictions(path: str | os.PathLike[str]) -> Predictions:
    """Read and check a file of predictions.

    Raises:
        ArchiveError: a field is missing, or the lengths of the fields differ.
        InputError: `refiner.data.inputs` finds impossible poses (swapped arguments, millimetres, NaN and so on); the
            message names the clip. Also where the predictions have other axes or another joint order than the truth.

    Warns:
        InputWarning: the predictions have another scale than the truth, or are early or late.
    """
    file = Path(path)
    arrays = load_npz(file)
    missing = [name for name in FIELDS if name not in arrays]
    if missing:
        raise ArchiveError(f"{file} lacks {', '.join(missing)}; expected {', '.join(FIELDS)}")
    frames = len(np.atleast_1d(arrays["pose_2d"]))
    for name in FIELDS[:5]:
        if np.ndim(arrays[name]) < 1 or len(arrays[name]) != frames:
            raise ArchiveError(f"{file}: {name} has shape {np.shape(arrays[name])}, expected {frames} rows as pose_2d")
    sizes = np.broadcast_to(np.asarray(arrays["image_size"], dtype=np.float64), (frames, 2))
    names, people = (np.asarray(arrays[name]).astype(str) for name in ("clip", "person"))
    joints = joint_set("h36m17")
    clips = []
    mistakes = MistakeCount()
    starts = np.flatnonzero(np.append(True, (names[1:] != names[:-1]) | (people[1:] != people[:-1])))
    for first, last in zip(starts, np.append(starts[1:], frames), strict=True):
        rows = slice(int(first), int(last))
        try:
            size = check_image_size(sizes[first])
            pose_2d = check_pose_2d(arrays["pose_2d"][rows], size, joints)
            lifted, truth = (check_pose_3d(arrays[name][rows], joints) for name in ("pose_3d", "target_3d"))
            mistakes.add(lifted, truth, f"clip {names[first]}")
        except InputError as error:
            raise type(error)(f"{file}, clip {names[first]} of {people[first]}: {error}") from error
        clips.append(
            PredictedClip(
                str(people[first]),
                normalise_screen(pose_2d, size).astype(np.float32),
                (lifted - lifted[:, :1]).astype(np.float32),
                (truth - truth[:, :1]).astype(np.float32),
                str(names[first]),
                pose_2d,
                size,
            )
        )
    try:
        mistakes.conclude()
    except InputError as error:
        raise type(error)(f"{file}: {error}") from error
    fps = float(np.asarray(arrays["fps"]))
    if not 1.0 <= fps <= 1000.0:
        raise ArchiveError(f"{file}: fps is {fps:g}, expected frames per second from 1 to 1000")
    return Predictions(file.name, fps, tuple(clips))


class PredictionSampler:
    """Draws batches of windows of the given people; every person counts alike.

    A batch depends only on the seed and the step.

    Args:
        predictions: the content of the file.
        people: the training people.
        frames: T.
        batch: windows of a batch.
        seed: of the draws.
        flip: share of the windows that are mirrored.
        stride: a window takes every ``stride``-th frame of a clip.

    Raises:
        ConfigError: no clip of these people is as long as a window.
    """

    def __init__(
        self,
        predictions: Predictions,
        people: list[str],
        frames: int,
        batch: int,
        seed: int,
        flip: float,
        stride: int = 1,
    ) -> None:
        self.size, self.seed, self.flip, self.stride = batch, seed, flip, stride
        self.span = span = window_span(frames, stride)
        self._clips = [clip for clip in predictions.of(people) if len(clip.pose_2d) >= span]
        if not self._clips:
            raise ConfigError(f"no clip of {', '.join(people) or 'anybody'} has {span} frames")
        share = np.array([len(clip.pose_2d) - span + 1.0 for clip in self._clips])
        owners = np.array([clip.person for clip in self._clips])
        for person in set(owners):
            share[owners == person] /= share[owners == person].sum()
        self._share = share / share.sum()

    def batch(self, step: int) -> Windows:
        """The windows of one training step, with the estimator's poses."""
        rng = np.random.default_rng([self.seed, step])
        chosen = [self._clips[index] for index in rng.choice(len(self._clips), size=self.size, p=self._share)]
        starts = [int(rng.integers(len(clip.pose_2d) - self.span + 1)) for clip in chosen]
        mirrored = rng.random(self.size) < self.flip

        def cut(field: str) -> NDArray[np.float32]:
            pairs = zip(chosen, starts, strict=True)
            rows = [(clip, slice(start, start + self.span, self.stride)) for clip, start in pairs]
            windows = np.stack([getattr(clip, field)[chosen_rows] for clip, chosen_rows in rows])
            windows[mirrored] = flip_pose(windows[mirrored])
            return windows

        subjects = np.array([clip.person for clip in chosen])
        return Windows(cut("pose_2d"), cut("truth"), subjects, cut("lifted"))
