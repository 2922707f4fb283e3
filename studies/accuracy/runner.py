"""Trains and scores the rows of a study: each once, so that the next call finds it again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from refiner_bench.accuracy.filters import tune
from refiner_bench.accuracy.scores import CachedPoses, LiftedClips, Scores, score_clips

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
from studies.accuracy.details import compare_input, errors_by_place
from studies.accuracy.premise import check_premise
from studies.accuracy.rows import Conditions, LifterRow, ModelRow, RefinerRow, Row, ScoreRow, record_of
from studies.accuracy.spec import Spec
from studies.accuracy.table import Table

PARTS: tuple[Part, ...] = ("validation", "test")
FOLDS = 3
SCORES_FILE = "scores.json"
LOG_FILE = "log.txt"
# Raised whenever the scoring changes, so that old scores are not taken for new ones.
SCORES_VERSION = 2

Poses = list[NDArray[np.float32]]
Refine = Callable[[CameraClip, NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Treatment:
    """A row's change of lifted poses (``refine`` None: none), with the settings that were chosen for it."""

    refine: Refine | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


class Runner:
    """Trains and scores rows in one process."""

    def __init__(self, spec: Spec, table: Table, folder: MotionFolder) -> None:
        self.spec, self.table, self.folder = spec, table, folder
        self._lifted = LiftedClips(spec.output / "cache", spec.threads)
        # Refined poses that several rows score: as they are, smoothed, with one body shape.
        self._kept = CachedPoses(spec.output / "cache")
        self._clips: dict[tuple[str, str], list[CameraClip]] = {}

    def place(self, row: Row, seed: int) -> Path:
        """The folder of a row's run."""
        return self.spec.output / row.name / f"seed-{seed}"

    def checkpoint(self, name: str, seed: int) -> Path:
        """The checkpoint of a trained row."""
        row = self.table.model(name)
        if row.checkpoint:
            given = Path(row.checkpoint)
            return given if given.suffix else bundled.checkpoint(row.checkpoint)
        return self.place(row, seed) / f"{row.keep}.safetensors"

    def run(self, row: Row, seed: int) -> list[Scores]:
        """Train the row if it is to be trained and has not been, and score it if it has not been."""
        place = self.place(row, seed)
        place.mkdir(parents=True, exist_ok=True)
        if isinstance(row, ModelRow) and row.trained:
            with _into_log(place / LOG_FILE):
                self._train(row, seed)
        # Made before the scores: a checkpoint that is replaced while it is scored must not own the scores.
        key = self._score_key(row, seed)
        scores = read_scores(place / SCORES_FILE, key)
        if scores is None:
            scores = self._score(row, seed)
            write_scores(place / SCORES_FILE, scores, key)
        return scores

    def _train(self, row: LifterRow | RefinerRow, seed: int) -> None:
        import torch

        from refiner.model_files.checkpoint import load_checkpoint
        from refiner.training.config import load_config
        from refiner.training.loop import HISTORY_FILE, LAST_FILE, refuse_other_run, source_digests
        from refiner.training.runs import train_lifter, train_refiner

        fixed = [f"training.seed={seed}", f"training.threads={self.spec.threads}"]
        config = load_config(row.config, [*self.table.overrides(row), *fixed])
        place = self.place(row, seed)
        # A toy has another network than a bundled model.
        if row.start_from and not (self.spec.quick and self.table.model(row.start_from).checkpoint):
            config = dataclasses.replace(config, start_from=str(self.checkpoint(row.start_from, seed)))
        if isinstance(row, RefinerRow):
            folds = tuple(str(self.checkpoint(name, seed)) for name in row.cross_fit)
            noise = dataclasses.replace(config.noise, cross_fit=folds)
            config = dataclasses.replace(config, lifter=str(self.checkpoint(row.lifter, seed)), noise=noise)
        history = place / HISTORY_FILE
        if history.is_file() and json.loads(history.read_text())[-1]["step"] == config.training.steps:
            found = load_checkpoint(place / LAST_FILE).config
            refuse_other_run(place, found, found["data_description"], config, source_digests(config))
            return
        torch.set_num_threads(self.spec.threads)
        if isinstance(row, LifterRow):
            people = self.folder.description.train
            train_lifter(config, self.folder, place, people[row.fold :: FOLDS] if row.fold >= 0 else ())
            return
        train_refiner(config, self.folder, place)

    def _checkpoints(self, row: Row, seed: int) -> dict[str, Path]:
        """By row, those that a row's scores follow from."""
        return {name: self.checkpoint(name, seed) for name in row.models}

    def digests(self, row: Row, seed: int) -> dict[str, str]:
        """By row, SHA-256 of the checkpoints that a row's scores follow from, as far as they are here."""
        return {name: sha256_of(path) for name, path in self._checkpoints(row, seed).items() if path.is_file()}

    def _score_key(self, row: Row, seed: int) -> str:
        """Names everything that a row's scores follow from: its own lines and the checkpoints that it uses."""
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
        """Names everything that a row's figures follow from, wherever it is run."""
        return hashlib.sha256(json.dumps([SCORES_VERSION, self.table.recipe(row)]).encode()).hexdigest()

    def _part(self, part: Part, data: str) -> list[CameraClip]:
        if (part, data) not in self._clips:
            self._clips = {(part, data): study_clips(self.folder, part, self.table.variants[data])}
        return self._clips[part, data]

    def _lift(self, row: Row, seed: int, part: Part, plain: bool = False) -> tuple[list[CameraClip], Poses]:
        """The clips that a row is scored on, and its lifter's poses of them.

        ``plain``: as the lifter lifts by itself, neither told an action nor mirrored, whatever the row asks for.
        """
        clips = self._part(part, row.data)
        lifter, name = self.checkpoint(row.lifted_by, seed), self._clips_name(row, part)
        action, flip_test = ("", False) if plain else (row.action, row.conditions.flip_test)
        return clips, self._lifted.lift(lifter, clips, name, action, flip_test)

    def _clips_name(self, row: Row, part: Part) -> str:
        """Names the clips that a row is scored on; a variant may change in the table, and so may its clips."""
        facts = [SCORES_VERSION, dataclasses.asdict(self.table.variants[row.data])]
        return f"{part}-{row.data}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]}"

    def _before(self, row: Row, seed: int, part: Part) -> Poses | None:
        """The lifter's own poses where the row has it lift in another way: told an action, or mirrored."""
        if not row.action and not row.conditions.flip_test:
            return None
        return self._lift(row, seed, part, plain=True)[1]

    def _score(self, row: Row, seed: int) -> list[Scores]:
        """Score every part; the models are loaded, and the filters tuned, once for all of them."""
        # Named before the models are loaded: one that is replaced meanwhile must not own these poses.
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
                extra["by_place"] = errors_by_place(checkpoint, self.spec.threads, clips, lifted)
            scored.append(dataclasses.replace(scores, extra=extra))
        return scored

    def scores(self, row: Row, seed: int) -> list[Scores] | None:
        """The scores of every part, where the row has been scored by this table with the checkpoints that are there."""
        if not all(path.is_file() for path in self._checkpoints(row, seed).values()):
            return None
        return read_scores(self.place(row, seed) / SCORES_FILE, self._score_key(row, seed))

    def refined_test_clip(
        self, row: Row, seed: int, index: int
    ) -> tuple[CameraClip, NDArray[np.float32], NDArray[np.float32]]:
        """A test clip of a refiner's row, the lifter's poses of it and the refined ones, root-relative."""
        clips, lifted = self._lift(row, seed, "test")
        before = self._before(row, seed, "test") or lifted
        people = people_of(clips, row.shape_of)
        # Alone, or with those whose body shape it shares.
        needed = [place for place, person in enumerate(people) if person == people[index]]
        refine = self._treatment(row, seed, self._refiner(row, seed)).refine
        assert refine is not None
        shown = [clips[place] for place in needed]
        poses = [root_relative(refine(clips[place], lifted[place])) for place in needed]
        return clips[index], before[index], _finished(row.conditions, shown, poses)[needed.index(index)]

    def _refined(self, row: Row, seed: int, part: Part, refine: Refine | None, name: str) -> Poses | None:
        """The row's poses, root-relative, with one body shape where it asks for one; None: the lifted ones as they are.

        ``name``: the file of poses that several rows score; "" for none.
        """
        if refine is None and not row.pool_shape:
            return None
        clips, lifted = self._lift(row, seed, part)
        poses = lifted

        def run() -> Poses:
            assert refine is not None
            return [root_relative(refine(clip, pose)) for clip, pose in zip(clips, lifted, strict=True)]

        if refine is not None:
            poses = self._kept.get(name, clips, run) if name else run()
        return _finished(row.conditions, clips, poses)

    def _refined_name(self, row: Row, seed: int, part: Part) -> str:
        """Names everything that refined poses follow from, before they are smoothed and given one shape.

        "" where no other row needs them.
        """
        run = row.refinement
        if run is None or not any(other != row and other.refinement == run for other in self.table.rows):
            return ""
        digests = [sha256_of(self.checkpoint(name, seed))[:16] for name in (run.refiner, run.lifter)]
        steps = f"{run.steps}-steps" if run.steps else ""
        words = ["-on-".join(digests), self._clips_name(row, part), run.action, "mirrored" * run.flip_test, steps]
        return "-".join(word for word in words if word)

    def _refiner(self, row: Row, seed: int) -> Refiner | None:
        run = row.refinement
        if run is None:
            return None
        checkpoint = self.checkpoint(run.refiner, seed)
        return Refiner.load(checkpoint, steps=run.steps or None, flip_test=run.flip_test, threads=self.spec.threads)

    def _treatment(self, row: Row, seed: int, refiner: Refiner | None) -> Treatment:
        """The row's change of lifted poses, by its refiner where it has one."""
        if refiner is not None:
            return Treatment(lambda clip, pose: refiner.refine(clip.pose_2d, pose, clip.image_size, fps=clip.fps))
        if not isinstance(row, ScoreRow) or row.method == "none":
            return Treatment()
        if row.method == "linear":
            from refiner.model_files.checkpoint import load_noise_model

            noise = load_noise_model(self.checkpoint(row.of, seed))
            return Treatment(lambda clip, pose: linear_correction(noise, clip.pose_2d, pose, clip.image_size))
        # Tuned on the clips of its variant, but on those of the validation person.
        clips, lifted = self._lift(row, seed, "validation")
        tuned = tune(row.method, [(pose, clip.pose_3d, clip.fps) for pose, clip in zip(lifted, clips, strict=True)])
        return Treatment(
            lambda clip, pose: tuned.filter(pose, clip.fps), {"settings": tuned.settings, "validation_mm": tuned.error}
        )


def _finished(conditions: Conditions, clips: list[CameraClip], poses: Poses) -> Poses:
    """Poses smoothed and given one body shape, where the conditions ask for it."""
    if conditions.smooth:
        poses = [savitzky_golay(pose, clip.fps).astype(np.float32) for clip, pose in zip(clips, poses, strict=True)]
    return pool_together(poses, people_of(clips, conditions.shape_of)) if conditions.pool_shape else poses


@contextlib.contextmanager
def _into_log(path: Path) -> Iterator[None]:
    """The training prints into the run's log."""
    with path.open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield
