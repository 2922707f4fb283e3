"""Whether the 3D of a stream can be that of its 2D, judged by the last frames of a person.

The hypotheses and the verdict are those of recordings (`refiner.data.agreement`). One frame proves little: the fits of
the last `MOST_CHECKS` compared frames are collected, and their medians decide. A mistake that is put right is forgiven
when most of these frames are from after it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refiner.data.agreement import (
    GOOD_FIT,
    LEAST_SEEN,
    LEAST_SHIFT,
    MOST_SHIFT,
    Disagreement,
    Hypotheses,
    common_orders,
    fits,
    hypotheses_of,
    judge,
    limbs_in_orders,
    plain_fits,
)
from refiner.errors import JointOrderError
from refiner.skeleton import JointSet

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Compared frames that a verdict needs, and that it looks back on.
LEAST_CHECKS, MOST_CHECKS = 8, 30
# After the first `LEAST_CHECKS` frames, one frame in so many is compared.
STEP = 3
# One frame alone is refused where it fits this badly as it is, and in another joint order well, and so much better.
MISFIT_ALONE, BETTER_ALONE, LEAST_SEEN_ALONE = 0.5, 0.35, 12


@dataclass(frozen=True, eq=False)
class Pair:
    """2D and 3D of one frame, for their comparison.

    Attributes:
        pixels: ``(17, 2)`` in Human3.6M's joints, NaN where not seen.
        body: ``(17, 3)`` metres: as it came where its joint set has 17 joints, and otherwise in Human3.6M's; NaN where
            not seen.
        seen: ``(17,)``, the joints of Human3.6M that both show.
        raw_pixels: ``(17, 2)``, the pixels as they came, where their joint set has 17 joints.
    """

    pixels: Array
    body: Array
    seen: Mask
    raw_pixels: Array | None

    def fits(self, hypotheses: Hypotheses, lens: Array) -> Array:
        """The fit of each hypothesis, ``(H,)``."""
        body = np.nan_to_num(self.body)[None]
        raw = None if self.raw_pixels is None else self.raw_pixels[None]
        return fits(hypotheses, np.nan_to_num(self.pixels)[None], self.seen[None], body, lens, raw)[:, 0]


def refuse_wrong_order_alone(pair: Pair, hypotheses: Hypotheses, lens: Array) -> None:
    """Raises JointOrderError for a frame whose 3D fits its 2D in another joint order, and not at all in the stated one.

    It needs no other frame, so a refused frame leaves no trace.
    """
    if np.count_nonzero(pair.seen) < LEAST_SEEN_ALONE:
        return
    pixels, body = np.nan_to_num(pair.pixels)[None], np.nan_to_num(pair.body)[None]
    if plain_fits(hypotheses, pixels, pair.seen[None], body, lens)[0] < MISFIT_ALONE:
        return
    found = pair.fits(hypotheses, lens)
    best = int(np.argmin(found))
    mistake = hypotheses.mistakes[best]
    if mistake is not None and mistake.kind == "joint order" and found[best] < min(GOOD_FIT, BETTER_ALONE * found[0]):
        raise JointOrderError(f"pose_3d does not fit pose_2d: {mistake.message}")


class AgreementWatch:
    """Compares the 2D and 3D of one person as the frames come.

    Args:
        joints_2d: the joint set that the 2D is said to have.
        joints_3d: the joint set that the 3D is said to have.

    Attributes:
        found: the disagreement of the last frames; None where there is none.
    """

    def __init__(self, joints_2d: JointSet, joints_3d: JointSet) -> None:
        self._hypotheses = hypotheses_of(joints_2d, joints_3d)
        self._orders = common_orders(joints_2d, joints_3d)
        self._fits: deque[Array] = deque(maxlen=MOST_CHECKS)
        self._shifted: deque[Array] = deque(maxlen=MOST_CHECKS)
        self._limbs: deque[Array] = deque(maxlen=MOST_CHECKS)
        self._frames = 0
        self.found: Disagreement | None = None
        self.restart()

    def restart(self) -> None:
        """Earlier frames are no neighbours of the next one."""
        self._past: deque[tuple[Array, Mask, Array]] = deque(maxlen=MOST_SHIFT)
        self._shifted.clear()

    @property
    def sure(self) -> bool:
        """Whether enough frames were compared for a verdict."""
        return len(self._fits) >= LEAST_CHECKS

    def take(self, pair: Pair, lens: Array) -> None:
        """Take the next frame."""
        if np.count_nonzero(pair.seen) < LEAST_SEEN:
            return
        body = np.nan_to_num(pair.body)
        now = np.nan_to_num(pair.pixels), pair.seen, body - body[:1]
        due = not self.sure or self._frames % STEP == 0
        self._frames += 1
        if due:
            self._fits.append(pair.fits(self._hypotheses, lens))
            self._limbs.append(np.stack(limbs_in_orders(self._hypotheses, body[None], self._orders)))
            if len(self._past) == MOST_SHIFT:
                self._shifted.append(self._compare_with_past(now, lens))
            if self.sure:
                self.found = self._verdict()
        self._past.append(now)

    def _compare_with_past(self, now: tuple[Array, Mask, Array], lens: Array) -> Array:
        """How well this body fits earlier pixels, and earlier bodies these pixels: 2 x `MOST_SHIFT` numbers."""
        past = list(reversed(self._past))
        pixels = np.stack([entry[0] for entry in past] + [now[0]] * MOST_SHIFT)
        seen = np.stack([entry[1] for entry in past] + [now[1]] * MOST_SHIFT)
        bodies = np.stack([now[2]] * MOST_SHIFT + [entry[2] for entry in past])
        return plain_fits(self._hypotheses, pixels, seen, bodies, lens)

    def _verdict(self) -> Disagreement | None:
        medians = np.median(np.stack(self._fits), axis=0)
        shift = (0, 1.0)
        if len(self._shifted) >= LEAST_CHECKS:
            shifted = np.median(np.stack(self._shifted), axis=0)
            shifted.reshape(2, MOST_SHIFT)[:, : LEAST_SHIFT - 1] = 1.0
            best = int(np.argmin(shifted))
            frames = best % MOST_SHIFT + 1
            shift = (frames if best < MOST_SHIFT else -frames, float(shifted[best]))
        own, *others = np.median(np.stack(self._limbs), axis=0)
        return judge(self._hypotheses, medians, shift, own, dict(zip(self._orders, others, strict=True)))
