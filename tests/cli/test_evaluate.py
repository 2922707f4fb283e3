"""refiner-evaluate: usage errors, and one run on synthetic motion with small untrained models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refiner_bench.measures import measures

from refiner.camera import normalise_screen
from refiner.cli.evaluate import main
from refiner.data import camera_clips
from refiner.data.synthetic import synthetic_folder
from refiner.evaluation.metrics import root_relative
from refiner.evaluation.mpi_inf_3dhp import format_3dhp, results_of_report
from refiner.evaluation.report import load_report
from refiner.evaluation.selection import limit_clips
from refiner.reports import EVALUATION_3DHP, read_report
from refiner.shape import pool_shape, pooled_lengths

torch = pytest.importorskip("torch", reason="PyTorch is not installed: checkpoints cannot be run")
# Lifters with random weights lift no people.
pytestmark = pytest.mark.filterwarnings("ignore:pose_3d does not fit")

SEED = 7
MODEL = {"dim": 32, "blocks": 1, "heads": 2, "mlp_ratio": 2, "joint_embedding": True}
DESCRIPTION = {"name": "random weights", "train": [], "validation": ["S5"]}
CURVE = [[100, 91.5], [200, 80.25]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained lifter, and an untrained refiner with a noise model fitted on that lifter's errors."""
    from refiner.diffusion import ConditionalGaussian
    from refiner.model_files.build import build_model
    from refiner.model_files.checkpoint import save_checkpoint
    from refiner.runtime import Lifter

    folder = tmp_path_factory.mktemp("models")
    paths = {kind: folder / f"{kind}.safetensors" for kind in ("lifter", "refiner")}
    torch.manual_seed(3)
    shared: dict[str, Any] = {"model": MODEL, "frames": 27, "data_description": DESCRIPTION}
    for kind, path in paths.items():
        config = shared | {"kind": kind, "metrics": {"validation_curve": CURVE}}
        tensors: dict[str, Any] = {}
        if kind == "refiner":
            config["diffusion"] = {"timesteps": 50, "steps": 2, "offset": 0.008, "terminal": "zero"}
            lifter = Lifter.load(paths["lifter"])
            screen, lifted, error = [], [], []
            for clip in clips_of(people=("SYN1", "SYN2")):
                pose = lifter.lift(clip.pose_2d, clip.image_size)
                screen.append(normalise_screen(clip.pose_2d, clip.image_size))
                lifted.append(pose)
                error.append(pose - clip.pose_3d)
            noise = ConditionalGaussian.fit(*(np.concatenate(part) for part in (screen, lifted, error)))
            tensors = {f"noise.{name}": torch.from_numpy(value) for name, value in noise.to_tensors().items()}
            tensors["error_scale"] = torch.full((51,), 0.02)
        torch.manual_seed(0)
        state = build_model(config).state_dict()
        save_checkpoint(path, config, {f"model.{name}": value for name, value in state.items()} | tensors)
    return paths


def clips_of(people: tuple[str, ...]) -> list[Any]:
    folder = synthetic_folder(SEED)
    return camera_clips(folder.positions, folder.cameras, people, detector=folder.detector)


def few_clips(number: int) -> list[Any]:
    """Those that ``--synthetic 3 --limit-clips number`` scores."""
    folder = synthetic_folder(3)
    people = folder.description.test
    positions = limit_clips(folder.positions, people, number)
    return camera_clips(positions, folder.cameras, list(positions), detector=folder.detector)


def test_help_names_the_exit_codes(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text and "REFINER_DATA" in text and "130 interrupted" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x", "--synthetic", "1"], "not allowed with"),
        (["--synthetic", "-1"], "at least 0"),
        (["--synthetic", "seven"], "at least 0"),
        (["--steps", "0"], "at least 1"),
        (["--limit-clips", "0"], "at least 1"),
        (["--engine", "tensorflow"], "there is no engine"),
        (["--synt", "1"], "unrecognized"),
        (["--synthetic", "1", "--dataset", "human36m"], "--dataset"),
        (["--json", "."], "is a folder"),
        (["--table", "V"], "invalid choice"),
        (["--mpi-inf-3dhp", "x"], "go together"),
        (["--annotation", "annot3"], "go together"),
        (["--mpi-inf-3dhp", "x", "--annotation", "annot3", "--action", "label"], "no labels"),
        (["--mpi-inf-3dhp", "x", "--annotation", "annot3", "--hypotheses"], "not for --mpi-inf-3dhp"),
        (["--mpi-inf-3dhp", "x", "--annotation", "annot3", "--sequences", "TS7"], "the named sequences are TS7"),
        (["--mpi-inf-3dhp", "x", "--annotation", "annot3", "--sequences", ","], "the named sequences are none"),
        (["--sequences", "TS5"], "belongs to --mpi-inf-3dhp"),
        (["--mpi-inf-3dhp", "x", "--annotation", "annot3", "--pool-shape", "person"], "--pool-shape clip"),
        (["--camera-seed", "1"], "belong to --cameras random"),
        (["--cameras-per-clip", "2"], "belong to --cameras random"),
        (["--cameras", "random", "--detections", "cpn"], "nobody has detections of random cameras"),
        (["--cameras", "random", "--mpi-inf-3dhp", "x"], "for motion archives"),
        (["--cameras", "random", "--pool-shape", "camera"], "cameras of its own"),
        (["--cameras", "random", "--table", "I"], "leave --cameras out"),
        (["--reports", "x.json"], "belongs to --table"),
        (["--table", "I", "--synthetic", "1"], "leave --synthetic out"),
    ],
)
def test_usage_errors_exit_with_2(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--synthetic", "1", "--subjects", "S99"], 2, "no S99"),
        (["--synthetic", "1", "--detections", "cpn"], 2, "simulated or ground-truth"),
        (["--synthetic", "1", "--engine", "onnx"], 2, "checkpoint"),
        (["--synthetic", "1", "--steps", "51"], 2, "between 1 and"),
        (["--data", "no-such-folder"], 5, "no folder"),
        ([], 3, "REFINER_DATA"),
    ],
)
def test_errors_are_one_line_and_a_code(models, arguments, code, message, capsys, monkeypatch):
    monkeypatch.delenv("REFINER_DATA", raising=False)
    options = ["--lifter", str(models["lifter"]), "--refiner", str(models["refiner"])]
    assert main([*arguments, *options]) == code
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_nothing_to_score_is_bad_input(models, tmp_path, capsys):
    poses = {"S1": {"Walking": np.zeros((30, 17, 3), np.float32)}, "S2": {}}
    np.savez(tmp_path / "data_3d_a.npz", positions_3d=poses)
    (tmp_path / "clips.json").write_text(json.dumps({"fps": 50, "split": {"train": ["S1"], "test": ["S2"]}}))
    words = ["--data", str(tmp_path), "--lifter", str(models["lifter"]), "--refiner", str(models["refiner"])]
    assert main(words) == 5
    assert "there is no clip to score: data_3d_a.npz holds none of S2" in capsys.readouterr().err


def test_a_checkpoint_of_another_kind(models, capsys):
    assert main(["--synthetic", "1", "--lifter", str(models["refiner"])]) == 5
    assert "expected a lifter" in capsys.readouterr().err


def test_the_whole_way_on_synthetic_motion(models, tmp_path, capsys):
    out = tmp_path / "report.json"
    options = ["--lifter", str(models["lifter"]), "--refiner", str(models["refiner"]), "--json", str(out), "--quiet"]
    assert main(["--synthetic", str(SEED), "--subjects", "SYN5", "--limit-clips", "3", *options]) == 0
    captured = capsys.readouterr()
    report = load_report(out)
    assert report["columns"] == ["lifter", "linear mean", "refined"]
    assert report["counts"]["clips"] == 3 and report["counts"]["sequences"] == 12
    assert report["counts"]["frames"] == 3 * 4 * 300
    for text in ("synthetic motion (procedural, not a recording), seed 7", "80.2 (200)", "on S5", "linear mean"):
        assert text in captured.out
    assert report["acknowledgement"] is None
    # The models have random weights, and their poses have nothing to do with the 2D.
    assert all("pose_3d does not fit pose_2d" in line for line in captured.err.splitlines())

    # The lifter's and the linear column once more, by formulas of one line.
    from refiner import Lifter
    from refiner.model_files.checkpoint import load_noise_model

    lifter, noise = Lifter.load(models["lifter"]), load_noise_model(models["refiner"])
    rows = {(row["clip"], row["camera"]): row["mpjpe"] for row in report["sequences"]}
    found = 0
    for clip in clips_of(people=("SYN5",)):
        if (clip.key, clip.camera) not in rows:
            continue
        found += 1
        pose = lifter.lift(clip.pose_2d, clip.image_size)
        linear = pose - noise.mean(normalise_screen(clip.pose_2d.astype(np.float64), clip.image_size), pose)
        row = rows[clip.key, clip.camera]
        for label, value in (("lifter", pose), ("linear mean", linear)):
            expected = np.linalg.norm(value - clip.pose_3d, axis=-1).mean() * 1000
            assert row[label] == pytest.approx(expected, rel=1e-5)
        example = report["example"]
        if (clip.key, clip.camera) == (example["clip"], example["camera"]):
            errors = np.linalg.norm(pose - clip.pose_3d, axis=-1).mean(axis=1) * 1000
            np.testing.assert_allclose(example["mpjpe_mm"]["lifter"], errors, atol=2e-3)
            assert list(example["mpjpe_mm"]) == report["columns"] and example["subject"] == clip.subject
            found += 100
    assert found == 112
    # An untrained lifter is far off; a linear regression of its error is much better, on another person too.
    mean = report["metrics"]["mpjpe"]["frame_mean"]
    assert mean["linear mean"] < 0.7 * mean["lifter"]


def test_ground_truth_detections_and_markdown(models, tmp_path, capsys):
    options = ["--lifter", str(models["lifter"]), "--refiner", str(models["refiner"]), "--quiet", "--markdown"]
    out = tmp_path / "report.json"
    arguments = ["--detections", "ground-truth", "--limit-clips", "1", "--steps", "1", "--flip-test"]
    assert main(["--synthetic", "3", *arguments, *options, "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "ground-truth 2D" in text and "| action" in text
    report = json.loads(out.read_text())
    assert report["settings"] == {
        "flip_test": True,
        "pool_shape": False,
        "steps": 1,
        "engine": None,
        "limit_clips": 1,
    }
    assert report["columns"] == ["lifter", "linear mean", "refined"]
    assert report["models"]["refiner"]["steps"] == 1 and report["data"]["detector_seed"] is None
    assert report["gains"][0]["difference_low"] is None


def test_one_shape_has_a_column_of_the_lifter_s_own(models, tmp_path):
    """So that what the pooling does by itself is not taken for the refiner's work."""
    out = tmp_path / "report.json"
    options = ["--lifter", str(models["lifter"]), "--refiner", str(models["refiner"]), "--quiet", "--json", str(out)]
    arguments = ["--synthetic", "3", "--limit-clips", "1", "--steps", "1"]
    assert main([*arguments, *options]) == 0
    plain = load_report(out)
    assert main([*arguments, *options, "--pool-shape"]) == 0
    pooled = load_report(out)
    assert pooled["columns"] == ["lifter", "lifter, one shape", "linear mean", "refined"]
    assert pooled["settings"]["pool_shape"] and not plain["settings"]["pool_shape"]
    before, after = (report["metrics"]["mpjpe"]["frame_mean"] for report in (plain, pooled))
    assert after["lifter"] == before["lifter"] != after["lifter, one shape"]
    assert after["refined"] != before["refined"]


def test_smoothed_poses_are_told_apart(models, tmp_path):
    out = tmp_path / "report.json"
    options = ["--lifter", str(models["lifter"]), "--refiner", str(models["refiner"]), "--quiet", "--json", str(out)]
    from refiner.runtime import Lifter, Refiner

    errors = []
    for smooth in ([], ["--smooth"], ["--smooth", "--pool-shape"]):
        assert main(["--synthetic", "3", "--limit-clips", "1", "--resamples", "10", *options, *smooth]) == 0
        report = load_report(out)
        assert ("smoothing" in report["settings"]) == bool(smooth)
        errors.append(report["metrics"]["acceleration_error"]["frame_mean"])
    plain, smoothed, shaped = errors
    assert set(smoothed) - set(plain) == {"lifter, smoothed"} and "lifter, smoothed, one shape" in shaped
    assert smoothed["lifter"] == plain["lifter"] == shaped["lifter"]
    assert smoothed["refined"] < plain["refined"] and smoothed["lifter, smoothed"] < plain["lifter"]
    # What `Refiner` does with the same two options.
    lifter, refiner = Lifter.load(models["lifter"]), Refiner.load(models["refiner"], smoothing=True, pool_shape=True)
    distances = []
    for clip in few_clips(1):
        lifted = root_relative(lifter.lift(clip.pose_2d, clip.image_size, clip.fps))
        pose = root_relative(refiner.refine(clip.pose_2d, lifted, clip.image_size, fps=clip.fps))
        distances.append(1000 * np.linalg.norm(pose - clip.pose_3d, axis=-1).mean(axis=1))
    mean = report["metrics"]["mpjpe"]["frame_mean"]["refined"]
    np.testing.assert_allclose(np.concatenate(distances).mean(), mean, rtol=1e-5)


def test_one_shape_may_be_that_of_all_clips_of_a_person(models, tmp_path):
    """By one camera, or by every camera: each against the poses pooled here, clip by clip."""
    from refiner.runtime import Lifter, Refiner

    out = tmp_path / "report.json"
    options = ["--lifter", str(models["lifter"]), "--refiner", str(models["refiner"]), "--quiet", "--json", str(out)]
    clips = few_clips(3)
    lifter, refiner = Lifter.load(models["lifter"]), Refiner.load(models["refiner"])
    lifted = [lifter.lift(clip.pose_2d, clip.image_size, clip.fps) for clip in clips]
    refined = [
        root_relative(refiner.refine(clip.pose_2d, root_relative(pose), clip.image_size))
        for clip, pose in zip(clips, lifted, strict=True)
    ]
    found = []
    for shape_of, member in (
        ("camera", lambda clip: (clip.subject, clip.camera)),
        ("person", lambda clip: clip.subject),
    ):
        arguments = ["--synthetic", "3", "--limit-clips", "3", "--resamples", "10", *options]
        assert main([*arguments, "--pool-shape", shape_of]) == 0
        report = load_report(out)
        assert report["settings"]["pool_shape"] and report["settings"]["shape_of"] == shape_of
        for column, poses in (("refined", refined), ("lifter, one shape", lifted)):
            errors = []
            for clip, pose in zip(clips, poses, strict=True):
                own = [other for other, seen in zip(poses, clips, strict=True) if member(seen) == member(clip)]
                shaped = root_relative(pool_shape(pose, pooled_lengths(np.concatenate(own))))
                errors.append(1000 * np.linalg.norm(shaped - clip.pose_3d, axis=-1).mean(axis=1))
            mean = report["metrics"]["mpjpe"]["frame_mean"][column]
            np.testing.assert_allclose(mean, np.concatenate(errors).mean(), rtol=1e-5)
        found.append(report["metrics"]["mpjpe"]["frame_mean"]["refined"])
    assert found[0] != found[1]


def test_live_poses_are_those_of_a_stream(tmp_path, capsys):
    """Each frame lifted from those before it, by the models of a stream where none are named."""
    out = tmp_path / "live.json"
    words = ["--synthetic", "7", "--limit-clips", "1", "--resamples", "50", "--quiet", "--json", str(out)]
    assert main([*words, "--live"]) == 0
    live = load_report(out)
    assert live["settings"]["live"] and live["models"]["lifter"]["file"] == "lifter-nano-rays.safetensors"
    assert live["models"]["refiner"]["file"] == "refiner-nano-rays-causal.safetensors"
    assert main([*words, "--lifter", "lifter-nano-rays"]) == 0
    whole = load_report(out)
    assert "live" not in whole["settings"]
    before, after = (entry["metrics"]["mpjpe"]["frame_mean"]["lifter"] for entry in (live, whole))
    assert before > after


def test_random_cameras_are_told(models, tmp_path):
    out = tmp_path / "report.json"
    options = ["--lifter", str(models["lifter"]), "--refiner", str(models["refiner"]), "--json", str(out), "--quiet"]
    common = ["--synthetic", "3", "--limit-clips", "2", "--resamples", "10", *options]
    assert main([*common, "--cameras", "random", "--cameras-per-clip", "2"]) == 0
    report = load_report(out)
    assert report["data"]["cameras"] == {"kind": "random", "number": 2, "seed": 77}
    assert "each clip by 2 random cameras, seed 77" in report["data"]["description"]
    assert {row["camera"] for row in report["sequences"]} == {"random 0", "random 1"}
    assert main([*common, "--cameras", "random", "--cameras-per-clip", "2", "--camera-seed", "5"]) == 0
    assert load_report(out)["metrics"]["mpjpe"] != report["metrics"]["mpjpe"]
    assert main(common) == 0
    assert load_report(out)["data"]["cameras"] == {"kind": "archive"}


@pytest.mark.data
def test_a_folder_of_real_motion(models, motion_folder, tmp_path, capsys):
    out = tmp_path / "report.json"
    options = ["--lifter", str(models["lifter"]), "--refiner", str(models["refiner"]), "--json", str(out), "--quiet"]
    assert main(["--data", str(motion_folder), "--limit-clips", "2", *options]) == 0
    text, report = capsys.readouterr().out, load_report(out)
    assert {row["subject"] for row in report["sequences"]} <= set(report["data"]["people"])
    assert "test people" in text and report["counts"]["clips"] == 2
    assert ("Acknowledgement" in text) == report["data"]["archive"].startswith("data_3d_cmu")


def test_a_table_of_the_paper_takes_reports(capsys, tmp_path):
    reports = Path(__file__).parents[2] / "bench" / "reports"
    assert main(["--table", "I", "--reports", str(reports / "accuracy-cmu-t27.json")]) == 0
    text = capsys.readouterr().out
    assert "36.6" in text and "STCFormer + D3PRefiner" in text and "CMU motion capture" in text
    assert main(["--table", "IV", "--reports", str(reports), "--markdown"]) == 0
    assert "| depth 8" in capsys.readouterr().out
    (tmp_path / "no-report.json").write_text("{}")
    assert main(["--table", "I", "--reports", str(tmp_path / "no-report.json")]) == 5


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """An untrained lifter with prompts, and an untrained SmoothNet."""
    import dataclasses

    from refiner.model_files.build import build_model
    from refiner.model_files.checkpoint import save_checkpoint
    from refiner.training.config import config_from_dict

    torch.manual_seed(2)
    text = {"actions": ["Walking", "Sitting"], "width": 16, "layers": 1, "heads": 2, "encoder_layers": 1}
    text |= {"encoder_hidden": 16, "encoder_heads": 2, "classifier": 8}
    model = {"dim": 16, "blocks": 1, "heads": 2, "mlp_ratio": 2}
    contents = {
        "lifter": {"model": model | {"architecture": "finepose", "root": "zeroed"}, "text": text},
        "refiner": {"kind": "refiner", "model": model | {"architecture": "smoothnet", "hidden": 8}},
        "plain": {"model": model | {"architecture": "mixste"}},
    }
    contents["lifter"]["sampling"] = {"hypotheses": 3}
    paths = {}
    for kind, content in contents.items():
        config = dataclasses.asdict(config_from_dict({"kind": "lifter", "frames": 27, **content}))
        torch.manual_seed(0)
        state = build_model(config).state_dict()
        # Not the fresh values: the layer behind the text starts at 0.
        tensors = {f"model.{name}": value + 0.3 * torch.randn_like(value) for name, value in state.items()}
        paths[kind] = tmp_path_factory.mktemp("prompted") / f"{kind}.safetensors"
        save_checkpoint(paths[kind], config | {"data_description": DESCRIPTION}, tensors)
    return paths


def test_a_lifter_with_prompts_is_told_the_action_three_ways(prompted, capsys, tmp_path):
    common = ["--synthetic", "3", "--limit-clips", "1", "--quiet", "--resamples", "10"]
    common += ["--lifter", str(prompted["lifter"]), "--refiner", str(prompted["refiner"])]
    found = {}
    for mode in ("guess", "unknown", "label"):
        assert main([*common, "--action", mode, "--json", str(tmp_path / f"{mode}.json")]) == 0
        report = load_report(tmp_path / f"{mode}.json")
        assert report["settings"]["action"] == mode and f"told the action by {mode}" in report["data"]["description"]
        # SmoothNet has no noise model.
        assert report["columns"] == ["lifter", "refined"] and report["models"]["lifter"]["text"]["prompts"] == "full"
        found[mode] = report["metrics"]["mpjpe"]["frame_mean"]["lifter"]
    assert found["unknown"] != found["label"]
    capsys.readouterr()


def test_a_lifter_without_prompts_is_told_nothing(models, capsys):
    arguments = ["--synthetic", "3", "--lifter", str(models["lifter"]), "--refiner", str(models["refiner"])]
    assert main([*arguments, "--action", "label"]) == 2
    assert "knows no actions" in capsys.readouterr().err


def test_hypotheses_have_columns_and_oracles_are_called_so(prompted, capsys, tmp_path, monkeypatch):
    from refiner.evaluation import pipeline
    from refiner.hypotheses import mean_pose

    # Random weights make poses that cannot be seen where they were detected.
    monkeypatch.setattr(pipeline, "joints_by_reprojection", lambda poses, pose_2d, lens: mean_pose(poses))
    common = ["--synthetic", "3", "--limit-clips", "1", "--quiet", "--resamples", "10", "--hypotheses"]
    common += ["--refiner", str(prompted["refiner"]), "--json", str(tmp_path / "r.json")]
    assert main([*common, "--lifter", str(prompted["lifter"])]) == 0
    report = load_report(tmp_path / "r.json")
    assert report["columns"] == ["lifter", "by reprojection", "oracle P-Best", "oracle J-Best", "refined"]
    mean = {column: report["metrics"]["mpjpe"]["frame_mean"][column] for column in report["columns"]}
    assert mean["oracle J-Best"] < mean["oracle P-Best"]
    assert mean["by reprojection"] == pytest.approx(mean["lifter"], rel=1e-4)
    assert main([*common, "--lifter", str(prompted["plain"])]) == 2
    assert "this lifter gives one pose" in capsys.readouterr().err


def test_mpi_inf_3dhp_is_scored_by_its_own_protocol(models, capsys, monkeypatch, tmp_path):
    from refiner.data import mpi_inf_3dhp

    rng = np.random.default_rng(4)
    arrays = {
        "annot2": 900 + 200 * rng.normal(size=(40, 1, 17, 2)),
        "univ_annot3": rng.normal(0, 400, (40, 1, 17, 3)),
        "valid_frame": np.arange(40) % 3 > 0,
    }
    sequences = [mpi_inf_3dhp.sequence_of(name, arrays, "univ_annot3", "a test") for name in mpi_inf_3dhp.SEQUENCES]
    monkeypatch.setattr("refiner.data.load_test_set", lambda *folder, **options: sequences)
    options = ["--lifter", str(models["lifter"]), "--refiner", str(models["refiner"])]
    assert main(["--mpi-inf-3dhp", "folder", "--annotation", "univ_annot3", *options]) == 0
    text = capsys.readouterr().out
    assert "univ_annot3" in text and "TS6" in text and "mean" in text and "PCK %, refined" in text
    file = tmp_path / "result.json"
    assert main(["--mpi-inf-3dhp", "folder", "--annotation", "univ_annot3", *options, "--json", str(file)]) == 0
    assert capsys.readouterr().out == text
    report = read_report(file, (EVALUATION_3DHP,))
    assert format_3dhp(results_of_report(report)) == text
    assert (
        report["complete"]
        and report["annotation"] == "univ_annot3"
        and list(report["columns"])
        == [
            "lifter",
            "refined",
        ]
    )
    for label, column in report["columns"].items():
        assert [score["name"] for score in column["sequences"]] == list(mpi_inf_3dhp.SEQUENCES), label
        for metric, value in column["mean"].items():
            assert value == pytest.approx(np.mean([score[metric] for score in column["sequences"]]))
    assert report["models"]["lifter"]["file"] == models["lifter"].name
    means = {column["mean"]["pck"] for column in report["columns"].values()}
    assert {measure.value for measure in measures(report)} >= means
    # Models of rays are given the lens that the poses tell of; these poses have none.
    assert main(["--mpi-inf-3dhp", "folder", "--annotation", "univ_annot3"]) == 5
    assert "its lens is not known" in capsys.readouterr().err
    for treatment in ("--pool-shape", "--smooth"):
        assert main(["--mpi-inf-3dhp", "folder", "--annotation", "univ_annot3", *options, treatment]) == 0
        assert capsys.readouterr().out != text
