"""refiner-refine ARCHIVE --ray: the same files as without, whoever dies on the way. Ray's processes are real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from refiner.camera import look_at_camera
from refiner.data.synthetic import synthetic_motion

# A few seconds of work for one actor, so that it can be killed in the middle.
SEQUENCES, FRAMES = 40, 400
BROKEN = "broken"
LEDGER = "ledger.jsonl"
# A chunk has about half of --chunk-frames: some twenty of them.
OPTIONS = ["--checkpoint", "refiner-nano-rays", "--fps", "50", "--image-size", "1000", "1000", "--threads", "1"]
OPTIONS += ["--focal-length", "1145", "--joints", "h36m17", "--chunk-frames", "2000"]
PROGRAM = "import sys; from refiner.cli.refine import main; sys.exit(main(sys.argv[1:]))"
SOME_FAILED = 7

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("ray") is None or not Path("/proc/self/stat").exists(),
        reason="Ray is not installed (pip install 'pose-refiner[ray]'), or there is no /proc",
    ),
]


def start(*words):
    """Begin a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words), *OPTIONS],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run(*words):
    """Run a command to its end; returns its exit code and what it printed."""
    process = start(*words)
    printed = process.communicate(timeout=300)[0]
    return process.returncode, printed


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A folder of sequences with 3D poses, one of them broken."""
    folder = tmp_path_factory.mktemp("ray") / "archive"
    folder.mkdir()
    camera = look_at_camera((0, -4, 1.2), (0, 0, 0.9), 1145.0, 1000, 1000)
    rng = np.random.default_rng(5)
    for number in range(SEQUENCES):
        world = synthetic_motion(number, ("Walking", "Waving", "Squatting")[number % 3], FRAMES)
        seen = camera.to_camera(world)
        pose_3d = seen + rng.normal(0, 0.02, world.shape)
        pose_2d = camera.project(seen) + rng.normal(0, 2, (*world.shape[:2], 2))
        np.savez(folder / f"take-{number:02d}.npz", pose_2d=pose_2d, pose_3d=pose_3d)
    (folder / f"{BROKEN}.npz").write_bytes((folder / "take-00.npz").read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def expected(archive):
    """The files of the command without Ray."""
    output = archive.parent / "local"
    code, printed = run(archive, "--output", output)
    assert code == SOME_FAILED, printed
    files = files_of(output)
    assert len(files) == SEQUENCES + 1 and LEDGER in files
    return files


def files_of(folder):
    """The bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines_of(ledger):
    """How many whole lines a ledger has."""
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


def below(process):
    """The processes that a process started, and those that these did: number -> command line."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                parents.setdefault(parent, {})[int(folder.name)] = (folder / "cmdline").read_bytes().decode()
            except (OSError, ValueError):
                continue
    found, todo = {}, [process.pid]
    while todo:
        for number, words in parents.get(todo.pop(), {}).items():
            found[number] = words
            todo.append(number)
    return found


def actors_of(process):
    return sorted(
        number for number, words in below(process).items() if words.startswith("ray::") and "MapWorker" in words
    )


def kill_when(process, ledger, lines, victim, how=signal.SIGKILL):
    """Wait until the ledger has that many lines, then kill what ``victim()`` gives; returns it."""
    while process.poll() is None:
        if lines_of(ledger) >= lines:
            numbers = victim()
            if numbers:
                os.kill(numbers[0], how)
                return numbers[0]
        time.sleep(0.02)
    raise AssertionError(f"the command ended before anything could be killed: {process.stdout.read()}")


def test_two_actors_write_the_same_files(archive, expected, tmp_path):
    code, printed = run(archive, "--output", tmp_path / "out", "--ray", "local", "--actors", "2")
    assert code == SOME_FAILED, printed
    assert f"failed: {BROKEN}" in printed and f"{SEQUENCES} sequences" in printed
    assert files_of(tmp_path / "out") == expected
    # Everything is done: Ray is not even started.
    code, printed = run(archive, "--output", tmp_path / "out", "--ray", "127.0.0.1:1")
    assert code == SOME_FAILED and "0 of them now" in printed


def test_two_actors_are_killed_on_the_way(archive, expected, tmp_path):
    output = tmp_path / "out"
    process = start(archive, "--output", output, "--ray", "local", "--actors", "2")
    killed = [kill_when(process, output / LEDGER, lines, lambda: actors_of(process)) for lines in (4, 10)]
    printed = process.communicate(timeout=300)[0]
    assert len(set(killed)) == 2
    assert process.returncode == SOME_FAILED, printed
    assert files_of(output) == expected


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_the_command_is_ended_and_resumed(archive, expected, tmp_path, how, code):
    output = tmp_path / "out"
    process = start(archive, "--output", output, "--ray", "local", "--actors", "2")
    kill_when(process, output / LEDGER, 8, lambda: [process.pid], how)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == code, printed
    begun = lines_of(output / LEDGER)
    assert 8 <= begun <= SEQUENCES
    code, printed = run(archive, "--output", output, "--ray", "local", "--actors", "1")
    assert code == SOME_FAILED, printed
    assert "0 are done already" not in printed
    assert files_of(output) == expected


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
from refiner.cli import refine_archive
from refiner.cli.refine import main

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
other = cluster.add_node(num_cpus=1)
shown, done = refine_archive.shown_progress, []

def lose_a_machine(frames):
    done.append(frames)
    if len(done) == 2:
        cluster.remove_node(other, allow_graceful=False)

from contextlib import contextmanager
@contextmanager
def watched():
    with shown() as (begin, advance):
        yield begin, lose_a_machine

refine_archive.shown_progress = watched
code = main([*sys.argv[1:], "--ray", cluster.address])
assert len(done) > 2
cluster.shutdown()
sys.exit(code)
"""


def test_a_machine_of_a_cluster_is_lost(archive, expected, tmp_path):
    output = tmp_path / "out"
    ended = subprocess.run(
        [sys.executable, "-c", CLUSTER, archive, "--output", output, *OPTIONS],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert ended.returncode == SOME_FAILED, ended.stdout + ended.stderr
    assert files_of(output) == expected


def test_a_file_that_cannot_be_written_ends_the_command_by_name(archive, expected, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    for name, content in expected.items():
        (output / name).write_bytes(content)
    (output / "take-05.npz").unlink()
    (output / "take-05.npz" / "folder").mkdir(parents=True)
    code, printed = run(archive, "--output", output, "--ray", "local", "--actors", "1")
    assert code == 5 and "take-05" in printed and "Is a directory" in printed, printed
    # What was done before is as it was.
    assert {name: files_of(output)[name] for name in expected if name not in ("take-05.npz", LEDGER)} == {
        name: content for name, content in expected.items() if name not in ("take-05.npz", LEDGER)
    }
