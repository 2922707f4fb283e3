"""Predicted poses beside the true ones: other units, failed frames, and mistakes that the truth gives away.

A prediction in other axes, mirrored or in another joint order comes much closer to the truth after it is put right.
Both arrays are ``(F, J, 3)``; their roots may lie anywhere.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from refiner.data.inputs import LARGEST_BODY_M, SMALLEST_BODY_M, likely_unit
from refiner.errors import InputError, InputWarning, UnitError
from refiner.skeleton import H36M17, flip_pose, to_h36m17

Array = NDArray[np.float64]

# Frames that are compared, spread over the sequence.
MOST_FRAMES = 60
# A mistake is named where its correction comes this close to the truth, metres, and closer by this factor.
CLOSE_M, CLOSER = 0.15, 0.5
# Estimators may be wrong about the size of a person by such factors.
USUAL_SCALE = (0.8, 1.25)
# Frames by which a prediction may be early or late.
MOST_SHIFT = 25
# In a failed frame the body shrinks to this share of its usual size.
FAILED = 0.05
# The share of the sequences that must share a mistake, so that it is the file's and not a sequence's.
MOST_SEQUENCES = 0.5


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a prediction.

    Attributes:
        text: The mistake in words.
        wrong: Whether errors of such a prediction say nothing about the estimator.
    """

    text: str
    wrong: bool


@dataclass(eq=False)
class MistakeCount:
    """The mistakes in the sequences of one file or evaluation."""

    sequences: int = 0
    found: Counter[Mistake] = field(default_factory=Counter)
    first: dict[Mistake, str] = field(default_factory=dict)

    def add(self, prediction: NDArray[np.floating], target: NDArray[np.floating], where: str, root: int = 0) -> None:
        """Check a prediction beside the truth, and note its mistake.

        Args:
            prediction: ``(F, J, 3)`` metres.
            target: ``(F, J, 3)`` metres.
            where: The name of the sequence.
            root: The root joint.

        Raises:
            UnitError: One of them is not in metres.
            InputError: A frame of the prediction has no pose.
        """
        check_metres(prediction, f"{where}: the prediction")
        check_metres(target, f"{where}: the target")
        self.sequences += 1
        mistake = mistake_of(prediction, target, root)
        if mistake is not None:
            self.found[mistake] += 1
            self.first.setdefault(mistake, where)

    def conclude(self) -> None:
        """Refuse or warn, by the mistakes of all sequences.

        Raises:
            InputError: Most of the sequences have the same mistake, and their errors would say nothing.

        Warns:
            InputWarning: Names any other mistake.
        """
        for mistake, number in self.found.most_common():
            share = f"{number} of {self.sequences} sequences, first in {self.first[mistake]}"
            text = f"the predictions do not fit the truth: {mistake.text} ({share})"
            if mistake.wrong and number > MOST_SEQUENCES * self.sequences:
                raise InputError(f"{text}; put them right first")
            warnings.warn(text, InputWarning, stacklevel=3)


def check_metres(poses: NDArray[np.floating], name: str) -> None:
    """Check that ``(F, J, 3)`` poses have the size of bodies in metres, in every frame.

    Raises:
        UnitError: They have another size.
        InputError: A frame has all joints in one place.
    """
    size = np.abs(poses - poses.mean(axis=1, keepdims=True, dtype=np.float64)).max(axis=(1, 2))
    body = float(np.median(size))
    if body > LARGEST_BODY_M:
        raise UnitError(
            f"{name} has joints {body:,.0f} from the middle of the body; expected metres, about 1. It looks like "
            f"{likely_unit(body)}"
        )
    if body >= SMALLEST_BODY_M and size.min() < FAILED * body:
        raise InputError(
            f"{name} has all joints in one place in frame {int(size.argmin())}, which is no pose; leave such frames "
            "out of both, or fill them"
        )


def mistake_of(prediction: NDArray[np.floating], target: NDArray[np.floating], root: int = 0) -> Mistake | None:
    """The mistake whose correction brings a prediction much closer to the truth; None where there is none."""
    rows = np.unique(np.linspace(0, len(target) - 1, MOST_FRAMES).astype(int))
    given, truth = prediction.astype(np.float64), target.astype(np.float64)
    given, truth = given - given[:, root : root + 1], truth - truth[:, root : root + 1]
    own = _apart(given[rows], truth[rows])
    corrected = _corrections(given[rows], truth[rows], root)
    best = min(corrected, key=lambda mistake: corrected[mistake])
    if corrected[best] < min(CLOSE_M, CLOSER * own):
        return best
    shift, apart = _best_shift(given, truth)
    if apart < min(CLOSE_M, CLOSER * own):
        return Mistake(f"they are {abs(shift)} frames too {'late' if shift > 0 else 'early'}", False)
    return None


def _corrections(given: Array, truth: Array, root: int) -> dict[Mistake, float]:
    """How far each correction of the prediction is from the truth, metres."""
    results = {}
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        if (order, signs) == ((0, 1, 2), (1.0, 1.0, 1.0)):
            continue
        axes = ", ".join(f"{'-' if sign < 0 else ''}{'xyz'[axis]}" for axis, sign in zip(order, signs, strict=True))
        mistake = Mistake(f"their axes are others than the truth's; ({axes}) of the predictions fit", True)
        results[mistake] = _apart(given[..., list(order)] * signs, truth)
    scale = float((given * truth).sum() / max(float((given**2).sum()), 1e-12))
    if not USUAL_SCALE[0] < scale < USUAL_SCALE[1]:
        size = "small" if scale > 1 else "large"
        results[Mistake(f"they are too {size} for metres: times about {scale:.1g} they fit", False)] = _apart(
            given * scale, truth
        )
    if given.shape[1] == H36M17.joints and root == 0:
        mirrored = Mistake("they are mirrored, with left and right exchanged", True)
        results[mirrored] = _apart(flip_pose(given), truth)
        for name, title in (("3dhp", "MPI-INF-3DHP"), ("coco17", "COCO")):
            ordered = to_h36m17(given, name)
            mistake = Mistake(f"their joints are in the order of {title}", True)
            results[mistake] = _apart(ordered - ordered[:, :1], truth)
    return results


def _best_shift(given: Array, truth: Array) -> tuple[int, float]:
    """The number of frames by which a prediction is late, and how far it is from the truth without them."""
    best = (0, float("inf"))
    for shift in range(-MOST_SHIFT, MOST_SHIFT + 1):
        frames = len(truth) - abs(shift)
        if shift == 0 or frames < 2 * MOST_SHIFT:
            continue
        rows = np.unique(np.linspace(0, frames - 1, MOST_FRAMES).astype(int)) + max(-shift, 0)
        apart = _apart(given[rows + shift], truth[rows])
        if apart < best[1]:
            best = (shift, apart)
    return best


def _apart(given: Array, truth: Array) -> float:
    return float(np.linalg.norm(given - truth, axis=-1).mean())
