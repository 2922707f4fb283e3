"""Whether 3D poses can be those of the 2D poses that came with them.

Each frame of the 3D is moved in front of the lens so that it fits the 2D best; what remains, as a share of the size of
the body, is the residual. Poses in other axes, mirrored, in another joint order, or of other frames fit much better
after they are put right; the mistake is then known by its name. A body that fits and has the legs of nobody is not in
metres. Recordings are judged by `disagreement`, streams by the same fits of their last frames
(`refiner.runtime.streaming.evidence`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from refiner.errors import JointOrderError
from refiner.reasons import DisagreementKind
from refiner.skeleton import H36M17, JOINT_SETS, JointSet, to_h36m17

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Frames that are compared, spread over the sequence.
MOST_FRAMES, MOST_FRAMES_SHIFTED = 48, 24
CHUNK, CHUNK_SHIFTED = 6, 192
# Joints that a compared frame must show.
LEAST_SEEN = 8
# Residual of the fit, as a share of the size of the body in the image: below COHERENT the two belong together.
COHERENT = 0.25
# A mistake is named where its correction fits well, and better than the poses as they are by this factor.
GOOD_FIT, BETTER = 0.2, 0.6
# Poses that fit as well as this as they are have no mistake that matters.
NO_MISTAKE = 0.08
# Above this the two have nothing to do with each other. The worst estimators stay below half of it.
UNRELATED = 0.6
# Frames by which 3D may be early or late, and the factor by which the shifted poses must fit better.
MOST_SHIFT, LEAST_SHIFT, BETTER_SHIFTED = 25, 3, 0.7
# Hip to knee to ankle of people of 0.9 to 2.3 m, metres; and of those of 1.25 to 2.15 m, whom the models know.
SHORTEST_LEG_M, LONGEST_LEG_M = 0.45, 1.15
SHORTEST_USUAL_LEG_M, LONGEST_USUAL_LEG_M = 0.62, 1.07
# Left thigh, shin, upper arm and forearm, then the right ones.
LIMBS = ((4, 5), (5, 6), (11, 12), (12, 13), (1, 2), (2, 3), (14, 15), (15, 16))
_LIMB_BEGINNINGS, _LIMB_ENDS = (np.array(ends) for ends in zip(*LIMBS, strict=True))
# Least and largest share of a leg's length that they have.
# The true ones lie from 0.4 to 0.59 and from 0.2 to 0.47; estimators' errors of 5 cm widen that.
PROPORTIONS = np.array([[0.35, 0.35, 0.2, 0.16], [0.65, 0.65, 0.56, 0.5]])
# Most difference of left and right limbs, as a share of their length.
MOST_UNLIKE = 0.5
# Axes of a room, z upwards, are turned by any angle about z.
YAWS = np.deg2rad(np.arange(0, 360, 15))


@dataclass(frozen=True)
class Disagreement:
    """What is wrong with 3D poses beside their 2D poses.

    Attributes:
        kind: the mistake in a word or two; also a reason of a refined frame.
        message: the mistake and its remedy.
    """

    kind: DisagreementKind
    message: str


@dataclass(frozen=True, eq=False)
class _Correction:
    """A mistake that users make, and what undoes it: ``joints @ body @ axes``, for a body ``(17, 3)``."""

    mistake: Disagreement
    axes: Array
    joints: Array


def _axes_of(columns: tuple[int, int, int], signs: tuple[float, float, float]) -> Array:
    return np.eye(3)[:, columns] * signs


def _joints_of(name: str) -> Array:
    """The matrix ``(17, 17)`` that converts 17 joints of another set to those of Human3.6M."""
    basis = np.repeat(np.eye(17)[:, :, None], 3, axis=2)
    return np.ascontiguousarray(to_h36m17(basis, name)[..., 0].T)


def _room(yaw: float) -> Array:
    """From a room's axes to those of a camera that looks along y, after a turn about z."""
    sine, cosine = float(np.sin(yaw)), float(np.cos(yaw))
    turn = np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return np.asarray(turn @ _axes_of((0, 2, 1), (1.0, -1.0, 1.0)))


_UPRIGHT = Disagreement(
    "axes", "the y axis of one of them points upwards; pose_3d has camera axes (x right, y down, z away)"
)
_LEFT = Disagreement("mirrored", "one of them is mirrored, or the x axis of pose_3d points to the left")
_MIRRORED = Disagreement("mirrored", "one of them is mirrored, with left and right exchanged")
_ROOM = Disagreement(
    "axes", "the z axis of pose_3d points upwards, as in a room; expected camera axes (x right, y down, z away)"
)
_TRANSPOSED = Disagreement("rows and columns", "pose_2d has y before x")
_SWAPPED_SIZE = Disagreement("image size", "width and height of image_size are swapped")
_SAME = np.eye(17)
_CORRECTIONS = (
    _Correction(_UPRIGHT, _axes_of((0, 1, 2), (1.0, -1.0, 1.0)), _SAME),
    _Correction(_UPRIGHT, _axes_of((0, 1, 2), (1.0, -1.0, -1.0)), _SAME),
    _Correction(_LEFT, _axes_of((0, 1, 2), (-1.0, 1.0, 1.0)), _SAME),
    _Correction(_MIRRORED, _axes_of((0, 1, 2), (-1.0, 1.0, 1.0)), np.eye(17)[list(H36M17.flip_order)]),
    *(_Correction(_ROOM, _room(float(yaw)), _SAME) for yaw in YAWS),
)
# The joint sets that have 17 joints, as those of Human3.6M have: their order cannot be told from their number.
ORDERS = tuple(name for name, kind in JOINT_SETS.items() if kind.joints == H36M17.joints)
_ORDER_MATRICES = {name: _joints_of(name) for name in ORDERS}
# The number of the first view of the 2D in another order, after those as it is, transposed, and of a turned image.
OTHER_ORDERS = 3
_TITLES = {"h36m17": "Human3.6M", "coco17": "COCO", "3dhp": "MPI-INF-3DHP"}


def _wrong_order(what: str, option: str, name: str) -> Disagreement:
    return Disagreement(
        "joint order", f'the joints of {what} are in the order of {_TITLES[name]}: pass {option}="{name}"'
    )


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """What may be wrong with poses of these joint sets, as matrices that are applied to all frames at once.

    The first hypothesis is that nothing is wrong. Make it with `hypotheses_of`.

    Attributes:
        mistakes: for each hypothesis what it says; None for the first.
        axes: ``(H, 3, 3)``, applied to the coordinates of the body.
        joints: ``(H, 17, 17)``, applied to the joints of the body.
        seen_as: for each hypothesis which of the `sights` it is compared with.
        order: the joint set of the 2D in the other sights, where it has 17 joints.
    """

    mistakes: tuple[Disagreement | None, ...]
    axes: Array
    joints: Array
    seen_as: NDArray[np.int_]
    order: tuple[str, ...]


@cache
def hypotheses_of(joints_2d: JointSet, joints_3d: JointSet) -> Hypotheses:
    """The hypotheses for poses that are said to have these joint sets.

    They are applied to bodies as they came, with the joints of ``joints_3d``, if these are 17, and otherwise to bodies
    in Human3.6M's joints.
    """
    stated = _ORDER_MATRICES.get(joints_3d.name, _SAME)
    rows: list[tuple[Disagreement | None, Array, Array, int]] = [(None, np.eye(3), stated, 0)]
    rows += [(entry.mistake, entry.axes, entry.joints @ stated, 0) for entry in _CORRECTIONS]
    rows += [(_TRANSPOSED, np.eye(3), stated, 1), (_SWAPPED_SIZE, np.eye(3), stated, 2)]
    if joints_3d.name in ORDERS:
        for name in ORDERS:
            if name != joints_3d.name:
                rows.append((_wrong_order("pose_3d", "joints_3d", name), np.eye(3), _ORDER_MATRICES[name], 0))
    others = tuple(name for name in ORDERS if name != joints_2d.name) if joints_2d.name in ORDERS else ()
    for index, name in enumerate(others):
        rows.append((_wrong_order("pose_2d", "joints", name), np.eye(3), stated, OTHER_ORDERS + index))
    mistakes, axes, joints, seen_as = zip(*rows, strict=True)
    return Hypotheses(mistakes, np.stack(axes), np.stack(joints), np.array(seen_as), others)


def fits(
    hypotheses: Hypotheses, pixels: Array, seen: Mask, body: Array, lens: Array, raw_pixels: Array | None
) -> Array:
    """How well the poses fit under each hypothesis, frame by frame.

    Args:
        hypotheses: see `hypotheses_of`.
        pixels: ``(F, 17, 2)`` pixels in Human3.6M's joints; any finite number where a joint was not seen.
        seen: ``(F, 17)``, at least two joints a frame.
        body: ``(F, 17, 3)``, see `hypotheses_of`.
        lens: ``(3,)`` width, height and focal length in pixels.
        raw_pixels: ``(F, 17, 2)``, the pixels as they came, where their joint set has 17 joints.

    Returns:
        ``(H, F)``: what remains after the best fit, as a share of the size of the body; the lower of a fit that knows
        the lens and one of parallel rays, because some estimators place the body as if it were in the middle.
    """
    sights = [(pixels, lens), (pixels[..., ::-1], lens), (pixels, lens[[1, 0, 2]])]
    if raw_pixels is not None:
        sights += [(to_h36m17(raw_pixels, name), lens) for name in hypotheses.order]
    sights = sights[: int(hypotheses.seen_as.max()) + 1]  # those that a hypothesis needs
    sizes = np.stack([size for _, size in sights])[:, None, None]
    rays = (finite(np.stack([points for points, _ in sights])) - 0.5 * sizes[..., :2]) / sizes[..., 2:]
    turns = _turns(rays, seen)
    bodies = _corrected(hypotheses, body)
    known = hypotheses.seen_as < len(sights)
    seen_as = np.where(known, hypotheses.seen_as, 0)
    turned = bodies @ turns[seen_as]
    centred_rays = _turned_rays(rays, turns)[seen_as]
    # Once in perspective, and once with parallel rays.
    both = np.stack([centred_rays, rays[seen_as]])
    flat = np.stack([turned[..., :2] - centred_rays * turned[..., 2:], bodies[..., :2]])
    found = _residuals(both, seen, flat).min(axis=0)
    return np.asarray(np.where(known[:, None], found, 1.0))


def finite(values: Array) -> Array:
    """The values, with 0 where one is not finite; several times as fast as `numpy.nan_to_num` for one frame."""
    return np.where(np.isfinite(values), values, 0.0)


def _corrected(hypotheses: Hypotheses, body: Array) -> Array:
    """The body under each hypothesis: ``(F, 17, 3)`` -> ``(H, F, 17, 3)``."""
    count, frames = len(hypotheses.joints), len(body)
    # One product of matrices for all frames; NumPy is slow with many small ones.
    flat = hypotheses.joints.reshape(-1, 17) @ body.transpose(1, 0, 2).reshape(17, -1)
    turned = flat.reshape(count, 17 * frames, 3) @ hypotheses.axes
    return turned.reshape(count, 17, frames, 3).transpose(0, 2, 1, 3)


def _turns(rays: Array, seen: Mask) -> Array:
    """The matrices ``(S, F, 3, 3)`` that turn the view so that the middle of the body is straight ahead.

    They are applied from the right: ``body @ turn``.
    """
    weight = seen / np.count_nonzero(seen, axis=-1)[..., None]
    middle = (weight[..., None, :] @ rays)[..., 0, :]  # [S, F, 2]
    x, y = middle[..., 0], middle[..., 1]
    z = 1.0 / np.sqrt(1.0 + x * x + y * y)
    x, y = x * z, y * z
    # The columns: right, (z, 0, -x) of length 1; down, the cross product of ahead and right; ahead, (x, y, z).
    across = 1.0 / np.sqrt(x * x + z * z)
    turns = np.empty((*middle.shape[:-1], 3, 3))
    turns[..., 0, 0], turns[..., 1, 0], turns[..., 2, 0] = z * across, 0.0, -x * across
    turns[..., 0, 1], turns[..., 1, 1], turns[..., 2, 1] = -x * y * across, 1.0 / across, -y * z * across
    turns[..., 0, 2], turns[..., 1, 2], turns[..., 2, 2] = x, y, z
    return turns


def _turned_rays(rays: Array, turns: Array) -> Array:
    directions = np.concatenate([rays, np.ones((*rays.shape[:-1], 1))], axis=-1) @ turns
    # Rays far from the others, such as those of joints that were not seen, may point backwards.
    return np.asarray(directions[..., :2] / np.maximum(directions[..., 2:], 0.05))


def _residuals(rays: Array, seen: Mask, flat: Array) -> Array:
    """What remains of ``flat`` after the best distance and shift, as a share of its size: ``(..., 17, 2)`` twice."""
    weight = seen.astype(np.float64)
    share = (weight / np.count_nonzero(seen, axis=-1)[..., None])[..., None, :]
    # NumPy is slow with sums over short axes, and fast with products of matrices.
    rays, flat = ((values - share @ values) * weight[..., None] for values in (rays, flat))
    spread = np.maximum(_products(rays, rays), 1e-18)
    # A negative distance would turn the body upside down.
    distance = np.maximum(_products(rays, flat) / spread, 0.0)
    rest = flat - distance[..., None, None] * rays
    return np.asarray(np.sqrt(_products(rest, rest) / np.maximum(_products(flat, flat), 1e-18)))


def _products(first: Array, second: Array) -> Array:
    """The sums of the products of two arrays ``(..., 17, 2)`` over the joints and coordinates, ``(...)``."""
    return np.asarray(np.einsum("...jc,...jc->...", first, second))


def parallel_fit(hypotheses: Hypotheses, pixels: Array, seen: Mask, body: Array, lens: Array) -> float:
    """How well the poses of one frame fit as they are, with parallel rays alone: `plain_fits` is never more.

    Much faster than `plain_fits`; the arguments are those of `fits`, without their first axis.
    """
    flat = hypotheses.joints[0] @ (body @ hypotheses.axes[0])[:, :2]
    return float(_residuals((pixels - 0.5 * lens[:2]) / lens[2], seen, flat))


def plain_fits(hypotheses: Hypotheses, pixels: Array, seen: Mask, body: Array, lens: Array) -> Array:
    """How well the poses fit as they are, ``(F,)``; the arguments are those of `fits`."""
    plain = Hypotheses((None,), hypotheses.axes[:1], hypotheses.joints[:1], hypotheses.seen_as[:1], ())
    return np.asarray(fits(plain, pixels, seen, body, lens, None)[0])


def judge(
    hypotheses: Hypotheses, medians: Array, shift: tuple[int, float], limbs: Array, orders: dict[str, Array]
) -> Disagreement | None:
    """Say what is wrong, from the fits of many frames.

    Args:
        hypotheses: see `hypotheses_of`.
        medians: ``(H,)``, medians of `fits` over the frames.
        shift: the number of frames by which 3D is later than 2D in the best fit of other frames, and that fit.
        limbs: ``(8,)`` median lengths of `LIMBS`, metres.
        orders: the same for the joint orders that both may have, by their name.
    """
    own = float(medians[0])
    leg = leg_length(limbs)
    # Two wrong orders may fit each other; the bones decide whose is wrong.
    possible = medians if leg is not None else np.where(hypotheses.seen_as >= OTHER_ORDERS, 1.0, medians)
    best = int(np.argmin(possible))
    mistake = hypotheses.mistakes[best]
    if mistake is not None and own >= NO_MISTAKE and possible[best] < min(GOOD_FIT, BETTER * own):
        return Disagreement(mistake.kind, f"pose_3d does not fit pose_2d: {mistake.message}")
    frames, fit = shift
    if own >= NO_MISTAKE and fit < min(GOOD_FIT, BETTER_SHIFTED * own):
        where = "behind" if frames > 0 else "ahead of"
        return Disagreement("frames shifted", f"pose_3d does not fit pose_2d: it is {abs(frames)} frames {where} it")
    if own > UNRELATED:
        return Disagreement(
            "no fit",
            f"pose_3d does not fit pose_2d: after the best fit, {100 * own:.0f} % of the size of the body remain",
        )
    if own >= COHERENT:
        return None
    if leg is None:
        for name, lengths in orders.items():
            if leg_length(lengths) is not None:
                return Disagreement(
                    "joint order",
                    f"the bones of pose_3d are those of a person only in the order of {_TITLES[name]}: pass "
                    f'joints="{name}"',
                )
        return None
    if not SHORTEST_LEG_M < leg < LONGEST_LEG_M:
        return Disagreement(
            "scale", f"pose_3d has legs of {leg:.2f} m: expected metres, and the legs of adults have 0.7 to 1 m"
        )
    if not SHORTEST_USUAL_LEG_M < leg < LONGEST_USUAL_LEG_M:
        return Disagreement(
            "unusual size",
            f"pose_3d has legs of {leg:.2f} m, and the legs of adults have 0.7 to 1 m: is it in metres? The models "
            "know adults alone",
        )
    return None


def disagreement(
    pixels: NDArray[np.floating],
    missing: Mask,
    body: NDArray[np.floating],
    lens: NDArray[np.floating],
    joints_2d: JointSet = H36M17,
    joints_3d: JointSet = H36M17,
    raw_pixels: NDArray[np.floating] | None = None,
) -> Disagreement | None:
    """Compare 3D poses with the 2D poses that came with them.

    Args:
        pixels: ``(F, 17, 2)`` pixels in Human3.6M's joints.
        missing: ``(F, 17)``, joints that were not seen.
        body: ``(F, 17, 3)`` metres in camera axes, the root anywhere: as it came, where ``joints_3d`` has 17 joints,
            and otherwise in Human3.6M's.
        lens: ``(3,)`` width, height and focal length in pixels.
        joints_2d: the joint set that the 2D is said to have.
        joints_3d: the joint set that the 3D is said to have.
        raw_pixels: the 2D as it came, where ``joints_2d`` has 17 joints; None where it is ``pixels``.

    Returns:
        The most likely mistake; None where nothing is wrong.
    """
    hypotheses = hypotheses_of(joints_2d, joints_3d)
    rows = np.unique(np.linspace(0, len(body) - 1, MOST_FRAMES).astype(int))
    rows = rows[(~missing[rows]).sum(axis=1) >= LEAST_SEEN]
    if not len(rows):
        return None
    camera = np.asarray(lens, dtype=np.float64)
    orders = common_orders(joints_2d, joints_3d)
    some_pose = np.asarray(body[rows], dtype=np.float64)
    some_pose -= some_pose[:, :1]
    own, *others = limbs_in_orders(hypotheses, some_pose, orders)
    of_orders = dict(zip(orders, others, strict=True))
    seen = ~missing[rows]
    plain = float(np.median(plain_fits(hypotheses, np.asarray(pixels[rows], np.float64), seen, some_pose, camera)))
    if plain < NO_MISTAKE:  # no mistake would be named: the other hypotheses are not needed
        medians = np.ones(len(hypotheses.mistakes))
        medians[0] = plain
        return judge(hypotheses, medians, (0, plain), own, of_orders)
    flat, pose = (np.asarray(part, dtype=np.float64) for part in (pixels, body))
    pose = pose - pose[:, :1]
    raw = flat if raw_pixels is None else np.asarray(raw_pixels, dtype=np.float64)
    # A few frames at a time stay in the processor's cache, which is several times as fast.
    parts = [
        fits(hypotheses, flat[some], ~missing[some], pose[some], camera, raw[some])
        for some in (rows[begin : begin + CHUNK] for begin in range(0, len(rows), CHUNK))
    ]
    medians = np.median(np.concatenate(parts, axis=1), axis=1)
    shift = _best_shift(hypotheses, flat, missing, pose, camera, float(medians[0]))
    return judge(hypotheses, medians, shift, own, of_orders)


def refuse_wrong_order(found: Disagreement) -> Disagreement:
    """The same disagreement. Raises JointOrderError where the joints are in another order than the stated one."""
    if found.kind == "joint order":
        raise JointOrderError(found.message)
    return found


def limbs_in_orders(hypotheses: Hypotheses, body: Array, orders: tuple[str, ...]) -> list[Array]:
    """The median lengths of `LIMBS` in the stated order, and in each of the other orders: ``(8,)`` metres each."""
    matrices = [hypotheses.joints[0], *(_ORDER_MATRICES[name] for name in orders)]
    lengths = (limb_lengths(matrix @ body) for matrix in matrices)
    return [np.asarray(found[0] if len(found) == 1 else np.median(found, axis=0)) for found in lengths]


def common_orders(joints_2d: JointSet, joints_3d: JointSet) -> tuple[str, ...]:
    """The other joint orders that 2D and 3D may both have; they then fit each other in spite of it."""
    if joints_2d is not joints_3d or joints_3d.name not in ORDERS:
        return ()
    return tuple(name for name in ORDERS if name != joints_3d.name)


def limb_lengths(body: Array) -> Array:
    """``(F, 17, 3)`` -> ``(F, 8)``, the lengths of `LIMBS`, metres."""
    limbs = body[:, _LIMB_ENDS] - body[:, _LIMB_BEGINNINGS]
    return np.asarray(np.sqrt((limbs * limbs).sum(axis=-1)))


def leg_length(limbs: Array) -> float | None:
    """Length from hip to knee to ankle, metres; None where the limbs ``(8,)`` have not a person's proportions."""
    left, right = limbs[:4], limbs[4:]
    leg = float((left[:2].sum() + right[:2].sum()) / 2.0)
    # Thigh, shin, upper arm and forearm as shares of a leg; left like right.
    shares = (left + right) / 2.0 / max(leg, 1e-9)
    alike = np.abs(left - right) <= MOST_UNLIKE * (left + right) / 2.0
    human = (shares > PROPORTIONS[0]) & (shares < PROPORTIONS[1])
    return leg if alike.all() and human.all() else None


def _best_shift(
    hypotheses: Hypotheses, pixels: Array, missing: Mask, body: Array, lens: Array, own: float
) -> tuple[int, float]:
    """The number of frames by which 3D is later than 2D, and how well it fits then."""
    best = (0, own)
    if own < NO_MISTAKE:
        return best
    shifts, rows_of = [], []
    for shift in range(-MOST_SHIFT, MOST_SHIFT + 1):
        frames = len(body) - abs(shift)
        if abs(shift) < LEAST_SHIFT or frames < 2 * MOST_SHIFT:
            continue
        rows = np.linspace(0, frames - 1, MOST_FRAMES_SHIFTED).astype(int) + max(-shift, 0)
        rows = rows[(~missing[rows]).sum(axis=1) >= LEAST_SEEN]
        if len(rows):
            shifts.append(shift)
            rows_of.append(rows)
    if not shifts:
        return best
    # Many frames at a time: NumPy takes longer for a call than for the frames of one shift.
    every = np.concatenate(rows_of)
    moved = every + np.repeat(shifts, [len(rows) for rows in rows_of])
    found = np.concatenate(
        [
            plain_fits(hypotheses, pixels[some], ~missing[some], body[beside], lens)
            for some, beside in (
                (every[begin : begin + CHUNK_SHIFTED], moved[begin : begin + CHUNK_SHIFTED])
                for begin in range(0, len(every), CHUNK_SHIFTED)
            )
        ]
    )
    ends = np.cumsum([len(rows) for rows in rows_of])
    for shift, of_shift in zip(shifts, np.split(found, ends[:-1]), strict=True):
        fit = float(quick_median(of_shift))
        if fit < best[1]:
            best = (shift, fit)
    return best


def quick_median(values: Array) -> Array:
    """The medians over the first axis, as `numpy.median`, which takes ten times as long for a few values."""
    rows = np.sort(values, axis=0)
    return np.asarray((rows[(len(rows) - 1) // 2] + rows[len(rows) // 2]) / 2.0)
