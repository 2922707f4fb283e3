"""Runs the rows of a study: each is trained once, scored once, and found again by the next call."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from refiner_bench.accuracy.filters import tune
from refiner_bench.accuracy.scores import KeptClips, LiftedClips, Scores, score_clips

from refiner import bundled
from refiner.data import CameraClip, MotionFolder, open_motion_folder
from refiner.data.clips import Part
from refiner.data.synthetic import synthetic_folder
from refiner.diffusion.familiarity import merge_familiarity
from refiner.errors import UsageError
from refiner.evaluation.metrics import root_relative
from refiner.evaluation.pipeline import linear_correction, people_of
from refiner.files import atomic_write_text, sha256_of
from refiner.runtime import Refiner
from refiner.shape import pool_together
from refiner.smoothing import savitzky_golay
from studies.accuracy.cache import read_scores, write_scores
from studies.accuracy.clips import study_clips
from studies.accuracy.premise import check_premise
from studies.accuracy.schedule import Inline, run_tasks
from studies.accuracy.table import Row, Table, load_table

PARTS: tuple[Part, ...] = ("validation", "test")
FOLDS = 3
SCORES_FILE = "scores.json"
LOG_FILE = "log.txt"
FOLDER_FILE = "study.json"
# Raised whenever what is scored changes, so that old scores are not taken for new ones.
SCORES_VERSION = 2
QUICK_SYNTHETIC_SEED = 11

Refine = Callable[[CameraClip, NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Spec:
    """What a worker needs to know: the table, the data (None: small built-in motion) and the folder of the runs."""

    table: Path
    data: Path | None
    output: Path
    quick: bool
    threads: int

    @property
    def archive(self) -> str:
        """What the data is called in reports."""
        if self.data is None:
            return "built-in synthetic motion"
        return next((path.name for path in self.data.glob("data_3d_*.npz")), self.data.name)

    def load(self) -> tuple[Table, MotionFolder]:
        table = load_table(self.table, self.quick)
        if self.data is None:
            actions = ("Walking", "Waving")
            return table, synthetic_folder(QUICK_SYNTHETIC_SEED, subjects=6, frames=250, actions=actions)
        return table, open_motion_folder(self.data)


def claim_folder(spec: Spec) -> None:
    """Note in the runs' folder what its runs are of. Raises UsageError where they are of something else: checkpoints,
    lifted poses and scores there would be taken for this study's."""
    facts = {"archive": spec.archive, "quick": spec.quick}
    file = spec.output / FOLDER_FILE
    if not file.is_file():
        spec.output.mkdir(parents=True, exist_ok=True)
        atomic_write_text(file, json.dumps(facts) + "\n")
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    if found != facts:
        told = f"{found['archive']}{', toys (--quick)' if found['quick'] else ''}"
        raise UsageError(f"{spec.output} holds runs on {told}; choose another --output, or remove it")


def run_study(
    spec: Spec,
    rows: Collection[str],
    seeds: Collection[int],
    jobs: int,
    on_done: Callable[[str, int, float], None],
    on_failure: Callable[[str, int, Exception], None],
) -> list[tuple[str, int]]:
    """Train and score ``rows`` (none: all) and what they need, ``jobs`` at a time.

    ``on_done(row, seed, seconds)`` and ``on_failure(row, seed, error)`` are called as it happens. A row that fails
    stops nothing but the rows that need it; its traceback goes into its log. Returns the rows and seeds that failed or
    lack what they need.
    """
    table, folder = spec.load()
    pool: Executor
    work: Callable[[str, int], float]
    needs = {(row.name, seed): [(name, seed) for name in row.needs()] for seed in seeds for row in table.select(rows)}
    if jobs == 1:
        # One runner keeps the clips that it has read.
        pool, work = Inline(), partial(_timed, Runner(spec, table, folder))
    else:
        pool, work = ThreadPoolExecutor(jobs), partial(_in_own_process, spec)
    with pool:
        return run_tasks(
            needs,
            lambda task: pool.submit(work, *task),
            jobs,
            lambda task, seconds: on_done(*task, seconds),
            lambda task, error: on_failure(*task, error),
        )


def _in_own_process(spec: Spec, name: str, seed: int) -> float:
    """A process of its own for a row: one that dies takes no other with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_timed_alone, spec, name, seed).result()


def _timed_alone(spec: Spec, name: str, seed: int) -> float:
    return _timed(Runner(spec, *spec.load()), name, seed)


def _timed(runner: Runner, name: str, seed: int) -> float:
    began, row = time.perf_counter(), runner.table.row(name)
    try:
        runner.run(row, seed)
    except Exception:
        with (runner.place(row, seed) / LOG_FILE).open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        raise
    return time.perf_counter() - began


class Runner:
    """Trains and scores rows in one process."""

    def __init__(self, spec: Spec, table: Table, folder: MotionFolder) -> None:
        self.spec, self.table, self.folder = spec, table, folder
        self._lifted = LiftedClips(spec.output / "cache", spec.threads)
        # Refined poses that several rows score: as they are, smoothed, with one body shape.
        self._kept = KeptClips(spec.output / "cache")
        self._clips: dict[tuple[str, str], list[CameraClip]] = {}

    def place(self, row: Row, seed: int) -> Path:
        """The folder of a row's run."""
        return self.spec.output / row.name / f"seed-{seed}"

    def checkpoint(self, name: str, seed: int) -> Path:
        """The checkpoint of a trained row."""
        row = self.table.row(name)
        if row.checkpoint:
            given = Path(row.checkpoint)
            return given if given.suffix else bundled.checkpoint(row.checkpoint)
        return self.place(row, seed) / f"{row.keep}.safetensors"

    def run(self, row: Row, seed: int) -> list[Scores]:
        """Train the row if it is to be trained and has not been, and score it if it has not been."""
        place = self.place(row, seed)
        place.mkdir(parents=True, exist_ok=True)
        if row.trained:
            with _into_log(place / LOG_FILE):
                self._train(row, seed)
        # The key of before: a checkpoint that is replaced while it is scored must not own the scores.
        key = self._score_key(row, seed)
        scores = read_scores(place / SCORES_FILE, key)
        if scores is None:
            scores = self._score(row, seed)
            write_scores(place / SCORES_FILE, scores, key)
        return scores

    def _train(self, row: Row, seed: int) -> None:
        import torch

        from refiner.training.checkpoints import load_checkpoint
        from refiner.training.config import load_config
        from refiner.training.loop import HISTORY_FILE, LAST_FILE, refuse_other_run, source_digests
        from refiner.training.runs import train_lifter, train_refiner

        fixed = [f"training.seed={seed}", f"training.threads={self.spec.threads}"]
        config = load_config(row.config, [*self.table.overrides(row), *fixed])
        place = self.place(row, seed)
        # A toy has another network than a bundled model.
        if row.start_from and not (self.spec.quick and self.table.row(row.start_from).checkpoint):
            config = dataclasses.replace(config, start_from=str(self.checkpoint(row.start_from, seed)))
        if row.kind == "refiner":
            folds = tuple(str(self.checkpoint(name, seed)) for name in row.cross_fit)
            noise = dataclasses.replace(config.noise, cross_fit=folds)
            config = dataclasses.replace(config, lifter=str(self.checkpoint(row.lifter, seed)), noise=noise)
        history = place / HISTORY_FILE
        if history.is_file() and json.loads(history.read_text())[-1]["step"] == config.training.steps:
            found = load_checkpoint(place / LAST_FILE).config
            refuse_other_run(place, found, found["data_description"], config, source_digests(config))
            return
        torch.set_num_threads(self.spec.threads)
        if row.kind == "lifter":
            people = self.folder.description.train
            train_lifter(config, self.folder, place, people[row.fold :: FOLDS] if row.fold >= 0 else ())
            return
        train_refiner(config, self.folder, place)

    def _checkpoints(self, row: Row, seed: int) -> dict[str, Path]:
        """By row, those that a row's scores follow from."""
        used = [name for name in dict.fromkeys((row.name, row.lifter, row.of)) if name]
        return {name: self.checkpoint(name, seed) for name in used if self.table.row(name).kind != "score"}

    def digests(self, row: Row, seed: int) -> dict[str, str]:
        """By row, SHA-256 of the checkpoints that a row's scores follow from, as far as they are here."""
        return {name: sha256_of(path) for name, path in self._checkpoints(row, seed).items() if path.is_file()}

    def _score_key(self, row: Row, seed: int) -> str:
        """Names all that a row's scores follow from: its own lines and the checkpoints that it uses."""
        digests = [sha256_of(path) for path in self._checkpoints(row, seed).values()]
        facts: list[Any] = [
            SCORES_VERSION,
            row.method,
            row.steps,
            row.detail,
            dataclasses.asdict(self.table.variants[row.data]),
        ]
        if row.pool_shape:
            facts.append("one shape" if row.shape_of == "clip" else f"one shape a {row.shape_of}")
        if row.action:
            facts.append([row.action, "before as guessed"])
        if row.flip_test:
            facts.append("mirrored")
        if row.smooth:
            facts.append("smoothed")
        return hashlib.sha256(json.dumps([facts, digests]).encode()).hexdigest()

    def recipe(self, row: Row) -> str:
        """Names what a row's figures follow from, wherever it is run."""
        return hashlib.sha256(json.dumps([SCORES_VERSION, self.table.recipe(row)]).encode()).hexdigest()

    def _part(self, part: Part, data: str) -> list[CameraClip]:
        if (part, data) not in self._clips:
            self._clips = {(part, data): study_clips(self.folder, part, self.table.variants[data])}
        return self._clips[part, data]

    def _lift(self, row: Row, seed: int, part: Part) -> tuple[list[CameraClip], list[NDArray[np.float32]]]:
        """The clips that a row is scored on, and its lifter's poses of them."""
        clips = self._part(part, row.data)
        lifter = self.checkpoint(row.name if row.kind == "lifter" else row.lifter, seed)
        return clips, self._lifted.lift(lifter, clips, self._clips_name(row, part), row.action, row.flip_test)

    def _clips_name(self, row: Row, part: Part) -> str:
        """Of the clips that a row is scored on: what a variant says may change, and so may what is made of them."""
        facts = [SCORES_VERSION, dataclasses.asdict(self.table.variants[row.data])]
        return f"{part}-{row.data}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]}"

    def _before(self, row: Row, seed: int, part: Part) -> list[NDArray[np.float32]] | None:
        """What the lifter says by itself where the row has it lift in another way: told an action, or mirrored."""
        if not row.action and not row.flip_test:
            return None
        return self._lift(dataclasses.replace(row, action="", flip_test=False), seed, part)[1]

    def _score(self, row: Row, seed: int) -> list[Scores]:
        """Of every part; the models are loaded, and the filters tuned, once for all of them."""
        # Named before the models are loaded: one that is replaced meanwhile must not own these poses.
        names = {part: self._refined_name(row, seed, part) for part in PARTS}
        refiner = self._refiner(row, seed)
        refine, settings = self._method(row, seed, refiner)
        scored = []
        for part in PARTS:
            clips, lifted = self._lift(row, seed, part)
            refined = self._refined(row, seed, part, refine, names[part])
            scores = score_clips(clips, lifted, refined, part, row.data, self._before(row, seed, part))
            extra = dict(settings)
            if refiner is not None:
                extra["input"] = _compare_input(refiner, clips, lifted)
            if row.detail and row.kind == "refiner":
                checkpoint = self.checkpoint(row.name, seed)
                extra["premise"] = check_premise(checkpoint, clips, lifted)
                extra["by_place"] = _by_place(checkpoint, self.spec.threads, clips, lifted)
            scored.append(dataclasses.replace(scores, extra=extra))
        return scored

    def scores(self, row: Row, seed: int) -> list[Scores] | None:
        """Of every part, where the row has been scored as the table says, with the checkpoints that are there."""
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
        refine = self._method(row, seed, self._refiner(row, seed))[0]
        assert refine is not None
        shown = [clips[place] for place in needed]
        poses = [root_relative(refine(clips[place], lifted[place])) for place in needed]
        return clips[index], before[index], _treated(row, shown, poses)[needed.index(index)]

    def _refined(
        self, row: Row, seed: int, part: Part, refine: Refine | None, name: str
    ) -> list[NDArray[np.float32]] | None:
        """What the row makes of lifted poses, root-relative, with one body shape where it asks for that; None: nothing
        is done to them. ``name``: under which poses are kept that several rows score; "" for none."""
        if refine is None and not row.pool_shape:
            return None
        clips, lifted = self._lift(row, seed, part)
        poses = lifted

        def run() -> list[NDArray[Any]]:
            assert refine is not None
            return [root_relative(refine(clip, pose)) for clip, pose in zip(clips, lifted, strict=True)]

        if refine is not None:
            poses = self._kept.get(name, clips, run) if name else run()
        return _treated(row, clips, poses)

    def _refined_name(self, row: Row, seed: int, part: Part) -> str:
        """All that refined poses follow from, before they are smoothed and given one shape; "" where no other row needs
        them."""
        refines = row.method == "refine" and row.kind != "lifter"
        if not refines or not any(other != row and _alike(other, row) for other in self.table.rows):
            return ""
        digests = [sha256_of(self.checkpoint(name, seed))[:16] for name in (row.of or row.name, row.lifter)]
        steps = f"{row.steps}-steps" if row.steps else ""
        words = ["-on-".join(digests), self._clips_name(row, part), row.action, "mirrored" * row.flip_test, steps]
        return "-".join(word for word in words if word)

    def _refiner(self, row: Row, seed: int) -> Refiner | None:
        if row.kind == "lifter" or row.method != "refine":
            return None
        checkpoint = self.checkpoint(row.of or row.name, seed)
        return Refiner.load(checkpoint, steps=row.steps or None, flip_test=row.flip_test, threads=self.spec.threads)

    def _method(self, row: Row, seed: int, refiner: Refiner | None) -> tuple[Refine | None, dict[str, Any]]:
        """What the row does to lifted poses (None: nothing), and the settings that were chosen for it."""
        if row.kind == "lifter" or row.method == "none":
            return None, {}
        if refiner is not None:
            return (lambda clip, pose: refiner.refine(clip.pose_2d, pose, clip.image_size, fps=clip.fps)), {}
        if row.method in ("one-euro", "savitzky-golay"):
            # Tuned on what it is scored on, but of the validation person.
            clips, lifted = self._lift(row, seed, "validation")
            poses = [(pose, clip.pose_3d, clip.fps) for pose, clip in zip(lifted, clips, strict=True)]
            smooth, settings, error = tune(row.method, poses)
            return (lambda clip, pose: smooth(pose, clip.fps)), {"settings": settings, "validation_mm": error}
        from refiner.training.checkpoints import load_noise_model

        noise = load_noise_model(self.checkpoint(row.of or row.name, seed))
        return (lambda clip, pose: linear_correction(noise, clip.pose_2d, pose, clip.image_size)), {}


def _treated(row: Row, clips: list[CameraClip], poses: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Poses smoothed and given one body shape, where the row asks for it."""
    if row.smooth:
        poses = [savitzky_golay(pose, clip.fps).astype(np.float32) for clip, pose in zip(clips, poses, strict=True)]
    return pool_together(poses, people_of(clips, row.shape_of)) if row.pool_shape else poses


def _alike(a: Row, b: Row) -> bool:
    """Whether both run the same refiner in the same way on the same lifter's poses."""

    def way(row: Row) -> tuple[Any, ...]:
        refines = row.method == "refine" and row.kind != "lifter"
        return refines, row.of or row.name, row.lifter, row.data, row.action, row.flip_test, row.steps

    return way(a) == way(b)


def _compare_input(
    refiner: Refiner, clips: list[CameraClip], lifted: list[NDArray[np.float32]]
) -> dict[str, Any] | None:
    """How the input compares with what the refiner was trained on."""
    parts = []
    for clip, pose in zip(clips, lifted, strict=True):
        familiar = refiner.compare_input(clip.pose_2d, pose, clip.image_size, fps=clip.fps)
        if familiar is not None:
            parts.append((clip.frames, familiar))
    found = merge_familiarity(parts)
    return None if found is None else dataclasses.asdict(found) | {"warnings": found.warnings}


def _by_place(
    checkpoint: Path, threads: int, clips: list[CameraClip], lifted: list[NDArray[np.float32]]
) -> list[float]:
    """MPJPE in mm by the place in a window, of windows side by side: what blending has to even out."""
    refiner = Refiner.load(checkpoint, threads=threads)
    refiner.hop = refiner.frames
    total, count = np.zeros(refiner.frames), np.zeros(refiner.frames)
    for clip, pose in zip(clips, lifted, strict=True):
        whole = clip.frames - clip.frames % refiner.frames
        if not whole:
            continue
        refined = refiner.refine(clip.pose_2d[:whole], pose[:whole], clip.image_size)
        error = np.linalg.norm(refined - refined[:, :1] - clip.pose_3d[:whole], axis=-1).mean(axis=-1)
        by_window = error.reshape(-1, refiner.frames)
        total, count = total + by_window.sum(axis=0), count + len(by_window)
    return [float(value) for value in 1000.0 * total / np.maximum(count, 1)]


@contextlib.contextmanager
def _into_log(path: Path) -> Iterator[None]:
    """What training prints goes into the run's log."""
    with path.open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def default_jobs() -> int:
    """One run a processor: two runs of one thread train more windows a second than one of two."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def check_request(jobs: int, seeds: Collection[int]) -> None:
    """Raises UsageError for no seed or no job."""
    if jobs < 1 or not seeds or min(seeds) < 0:
        raise UsageError(f"expected at least one job and seeds of 0 or more, got {jobs} and {list(seeds)}")
