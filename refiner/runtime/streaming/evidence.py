"""Whether the 3D of a stream can be that of its 2D, judged by the last frames of a person.

The hypotheses and the verdict are those of recordings (`refiner.data.agreement`). One frame proves little: the fits of
the last `MOST_CHECKS` compared frames are collected, and their medians decide. A mistake that is put right is forgiven
when most of these frames are from after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    finite,
    fits,
    hypotheses_of,
    judge,
    limbs_in_orders,
    parallel_fit,
    plain_fits,
    quick_median,
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
        pixels: ``(17, 2)`` in Human3.6M's joints.
        body: ``(17, 3)`` metres: as it came where its joint set has 17 joints, and otherwise in Human3.6M's.
        seen: ``(17,)``, the joints of Human3.6M that both show.
        raw_pixels: ``(17, 2)``, the pixels as they came, where their joint set has 17 joints.

    Coordinates that are not finite become 0.
    """

    pixels: Array
    body: Array
    seen: Mask
    raw_pixels: Array | None

    def __post_init__(self) -> None:
        # Once for all comparisons of the frame.
        for name in ("pixels", "body", "raw_pixels"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, finite(values))

    def fits(self, hypotheses: Hypotheses, lens: Array) -> Array:
        """The fit of each hypothesis, ``(H,)``."""
        raw = None if self.raw_pixels is None else self.raw_pixels[None]
        return fits(hypotheses, self.pixels[None], self.seen[None], self.body[None], lens, raw)[:, 0]


def refuse_wrong_order_alone(pair: Pair, hypotheses: Hypotheses, lens: Array) -> None:
    """Raises JointOrderError for a frame whose 3D fits its 2D in another joint order, and not at all in the stated one.

    It needs no other frame, so a refused frame leaves no trace.
    """
    if np.count_nonzero(pair.seen) < LEAST_SEEN_ALONE:
        return
    pixels, body = pair.pixels, pair.body
    if parallel_fit(hypotheses, pixels, pair.seen, body, lens) < MISFIT_ALONE:
        return
    if plain_fits(hypotheses, pixels[None], pair.seen[None], body[None], lens)[0] < MISFIT_ALONE:
        return
    found = pair.fits(hypotheses, lens)
    best = int(np.argmin(found))
    mistake = hypotheses.mistakes[best]
    if mistake is not None and mistake.kind == "joint order" and found[best] < min(GOOD_FIT, BETTER_ALONE * found[0]):
        raise JointOrderError(f"pose_3d does not fit pose_2d: {mistake.message}")


class _Last:
    """The last ``length`` arrays of one shape. They lie side by side in memory, since each is written twice."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._rows: NDArray[Any] | None = None
        self.clear()

    def clear(self) -> None:
        self._at, self._count = 0, 0

    def __len__(self) -> int:
        return self._count

    def append(self, array: NDArray[Any]) -> None:
        if self._rows is None:
            self._rows = np.zeros((2 * self._length, *array.shape), array.dtype)
        self._at = (self._at - 1) % self._length
        self._rows[self._at] = self._rows[self._at + self._length] = array
        self._count = min(self._count + 1, self._length)

    def newest_first(self) -> NDArray[Any]:
        """``(count, ...)``, one array or more."""
        assert self._rows is not None
        return self._rows[self._at : self._at + self._count]

    def median(self) -> Array:
        """The medians of all entries."""
        return quick_median(self.newest_first())


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
        self._fits, self._shifted, self._limbs = (_Last(MOST_CHECKS) for _ in range(3))
        self._frames = 0
        self.found: Disagreement | None = None
        self.restart()

    def restart(self) -> None:
        """Earlier frames are no neighbours of the next one."""
        # Pixels, which joints were seen, and bodies of the last frames.
        self._past = tuple(_Last(MOST_SHIFT) for _ in range(3))
        self._shifted.clear()
        self._to_compare: tuple[Array, Mask, Array] | None = None

    @property
    def sure(self) -> bool:
        """Whether enough frames were compared for a verdict."""
        return len(self._fits) >= LEAST_CHECKS

    def take(self, pair: Pair, lens: Array) -> None:
        """Take the next frame."""
        if np.count_nonzero(pair.seen) < LEAST_SEEN:
            return
        body = pair.body
        now = pair.pixels, pair.seen, body - body[:1]
        # Later the work is spread over three frames, so that none waits for all.
        every, turn = not self.sure, self._frames % STEP
        self._frames += 1
        if every or turn == 0:
            self._fits.append(pair.fits(self._hypotheses, lens))
            self._to_compare = self._beside_past(now) if len(self._past[0]) == MOST_SHIFT else None
        if (every or turn == 1) and self._to_compare is not None:
            self._shifted.append(plain_fits(self._hypotheses, *self._to_compare, lens))
            self._to_compare = None
        if every or turn == 2:
            self._limbs.append(np.stack(limbs_in_orders(self._hypotheses, body[None], self._orders)))
            if self.sure:
                self.found = self._verdict()
        for last, part in zip(self._past, now, strict=True):
            last.append(part)

    def _beside_past(self, now: tuple[Array, Mask, Array]) -> tuple[Array, Mask, Array]:
        """This body beside earlier pixels, and earlier bodies beside these pixels: 2 x `MOST_SHIFT` frames."""
        pixels, seen, bodies = (
            np.concatenate([past.newest_first(), np.broadcast_to(part, (MOST_SHIFT, *part.shape))])
            for past, part in zip(self._past, now, strict=True)
        )
        # Bodies the other way round: those of now first.
        bodies = np.concatenate([bodies[MOST_SHIFT:], bodies[:MOST_SHIFT]])
        return pixels, seen, bodies

    def _verdict(self) -> Disagreement | None:
        medians = self._fits.median()
        shift = (0, 1.0)
        if len(self._shifted) >= LEAST_CHECKS:
            shifted = self._shifted.median()
            shifted.reshape(2, MOST_SHIFT)[:, : LEAST_SHIFT - 1] = 1.0
            best = int(np.argmin(shifted))
            frames = best % MOST_SHIFT + 1
            shift = (frames if best < MOST_SHIFT else -frames, float(shifted[best]))
        own, *others = self._limbs.median()
        return judge(self._hypotheses, medians, shift, own, dict(zip(self._orders, others, strict=True)))
