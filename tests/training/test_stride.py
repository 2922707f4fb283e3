"""Temporal downsampling end to end: windows, validation, lifters and refiners that are trained with it, and streams."""

from __future__ import annotations

import numpy as np
import pytest

from refiner import Lifter, Refiner, StreamingRefiner
from refiner.camera import normalise_screen
from refiner.cli.evaluate import main
from refiner.data import camera_clips
from refiner.data.synthetic import synthetic_folder
from refiner.data.training_set import TrainingClip
from refiner.data.windows import blend_phases, tds_phases, window_span
from refiner.engines import EngineOptions
from refiner.errors import ConfigError, UsageError
from refiner.evaluation.metrics import mpjpe, root_relative
from refiner.evaluation.report import load_report
from refiner.evaluation.selection import limit_clips
from refiner.model_files.build import load_module
from refiner.model_files.checkpoint import load_checkpoint
from refiner.runtime.loading import open_engine
from refiner.training.config import DataConfig, config_from_dict
from refiner.training.detected import DetectedWindows
from refiner.training.predictions import PredictedClip, Predictions, PredictionSampler
from refiner.training.runs import train_lifter, train_refiner, train_refiner_on_predictions
from refiner.training.tasks import ValidationWindows, lift_windows, phases_of
from refiner.training.windows import WindowSampler

FRAMES, STRIDE = 9, 3
PLAIN = {"turn": 0.0, "flip": 0.0, "detections": "ground-truth"}


def windows_of(people, stride, frames=FRAMES, **data):
    config = DataConfig(**{**PLAIN, **data})
    return WindowSampler(people, config, frames, 16, 5, ("S1", "S2"), stride).batch(2)


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_training_windows_hold_every_so_many_frames_of_a_clip(people, stride):
    windows = windows_of(people, stride)
    assert windows.pose_3d.shape == (16, FRAMES, 17, 3) and windows.pose_2d.shape == (16, FRAMES, 17, 2)
    views = [clip for clip in people.clips("train", detected=False) if clip.subject in ("S1", "S2")]
    for pose_3d, pose_2d in zip(windows.pose_3d, windows.pose_2d, strict=True):
        matches = []
        for clip in views:
            screen = normalise_screen(clip.pose_2d, clip.image_size)
            for start in range(clip.frames - (FRAMES - 1) * stride):
                rows = slice(start, start + (FRAMES - 1) * stride + 1, stride)
                if np.allclose(clip.pose_3d[rows], pose_3d, atol=1e-5):
                    matches.append(np.allclose(screen[rows], pose_2d, atol=1e-4))
        assert matches == [True]


def test_a_window_with_a_stride_is_the_downsampled_window_of_its_span(people):
    """Detectors see every frame: drift and outliers are those of the frames in between, too."""
    for data in ({"detections": "simulated"}, {"detections": "simulated", "turn": 1.0, "flip": 0.5, "reverse": 0.5}):
        wide = windows_of(people, 1, frames=window_span(FRAMES, STRIDE), **data)
        strided = windows_of(people, STRIDE, **data)
        np.testing.assert_array_equal(strided.pose_2d, wide.pose_2d[:, ::STRIDE])
        np.testing.assert_array_equal(strided.pose_3d, wide.pose_3d[:, ::STRIDE])


def test_clips_that_are_shorter_than_a_strided_window_are_left_out(people):
    with pytest.raises(ConfigError, match="no clip of S1, S2 has 121 frames"):
        windows_of(people, 15)
    assert windows_of(people, 14).pose_3d.shape == (16, FRAMES, 17, 3)  # 113 of 120 frames
    with pytest.raises(UsageError, match="stride is 0"):
        windows_of(people, 0)


@pytest.mark.parametrize("stride", [1, 3, 100])
def test_validation_scores_every_frame_once(people, stride):
    clips = people.clips("validation")
    windows = ValidationWindows.of_clips(clips, FRAMES, stride)
    assert windows.scored.sum() == sum(clip.frames for clip in clips)
    assert len(windows.actions) == len(windows.pose_2d)
    # A clip of 120 frames has no window of 9 frames at a stride of 100: it gets the largest that fits.
    taken = min(stride, 119 // 8)
    np.testing.assert_array_equal(windows.pose_3d[0], clips[0].pose_3d[: FRAMES * taken : taken])
    shifted = windows.pose_3d + np.array([0.003, 0.0, 0.0], np.float32) * (np.arange(17) > 0)[:, None]
    assert windows.mpjpe_mm(shifted.astype(np.float32)) == pytest.approx(3.0 * 16 / 17, abs=1e-3)


def test_phases_are_those_of_the_runtime():
    pose = np.arange(20 * 17 * 3, dtype=np.float32).reshape(20, 17, 3)
    parts = phases_of(FRAMES, 2, pose[..., :2], pose)
    for (screen, truth), rows in zip(parts, tds_phases(20, 2), strict=True):
        np.testing.assert_array_equal(truth, pose[rows])
        np.testing.assert_array_equal(screen, pose[rows, :, :2])
    assert len(phases_of(FRAMES, 5, pose[..., :2], pose)) == 2


@pytest.fixture(scope="module")
def lifter(request, tmp_path_factory):
    people = request.getfixturevalue("people")
    config = config_from_dict(
        {
            "kind": "lifter",
            "frames": FRAMES,
            "stride": STRIDE,
            "model": {"dim": 16, "blocks": 1, "heads": 4, "mlp_ratio": 2, "joint_embedding": True},
            "training": {"steps": 6, "batch": 4, "validate_every": 3, "threads": 1},
        }
    )
    return train_lifter(config, people, tmp_path_factory.mktemp("run") / "lifter", quiet=True)


def test_a_lifter_is_trained_validated_and_run_with_its_stride(lifter, people):
    stored = load_checkpoint(lifter)
    assert stored.spec.stride == STRIDE
    loaded, clip = Lifter.load(lifter), people.clips("validation")[0]
    assert loaded.stride == STRIDE
    module = load_module(lifter)
    windows = ValidationWindows.of_clips(people.clips("validation"), FRAMES, STRIDE)
    error = windows.mpjpe_mm(lift_windows(module.lifter, windows.pose_2d))
    assert stored.config["metrics"]["validation"]["mpjpe_mm"] == pytest.approx(error, abs=1e-3)
    # The clip as three sequences of every third frame, each lifted by itself.
    alone = Lifter.load(lifter)
    alone._engine.stride = 1
    expected = np.empty((clip.frames, 17, 3), np.float32)
    for phase in range(STRIDE):
        expected[phase::STRIDE] = alone.lift(clip.pose_2d[phase::STRIDE], clip.image_size)
    np.testing.assert_allclose(loaded.lift(clip.pose_2d, clip.image_size), blend_phases(expected, STRIDE), atol=1e-5)


# A lifter that has hardly learnt anything.
@pytest.mark.filterwarnings("ignore:pose_3d does not fit pose_2d:refiner.errors.InputWarning")
@pytest.mark.parametrize("changes", [{}, {"model": {"architecture": "smoothnet", "hidden": 8}}])
def test_a_refiner_takes_the_stride_of_its_lifter(lifter, people, tiny, tmp_path, changes):
    with pytest.raises(ConfigError, match="the lifter takes every 3 frames, the refiner every 1: set stride = 3"):
        train_refiner(tiny("refiner", lifter=str(lifter), **changes), people, tmp_path / "refused", quiet=True)
    config = tiny("refiner", lifter=str(lifter), stride=STRIDE, **changes)
    path = train_refiner(config, people, tmp_path / "run", quiet=True)
    refiner = Refiner.load(path)
    assert refiner.stride == STRIDE
    # The error of the lifter that the run notes is that of its windows of every third frame.
    windows = ValidationWindows.of_clips(people.clips("validation"), FRAMES, STRIDE)
    error = windows.mpjpe_mm(lift_windows(load_module(lifter).lifter, windows.pose_2d))
    assert load_checkpoint(path).config["metrics"]["validation"]["lifter_mpjpe_mm"] == pytest.approx(error, abs=1e-3)
    clip = people.clips("validation")[0]
    lifted = Lifter.load(lifter).lift(clip.pose_2d, clip.image_size)
    assert refiner.refine(clip.pose_2d, lifted, clip.image_size).shape == lifted.shape


def test_a_stream_lifts_and_refines_windows_of_every_third_frame(lifter, people, tiny, tmp_path):
    config = tiny("refiner", lifter=str(lifter), stride=STRIDE)
    checkpoint = train_refiner(config, people, tmp_path / "run", quiet=True)
    clip = people.clips("validation")[0]
    live = StreamingRefiner.load(checkpoint, "window", lifter=lifter, image_size=clip.image_size)
    found = [frame for index, pose in enumerate(clip.pose_2d) for frame in live.push(pose, None, index / clip.fps)]
    assert len(found) == clip.frames
    lifting, refining = open_engine_of(lifter, "lifter"), open_engine_of(checkpoint, "refiner")
    size = np.float32([clip.image_size])
    for last in (40, 77, 119):
        rows = np.arange(last - STRIDE * (FRAMES - 1), last + 1, STRIDE)
        window = clip.pose_2d[rows][None].astype(np.float32)
        expected = refining(window, lifting(window, size), size)[0, -1]
        np.testing.assert_allclose(found[last].pose_3d, expected, atol=1e-4)


def test_the_evaluation_lifts_and_refines_with_the_stride(lifter, people, tiny, tmp_path):
    refiner = train_refiner(tiny("refiner", lifter=str(lifter), stride=STRIDE), people, tmp_path / "run", quiet=True)
    options = ["--lifter", str(lifter), "--refiner", str(refiner), "--json", str(tmp_path / "result.json")]
    assert main(["--synthetic", "3", "--limit-clips", "1", "--quiet", "--resamples", "10", *options]) == 0
    report = load_report(tmp_path / "result.json")
    assert [report["models"][role]["stride"] for role in ("lifter", "refiner")] == [STRIDE, STRIDE]
    folder = synthetic_folder(3)
    positions = limit_clips(folder.positions, folder.description.test, 1)
    clips = camera_clips(positions, folder.cameras, list(positions), detector=folder.detector)
    loaded = Lifter.load(lifter)
    errors = [
        1000.0 * mpjpe(root_relative(loaded.lift(clip.pose_2d, clip.image_size, clip.fps)), root_relative(clip.pose_3d))
        for clip in clips
    ]
    assert report["metrics"]["mpjpe"]["frame_mean"]["lifter"] == pytest.approx(np.concatenate(errors).mean(), rel=1e-4)


def open_engine_of(path, role):
    return open_engine(path, role, EngineOptions(None, None, None, None, "latency"))


def test_a_causal_refiner_of_image_coordinates_has_no_stride(lifter, people, tiny, tmp_path):
    config = tiny("refiner", lifter=str(lifter), stride=STRIDE, model={"causal": True})
    with pytest.raises(ConfigError, match="a causal refiner takes every frame"):
        train_refiner(config, people, tmp_path / "run", quiet=True)


def test_predictions_are_cut_with_the_stride(tiny, tmp_path):
    frames = np.arange(60, dtype=np.float32)
    clips = []
    for person in ("a", "b", "c"):
        pose = frames[:, None, None] * np.ones((1, 17, 3), np.float32) * 0.001
        pose[:, 0] = 0.0
        seen = pose[..., :2] + 0.1
        clips.append(PredictedClip(person, seen, pose + 0.0, pose, "a clip", 500.0 * (seen + 1.0), (1000, 1000)))
    predictions = Predictions("made up", 50.0, tuple(clips))
    windows = PredictionSampler(predictions, ["a", "b"], FRAMES, 8, 0, 0.0, STRIDE).batch(1)
    steps = np.diff(windows.lifted[:, :, 5, 0], axis=1)
    np.testing.assert_allclose(steps, 0.001 * STRIDE, atol=1e-6)
    with pytest.raises(ConfigError, match="has 65 frames"):
        PredictionSampler(predictions, ["a", "b"], FRAMES, 8, 0, 0.0, 8)


def test_a_refiner_of_predictions_takes_every_third_frame(people, tiny, tmp_path):
    rng = np.random.default_rng(4)
    clips = []
    for clip in people.clips("all"):
        noise = rng.normal(0, 0.01, clip.pose_3d.shape) * (np.arange(17) > 0)[:, None]
        screen = normalise_screen(clip.pose_2d, clip.image_size).astype(np.float32)
        lifted = (clip.pose_3d + noise).astype(np.float32)
        own = clip.key, clip.pose_2d, clip.image_size
        clips.append(PredictedClip(clip.subject, screen, lifted, clip.pose_3d, *own))
    predictions = Predictions("made up", 50.0, tuple(clips))
    config = tiny("refiner", stride=STRIDE)
    path = train_refiner_on_predictions(config, predictions, "S5", tmp_path / "run", quiet=True)
    own = [pair for clip in predictions.of(["S5"]) for pair in phases_of(FRAMES, STRIDE, clip.lifted, clip.truth)]
    windows = ValidationWindows([(lifted, truth) for lifted, truth in own], FRAMES)
    expected = windows.mpjpe_mm(windows.pose_2d)
    assert Refiner.load(path).stride == STRIDE
    noted = load_checkpoint(path).config["metrics"]["validation"]["lifter_mpjpe_mm"]
    assert noted == pytest.approx(expected, abs=1e-3)


def test_real_detections_are_cut_with_the_stride(people):
    camera = people.cameras[0]
    positions = np.arange(60, dtype=np.float32)[:, None, None] * 0.01 + np.zeros((1, 17, 3), np.float32)
    detections = np.arange(60, dtype=np.float32)[:, None, None] + np.zeros((1, 17, 2), np.float32)
    clip = TrainingClip("S1", "Walking", "Walking", positions, (camera,), detections=(detections,))
    drawn = DetectedWindows([clip], DataConfig(detected=1.0), FRAMES, STRIDE).draw(6, np.random.default_rng(0))
    width = camera.image_size[0]
    np.testing.assert_allclose(np.diff(drawn.pose_2d[..., 0, 0], axis=1) * width / 2, STRIDE, atol=1e-3)
    with pytest.raises(ConfigError, match="with real detections has 65 frames"):
        DetectedWindows([clip], DataConfig(detected=1.0), FRAMES, 8)
