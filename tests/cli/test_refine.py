"""refiner-refine as a user calls it, on arrays in files and random models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refiner import bundled
from refiner.cli.refine import main
from refiner.errors import InputError
from refiner.runtime import Lifter, Refiner, loading
from refiner.shape import pool_shape, pooled_lengths
from refiner.skeleton import from_h36m17, to_h36m17

torch = pytest.importorskip("torch", reason="PyTorch is not installed: checkpoints cannot be run")

SIZE = (1000, 1002)
FRAMES = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random checkpoints, and a smooth sequence as p2.npy and p3.npy, and both in one both.npz."""
    from refiner.model_files.build import build_model
    from refiner.model_files.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("refine")
    torch.manual_seed(6)
    for kind in ("lifter", "refiner"):
        config: dict[str, Any] = {
            "kind": kind,
            "frames": 9,
            "model": {"dim": 16, "blocks": 1, "heads": 2, "mlp_ratio": 2, "joint_embedding": True},
            "diffusion": {"timesteps": 50, "steps": 2, "offset": 0.008, "terminal": "zero"},
        }
        tensors = {f"model.{name}": value for name, value in build_model(config).state_dict().items()}
        save_checkpoint(folder / f"{kind}.safetensors", config, tensors | {"error_scale": torch.full((51,), 0.05)})
    rng = np.random.default_rng(8)
    wave = np.sin(np.arange(FRAMES)[:, None, None] / 9 + rng.uniform(0, 6, (1, 17, 3)))
    pose_3d = rng.normal(0, 0.4, (1, 17, 3)) + 0.1 * wave + np.array([0.1, 0.0, 4.0])
    pose_2d = 1100 * pose_3d[..., :2] / pose_3d[..., 2:] + 500
    np.save(folder / "p2.npy", pose_2d)
    np.save(folder / "p3.npy", pose_3d)
    np.savez(folder / "both.npz", first=pose_2d, second=pose_3d)
    return folder


@pytest.fixture(autouse=True)
def _in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(bundled, "FOLDER", folder)
    monkeypatch.setattr(bundled, "DEFAULTS", {"lifter": "lifter", "refiner": "refiner"})


def command(*options: str, pose_3d: str | None = "p3.npy", pose_2d: str = "p2.npy") -> list[str]:
    given = [] if pose_3d is None else ["--pose-3d", pose_3d]
    return ["--pose-2d", pose_2d, *given, "--image-size", "1000", "1002", *options]


def test_help_is_instant_and_teaches():
    code = (
        "import sys; from refiner.cli.refine import main; assert main(['--help']) == 0; "
        "assert not {'torch', 'onnxruntime', 'numpy', 'scipy'} & set(sys.modules)"
    )
    root = Path(loading.__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    for text in ("examples:", "--image-size 1920 1080", "metres", "pixels", "130 interrupted"):
        assert text in result.stdout


def test_refines(tmp_path, capsys):
    out = tmp_path / "new" / "out.npy"
    assert main(command("--output", str(out))) == 0
    pose_2d, pose_3d = np.load("p2.npy"), np.load("p3.npy")
    expected = Refiner.load().refine(pose_2d, pose_3d, SIZE)
    np.testing.assert_array_equal(np.load(out), expected)
    moved = np.linalg.norm(expected - pose_3d, axis=-1).mean() * 1000
    captured = capsys.readouterr()
    assert f"refined {FRAMES} frames" in captured.out and f"{moved:.1f} mm" in captured.out and captured.err == ""
    assert [entry.name for entry in out.parent.iterdir()] == ["out.npy"]


def test_npz_in_and_out(tmp_path):
    out = tmp_path / "out.npz"
    options = ["--key-2d", "first", "--key-3d", "second", "--steps", "3", "--fps", "30", "--output", str(out)]
    assert main(command(*options, pose_2d="both.npz", pose_3d="both.npz")) == 0
    with np.load(out) as archive:
        refined = archive["refined_pose_3d"]
    expected = Refiner.load(steps=3).refine(np.load("p2.npy"), np.load("p3.npy"), SIZE, fps=30)
    np.testing.assert_array_equal(refined, expected)


@pytest.mark.filterwarnings("ignore:pose_3d does not fit")  # the lifter has random weights
def test_without_3d_the_lifter_makes_it(tmp_path, capsys):
    out = tmp_path / "out.npy"
    np.save(tmp_path / "coco.npy", from_h36m17(np.load("p2.npy"), "coco17"))
    options = ["--joints", "coco17", "--output", str(out)]
    assert main(command(*options, pose_2d=str(tmp_path / "coco.npy"), pose_3d=None)) == 0
    pose_2d = to_h36m17(np.load(tmp_path / "coco.npy"), "coco17")
    expected = Refiner.load().refine(pose_2d, Lifter.load().lift(pose_2d, SIZE), SIZE)
    np.testing.assert_allclose(np.load(out), expected, atol=1e-6)
    assert "lifted and refined" in capsys.readouterr().out


def test_joint_sets_are_compared_in_one_order(tmp_path, capsys):
    """What is reported as movement must not be the distance between joints of two orders."""
    for name, source in (("p2", "p2.npy"), ("p3", "p3.npy")):
        np.save(tmp_path / f"{name}.npy", from_h36m17(np.load(source), "3dhp"))
    options = ["--joints", "3dhp", "--output", str(tmp_path / "out.npy")]
    given = {"pose_2d": str(tmp_path / "p2.npy"), "pose_3d": str(tmp_path / "p3.npy")}
    assert main(command(*options, **given)) == 0
    printed = float(capsys.readouterr().out.split("joints by ")[1].split(" mm")[0])
    moved = np.linalg.norm(np.load(tmp_path / "out.npy") - np.load("p3.npy"), axis=-1).mean() * 1000
    assert printed == pytest.approx(moved, abs=0.1)


@pytest.mark.parametrize(
    ("options", "files", "code", "message"),
    [
        ([], {}, 2, "--output"),
        (["--output", "out.mat"], {}, 2, ".npy or .npz"),
        (["--output", "."], {}, 2, ".npy or .npz"),
        (["--output", "p3.npy"], {}, 2, "would be lost"),
        (["--output", "out.npy", "--joints", "coco"], {}, 2, "invalid choice"),
        (["--output", "out.npy", "--fps", "0"], {}, 2, "--fps: expected 1 to 1000"),
        (["--output", "out.npy", "--steps", "99"], {}, 2, "between 1 and"),
        (["--output", "out.npy", "--lifter", "lifter.safetensors"], {}, 2, "--pose-3d"),
        (["--output", "out.npy"], {"pose_3d": "p2.npy"}, 5, "swapped with pose_2d"),
        (["--output", "out.npy"], {"pose_2d": "none.npy"}, 5, "none.npy"),
        (["--output", "out.npy"], {"pose_2d": "both.npz"}, 5, "several arrays (first, second)"),
        (["--output", "out.npy"], {"pose_2d": "lifter.safetensors"}, 5, "neither .npy nor .npz"),
        (["--output", "out.npy", "--checkpoint", "lifter.safetensors"], {}, 5, "expected a refiner"),
        (["--output", "out.npy", "--checkpoint", "none.onnx"], {}, 5, "there is no artefact"),
        (["--output", "p2.npy/out.npy"], {}, 5, "p2.npy"),
    ],
)
def test_errors_are_one_line_and_a_code(options, files, code, message, capsys):
    before = {entry.name: entry.stat().st_mtime_ns for entry in Path().iterdir()}
    assert main(command(*options, **files)) == code
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == "" and "Traceback" not in captured.err
    assert {entry.name: entry.stat().st_mtime_ns for entry in Path().iterdir()} == before


def test_an_interrupt_leaves_no_file(tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        Path(args[0]).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", interrupt)
    assert main(command("--output", str(tmp_path / "out.npy"))) == 130
    assert "interrupted" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_smooth_poses_tremble_less(folder):
    assert main(command("--output", "plain.npy")) == 0
    assert main(command("--smooth", "--output", "smooth.npy")) == 0
    jitter = [np.abs(np.diff(np.load(name), n=3, axis=0)).mean() for name in ("plain.npy", "smooth.npy")]
    assert 0 < jitter[1] < 0.9 * jitter[0]


def test_recordings_of_the_same_person_share_one_body_shape(folder):
    """That of all of them, and nothing but the lengths of the bones changes."""
    assert main(command("--output", "plain.npy")) == 0
    plain = np.load("plain.npy")
    others = [(1.2 * plain[:10]).astype(np.float32), (0.7 * plain[3:20]).astype(np.float32)]
    for name, other in zip(("a.npy", "b.npy"), others, strict=True):
        np.save(name, other)
    assert main(command("--same-person", "a.npy", "b.npy", "--output", "shared.npy")) == 0
    lengths = pooled_lengths(np.concatenate([plain, *others]))
    np.testing.assert_allclose(np.load("shared.npy"), pool_shape(plain, lengths), atol=2e-6)
    assert main(command("--pool-shape", "--output", "alone.npy")) == 0
    assert np.abs(np.load("alone.npy") - np.load("shared.npy")).max() > 1e-3


def test_another_recording_is_not_written_over(folder, capsys):
    np.save("other.npy", np.load("p3.npy"))
    assert main(command("--same-person", "other.npy", "--output", "other.npy")) == 2
    assert "is the file of --same-person" in capsys.readouterr().err


def test_other_recordings_are_checked_before_anything_runs(folder, capsys):
    np.save("flat.npy", np.zeros((4, 17, 2)))
    assert main(command("--same-person", "flat.npy", "--output", "never.npy")) == InputError.exit_code
    assert (
        "--same-person flat.npy: pose_3d has shape (4, 17, 2)" in capsys.readouterr().err
        and not Path("never.npy").exists()
    )
