"""A sequence that fails is named, and the rest is done; a folder that cannot be written stops the run."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refiner.archive import outputs
from refiner.archive.ledger import FILE
from refiner.archive.outputs import TEMPORARY
from refiner.archive.run import open_run, refine_archive
from refiner.cli.common import SOME_FAILED
from refiner.cli.refine import main


def spoil(archives):
    """An archive whose sequences fail in every way, with two that do not; returns the folder and the expected words."""
    archives.write("in/good.npz", 1)
    pixels, poses = archives.clip(2)
    archives.write("in/also good.npz", 2, fps=25.0, joints="coco17", pose_2d=coco(pixels), pose_3d=None)
    archives.write("in/millimetres.npz", 3, pose_3d=1000 * poses)
    archives.write("in/nobody.npz", 4, pose_2d=np.full((50, 17, 2), np.nan), pose_3d=None)
    archives.write("in/nan 3d.npz", 5, pose_3d=np.full((50, 17, 3), np.nan))
    archives.write("in/order.npz", 6, joints="coco17")
    archives.write("in/unknown joints.npz", 7, joints=None)
    archives.write("in/no size.npz", 8, image_size=None)
    archives.write("in/no rate.npz", 9, fps=None)
    archives.write("in/rate.npz", 10, fps=-3.0)
    archives.write("in/lengths.npz", 11, pose_3d=poses[:20])
    archives.write("in/nothing.npz", 12, pose_2d=None)
    archives.write("in/words.npz", 13, pose_2d=np.array(["a", "b"]))
    archives.write("in/scalar.npz", 15, pose_2d=np.float64(3.0))
    archives.write("in/no frames.npz", 16, pose_2d=np.zeros((0, 17, 2)), pose_3d=np.zeros((0, 17, 3)))
    archives.write("in/crowd.npz", 17, pose_2d=np.stack([pixels, pixels]))
    archives.write("in/swapped.npz", 18, pose_2d=poses, pose_3d=pixels)
    archives.write("in/far.npz", 19, pose_2d=pixels * 1e30)
    archives.write("in/confidence.npz", 20, confidence=np.ones(3))
    archives.write("in/complex.npz", 21, pose_2d=pixels * 1j)
    archives.write("in/focal.npz", 22, focal_length=[1.0, 2.0, 3.0])
    folder = archives.folder / "in"
    cut = archives.write("in/cut.npz", 14)
    cut.write_bytes(cut.read_bytes()[:3000])
    (folder / "no zip.npz").write_bytes(b"PK nothing")
    (folder / "empty.npz").write_bytes(b"")
    (folder / "list.json").write_text("[1, 2")
    (folder / "other.json").write_text('{"a": 1}')
    (folder / "gone.npz").symlink_to(folder / "not there")
    os.mkfifo(folder / "pipe.npz")
    return folder, {
        "millimetres": "millimetres",
        "nobody": "shows no joint",
        "nan 3d": "NaN in all of its 50 frames",
        "order": 'joint order|order of Human3.6M|joints="h36m17"',
        "unknown joints": "may be h36m17 or coco17 or 3dhp",
        "no size": "how large its images are",
        "no rate": "how many frames a second",
        "rate": "expected 1 to 1000 frames per second",
        "lengths": "50 frames and pose_3d 20",
        "nothing": "expected pose_2d",
        "words": "expected an array of numbers",
        "scalar": "has shape ()",
        "no frames": "has no frames",
        "crowd": "one person at a time",
        "swapped": "swapped with",
        "far": "expected pixels of this image",
        "confidence": "confidence is",
        "complex": "expected an array of numbers",
        "focal": "expected one number or two",
        "cut": "not a whole .npz file",
        "no zip": "not a whole .npz file",
        "empty": "is empty",
        "list": "is no JSON",
        "other": "layout of no detector",
        "gone": "no file",
        "pipe": "not a regular file",
    }


def coco(pixels):
    from refiner.skeleton import from_h36m17

    return from_h36m17(pixels, "coco17")


def test_every_failure_is_named_and_the_rest_is_done(archives, tree):
    folder, expected = spoil(archives)
    job = archives.job(folder)
    summary = refine_archive(job)
    failed = dict(summary.failed)
    assert failed.keys() == expected.keys()
    for name, words in expected.items():
        assert any(word in failed[name] for word in words.split("|")), (name, failed[name])
    assert summary.done == 2
    assert set(tree(job.output)) == {"good.npz", "also_good.npz", FILE}
    # Nothing is done again, and everything is named again.
    again = refine_archive(job)
    assert again.failed == summary.failed and again.earlier == 2


def test_a_failing_sequence_does_not_change_the_chunks(archives):
    job = archives.job(archives.many(20), chunk_frames=200)
    with open_run(job) as run:
        before = [[ref.name for ref in chunk.refs] for chunk in run.chunks]
    pixels = archives.clip(5, 52)[0]
    archives.write("in/clip05.npz", 5, 52, pose_2d=pixels * np.nan)
    with open_run(job) as run:
        assert [[ref.name for ref in chunk.refs] for chunk in run.chunks] == before


def test_an_input_that_could_not_be_read_is_tried_again(archives):
    archive = archives.many(2)
    (archive / "late.npz").symlink_to(archives.folder / "late.npz")
    job = archives.job(archive)
    assert [name for name, _ in refine_archive(job).failed] == ["late"]
    archives.write("late.npz", 3)
    summary = refine_archive(job)
    assert not summary.failed and summary.done == 3


def test_exit_codes(archives, capsys):
    archive = archives.many(2)
    words = [str(archive), "--output", str(archives.folder / "out"), "--checkpoint", "window"]
    assert main(words) == 0
    archives.write("in/bad.npz", 3, fps=None)
    assert main(words) == SOME_FAILED
    told = capsys.readouterr()
    assert "failed: bad: nobody says how many frames a second" in told.err and "1 failed" in told.out
    for clip in archive.glob("clip*.npz"):
        clip.unlink()
    assert main([*words[:2], str(archives.folder / "other"), *words[3:]]) == 5


def full_after(monkeypatch, files):
    """Let the disk be full after some output files: the next one has no room."""
    written = 0
    real = outputs._write

    def write(form, path, *given):
        nonlocal written
        written += 1
        if written > files:
            path.write_bytes(b"the beginning of")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(form, path, *given)

    monkeypatch.setattr(outputs, "_write", write)


def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(archives, tree, monkeypatch, capsys):
    archive = archives.many(12)
    words = [str(archive), "--checkpoint", "window", "--chunk-frames", "200"]
    assert main([*words, "--output", str(archives.folder / "undisturbed")]) == 0
    output = archives.folder / "out"
    with monkeypatch.context() as patch:
        full_after(patch, 7)
        assert main([*words, "--output", str(output)]) == 5
    message = capsys.readouterr().err
    assert "the disk is full; free some space in" in message and "clip07.npz" in message
    left = tree(output)
    assert set(left) == {FILE, *(f"clip{number:02d}.npz" for number in range(7))}
    assert not (output / TEMPORARY).exists()
    assert main([*words, "--output", str(output)]) == 0
    assert tree(output) == tree(archives.folder / "undisturbed")


def test_no_room_for_the_ledger(archives, tree):
    """A process that may write no file of more than a few kilobytes: the outputs fit, and the ledger does not."""
    archive = archives.many(30, frames=5)
    job = archives.job(archive, chunk_frames=20)
    refine_archive(job)
    ledger = Path(job.output, FILE)
    largest = max(file.stat().st_size for file in Path(job.output).glob("*.npz"))
    assert largest < 6000 < ledger.stat().st_size
    output = archives.folder / "limited"
    words = [sys.executable, "-m", "refiner.cli.refine", str(archive), "--output", str(output)]
    words += ["--checkpoint", "window", "--lifter", "live-lifter", "--chunk-frames", "20"]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    stopped = subprocess.run(words, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert stopped.returncode == 5 and "larger than this process may write" in stopped.stderr
    assert FILE in stopped.stderr
    assert all(json.loads(line) for line in (output / FILE).read_text().splitlines())
    subprocess.run(words, check=True, capture_output=True)
    assert tree(output) == tree(job.output)


@pytest.mark.parametrize("words", [["--person", "0"], ["--trajectory"], ["--json", "a.json"], ["--video", "a.mp4"]])
def test_options_of_single_recordings_are_refused(archives, capsys, words):
    archive = archives.many(1)
    assert main([str(archive), "--output", str(archives.folder / "out"), *words]) == 2
    assert f"{words[0]}: not for an archive" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--formats", "npz"], ["--threads", "1"], ["--engine", "native"]])
def test_options_of_archives_are_refused_elsewhere(tmp_path, capsys, words):
    np.save(tmp_path / "2d.npy", np.ones((5, 17, 2)))
    given = ["--pose-2d", str(tmp_path / "2d.npy"), "--image-size", "100", "100", "--output", str(tmp_path / "out.npz")]
    assert main([*given, *words]) == 2
    assert f"{words[0]} belong to archives" in capsys.readouterr().err
