"""The actions of a synthetic person: the motion of the joint angles, the feet and the root."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BPoly

from refiner.data.synthetic.body import (
    assemble,
    leg_joints,
    limited,
    rest_angles,
    trunk_frame,
    upper_joints,
)
from refiner.data.synthetic.gait import (
    RUN,
    WALK,
    Gait,
    Track,
    fit_stride,
    leg_angles,
    on_track,
    pelvis_swing,
    reach_ankles,
    stance,
    stance_phases,
)
from refiner.data.synthetic.scene import Scene
from refiner.data.synthetic.signals import (
    bump,
    child_generator,
    minimum_jerk,
    smooth_noise,
    wandering_phase,
)
from refiner.skeleton import flip_pose

Array = NDArray[np.float64]
_GRAVITY = 9.81


def walking(scene: Scene) -> Array:
    """Walk around the room."""
    return _gait(scene, WALK, stride_hz=0.92, stride_size=0.92, arms=20.0, elbow=22.0, lean=2.0)


def running(scene: Scene) -> Array:
    """Jog around the room."""
    return _gait(scene, RUN, stride_hz=1.3, stride_size=0.78, arms=32.0, elbow=88.0, lean=8.0)


def _gait(
    scene: Scene, gait: Gait, stride_hz: float, stride_size: float, arms: float, elbow: float, lean: float
) -> Array:
    style, body, rng = scene.style, scene.body, scene.rng
    # A path this small needs short strides, and a long leg swings more slowly, like a pendulum.
    amplitude = style.amplitude * stride_size
    frequency = stride_hz * style.tempo * np.sqrt(1.72 / body.stature)
    phase = wandering_phase(rng, scene.times, frequency)
    stride = fit_stride(body, gait, amplitude)
    angles = scene.angles
    angles["hip_flexion"], angles["hip_abduction"], angles["knee"] = leg_angles(gait, phase, amplitude)
    turn = pelvis_swing(angles, phase, amplitude)
    lag = 2.0 * np.pi * gait.lag / 100.0
    swing = np.stack([-np.cos(phase - lag), np.cos(phase - lag)], axis=-1)
    for side in (0, 1):
        forward = style.arm_swing * swing[:, side]
        scene.add("shoulder_flexion", arms * (forward - 0.15), side)
        scene.add("shoulder_rotation", 8.0 * forward + 0.15 * elbow, side)
        scene.add("elbow", elbow - 17.0 + (0.35 * arms + 4.0) * forward, side)
    # The chest rotates against the pelvis, and the head keeps its direction.
    scene.add("spine_twist", -1.6 * np.degrees(turn))
    scene.add("neck_twist", 0.6 * np.degrees(turn))
    scene.add("spine_side", -3.0 * amplitude * np.sin(phase))
    scene.add("spine_flexion", lean)
    scene.add("trunk_pitch", 0.4 * lean)
    angles = limited(scene.angles)
    # Tall people walk on a smaller path, so that the nearest camera sees the whole body.
    radius = 1.07 - 0.35 * (body.stature - 1.5)
    track = Track(*(radius * rng.uniform([0.97, 0.9], [1.04, 0.98])))
    start = rng.uniform(0.0, 6.0)
    speed = stride.pace[0] * 2.0 * np.pi * frequency

    def placed(at: Array, joints: Array) -> Array:
        """Place joints, whose origin is below the mid-hip, on the track at a phase of the stride."""
        position, heading, curvature = track(stride.distance(at) + start)
        return on_track(joints, position, heading, 0.8 * np.arctan(curvature * speed**2 / _GRAVITY))

    def stride_legs(at: Array, pelvis: Array, hip: Array, spread: Array, knee: Array) -> Array:
        legs = leg_joints(body, pelvis, {"hip_flexion": hip, "hip_abduction": spread, "knee": knee})
        legs[..., 2] += stride.root_height(at)[:, None, None]
        return legs

    def ankle_at(at: Array, side: int) -> Array:
        still = rest_angles(len(at))
        swung = pelvis_swing(still, at, amplitude)
        legs = stride_legs(at, trunk_frame(still, swung), *leg_angles(gait, at, amplitude))
        return placed(at, legs.reshape(-1, 6, 3))[:, 3 * side + 2]

    angles = limited(scene.angles)
    pelvis = trunk_frame(angles, turn)
    root = np.zeros((len(phase), 3))
    root[:, 2] = stride.root_height(phase)
    legs = stride_legs(phase, pelvis, angles["hip_flexion"], angles["hip_abduction"], angles["knee"])
    joints = placed(phase, assemble(root, legs, root[:, None] + upper_joints(body, pelvis, angles)))
    # The standing foot stays at its position in the middle of the stance.
    legs = joints[:, [[4, 5, 6], [1, 2, 3]]]
    feet = stance(gait, body, phase)
    ankles = legs[:, :, 2].copy()
    for side in (0, 1):
        strides, frame = np.unique(feet.index[:, side], return_inverse=True)
        strike, early, late = (ankle_at(at, side) for at in stance_phases(gait, strides, side))
        spots = (0.5 * (early + late))[frame]
        spots[:, 2] = feet.height[:, side]
        struck = feet.struck[:, side, None]
        reference = struck * ankles[:, side] + (1.0 - struck) * strike[frame]
        ankles[:, side] += feet.firm[:, side, None] * gait.hold * (spots - reference)
    legs = reach_ankles(body, legs, ankles)
    joints[:, 4:7], joints[:, 1:4] = legs[:, 0], legs[:, 1]
    # A path to the right is the mirror image of a path to the left.
    return joints if style.side == 0 else flip_pose(joints)


def waving(scene: Scene) -> Array:
    """Raise one hand, sometimes both hands, and wave."""
    style = scene.style
    keys = scene.keys((0.7, 1.1), (1.2, 3.2))
    raised = np.zeros((keys.count + 1, 2))
    raised[1::2, style.side] = 1.0
    raised[1::2, 1 - style.side] = (keys.draw(0.0, 1.0)[1::2, 0] > 0.75).astype(float)
    up = keys.follow(raised)
    phase = wandering_phase(scene.rng, scene.times, 1.35 * style.tempo)
    lift = keys.follow(keys.draw(70.0, 115.0))[:, 0]
    ahead = keys.follow(keys.draw(10.0, 45.0))[:, 0]
    for side in (0, 1):
        amount = up[:, side]
        scene.blend(
            amount,
            side,
            shoulder_flexion=ahead,
            shoulder_abduction=lift,
            shoulder_rotation=-72.0 + 22.0 * style.amplitude * np.sin(phase),
            elbow=75.0 + 24.0 * style.amplitude * np.sin(phase + 0.5),
            girdle=14.0,
        )
    lean = up[:, 0] - up[:, 1]
    scene.add("spine_side", 3.0 * lean)
    sway = scene.keys((1.2, 2.0), (2.0, 5.0))
    aside = sway.follow(sway.draw(-0.05, 0.05))[:, 0]
    return scene.on_feet(*scene.feet(), aside=aside)


def squatting(scene: Scene) -> Array:
    """Squat and rise again, with the arms ahead for balance."""
    keys = scene.keys((0.8, 1.4), (0.15, 0.8))
    depth = np.zeros(keys.count + 1)
    depth[1::2] = keys.draw(0.5, 1.0)[1::2, 0]
    down = keys.follow(depth)
    scene.add("trunk_pitch", 26.0 * down)
    scene.add("spine_flexion", 14.0 * down)
    scene.add("neck_flexion", -22.0 * down)
    scene.blend(
        minimum_jerk(1.4 * down),
        shoulder_flexion=112.0 * np.clip(scene.style.amplitude, 0.9, 1.05),
        shoulder_abduction=8.0,
        elbow=14.0,
    )
    ankles, toes = scene.feet()
    ankles[..., 1] *= 1.35
    return scene.on_feet(ankles, 1.8 * toes, shift=-0.02 - 0.13 * down, drop=down * 0.5 * scene.body.leg * 0.95)


def boxing(scene: Scene) -> Array:
    """Box: guard, jabs and crosses, while the weight moves between the feet."""
    style = scene.style
    lead, rear = style.side, 1 - style.side
    turned = 1.0 if lead == 0 else -1.0  # if the left side leads, the chest turns to the right
    keys = scene.keys((0.21, 0.27), (0.03, 0.7))
    # Every second rest is the guard; between them the lead hand or the rear hand punches.
    choice = keys.draw(0.0, 1.0)[:, 0]
    out = np.zeros((keys.count + 1, 2))
    out[1::2, lead] = choice[1::2] < 0.6
    out[1::2, rear] = choice[1::2] >= 0.6
    punch = keys.follow(out)
    height = keys.follow(keys.draw(62.0, 92.0))[:, 0]
    guard = np.ones(len(scene.times))
    scene.blend(guard, shoulder_flexion=38.0, shoulder_abduction=14.0, shoulder_rotation=28.0, elbow=122.0)
    for side in (0, 1):
        scene.add("elbow", scene.noise(5.0, 0.8), side)
        scene.add("shoulder_flexion", scene.noise(4.0, 0.8), side)
        scene.blend(
            punch[:, side],
            side,
            shoulder_flexion=height + 8.0,
            shoulder_abduction=12.0,
            shoulder_rotation=35.0,
            elbow=16.0,
            girdle=12.0,
        )
    twist = turned * (-12.0 + 34.0 * style.amplitude * punch[:, rear] - 12.0 * punch[:, lead])
    scene.add("spine_twist", twist)
    scene.add("spine_flexion", 9.0 + 6.0 * punch[:, rear])
    scene.add("neck_twist", 0.0 - 0.7 * twist)
    ankles, toes = scene.feet(forward=0.36 * scene.body.stature / 1.72)
    bounce = wandering_phase(scene.rng, scene.times, 1.3 * style.tempo)
    weave = scene.noise(0.05, 0.4)
    shift = 0.03 * np.sin(bounce) + 0.05 * (punch[:, rear] + 0.5 * punch[:, lead])
    heading = np.radians(turned * (-22.0 + 16.0 * punch[:, rear]))
    scene.add("neck_twist", -0.8 * np.degrees(heading))
    return scene.on_feet(
        ankles,
        toes + 0.5 * heading[:, None],
        shift=shift,
        aside=weave,
        drop=0.06 + 0.012 * (1.0 - np.cos(bounce)),
        heading=heading,
    )


def sitting_down(scene: Scene) -> Array:
    """Sit down on a chair, rest with the hands on the thighs, and rise."""
    body = scene.body
    keys = scene.keys((1.3, 2.0), (1.2, 4.0))
    target = np.zeros(keys.count + 1)
    target[1::2] = 1.0
    seated = keys.follow(target)
    leaning = (4.0 * seated * (1.0 - seated)) ** 2
    slouch = scene.noise(5.0, 0.15)
    scene.add("trunk_pitch", 24.0 * leaning - 8.0 * seated)
    scene.add("spine_flexion", 16.0 * leaning + (8.0 + slouch) * seated)
    scene.add("neck_flexion", -10.0 * leaning)
    hands = keys.follow(keys.draw([30.0, 45.0, 10.0], [50.0, 75.0, 35.0]))
    for side in (0, 1):
        scene.blend(
            minimum_jerk(1.2 * seated),
            side,
            shoulder_flexion=hands[:, 0],
            elbow=hands[:, 1],
            shoulder_rotation=hands[:, 2],
            shoulder_abduction=9.0,
        )
    seat = 0.285 * body.stature * float(scene.rng.uniform(0.94, 1.1))
    back = 0.9 * body.lengths["thigh"]
    # The height of the hips for nearly straight legs, with the hips this far behind the feet.
    above = body.lengths["ankle"] + np.sqrt(body.leg**2 - back**2)
    ankles, toes = scene.feet()
    return scene.on_feet(
        ankles,
        toes,
        shift=-0.01 - back * minimum_jerk(seated) + 0.03 * leaning,
        drop=(above - seat) * seated * (0.75 + 0.25 * seated),
    )


def reaching(scene: Scene) -> Array:
    """Reach for objects around the body, high and low, with either hand."""
    keys = scene.keys((0.8, 1.3), (0.2, 1.0))
    hand = keys.draw(0.0, 1.0)[:, 0] < 0.5
    rows = np.arange(keys.count + 1) % 3 != 0  # at every third rest, the arms hang down
    low, high = [25.0, -5.0, 5.0, -5.0, -8.0], [150.0, 75.0, 50.0, 24.0, 30.0]
    goals = keys.draw(low, high)
    # The trunk helps to reach low objects.
    goals[:, 3] += 0.28 * np.maximum(85.0 - goals[:, 0], 0.0)
    bent = keys.follow(rows * np.maximum(goals[:, 3] - 8.0, 0.0))
    for side in (0, 1):
        chosen = (rows & (hand == (side == 0))).astype(float)
        amount = keys.follow(chosen)
        aim = keys.follow(goals)
        scene.blend(
            amount,
            side,
            shoulder_flexion=aim[:, 0],
            shoulder_abduction=aim[:, 1],
            shoulder_rotation=10.0,
            elbow=aim[:, 2],
            girdle=8.0,
        )
        outwards = 1.0 if side == 0 else -1.0
        scene.add("spine_twist", -outwards * amount * (14.0 - 0.3 * aim[:, 1]))
        scene.add("neck_twist", outwards * amount * 0.25 * aim[:, 1])
    scene.add("trunk_pitch", 0.6 * bent)
    scene.add("spine_flexion", 0.9 * bent)
    drop = 0.006 * bent
    return scene.on_feet(*scene.feet(forward=0.08), shift=-0.002 * bent, drop=drop)


def dancing(scene: Scene) -> Array:
    """Step rhythmically and turn around, with free movements of the arms and hips."""
    style, rng, times = scene.style, scene.rng, scene.times
    tempo = 0.82 * style.tempo
    phase = wandering_phase(rng, times, tempo, wander=0.15)
    turning = int(rng.integers(2**63))

    def turned(at: Array) -> Array:
        """Return the slow rotation of the body, which the feet follow step by step."""
        return smooth_noise(np.random.default_rng(turning), at, 0.7, rate=0.07)

    heading = turned(times) + np.radians(10.0) * np.sin(phase)
    ankles, toes = _stepping(scene, phase, tempo, turned)
    sway = np.sin(phase)
    scene.add("trunk_roll", -7.0 * style.amplitude * sway)
    scene.add("spine_side", 9.0 * style.amplitude * sway)
    scene.add("spine_twist", 9.0 * style.amplitude * np.sin(phase + 0.8))
    scene.add("neck_side", -4.0 * sway)
    keys = scene.keys((0.5, 0.9), (0.0, 0.5))
    for side in (0, 1):
        arms = keys.follow(keys.draw([-10.0, 8.0, -50.0, 20.0], [110.0, 80.0, 40.0, 110.0]))
        swing = style.arm_swing * np.sin(phase + side * np.pi)
        scene.blend(
            np.ones(len(times)),
            side,
            shoulder_flexion=arms[:, 0] + 10.0 * swing,
            shoulder_abduction=arms[:, 1],
            shoulder_rotation=arms[:, 2],
            elbow=arms[:, 3] + 12.0 * swing,
        )
    bounce = 0.02 * style.amplitude * (1.0 - np.cos(2.0 * phase))
    return scene.on_feet(ankles, toes, aside=-0.06 * sway, drop=0.025 + bounce, heading=heading)


def _stepping(scene: Scene, phase: Array, frequency: float, turned: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Compute feet that step alternately, each to a new foothold below the turning body.

    Args:
        scene: The motion.
        phase: The phase of the dance, ``(F,)`` radians.
        frequency: The frequency of the dance in Hz.
        turned: The rotation of the body in radians at times in seconds.

    Returns:
        The ankles ``(F, 2, 3)`` in metres, and the headings of the feet ``(F, 2)`` in radians.
    """
    ankles, toes = scene.feet()
    rest = ankles[0, :, :2]
    style = scene.style
    foothold_rng = child_generator(scene.rng)
    # The left foot lifts while sin(phase) > 0 (the weight is on the right foot). Otherwise the right foot lifts.
    cycles = int(np.ceil(frequency * scene.times[-1])) + 4
    shifts = foothold_rng.normal(0.0, 1.0, (2 * cycles, 2)) * [0.09, 0.05] * style.amplitude
    first = np.floor(phase[0] / (2.0 * np.pi)) - 1.0
    for side in (0, 1):
        cycle = phase / (2.0 * np.pi) - 0.5 * side - first
        index = np.floor(cycle).astype(int)
        progress = (cycle - index) / 0.5
        step_phase = 2.0 * np.pi * (np.arange(cycles) + first + 0.5 * side) - phase[0]
        turns = turned(step_phase / (2.0 * np.pi * frequency))
        cosine, sine = np.cos(turns), np.sin(turns)
        footholds = shifts[side::2] + np.stack(
            [cosine * rest[side, 0] - sine * rest[side, 1], sine * rest[side, 0] + cosine * rest[side, 1]],
            axis=-1,
        )
        done = minimum_jerk((progress - 0.08) / 0.84)
        ankles[:, side, :2] = footholds[index] + (footholds[index + 1] - footholds[index]) * done[:, None]
        ankles[:, side, 2] += 0.085 * style.amplitude * bump((progress - 0.04) / 0.92)
        toes[:, side] += turns[index] + (turns[index + 1] - turns[index]) * done
    return ankles, toes


def bending(scene: Scene) -> Array:
    """Bend down to the knees or to the floor, and straighten up."""
    keys = scene.keys((1.0, 1.7), (0.3, 1.4))
    depth = np.zeros(keys.count + 1)
    depth[1::2] = keys.draw(0.45, 1.0)[1::2, 0]
    down = keys.follow(depth)
    twist = keys.follow(keys.draw(-16.0, 16.0))[:, 0]
    scene.add("trunk_pitch", 50.0 * down)
    scene.add("spine_flexion", 48.0 * down)
    scene.add("spine_twist", twist * down)
    scene.add("neck_flexion", 6.0 * down)
    reach = keys.follow(keys.draw([70.0, 4.0], [100.0, 30.0]))
    scene.blend(
        minimum_jerk(down),
        shoulder_flexion=reach[:, 0],
        shoulder_abduction=6.0,
        elbow=reach[:, 1],
    )
    knees = float(scene.rng.uniform(0.02, 0.2))
    return scene.on_feet(*scene.feet(), shift=-0.16 * down * scene.body.leg, drop=knees * down**2 * scene.body.leg)


def jumping(scene: Scene) -> Array:
    """Crouch, jump with swinging arms, land softly, and stand."""
    style, body, rng = scene.style, scene.body, scene.rng
    draws = child_generator(rng)
    count = int(np.ceil(scene.times[-1] / 1.5)) + 2
    seeds = draws.uniform(size=(count, 4))
    # The nearest camera does not see a head above 2.1 m.
    height = np.minimum(style.amplitude * (0.07 + 0.17 * seeds[:, 0]), 2.1 - 1.02 * body.stature)
    pause = (0.25 + 0.8 * seeds[:, 1]) / style.tempo
    crouch = (0.16 + 0.10 * seeds[:, 2]) * body.leg
    reach = 40.0 + 65.0 * seeds[:, 3]
    speed = np.sqrt(2.0 * _GRAVITY * height)
    flight = 2.0 * speed / _GRAVITY
    zero = np.zeros(count)
    # The durations of six phases: standing, going down, pushing off, flight, absorbing the landing, rising.
    lengths = np.stack([pause, zero + 0.5, zero + 0.3, flight, zero + 0.26, zero + 0.5], axis=-1)
    knots = np.concatenate([[0.0], np.cumsum(lengths.ravel())]) - 0.4 * float(rng.uniform())
    rise = 0.045 * body.stature  # rise of the ankle from flat foot to tiptoe
    push = 0.14  # seconds from flat foot to tiptoe
    takeoff, landing = knots[3::6], knots[4::6]
    ends = np.stack([takeoff - push, takeoff, landing, landing + push], axis=-1).ravel()
    states = np.zeros((count, 4, 3))  # position, velocity, acceleration
    states[:, 1] = np.stack([zero + rise, speed, zero - _GRAVITY], axis=-1)
    states[:, 2] = np.stack([zero + rise, -speed, zero - _GRAVITY], axis=-1)
    lift = _through(scene.times, ends, states.reshape(-1, 3))
    bent = np.stack([zero, zero, crouch, zero, zero + 0.01, 0.7 * crouch], axis=-1).ravel()
    drop = 0.01 + _through(scene.times, knots, np.append(bent, 0.0))
    # The arms swing back early in the crouch. They swing up during the rest of the crouch and the push.
    start, down, land, stand = knots[1::6], knots[2::6], landing, knots[6::6]
    swings = np.stack([start, down - 0.22, takeoff + 0.05, land + 0.1, stand], axis=-1).ravel()
    arm = np.stack([zero, zero - 38.0, reach, 0.5 * reach, zero], axis=-1).ravel()
    scene.add("shoulder_flexion", 2.0 + _through(scene.times, swings, arm))
    scene.add("elbow", 8.0)
    bend = drop / (0.21 * body.leg)
    scene.add("trunk_pitch", 20.0 * bend)
    scene.add("spine_flexion", 14.0 * bend)
    scene.add("neck_flexion", -16.0 * bend)
    ankles, toes = scene.feet()
    ankles[..., 2] += lift[:, None]
    return scene.on_feet(ankles, toes, shift=-0.015 - 0.05 * bend, drop=drop)


def _through(times: Array, knots: Array, states: Array) -> Array:
    """Interpolate ``states`` at ``knots`` with quintic polynomials.

    Args:
        times: The times of the frames in seconds, ``(F,)``.
        knots: The times of the states in seconds, ``(N,)``. Outside, the position stays constant.
        states: Positions ``(N,)``, with velocity and acceleration 0; or position, velocity and acceleration ``(N, 3)``.

    Returns:
        The position, ``(F,)``.
    """
    full = np.zeros((len(knots), 3))
    full[:, : 1 if states.ndim == 1 else 3] = states.reshape(len(knots), -1)
    curve = BPoly.from_derivatives(knots, full)
    return np.asarray(curve(np.clip(times, knots[0], knots[-1])))


ACTIONS: dict[str, Callable[[Scene], Array]] = {
    "Walking": walking,
    "Running": running,
    "Waving": waving,
    "Squatting": squatting,
    "Boxing": boxing,
    "SittingDown": sitting_down,
    "Reaching": reaching,
    "Dancing": dancing,
    "Bending": bending,
    "Jumping": jumping,
}
