"""MixSTE, D3DP, FinePOSE and SmoothNet through the export: the gate, noise and text baked in, what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from refiner.actions import UNKNOWN_ACTION
from refiner.errors import UsageError
from refiner.runtime import Lifter, Refiner
from refiner.training.config import config_from_dict

FRAMES = 9
MODEL = {"dim": 16, "blocks": 1, "heads": 2, "mlp_ratio": 2, "root": "zeroed"}
SECTIONS = {
    "mixste": {},
    "d3dp": {"sampling": {"steps": 2, "hypotheses": 3, "seed": 4}},
    "finepose": {
        "sampling": {"steps": 1, "hypotheses": 2},
        "text": {
            "actions": ["Walking", "Sitting"],
            "width": 24,
            "layers": 1,
            "heads": 2,
            "encoder_layers": 1,
            "encoder_hidden": 16,
            "encoder_heads": 2,
            "classifier": 8,
        },
    },
}


@pytest.fixture(scope="session")
def write_model(write_checkpoint):
    """``write_model(architecture)``: a checkpoint with random weights."""

    def write(architecture, kind="lifter", **sections):
        model = {**MODEL, "architecture": architecture, **sections.pop("model", {})}
        content = {"kind": kind, "frames": FRAMES, "model": model, **SECTIONS.get(architecture, {}), **sections}
        config = dataclasses.asdict(config_from_dict(content))
        return write_checkpoint(config.pop("kind"), **config)

    return write


@pytest.fixture(scope="session")
def lifters(write_model, export_to, tmp_path_factory):
    """architecture -> (checkpoint, ExportResult)."""
    folder = tmp_path_factory.mktemp("lifters")
    checkpoints = {architecture: write_model(architecture) for architecture in SECTIONS}
    return {
        name: (checkpoint, export_to(folder / name, checkpoint, windows=12)) for name, checkpoint in checkpoints.items()
    }


def clip(seed, frames=23):
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 4, (frames, 17, 2)).cumsum(axis=0)
    return (500 + 120 * rng.normal(size=(1, 17, 2)) + steps).astype(np.float32)


@pytest.mark.parametrize("architecture", SECTIONS)
def test_the_artefact_lifts_as_the_checkpoint_does(architecture, lifters):
    checkpoint, result = lifters[architecture]
    assert result.manifest["parity"]["total"]["largest_mm"] < 0.01
    ours, exported = Lifter.load(checkpoint), Lifter.load(result.path)
    assert exported.actions == ours.actions
    pose_2d = clip(1)
    np.testing.assert_allclose(exported.lift(pose_2d, (1000, 1002)), ours.lift(pose_2d, (1000, 1002)), atol=1e-5)
    for action in (*ours.actions, *([UNKNOWN_ACTION] if ours.actions else [])):
        told = exported.lift(pose_2d, (1000, 1002), action=action)
        np.testing.assert_allclose(told, ours.lift(pose_2d, (1000, 1002), action=action), atol=1e-5)


def test_actions_are_an_input_and_change_the_result(lifters):
    _, result = lifters["finepose"]
    assert result.manifest["kind"] == "action-lifter" and result.manifest["actions"] == ["Walking", "Sitting"]
    assert result.manifest["inputs"]["action"]["shape"] == ["batch", 1]
    exported = Lifter.load(result.path)
    told = [exported.lift(clip(2), (1000, 1002), action=action) for action in (*exported.actions, UNKNOWN_ACTION)]
    for first in range(3):
        for second in range(first):
            assert np.abs(told[first] - told[second]).max() > 1e-4
    with pytest.raises(UsageError, match="no action 'Dancing'"):
        exported.lift(clip(2), (1000, 1002), action="Dancing")


def test_no_text_tower_is_in_the_graph(lifters):
    """What is left of the text: for each action keys and values of 77 tokens and one vector."""
    _, result = lifters["finepose"]
    shapes = {tuple(entry.dims) for entry in onnx.load(result.path).graph.initializer}
    assert (3, 77, 16) in shapes and (3, 16) in shapes
    # Everything that reads the text is 24 wide.
    assert not [shape for shape in shapes if 24 in shape or 72 in shape]


def test_the_noise_is_part_of_the_graph(lifters):
    _, result = lifters["d3dp"]
    manifest = result.manifest
    assert manifest["kind"] == "lifter" and list(manifest["inputs"]) == ["pose_2d", "image_size"]
    assert (manifest["steps"], manifest["sampling"]["hypotheses"], manifest["sampling"]["seed"]) == (2, 3, 4)
    pose_2d = clip(3, FRAMES)
    engine = Lifter.load(result.path)
    np.testing.assert_array_equal(engine.lift(pose_2d, (900, 900)), engine.lift(pose_2d, (900, 900)))


@pytest.mark.slow
def test_steps_and_hypotheses_are_chosen_at_export(lifters, export_to, tmp_path):
    checkpoint, _ = lifters["d3dp"]
    result = export_to(tmp_path, checkpoint, steps=1, hypotheses=2, windows=4)
    assert "k1" in result.path.name and result.manifest["sampling"]["hypotheses"] == 2
    again = export_to(tmp_path / "more", checkpoint, steps=1, hypotheses=4, windows=4)
    first, second = (Lifter.load(found.path).lift(clip(4), (1000, 1002)) for found in (result, again))
    assert np.abs(first - second).max() > 1e-4


# The random lifter does not fit the random 2D.
@pytest.mark.filterwarnings("ignore:pose_3d does not fit pose_2d:refiner.errors.InputWarning")
@pytest.mark.slow
def test_a_lifter_with_prompts_guesses_in_front_of_a_refiner(write_checkpoint, lifters, export_to, tmp_path):
    refiner = write_checkpoint("refiner", frames=FRAMES)
    checkpoint, _ = lifters["finepose"]
    result = export_to(tmp_path, refiner, lifter=checkpoint, windows=4)
    assert list(result.manifest["inputs"]) == ["pose_2d", "image_size"]
    pose_2d = clip(5, FRAMES)
    lifted = Lifter.load(checkpoint).lift(pose_2d, (1000, 1002))
    expected = Refiner.load(refiner).refine(pose_2d, lifted, (1000, 1002))
    np.testing.assert_allclose(Lifter.load(result.path).lift(pose_2d, (1000, 1002)), expected, atol=1e-5)


# The random 3D does not fit the random 2D.
@pytest.mark.filterwarnings("ignore:pose_3d does not fit pose_2d:refiner.errors.InputWarning")
def test_smoothnet_is_a_refiner(write_model, export_to, tmp_path):
    checkpoint = write_model("smoothnet", "refiner", model={"hidden": 8, "blocks": 2})
    result = export_to(tmp_path, checkpoint, windows=8)
    assert result.manifest["kind"] == "refiner" and result.manifest["parity"]["total"]["largest_mm"] < 0.01
    pose_3d = np.random.default_rng(1).normal(0, 0.4, (20, 17, 3)).astype(np.float32)
    found, expected = (Refiner.load(p).refine(clip(6, 20), pose_3d, (1000, 1002)) for p in (result.path, checkpoint))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("mixste", {"frames": 27}, "positions of 9 frames and takes no other number"),
        ("d3dp", {"frames": 27}, "positions of 9 frames"),
        ("mixste", {"steps": 2}, "no denoising steps"),
        ("mixste", {"hypotheses": 2}, "no hypotheses"),
        ("d3dp", {"flip_test": True}, "leave --flip-test out"),
        ("d3dp", {"hypotheses": 0}, "--hypotheses is 0"),
    ],
)
def test_what_cannot_be_is_refused(lifters, export_to, tmp_path, architecture, options, message):
    with pytest.raises(UsageError, match=message):
        export_to(tmp_path, lifters[architecture][0], **options)


@pytest.mark.slow
def test_mixste_with_the_mirrored_pass(lifters, export_to, tmp_path):
    checkpoint, _ = lifters["mixste"]
    result = export_to(tmp_path, checkpoint, flip_test=True, windows=4)
    expected = Lifter.load(checkpoint, flip_test=True).lift(clip(7, FRAMES), (1000, 1002))
    np.testing.assert_allclose(Lifter.load(result.path).lift(clip(7, FRAMES), (1000, 1002)), expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["mixste", "d3dp"])
def test_last_layer_and_residual_sums_of_blocks_with_shared_norms_stay_in_float32(architecture, write_model, tmp_path):
    from refiner_export.graph import trace
    from refiner_export.options import ExportOptions
    from refiner_export.precision import type_graph
    from refiner_export.source import read_source

    source = read_source(ExportOptions("onnx", tmp_path, write_model(architecture, model={"blocks": 2})))
    kept = type_graph(trace(source.module, source.kind), "fp16").kept_float32
    passes = {"mixste": 1, "d3dp": 2}[architecture]  # two steps; the mirrored pass lies in the same batch
    # Two blocks over joints and two over frames, each with attention and MLP.
    assert (kept["last layer"], kept["residual Add"]) == (passes, 8 * passes)


def test_a_precision_that_would_not_be_made_is_refused(write_model, tmp_path):
    from refiner_export.options import ExportOptions
    from refiner_export.source import read_source

    def asked(architecture, engine, precision, **options):
        return ExportOptions(engine, tmp_path, write_model(architecture), precision=precision, **options)

    for architecture in SECTIONS:
        with pytest.raises(UsageError, match="no bf16 form of MixSTE's blocks"):
            read_source(asked(architecture, "onnx", "bf16", device="cuda"))
        with pytest.raises(UsageError, match="no fp16 form"):
            read_source(asked(architecture, "aoti", "fp16"))
        assert read_source(asked(architecture, "onnx", "fp16")).kind in ("lifter", "action-lifter")


def test_an_exported_finepose_lifts_a_stream(lifters):
    from refiner import StreamingRefiner

    checkpoint, result = lifters["finepose"]
    pixels, size = clip(3), (1000, 1000)
    for lifter in (checkpoint, result.path):
        live = StreamingRefiner.load(mode="causal", lifter=lifter, image_size=size, focal_length=1145, threads=1)
        frames = [frame for n, pose in enumerate(pixels[:12]) for frame in live.push(pose, None, n / 50.0)]
        assert len(frames) == 12 and all(np.isfinite(frame.pose_3d).all() for frame in frames)


def test_names_tell_hypotheses_apart(lifters, export_to, tmp_path):
    checkpoint, _ = lifters["d3dp"]
    assert "-h2-" in export_to(tmp_path, checkpoint, hypotheses=2, windows=4).path.name
