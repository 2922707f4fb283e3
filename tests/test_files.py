"""Output files: whole or not at all, line by line, and what is said where there is no room."""

from __future__ import annotations

import contextlib
import errno
import json
import resource
from pathlib import Path

import numpy as np
import pytest

from refiner.cli.common import BAD_OUTPUT, run
from refiner.errors import InputError
from refiner.files import LineFile, UnfinishedFile, atomic_path, atomic_write_text, naming_full_disk
from refiner.formats.bvh import write_bvh
from refiner.formats.trc import write_trc
from refiner.reports import new_report, write_report

ROOM = 20_000


@contextlib.contextmanager
def little_room():
    """No file grows beyond `ROOM` bytes. The system then refuses a write as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_npy(path):
    with atomic_path(path) as temporary:
        np.save(temporary, np.zeros(ROOM))


def save_npz(path):
    with atomic_path(path) as temporary:
        np.savez(temporary, a=np.random.default_rng(0).normal(size=ROOM))


def save_checkpoint(path):
    torch = pytest.importorskip("torch")
    from refiner.model_files.checkpoint import save_checkpoint

    save_checkpoint(path, {"kind": "lifter"}, {"model.a": torch.zeros(ROOM)})


def save_report(path):
    write_report(path, new_report("evaluation", {}) | {"rows": list(range(ROOM))})


WRITERS = {
    "a.txt": lambda path: atomic_write_text(path, "x" * 2 * ROOM),
    "a.npy": save_npy,
    "a.npz": save_npz,
    "a.safetensors": save_checkpoint,
    "a.json": save_report,
    "a.trc": lambda path: write_trc(path, np.zeros((500, 17, 3)), 50.0),
    "a.bvh": lambda path: write_bvh(path, np.random.default_rng(0).normal(size=(500, 17, 3)), 50.0),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_result_that_does_not_fit_leaves_the_old_one_and_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_text("earlier")
    with little_room(), pytest.raises(OSError, match="File too large") as caught:
        WRITERS[name](path)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]
    WRITERS[name](path)
    assert path.stat().st_size > ROOM


def test_other_errors_of_a_writer_stay_what_they_are(tmp_path):
    for error in (ValueError("a"), InputError("b"), OSError(errno.EACCES, "c", "elsewhere"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, atomic_path(tmp_path / "a"):
            raise error
        assert caught.value is error
    assert not list(tmp_path.iterdir())


def write_often(lines, line):
    for _ in range(1000):
        lines.write(line)


def test_lines_that_fit_stay_and_the_next_one_is_not_halved(tmp_path):
    path = tmp_path / "folder" / "lines.jsonl"
    line = json.dumps({"pose": "é" * 300})
    with little_room(), LineFile(path) as lines, pytest.raises(OSError, match="File too large") as caught:
        write_often(lines, line)
    assert caught.value.filename == str(path)
    written = path.read_text(encoding="utf-8")
    assert written.endswith("\n") and set(written.splitlines()) == {line}
    assert ROOM - len(line.encode()) - 1 <= path.stat().st_size <= ROOM


def test_every_line_is_there_when_it_was_written(tmp_path):
    with LineFile(tmp_path / "lines.jsonl") as lines:
        for number in range(3):
            lines.write(str(number))
            assert (tmp_path / "lines.jsonl").read_text().splitlines() == [str(n) for n in range(number + 1)]


def test_lines_are_appended_to_those_of_an_earlier_program(tmp_path):
    path = tmp_path / "lines.jsonl"
    for number in range(3):
        with LineFile(path, append=True, synced=True) as lines:
            assert lines.length == 2 * number
            lines.write(str(number))
    assert path.read_text() == "0\n1\n2\n"
    with little_room(), LineFile(path, append=True) as lines, pytest.raises(OSError, match="File too large"):
        lines.write("x" * ROOM)
    assert path.read_text() == "0\n1\n2\n"


def test_files_get_their_names_later_and_together(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    files = [UnfinishedFile(tmp_path / "results" / f"{'long' * 60}{number}.txt", elsewhere) for number in range(20)]
    for number, unfinished in enumerate(files):
        with unfinished.writing() as temporary:
            temporary.write_text(str(number))
    assert not list((tmp_path / "results").iterdir()) and len(list(elsewhere.iterdir())) == 20
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(UnfinishedFile.finish, files[:15]))
    for unfinished in files:
        unfinished.remove()
    assert not list(elsewhere.iterdir())
    written = {file.name: file.read_text() for file in (tmp_path / "results").iterdir()}
    assert written == {f"{'long' * 60}{number}.txt": str(number) for number in range(15)}
    plain = tmp_path / "plain"
    plain.touch()
    assert {file.stat().st_mode for file in (tmp_path / "results").iterdir()} == {plain.stat().st_mode}


def fill(path):
    with LineFile(path) as lines:
        lines.write("x")


def copy_between(source, target):
    raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (lambda: fill("/dev/full"), "/dev/full: the disk is full; free some space in /dev"),
        (lambda: copy_between("/from/a", "/to/b"), "/to/b: the disk is full; free some space in /to"),
        (lambda: copy_between("/from/a", Path("/to/b")), "/to/b: the disk is full; free some space in /to"),
    ],
)
def test_a_full_disk_is_named_by_the_file_that_does_not_fit(capsys, error, told):
    import argparse

    assert run(lambda arguments: error(), argparse.ArgumentParser(prog="tool"), []) == BAD_OUTPUT
    assert told in capsys.readouterr().err


def test_a_folder_of_temporary_files_is_named(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, naming_full_disk(tmp_path):
        copy_between("/from/a", tmp_path / "part")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path), None)
