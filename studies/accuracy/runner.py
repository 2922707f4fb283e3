"""Trains and scores the rows of a study. Results are stored, so that every row runs only once."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from refiner_bench.accuracy.filters import tune
from refiner_bench.accuracy.scores import CachedPoses, LiftedClips, Scores, score_clips
from refiner_bench.arrays import FloatArray

from refiner import bundled
from refiner.data import CameraClip, MotionFolder
from refiner.data.clips import Part
from refiner.evaluation.metrics import root_relative
from refiner.evaluation.pipeline import linear_correction, people_of
from refiner.files import sha256_of
from refiner.runtime import Refiner
from refiner.shape import pool_together
from refiner.smoothing import savitzky_golay
from studies.accuracy.cache import read_scores, write_scores
from studies.accuracy.clips import study_clips
from studies.accuracy.details import compare_input, errors_by_position
from studies.accuracy.premise import check_premise
from studies.accuracy.rows import Conditions, LifterRow, ModelRow, RefinerRow, Row, ScoreRow, record_of
from studies.accuracy.spec import Spec
from studies.accuracy.table import Table

PARTS: tuple[Part, ...] = ("validation", "test")
FOLDS = 3
SCORES_FILE = "scores.json"
LOG_FILE = "log.txt"
# Increase this number when the scoring changes, so that old scores are not used any more.
SCORES_VERSION = 2

Poses = list[NDArray[np.float32]]
Refine = Callable[[CameraClip, FloatArray], FloatArray]


@dataclass(frozen=True)
class Treatment:
    """The change of lifted poses for a row.

    Attributes:
        refine: Changes the poses of a clip; None for no change.
        settings: Chosen settings, for the report.
    """

    refine: Refine | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


class Runner:
    """Trains and scores rows in one process."""

    def __init__(self, spec: Spec, table: Table, folder: MotionFolder) -> None:
        self.spec, self.table, self.folder = spec, table, folder
        self._lifted = LiftedClips(spec.output / "cache", spec.threads)
        # Refined poses that several rows score: unchanged, smoothed, or with one body shape.
        self._refined_poses = CachedPoses(spec.output / "cache")
        self._clips: dict[tuple[str, str], list[CameraClip]] = {}

    def run_folder(self, row: Row, seed: int) -> Path:
        """The folder of a row's run."""
        return self.spec.output / row.name / f"seed-{seed}"

    def checkpoint(self, name: str, seed: int) -> Path:
        """The checkpoint of a row with its own model."""
        row = self.table.model(name)
        if row.checkpoint:
            path = Path(row.checkpoint)
            return path if path.suffix else bundled.checkpoint(row.checkpoint)
        return self.run_folder(row, seed) / f"{row.keep}.safetensors"

    def run(self, row: Row, seed: int) -> list[Scores]:
        """Train the row if it needs training, and score it. Stored results are reused."""
        folder = self.run_folder(row, seed)
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(row, ModelRow) and row.trained:
            with _into_log(folder / LOG_FILE):
                self._train(row, seed)
        # The key is made before the scores, so that a checkpoint that is replaced meanwhile does not get these scores.
        key = self._score_key(row, seed)
        scores = read_scores(folder / SCORES_FILE, key)
        if scores is None:
            scores = self._score(row, seed)
            write_scores(folder / SCORES_FILE, scores, key)
        return scores

    def _train(self, row: LifterRow | RefinerRow, seed: int) -> None:
        import torch

        from refiner.model_files.checkpoint import load_checkpoint
        from refiner.training.config import load_config
        from refiner.training.loop import HISTORY_FILE, LAST_FILE, refuse_other_run, source_digests
        from refiner.training.runs import train_lifter, train_refiner

        fixed = [f"training.seed={seed}", f"training.threads={self.spec.threads}"]
        config = load_config(row.config, [*self.table.overrides(row), *fixed])
        folder = self.run_folder(row, seed)
        # A toy cannot start from a bundled model, because its network has another size.
        if row.start_from and not (self.spec.quick and self.table.model(row.start_from).checkpoint):
            config = dataclasses.replace(config, start_from=str(self.checkpoint(row.start_from, seed)))
        if isinstance(row, RefinerRow):
            folds = tuple(str(self.checkpoint(name, seed)) for name in row.cross_fit)
            noise = dataclasses.replace(config.noise, cross_fit=folds)
            config = dataclasses.replace(config, lifter=str(self.checkpoint(row.lifter, seed)), noise=noise)
        history = folder / HISTORY_FILE
        if history.is_file() and json.loads(history.read_text())[-1]["step"] == config.training.steps:
            trained = load_checkpoint(folder / LAST_FILE).config
            refuse_other_run(folder, trained, trained["data_description"], config, source_digests(config))
            return
        torch.set_num_threads(self.spec.threads)
        if isinstance(row, LifterRow):
            people = self.folder.description.train
            train_lifter(config, self.folder, folder, people[row.fold :: FOLDS] if row.fold >= 0 else ())
            return
        train_refiner(config, self.folder, folder)

    def _checkpoints(self, row: Row, seed: int) -> dict[str, Path]:
        """By row, the checkpoints that a row's scores depend on."""
        return {name: self.checkpoint(name, seed) for name in row.models}

    def digests(self, row: Row, seed: int) -> dict[str, str]:
        """By row, the SHA-256 of the checkpoints that a row's scores depend on, if the files are in this folder."""
        return {name: sha256_of(path) for name, path in self._checkpoints(row, seed).items() if path.is_file()}

    def _score_key(self, row: Row, seed: int) -> str:
        """A hash of everything that a row's scores depend on: its fields and the checkpoints that it uses."""
        digests = [sha256_of(path) for path in self._checkpoints(row, seed).values()]
        record, conditions = record_of(row), row.conditions
        facts: list[object] = [
            SCORES_VERSION,
            *(record[name] for name in ("method", "steps", "detail")),
            dataclasses.asdict(self.table.variants[row.data]),
        ]
        if row.pool_shape:
            facts.append("one shape" if row.shape_of == "clip" else f"one shape a {row.shape_of}")
        if row.action:
            facts.append([row.action, "before as guessed"])
        if conditions.flip_test:
            facts.append("mirrored")
        if conditions.smooth:
            facts.append("smoothed")
        return hashlib.sha256(json.dumps([facts, digests]).encode()).hexdigest()

    def recipe(self, row: Row) -> str:
        """A hash of everything that a row's figures depend on, independent of the machine."""
        return hashlib.sha256(json.dumps([SCORES_VERSION, self.table.recipe(row)]).encode()).hexdigest()

    def _part(self, part: Part, data: str) -> list[CameraClip]:
        if (part, data) not in self._clips:
            self._clips = {(part, data): study_clips(self.folder, part, self.table.variants[data])}
        return self._clips[part, data]

    def _lift(self, row: Row, seed: int, part: Part, plain: bool = False) -> tuple[list[CameraClip], Poses]:
        """The clips that a row is scored on, and the poses of its lifter.

        Args:
            row: The row.
            seed: The seed.
            part: The part of the split.
            plain: Lift without a given action and without the mirrored pass, even if the row has them.
        """
        clips = self._part(part, row.data)
        lifter, name = self.checkpoint(row.lifted_by, seed), self._clips_name(row, part)
        action, flip_test = ("", False) if plain else (row.action, row.conditions.flip_test)
        return clips, self._lifted.lift(lifter, clips, name, action, flip_test)

    def _clips_name(self, row: Row, part: Part) -> str:
        """A name for the clips that a row is scored on. It has a hash of the variant, which may change in the table."""
        facts = [SCORES_VERSION, dataclasses.asdict(self.table.variants[row.data])]
        return f"{part}-{row.data}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]}"

    def _before(self, row: Row, seed: int, part: Part) -> Poses | None:
        """The lifter's plain poses if the row lifts with a given action or a mirrored pass; otherwise None."""
        if not row.action and not row.conditions.flip_test:
            return None
        return self._lift(row, seed, part, plain=True)[1]

    def _score(self, row: Row, seed: int) -> list[Scores]:
        """Score every part of the split. Models are loaded and filters are tuned only once."""
        # The names are made before the models are loaded, so that a checkpoint that is replaced meanwhile does not get
        # these poses.
        names = {part: self._refined_name(row, seed, part) for part in PARTS}
        refiner = self._refiner(row, seed)
        treatment = self._treatment(row, seed, refiner)
        scored = []
        for part in PARTS:
            clips, lifted = self._lift(row, seed, part)
            refined = self._refined(row, seed, part, treatment.refine, names[part])
            scores = score_clips(clips, lifted, refined, part, row.data, self._before(row, seed, part))
            extra = dict(treatment.settings)
            if refiner is not None:
                extra["input"] = compare_input(refiner, clips, lifted)
            if row.detail and isinstance(row, RefinerRow):
                checkpoint = self.checkpoint(row.name, seed)
                extra["premise"] = dataclasses.asdict(check_premise(checkpoint, clips, lifted))
                extra["by_place"] = errors_by_position(checkpoint, self.spec.threads, clips, lifted)
            scored.append(dataclasses.replace(scores, extra=extra))
        return scored

    def scores(self, row: Row, seed: int) -> list[Scores] | None:
        """The stored scores of every part; None if there are none for the present table and checkpoints."""
        if not all(path.is_file() for path in self._checkpoints(row, seed).values()):
            return None
        return read_scores(self.run_folder(row, seed) / SCORES_FILE, self._score_key(row, seed))

    def refined_test_clip(
        self, row: Row, seed: int, index: int
    ) -> tuple[CameraClip, NDArray[np.float32], NDArray[np.float32]]:
        """A test clip, its lifted poses and its refined poses, ``(F, 17, 3)`` in metres relative to the root.

        Args:
            row: The row of a refiner.
            seed: The seed.
            index: The index of the clip.
        """
        clips, lifted = self._lift(row, seed, "test")
        before = self._before(row, seed, "test") or lifted
        people = people_of(clips, row.shape_of)
        # Also refine the clips that share a body shape with this one.
        needed = [number for number, person in enumerate(people) if person == people[index]]
        refine = self._treatment(row, seed, self._refiner(row, seed)).refine
        assert refine is not None
        needed_clips = [clips[number] for number in needed]
        poses = [root_relative(refine(clips[number], lifted[number])) for number in needed]
        return clips[index], before[index], _finished(row.conditions, needed_clips, poses)[needed.index(index)]

    def _refined(self, row: Row, seed: int, part: Part, refine: Refine | None, name: str) -> Poses | None:
        """The poses of a row relative to the root, with one body shape if the row has one.

        Args:
            row: The row.
            seed: The seed.
            part: The part of the split.
            refine: The change of the lifted poses, or None.
            name: The name in the cache of poses that several rows score; "" for poses that are not stored.

        Returns:
            The poses of each clip; None if the lifted poses do not change.
        """
        if refine is None and not row.pool_shape:
            return None
        clips, lifted = self._lift(row, seed, part)
        poses = lifted

        def run() -> Poses:
            assert refine is not None
            return [root_relative(refine(clip, pose)) for clip, pose in zip(clips, lifted, strict=True)]

        if refine is not None:
            poses = self._refined_poses.get(name, clips, run) if name else run()
        return _finished(row.conditions, clips, poses)

    def _refined_name(self, row: Row, seed: int, part: Part) -> str:
        """The name of a row's refined poses in the cache, before smoothing and before they get one body shape.

        It contains everything that the poses depend on. The result is "" if no other row needs the poses.
        """
        run = row.refinement
        if run is None or not any(other != row and other.refinement == run for other in self.table.rows):
            return ""
        digests = [sha256_of(self.checkpoint(name, seed))[:16] for name in (run.refiner, run.lifter)]
        steps = f"{run.steps}-steps" if run.steps else ""
        parts = ["-on-".join(digests), self._clips_name(row, part), run.action, "mirrored" * run.flip_test, steps]
        return "-".join(part_name for part_name in parts if part_name)

    def _refiner(self, row: Row, seed: int) -> Refiner | None:
        run = row.refinement
        if run is None:
            return None
        checkpoint = self.checkpoint(run.refiner, seed)
        return Refiner.load(checkpoint, steps=run.steps or None, flip_test=run.flip_test, threads=self.spec.threads)

    def _treatment(self, row: Row, seed: int, refiner: Refiner | None) -> Treatment:
        """The change of lifted poses for a row: by its refiner, by the conditional mean, by a filter, or none."""
        if refiner is not None:
            return Treatment(lambda clip, pose: refiner.refine(clip.pose_2d, pose, clip.image_size, fps=clip.fps))
        if not isinstance(row, ScoreRow) or row.method == "none":
            return Treatment()
        if row.method == "linear":
            from refiner.model_files.checkpoint import load_noise_model

            noise = load_noise_model(self.checkpoint(row.of, seed))
            return Treatment(lambda clip, pose: linear_correction(noise, clip.pose_2d, pose, clip.image_size))
        # The filter is tuned on the clips of the validation person, under the row's variant of the data.
        clips, lifted = self._lift(row, seed, "validation")
        tuned = tune(row.method, [(pose, clip.pose_3d, clip.fps) for pose, clip in zip(lifted, clips, strict=True)])
        return Treatment(
            lambda clip, pose: tuned.filter(pose, clip.fps), {"settings": tuned.settings, "validation_mm": tuned.error}
        )


def _finished(conditions: Conditions, clips: list[CameraClip], poses: Poses) -> Poses:
    """Smooth the poses, and give them one body shape, if the conditions say so."""
    if conditions.smooth:
        poses = [savitzky_golay(pose, clip.fps).astype(np.float32) for clip, pose in zip(clips, poses, strict=True)]
    return pool_together(poses, people_of(clips, conditions.shape_of)) if conditions.pool_shape else poses


@contextlib.contextmanager
def _into_log(path: Path) -> Iterator[None]:
    """Redirect the output of the training into the run's log."""
    with path.open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield
