"""What an actor does with chunks, and what the command says without Ray. No test here starts Ray."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import numpy as np
import pytest

from refiner import __version__, errors
from refiner.archive import ray_job, ray_worker
from refiner.archive.job import Job, ModelFile
from refiner.archive.ray_job import RayOptions, refine_archive_on_ray
from refiner.archive.ray_worker import MOST_ATTEMPTS, REPLY, TASK, ChunkWorker, Fault, Setup
from refiner.archive.sequences import Chunk, Outcome, SequenceRef
from refiner.cli.refine import main
from refiner.errors import ArchiveError, CheckpointError, MissingComponentError, RefinerError, UsageError

CHUNK = Chunk("c0ffee", (SequenceRef("walk", "npz", "walk.npz"), SequenceRef("run", "npz", "run.npz")), ("walk", "run"))
DONE = [Outcome(ref.name, ref.name, "hash", 60, ((f"{ref.name}.npz", "hash"),)) for ref in CHUNK.refs]


@pytest.fixture
def job(tmp_path):
    archive, output = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    output.mkdir()
    model = ModelFile(str(tmp_path / "model.safetensors"), "0" * 64, "native")
    return Job(str(archive), str(output), model, model)


@pytest.fixture
def marks(job):
    return ray_job._new_marks(job)


def setup_of(job, marks, recipe_id=None, version=__version__):
    return pickle.dumps(Setup(job, recipe_id or job.recipe_id, version, str(marks)))


def reply_of(worker):
    replies = worker({TASK: np.array([pickle.dumps(CHUNK)], dtype=object)})[REPLY]
    assert len(replies) == 1
    return pickle.loads(replies[0])


@pytest.fixture
def without_models(monkeypatch):
    """Stand-ins for the models and for the work; returns the chunks that were worked on."""
    worked = []
    monkeypatch.setattr(ray_worker, "load_models", lambda job: "models")
    monkeypatch.setattr(ray_worker, "refine_chunk", lambda job, models, chunk: worked.append(chunk) or DONE)
    return worked


def test_a_chunk_is_done(job, marks, without_models):
    reply = reply_of(ChunkWorker(setup_of(job, marks)))
    assert (reply.identity, reply.outcomes, reply.attempt, reply.fault) == ("c0ffee", tuple(DONE), 1, None)
    assert without_models == [CHUNK]


def test_a_chunk_that_ends_every_process_is_given_up(job, marks, without_models):
    """A process that dies leaves its mark, and no reply."""
    worker = ChunkWorker(setup_of(job, marks))
    for attempt in range(1, MOST_ATTEMPTS + 1):
        assert reply_of(worker).attempt == attempt
    assert len(without_models) == MOST_ATTEMPTS
    reply = reply_of(worker)
    assert len(without_models) == MOST_ATTEMPTS
    assert [outcome.source for outcome in reply.outcomes] == ["walk", "run"]
    for outcome in reply.outcomes:
        assert not outcome.done and f"ended {MOST_ATTEMPTS} times" in outcome.error
        # The next run of the command does it again: no input has this hash.
        assert outcome.input == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda job, marks: setup_of(job, marks, recipe_id="another", version="0.0.9"), "0.0.9"),
        (lambda job, marks: setup_of(job, marks / "elsewhere"), "does not see the output folder"),
        (lambda job, marks: (Path(job.archive).rmdir(), setup_of(job, marks))[1], "does not see the archive"),
    ],
)
def test_a_machine_that_cannot_do_the_job_says_why(job, marks, without_models, change, words):
    reply = reply_of(ChunkWorker(change(job, marks)))
    assert reply.fault.kind == "UsageError" and words in reply.fault.message
    assert reply.outcomes == () and without_models == []


def test_a_missing_model_is_named(job, marks):
    reply = reply_of(ChunkWorker(setup_of(job, marks)))
    error = reply.fault.error()
    assert type(error) is CheckpointError and "model.safetensors" in str(error)


def test_a_full_disk_in_an_actor_is_the_error_of_the_command(job, marks, monkeypatch):
    def full(job, models, chunk):
        raise OSError(errno.ENOSPC, "No space left on device", "/shared/out/.walk.npz", None, "/shared/out/walk.npz")

    monkeypatch.setattr(ray_worker, "load_models", lambda job: "models")
    monkeypatch.setattr(ray_worker, "refine_chunk", full)
    reply = reply_of(ChunkWorker(setup_of(job, marks)))
    error = reply.fault.error()
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (errno.ENOSPC, "/shared/out/.walk.npz")
    assert error.filename2 == "/shared/out/walk.npz"


def test_every_error_of_the_library_arrives_as_what_it_is():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RefinerError)]
    assert len(kinds) > 10
    for kind in kinds:
        arrived = pickle.loads(pickle.dumps(Fault.of(kind("what is wrong")))).error()
        assert type(arrived) is kind and str(arrived) == "what is wrong"


class Run:
    """A run whose ledger is a list."""

    def __init__(self, todo):
        self.todo, self.recorded = todo, []

    def record(self, chunk, outcomes):
        self.recorded.append((chunk.identity, outcomes))


def test_each_chunk_enters_the_ledger_once(job, marks, without_models):
    worker, run, told, frames = ChunkWorker(setup_of(job, marks)), Run((CHUNK,)), [], []
    ray_job._record(run, iter([reply_of(worker), reply_of(worker)]), frames.append, told.append)
    assert run.recorded == [("c0ffee", tuple(DONE))]
    assert frames == [CHUNK.weight] and told == []
    # The second attempt alone: its process is told of.
    run = Run((CHUNK,))
    ray_job._record(run, iter([reply_of(worker)]), frames.append, told.append)
    assert len(run.recorded) == 1 and "walk" in told[0]


def test_a_chunk_that_ray_loses_is_an_error():
    with pytest.raises(ArchiveError, match="lost 1 of 1 chunks"):
        ray_job._record(Run((CHUNK,)), iter([]), lambda frames: None, lambda line: None)


def test_without_ray_the_message_says_what_to_install(job, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ray_job, "find_spec", lambda name: None if name == "ray" else object())
    with pytest.raises(MissingComponentError, match=r"pose-refiner\[ray\]"):
        refine_archive_on_ray(job, RayOptions("local"))
    np.savez(Path(job.archive) / "walk.npz", pose_2d=np.ones((30, 17, 2)))
    assert main([job.archive, "--output", str(tmp_path / "new"), "--ray", "local"]) == 3
    assert "--ray needs ray; run: pip install 'pose-refiner[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("address", ["nonsense", "ray://127.0.0.1:10001", "127.0.0.1:", ":0x1"])
def test_an_address_that_is_none(address):
    with pytest.raises(UsageError, match="HOST:PORT"):
        ray_job._check_address(address)


def test_an_address_at_which_nobody_listens():
    with pytest.raises(ArchiveError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        ray_job._check_address("127.0.0.1:1")


def test_actors_belong_to_ray(job, tmp_path, capsys):
    np.savez(Path(job.archive) / "walk.npz", pose_2d=np.ones((30, 17, 2)))
    assert main([job.archive, "--output", str(tmp_path / "new"), "--actors", "2"]) == 2
    assert "--actors belongs to --ray" in capsys.readouterr().err
