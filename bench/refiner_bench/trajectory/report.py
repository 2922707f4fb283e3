"""The report of ``refiner-bench trajectory`` and its Markdown."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from refiner.camera import Camera
from refiner.data import CameraClip, MotionFolder, random_camera_clips
from refiner.data.viewpoints import CAMERA_SEED
from refiner.errors import InputWarning, UsageError
from refiner.evaluation.selection import describe_archive, limit_clips
from refiner.reports import Report, new_report
from refiner.runtime import Lifter, Refiner
from refiner.skeleton import COCO17, to_h36m17
from refiner.trajectory import ANKLE_M, ANKLES, Trajectory, root_trajectory, standing_height
from refiner_bench.arrays import FloatArray
from refiner_bench.real.estimates import JOINTS, LIFTED_REFINED, Models, estimates
from refiner_bench.real.scores import LIMB_JOINTS
from refiner_bench.real.take import Take, View
from refiner_bench.trajectory.errors import PlaceErrors, frame_place_errors, mean_errors, mrpe_interval
from refiner_bench.trajectory.format import LENSES
from refiner_bench.trajectory.known import ROWS, Known, true_ground, upright_height

# At this frame rate, the smoothing has no influence on a sequence.
UNSMOOTHED_FPS = 1.0
Tell = Callable[[str], None]


@dataclass(frozen=True)
class TrajectorySettings:
    """The settings of the report. The field names are its keys.

    Attributes:
        data: The motion, in words.
        part: The part of the split.
        cameras: The random cameras of each clip.
        camera_seed: Their seed.
        lifter: The name of the lifter.
        refiner: The name of the refiner.
        take: The real take, in words.
    """

    data: str
    part: str
    cameras: int
    camera_seed: int
    lifter: str
    refiner: str
    take: str


@dataclass(frozen=True, eq=False)
class _Scene:
    """A clip with its refined poses and its truth in camera axes, both ``(F, 17, 3)`` metres."""

    clip: CameraClip
    refined: FloatArray
    truth: FloatArray

    @property
    def camera(self) -> Camera:
        if self.clip.lens is None:
            raise UsageError(f"{self.clip.key} has no calibrated camera")
        return self.clip.lens


def trajectory_report(
    folder: MotionFolder,
    take: Take,
    models: Models,
    settings: TrajectorySettings,
    limit: int | None = None,
    tell: Tell = lambda text: None,
) -> Report:
    """Score the trajectories of the people of an archive and of a real take.

    Args:
        folder: The archive.
        take: The take.
        models: The models.
        settings: The settings.
        limit: The number of clips; None takes all.
        tell: Receives lines of progress.
    """
    report = new_report("trajectory", asdict(settings))
    people = folder.subjects("test" if settings.part == "test" else "validation")
    positions = limit_clips(folder.positions, people, limit)
    heights = {person: upright_height(list(folder.positions[person].values())) for person in people}
    clips = random_camera_clips(
        positions,
        list(positions),
        folder.detector,
        folder.detector.seed,
        folder.description.fps,
        number=settings.cameras,
        camera_seed=settings.camera_seed,
    )
    report["heights"] = heights
    report["frames"] = sum(clip.frames for clip in clips)
    rows: list[dict[str, Any]] = []
    for lens in LENSES:
        scenes = []
        for clip in clips:
            tell(f"{lens} lens: {clip.subject} {clip.key}, {clip.camera}")
            with _quiet():
                refined = _refined(models.lifter, models.refiner, clip, lens)
            world = positions[clip.subject][clip.key].astype(np.float64)
            scenes.append(_Scene(clip, refined, clip.lens.to_camera(world) if clip.lens else world))
        for known in ROWS:
            with _quiet():
                found = [_found(scene, known, lens, number, heights) for number, scene in enumerate(scenes)]
            errors = [
                frame_place_errors(place.place(scene.refined).astype(np.float64), scene.truth)
                for place, scene in zip(found, scenes, strict=True)
            ]
            low, high = mrpe_interval(errors, [(scene.clip.subject, scene.clip.key) for scene in scenes])
            rows.append(_row(known, lens, mean_errors(errors), low, high))
    report["rows"] = rows
    report["ms_per_frame"] = _cost(clips[0], models)
    report["real"] = _real_rows(take, models)
    return report


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that every row would repeat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        yield


def _cost(clip: CameraClip, models: Models) -> dict[str, float]:
    """Milliseconds of a frame of one clip: lifting and refining, and the trajectory; the second of two runs."""
    times = {}
    for _ in range(2):
        began = time.perf_counter()
        refined = _refined(models.lifter, models.refiner, clip, "known")
        between = time.perf_counter()
        root_trajectory(clip.pose_2d, refined, clip.image_size, clip.fps, camera=clip.lens)
        ended = time.perf_counter()
        times = {"models": between - began, "trajectory": ended - between}
    return {name: 1000.0 * seconds / clip.frames for name, seconds in times.items()}


def _row(known: Known, lens: str, errors: PlaceErrors, low: float, high: float) -> dict[str, Any]:
    return {
        "name": f"{lens}-{known.name}",
        "lens": lens,
        "known": known.title,
        **asdict(errors),
        "mrpe_low": low,
        "mrpe_high": high,
    }


def _refined(lifter: Lifter, refiner: Refiner, clip: CameraClip, lens: str) -> FloatArray:
    camera = clip.lens if lens == "known" else None
    lifted = lifter.lift(clip.pose_2d, clip.image_size, clip.fps, camera=camera)
    return refiner.refine(clip.pose_2d, lifted, clip.image_size, clip.fps, camera=camera).astype(np.float64)


def _found(scene: _Scene, known: Known, lens: str, number: int, heights: Mapping[str, float]) -> Trajectory:
    clip = scene.clip
    return root_trajectory(
        clip.pose_2d,
        scene.refined,
        clip.image_size,
        clip.fps if known.smooth else UNSMOOTHED_FPS,
        camera=scene.camera if lens == "known" else None,
        height=heights[clip.subject] if known.height else None,
        ground=known.ground(true_ground(scene.camera), number),
    )


def _real_rows(take: Take, models: Models) -> list[dict[str, Any]]:
    """The mean over the views of a take, by what is known."""
    rows = []
    for lens in LENSES:
        views = [_real_view(view, take, models, lens) for view in take.views]
        for known in ROWS:
            if known.degrees_off or not known.smooth:
                continue
            by_view = [view[known.name] for view in views]
            means = {name: float(np.mean([errors[name] for errors in by_view])) for name in by_view[0]}
            rows.append({"name": f"{lens}-{known.name}", "lens": lens, "known": known.title, **means})
    return rows


def _real_view(view: View, take: Take, models: Models, lens: str) -> dict[str, dict[str, float]]:
    """The errors of one view by the rows' names.

    The person of the take balances on a beam. The floor is the beam, whose height follows from the true ankles, and the
    height of the person follows from its true bones. The cameras are rolled by up to 26 degrees, which is stated too.
    """
    seen = view.detections
    camera = view.camera if lens == "known" else None
    truth = to_h36m17(view.camera.to_camera(take.truth), COCO17)
    world = to_h36m17(take.truth, COCO17)
    beam = float(np.median(world[:, ANKLES, 2].min(axis=1))) - ANKLE_M
    true = true_ground(view.camera)
    errors = {}
    with _quiet():
        pose = estimates(seen, models, camera)[LIFTED_REFINED]
        for known in ROWS:
            ground = known.ground(true, 0)
            if ground is not None:
                height = None if ground.height is None else ground.height - beam
                ground = type(ground)(ground.pitch, height, true.roll)
            found = root_trajectory(
                to_h36m17(seen.keypoints, JOINTS),
                pose,
                seen.image_size,
                seen.fps if known.smooth else UNSMOOTHED_FPS,
                camera=camera,
                height=standing_height(world) if known.height else None,
                ground=ground,
            )
            scores = frame_place_errors(found.place(pose).astype(np.float64), truth, LIMB_JOINTS)
            errors[known.name] = asdict(mean_errors([scores]))
    return errors


def settings_of(
    folder: MotionFolder, part: str, cameras: int, models: Sequence[str], take: str, limit: int | None
) -> TrajectorySettings:
    """The settings in words. ``models``: the names of lifter and refiner."""
    name = folder.archives[0].name if folder.archives else "built-in synthetic motion"
    people = ", ".join(folder.subjects("test" if part == "test" else "validation"))
    limited = "" if limit is None else f", {limit} clips"
    data = f"{describe_archive(name)}, {part} people {people}{limited}; simulated detections"
    return TrajectorySettings(data, part, cameras, CAMERA_SEED, models[0], models[1], take)
