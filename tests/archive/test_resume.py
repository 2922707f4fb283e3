"""What was interrupted or has changed is done, and the folder is then the one of an undisturbed run, byte for byte."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refiner.archive import work
from refiner.archive.ledger import FILE
from refiner.archive.models import load_models, model_file
from refiner.archive.outputs import TEMPORARY
from refiner.archive.run import open_run, refine_archive
from refiner.errors import ArchiveError, CheckpointError, UsageError

COMMAND = [sys.executable, "-m", "refiner.cli.refine"]
OPTIONS = ["--checkpoint", "window", "--threads", "1", "--chunk-frames", "200"]


def command(archive, output):
    return [*COMMAND, str(archive), "--output", str(output), *OPTIONS]


def refined(job):
    """Refine, and return the names of the inputs that were done."""
    done = []
    with open_run(job) as run:
        done = [ref.name for chunk in run.todo for ref in chunk.refs]
    refine_archive(job)
    return done


@pytest.mark.parametrize("seed", [7, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5))])
def test_killed_three_times_and_resumed(archives, tree, tmp_path, seed):
    archive = archives.many(30)
    subprocess.run(command(archive, tmp_path / "undisturbed"), check=True, capture_output=True)
    output = tmp_path / "killed"
    rng, kills, written = random.Random(seed), 0, 0
    while kills < 3:
        wanted = written + rng.randint(1, 7)
        process = subprocess.Popen(command(archive, output), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and len(list(output.glob("*.npz"))) < wanted:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed: take more sequences"
        kills, written = kills + 1, len(list(output.glob("*.npz")))
    assert written < 30
    subprocess.run(command(archive, output), check=True, capture_output=True)
    assert tree(output) == tree(tmp_path / "undisturbed")
    assert len(tree(output)) == 31


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of os.fork
@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("when", [1, 4, 9])
def test_killed_at_any_step_of_writing(archives, tree, monkeypatch, call, when):
    """The process ends at the moments that matter: before a file is in place, and before the ledger is on the disk."""
    job = archives.job(archives.many(6), chunk_frames=110, formats=("npz", "trc"), threads=1)
    refine_archive(replace(job, output=str(archives.folder / "undisturbed")))
    child = os.fork()
    if child == 0:
        calls, real = 0, getattr(os, call)

        def counted(*given, **named):
            nonlocal calls
            calls += 1
            if calls == when:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **named)

        setattr(os, call, counted)
        refine_archive(job)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert Path(job.output, TEMPORARY).is_dir()
    refine_archive(job)
    assert tree(job.output) == tree(archives.folder / "undisturbed")


def test_a_finished_run_does_nothing_again(archives, tree, monkeypatch):
    job = archives.job(archives.many(4))
    first = refine_archive(job)
    before, times = tree(job.output), [file.stat().st_mtime_ns for file in Path(job.output).glob("*.npz")]
    monkeypatch.setattr("refiner.archive.run.load_models", lambda job: pytest.fail("nothing is to be done"))
    second = refine_archive(job)
    assert (first.done, first.earlier, second.done, second.earlier) == (4, 0, 4, 4) and second.frames == first.frames
    assert tree(job.output) == before
    assert [file.stat().st_mtime_ns for file in Path(job.output).glob("*.npz")] == times


def test_a_changed_input_is_done_again(archives, tree):
    job = archives.job(archives.many(30), chunk_frames=200)
    refine_archive(job)
    archives.write("in/clip07.npz", seed=99)
    done = refined(job)
    assert "clip07" in done and len(done) <= 4
    refine_archive(replace(job, output=str(archives.folder / "anew")))
    assert tree(job.output) == tree(archives.folder / "anew")


def test_a_new_input_changes_the_chunks_around_it_alone(archives, tree):
    job = archives.job(archives.many(40), chunk_frames=400)
    refine_archive(job)
    archives.write("in/clip17b.npz", seed=99)
    done = refined(job)
    assert "clip17b" in done and len(done) < 25
    refine_archive(replace(job, output=str(archives.folder / "anew")))
    assert tree(job.output) == tree(archives.folder / "anew")


def test_a_changed_model_and_changed_options_do_everything_again(archives, tree):
    archive = archives.many(5)
    job = archives.job(archive)
    refine_archive(job)
    for other, message in (
        (replace(job, refiner=model_file("refiner-nano-rays-long", "refiner")), "file of the refiner"),
        (replace(job, refiner=model_file("window", "refiner", steps=1)), "steps of the refiner"),
        (replace(job, smoothing=True), "smoothing is True"),
        (replace(job, formats=("npz", "bvh")), "formats"),
    ):
        with open_run(other) as run:
            assert sum(len(chunk.refs) for chunk in run.todo) == 5
            assert any(message in change for change in run.changes)
        assert refine_archive(other).earlier == 0
        anew = replace(other, output=str(archives.folder / f"anew {message}"))
        refine_archive(anew)
        assert tree(other.output) == tree(anew.output)
    # Back to the first: the files of the other formats are gone.
    refine_archive(job)
    assert not list(Path(job.output).glob("*.bvh"))


def test_a_model_that_changes_on_the_disk_is_noticed(archives, tmp_path):
    checkpoint = tmp_path / "mine.safetensors"
    checkpoint.write_bytes(Path(model_file("window", "refiner").path).read_bytes())
    job = archives.job(archives.many(2), refiner=model_file(checkpoint, "refiner", engine="native"))
    checkpoint.write_bytes(Path(model_file("refiner-nano-rays-long", "refiner").path).read_bytes())
    with pytest.raises(CheckpointError, match="not the model of this job"):
        refine_archive(job)


def test_a_lost_output_is_written_again(archives, tree):
    job = archives.job(archives.many(6), chunk_frames=110)
    refine_archive(job)
    before = tree(job.output)
    Path(job.output, "clip03.npz").unlink()
    assert "clip03" in refined(job)
    assert tree(job.output) == before


def test_results_of_inputs_that_are_gone_stay(archives, tree):
    archive = archives.many(4)
    job = archives.job(archive)
    refine_archive(job)
    (archive / "clip02.npz").unlink()
    with open_run(job) as run:
        assert run.gone == ("clip02",)
    summary = refine_archive(job)
    assert summary.done == 3 and "clip02.npz" in tree(job.output)
    assert '"source": "clip02"' in Path(job.output, FILE).read_text()


def test_a_folder_of_something_else_is_refused(archives):
    archive = archives.many(2)
    other = archives.write("elsewhere/another.npz", 1).parent
    job = archives.job(archive)
    refine_archive(job)
    with pytest.raises(UsageError, match="results of another archive"):
        refine_archive(replace(job, archive=str(other)))
    with pytest.raises(UsageError, match=r"holds 'another.npz' and no ledger.jsonl"):
        refine_archive(replace(job, output=str(other)))
    with pytest.raises(UsageError, match="is a file, expected a folder"):
        refine_archive(replace(job, output=str(other / "another.npz")))


def test_two_runs_in_one_folder_exclude_each_other(archives):
    job = archives.job(archives.many(3))
    script = (
        "import pickle, sys; from refiner.archive.run import refine_archive; "
        "refine_archive(pickle.loads(bytes.fromhex(sys.argv[1])))"
    )
    import pickle

    with open_run(job) as run:
        second = subprocess.run(
            [sys.executable, "-c", script, pickle.dumps(job).hex()], capture_output=True, text=True, check=False
        )
        assert second.returncode == 1 and "another run works in" in second.stderr
        assert run.todo
    assert refine_archive(job).done == 3


def test_an_unfinished_line_is_forgotten(archives, tree):
    job = archives.job(archives.many(6), chunk_frames=110)
    refine_archive(job)
    before = tree(job.output)
    ledger = Path(job.output, FILE)
    ledger.write_bytes(ledger.read_bytes()[:-40])
    done = refined(job)
    assert done and len(done) <= 3
    assert tree(job.output) == before


def test_a_damaged_ledger_is_refused(archives):
    job = archives.job(archives.many(2))
    refine_archive(job)
    ledger = Path(job.output, FILE)
    lines = ledger.read_text().splitlines()
    for damage in ("{", '{"source": 3}', "[]", '{"ledger": 99, "recipe": "a", "recipe_of": {}}'):
        ledger.write_text("\n".join([lines[0], damage, *lines[1:]]) + "\n")
        with pytest.raises(ArchiveError, match=r"line 2, is damaged|version 99"):
            refine_archive(job)


def test_files_of_people_who_are_gone_are_removed(archives, tree, tmp_path):
    """A detector's file that showed two people and now shows one leaves no second file behind."""

    def results(people):
        pixels = [archives.clip(seed)[0] for seed in range(people)]
        frames = range(len(pixels[0]))
        return [
            {"image_id": f"{frame}.jpg", "category_id": 1, "score": 3.0, "keypoints": keypoints(pose[frame])}
            for frame in frames
            for pose in pixels
        ]

    def keypoints(pose):
        moved = np.concatenate([pose, np.full((17, 1), 0.9)], axis=1)
        return moved.ravel().tolist()

    archive = tmp_path / "in"
    archive.mkdir()
    job = archives.job(archive, stated=archives.stated(fps=50, image_size=archives.size))
    (archive / "both.json").write_text(json.dumps(results(2)))
    refine_archive(job)
    assert {"both/person0.npz", "both/person1.npz"} < set(tree(job.output))
    (archive / "both.json").write_text(json.dumps(results(1)))
    refine_archive(job)
    assert set(tree(job.output)) == {"both/person0.npz", FILE}
    assert not Path(job.output, TEMPORARY).exists()


def test_chunks_may_be_recorded_in_any_order(archives, tree):
    job = archives.job(archives.many(8), chunk_frames=110)
    refine_archive(job)
    other = replace(job, output=str(archives.folder / "backwards"))
    models = load_models(other)
    with open_run(other) as run:
        for chunk in reversed(run.todo):
            with pytest.raises(UsageError, match="are not done"):
                run.finish()
            run.record(chunk, work.refine_chunk(other, models, chunk))
        run.finish()
    assert tree(job.output) == tree(other.output)


def test_batches_do_not_depend_on_where_a_run_ended(archives, tree, monkeypatch):
    """An engine whose rounding depends on its batch gives the same files after an interruption."""
    job = archives.job(archives.many(12), chunk_frames=260)

    def load(job):
        models = load_models(job)
        engine = models.refiner._engine

        class Engine:
            def __getattr__(self, name):
                return getattr(engine, name)

            def __call__(self, *inputs):
                return engine(*inputs) + np.float32(1e-4 * len(inputs[0]) + 1e-6 * np.mean(inputs[0]))

        models.refiner._engine = Engine()
        return models

    monkeypatch.setattr("refiner.archive.run.load_models", load)
    refine_archive(job)
    other = replace(job, output=str(archives.folder / "interrupted"))
    with open_run(other) as run:
        assert len(run.todo) > 2
        run.record(run.todo[1], work.refine_chunk(other, load(other), run.todo[1]))
    refine_archive(other)
    assert tree(other.output) == tree(job.output)


def test_an_output_folder_inside_the_archive_is_no_input(archives, tree):
    archive = archives.many(2)
    job = archives.job(archive, "in/refined")
    first = refine_archive(job)
    before = tree(job.output)
    second = refine_archive(job)
    assert first.done == second.done == second.earlier == 2 and tree(job.output) == before
