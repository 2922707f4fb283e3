"""A refiner for any estimator: systematic errors, the pool, and the training through the steps that run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from recorded import HostRead, NoHostReads, record_operations

from refiner.data.windows import merge_windows
from refiner.errors import ConfigError, TrainingError
from refiner.model_files.build import build_model, module_of
from refiner.model_files.checkpoint import Checkpoint, load_checkpoint
from refiner.models import fused
from refiner.models.canonical import canonical_pose, to_virtual_camera
from refiner.models.unrolled import apply_trust
from refiner.runtime import Lifter, Refiner, StreamingRefiner
from refiner.skeleton import H36M17
from refiner.training import pool as pool_module
from refiner.training import systematic
from refiner.training.config import EstimatorConfig, config_from_dict
from refiner.training.optimiser import build_optimiser
from refiner.training.pool import DrawnErrors, Estimates, EstimatorPool, frames_between, pool_length
from refiner.training.runs import prepare_refiner, train_lifter, train_refiner
from refiner.training.scene_refiner import RayLifter, canonical_clip
from refiner.training.scenes import SceneSampler
from refiner.training.scenes.draws import Draws
from refiner.training.scenes.motion import MotionClip
from refiner.training.schedule import MovingAverage
from refiner.training.steps import FIRST_STEPS, EagerStep, GraphStep
from refiner.training.systematic import SystematicErrors
from refiner.training.tasks import ValidationWindows
from refiner.training.unrolled_task import UnrolledRefinerTask, ValidatedEstimator, choose_trust

RAYS = {"model": {"input": "rays"}, "scene": {"synthetic": 0.0}}
POOL = RAYS | {"diffusion": {"train_on": "unrolled"}}
STRIDE = 3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lifters(tmp_path_factory, people):
    """Two lifters of rays of different kinds, trained for a moment."""

    def lifter(name, model):
        folder = tmp_path_factory.mktemp(name)
        shared = {"training": {"steps": 4, "batch": 4, "validate_every": 4, "threads": 1}, "stride": STRIDE}
        content = {"kind": "lifter", "frames": 9, "scene": RAYS["scene"], "model": {"input": "rays", **model}, **shared}
        return train_lifter(config_from_dict(content), people, folder, quiet=True)

    network = {"dim": 16, "blocks": 1, "heads": 4, "mlp_ratio": 2}
    return lifter("stc", network), lifter("mlp", {"architecture": "mlp", "dim": 16, "blocks": 1})


def bodies(batch=64, frames=9):
    generator = torch.Generator().manual_seed(0)
    pose = 0.3 * torch.randn(batch, 1, 17, 3, generator=generator) + 0.05 * torch.randn(
        batch, frames, 17, 3, generator=generator
    )
    return pose - pose[:, :, :1]


def errors_of(config=None, frames=9):
    return SystematicErrors(frames, config or EstimatorConfig(systematic=1.0, each=1.0), CPU)


def test_systematic_errors_leave_the_root_and_the_other_windows_alone():
    pose = bodies()
    wrong = errors_of(EstimatorConfig(systematic=0.5, each=0.5)).disturb(Draws(1, 2, CPU), pose)
    assert wrong.shape == pose.shape and torch.isfinite(wrong).all() and (wrong[:, :, 0] == 0).all()
    changed = (wrong != pose).flatten(1).any(dim=1).float().mean()
    assert 0.3 < changed < 0.7
    again = errors_of(EstimatorConfig(systematic=0.5, each=0.5)).disturb(Draws(1, 2, CPU), pose)
    assert torch.equal(again, wrong)
    for none in (EstimatorConfig(systematic=0.0), EstimatorConfig(systematic=1.0, each=0.0)):
        torch.testing.assert_close(errors_of(none).disturb(Draws(1, 2, CPU), pose), pose, atol=1e-6, rtol=0)


def test_a_tilt_turns_the_whole_window_and_a_stretch_scales_its_axes():
    pose, errors = bodies(), errors_of()
    tilted = errors._tilt(Draws(1, 3, CPU), pose)
    torch.testing.assert_close(tilted.norm(dim=-1), pose.norm(dim=-1), atol=1e-5, rtol=1e-5)
    gram = torch.einsum("btkc,btjc->bkj", pose, pose)
    torch.testing.assert_close(torch.einsum("btkc,btjc->bkj", tilted, tilted), gram, atol=1e-3, rtol=1e-3)
    moved = (tilted - pose).norm(dim=-1).mean()
    assert 0.02 < moved < 0.2
    stretched = errors._scale_and_depth(Draws(1, 3, CPU), pose)
    ratio = (stretched / pose)[:, :, 1:]
    spread = ratio.flatten(1, 2).std(dim=1)
    assert spread.max() < 1e-3  # one factor a window and axis
    torch.testing.assert_close(ratio[..., 0], ratio[..., 1], atol=1e-3, rtol=1e-3)
    depth = (ratio[..., 2] / ratio[..., 0]).mean(dim=(1, 2)).log()
    assert abs(depth.mean() - systematic.COMPRESSED) < 0.12 and 0.15 < depth.std() < 0.35


def test_a_smoother_is_the_recursive_filter():
    pose, errors = bodies(batch=5), errors_of()
    draws = Draws(4, 4, CPU)
    smoothed = errors._smooth(draws, pose)
    # The same numbers are drawn in the same order: first the strength, then who has it.
    draws = Draws(4, 4, CPU)
    kept = errors._strength(draws, draws.uniform(5, high=systematic.SMOOTHER))
    expected = [pose[:, 0]]
    for frame in range(1, pose.shape[1]):
        share = kept[:, None, None]
        expected.append(share * expected[-1] + (1 - share) * pose[:, frame])
    torch.testing.assert_close(smoothed, torch.stack(expected, dim=1), atol=1e-6, rtol=1e-5)


def test_a_body_is_sometimes_taken_for_its_mirror_image(monkeypatch):
    for name in ("_redefine_joints", "_drift_and_tremble", "_scale_and_depth", "_tilt", "_smooth"):
        monkeypatch.setattr(SystematicErrors, name, lambda self, draws, pose: pose)
    pose = bodies(batch=400, frames=30)
    wrong = errors_of(frames=30).disturb(Draws(0, 0, CPU), pose)
    swapped = (wrong != pose).flatten(2).any(dim=-1)
    assert abs(swapped.float().mean() - systematic.SWAPPED) < 0.02
    torch.testing.assert_close(wrong[swapped], pose[:, :, list(H36M17.flip_order)][swapped])


def test_drawn_errors_have_the_gaussian_s_mean_and_spread_at_the_window_s_level(people, tiny, lifters, monkeypatch):
    monkeypatch.setattr(pool_module, "BETTER", 1.0)
    pool, config = make_pool(people, tiny, lifters[:1])
    fitted = pool.fit(config)[0]
    drawn = DrawnErrors(fitted, CPU)
    plain = pool.estimates(pool._scenes.batch(3), 0, 3, plain=True)
    features = plain.features[:1].expand(4000, -1, -1, -1)
    pose = plain.pose[:1].expand(4000, -1, -1, -1)
    condition = features[..., :2].numpy(), pose.numpy()
    mean = torch.from_numpy(fitted.gaussian.mean(*condition)).float()
    # A residual of exactly the expected size: level 1.
    spread = float(np.sqrt(np.trace(fitted.gaussian.covariance)))
    residual = torch.zeros_like(pose)
    residual[..., 5, 0] = spread
    errors = drawn.draw(Draws(0, 0, CPU), features, pose, pose - mean - residual)
    deviation = np.sqrt(np.diag(fitted.gaussian.covariance)).reshape(17, 3)
    off = (errors - mean).double().numpy()
    assert np.abs(off.mean(axis=0)).max() < 5 * deviation.max() / np.sqrt(4000)
    np.testing.assert_allclose(off.std(axis=(0, 1))[1:], deviation[1:], rtol=0.08)
    half = drawn.draw(Draws(0, 0, CPU), features, pose, pose - mean - 0.5 * residual)
    torch.testing.assert_close(half, 0.5 * errors, atol=1e-6, rtol=1e-4)


def make_pool(people, tiny, lifters, **changes):
    config = tiny("refiner", stride=STRIDE, **{**POOL, **changes})
    clips = [MotionClip("S1", "A", people.positions["S1"]["Walking"])]
    scenes = SceneSampler(clips, people.detector, config.scene, pool_length(config), 4, 0, stride=STRIDE)
    opened = [RayLifter.of_checkpoint(load_checkpoint(path), "cpu") for path in lifters]
    return EstimatorPool(scenes, opened, config), config


def test_a_batch_never_waits_for_the_device(people, tiny, lifters):
    """Neither the scenes nor the pool: the host runs ahead while the device works on the step before."""
    pool, config = make_pool(people, tiny, lifters[1:])
    pool.fit(config)
    scene = pool._scenes.batch(0)
    with NoHostReads() as scenes:
        pool._scenes.batch(1)
    with NoHostReads() as estimates:
        pool.estimates(scene, 0, 1)
    # On a device each is a launch, about 5 us of the host: what is added here costs every step.
    assert 300 < scenes.operations < 800 and 100 < estimates.operations < 400
    with pytest.raises(HostRead), NoHostReads():
        scene.pose_3d[scene.pose_3d > 0].sum()


def test_the_pool_lifts_as_the_runtime_does_and_takes_turns(people, tiny, lifters):
    none = {"estimators": {"drawn": 0.0, "systematic": 0.0}}
    pool, config = make_pool(people, tiny, lifters, **none)
    assert len(pool) == 2 and pool_length(config) == 13
    for step in range(3):
        scene = pool._scenes.batch(step)
        features, _ = canonical_pose(scene.keypoints, scene.camera)
        lifter = pool._lifters[step % 2]
        windows = [lifter.windows(features[:, start : start + 9]).numpy() for start in (0, 4)]
        found = pool.batch(step)
        for row in range(4):
            blended = merge_windows(np.stack([window[row] for window in windows]), [0, 4], 13)
            np.testing.assert_allclose(found.pose[row].numpy(), blended[2:11], atol=1e-5)
        np.testing.assert_array_equal(found.features.numpy(), features[:, 2:11].numpy())
        assert (found.truth[:, :, 0] == 0).all()
    again = make_pool(people, tiny, lifters)[0]
    assert torch.equal(again.batch(5).pose, again.batch(5).pose)


def test_a_longer_view_takes_every_third_frame_of_what_the_lifters_made(people, tiny, lifters):
    none = {"estimators": {"drawn": 0.0, "systematic": 0.0}}
    config = tiny("refiner", **{**POOL, **none}, stride=3 * STRIDE)
    opened = [RayLifter.of_checkpoint(load_checkpoint(path), "cpu") for path in lifters]
    assert frames_between(config, opened) == 3
    length = pool_length(config, 3)
    assert length == 29  # 9 + 5 x 4: half an overlap and 25 frames fit
    clips = [MotionClip("S1", "A", people.positions["S1"]["Walking"])]
    scenes = SceneSampler(clips, people.detector, config.scene, length, 2, 0, stride=STRIDE)
    pool = EstimatorPool(scenes, opened, config)
    scene = scenes.batch(0)
    features, _ = canonical_pose(scene.keypoints, scene.camera)
    starts = list(range(0, 21, 4))
    windows = [opened[0].windows(features[:, start : start + 9]).numpy() for start in starts]
    found = pool.batch(0)
    assert found.pose.shape == (6, 9, 17, 3)
    for phase in range(3):
        taken = slice(2 + phase, 2 + phase + 25, 3)
        for row in range(2):
            blended = merge_windows(np.stack([window[row] for window in windows]), starts, length)
            np.testing.assert_allclose(found.pose[2 * phase + row].numpy(), blended[taken], atol=1e-5)
            np.testing.assert_array_equal(found.features[2 * phase + row].numpy(), features[row, taken].numpy())
    for frames, every in ((27, 1), (27, 3), (9, 5), (3, 9), (81, 2)):
        length, hop = pool_length(dataclasses.replace(config, frames=frames), every), max(1, frames // 2)
        assert length >= hop // 2 + (every - 1) + (frames - 1) * every + 1 and (length - frames) % hop == 0
    with pytest.raises(ConfigError, match="takes every 3 frames"):
        frames_between(dataclasses.replace(config, stride=3), [dataclasses.replace(opened[0], stride=2)])
    with pytest.raises(ConfigError, match="one stride of all lifters"):
        frames_between(config, [opened[0], dataclasses.replace(opened[0], stride=STRIDE + 1)])


def test_a_causal_refiner_can_be_trained_on_what_a_stream_lifts(people, tiny, lifters, tmp_path):
    """Each frame lifted from those before it, as `Lifter` and a stream do it live."""
    changes = dict(POOL, lifter=str(lifters[0]), model={**RAYS["model"], "causal": True})
    changes["estimators"] = {"drawn": 0.0, "systematic": 0.0, "live": True}
    config = tiny("refiner", **changes)
    lifter = RayLifter.of_checkpoint(load_checkpoint(lifters[0]), "cpu")
    assert lifter.reach == 8 * STRIDE
    clips = [MotionClip("S1", "A", people.positions["S1"]["Walking"])]
    scenes = SceneSampler(clips, people.detector, config.scene, pool_length(config, reach=lifter.reach), 2, 0)
    scene = scenes.batch(0)
    found = EstimatorPool(scenes, [lifter], config).batch(0)
    features, _ = canonical_pose(scene.keypoints, scene.camera)
    assert features.shape[1] == lifter.reach + 9 and found.pose.shape == (2, 9, 17, 3)
    for frame in (0, 5, 8):
        window = features[:, frame : frame + lifter.reach + 1 : STRIDE]
        np.testing.assert_allclose(found.pose[:, frame].numpy(), lifter.windows(window)[:, -1].numpy(), atol=1e-6)
    np.testing.assert_array_equal(found.features.numpy(), features[:, -9:].numpy())
    clip = people.clips("validation")[0]
    features, _ = canonical_clip(clip)
    lens = {"focal_length": float(np.mean(clip.lens.focal_length))}
    lifted = Lifter.load(lifters[0], live=True).lift(clip.pose_2d, clip.image_size, **lens)
    given = torch.from_numpy(clip.pose_2d), torch.ones(*clip.pose_2d.shape[:-1], 1)
    _, rotation = canonical_pose(
        torch.cat(given, dim=-1)[None], torch.tensor([[*clip.image_size, lens["focal_length"]]])
    )
    np.testing.assert_allclose(
        lifter.lift_clip_live(features),
        to_virtual_camera(torch.from_numpy(lifted)[None], rotation)[0].numpy(),
        atol=1e-4,
    )
    assert train_refiner(config, people, tmp_path / "run", quiet=True).is_file()
    with pytest.raises(ConfigError, match="is of causal refiners"):
        EstimatorPool(scenes, [lifter], dataclasses.replace(config, model=tiny("refiner", **POOL).model))


def test_the_loss_is_the_error_after_each_step_that_runs(people, tiny, lifters):
    pool, config = make_pool(people, tiny, lifters[:1])
    fitted = pool.fit(config)[0]
    torch.manual_seed(0)
    model = build_model(dataclasses.asdict(config)).eval()
    task = UnrolledRefinerTask(config, model, fitted, ())
    found = pool.batch(1)
    loss = task.loss(found, 1)
    # The last step's error is that of the module that runs.
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()} | task.extra_tensors()
    module = module_of(Checkpoint(dataclasses.asdict(config), tensors))
    schedule = module.schedule
    with torch.no_grad():
        scale = task.error_scale.reshape(17, 3).clone()
        scale[0] = 0
        pose, errors = found.pose, []
        for step in schedule:
            error = model(pose, found.features, torch.full((4,), step.time)) * scale
            clean = (pose - step.noise * error) * step.scale
            errors.append((clean - found.truth)[:, :, 1:].norm(dim=-1).mean())
            pose = step.next_clean * clean + step.next_noise * error
    torch.testing.assert_close(loss, torch.stack(errors).mean())
    loss.backward()
    assert model.pose_emb.weight.grad.abs().max() > 0
    perfect = UnrolledRefinerTask(config, model, fitted, ())
    with torch.no_grad():
        model.head.weight.zero_()
    truth = Estimates(found.features, found.truth, found.truth)
    assert perfect.loss(truth, 1).item() < 1e-6


def test_a_graph_can_hold_the_step(people, tiny, lifters):
    """Nothing of the step waits for the device, and a replay takes another batch."""
    pool, config = make_pool(people, tiny, lifters, optimiser={"name": "adam", "clip_norm": 0.5})
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, compile="graph"))
    fitted = pool.fit(config)[0]
    losses = []
    for kind in (EagerStep, GraphStep):
        torch.manual_seed(1)
        task = UnrolledRefinerTask(config, build_model(dataclasses.asdict(config)), fitted, ())
        optimiser, average = build_optimiser(task.model, config.optimiser, True), MovingAverage(task.model, 0.99)
        given = (config, task, optimiser, average)
        state = optimiser.state_dict

        def changed(task=task, average=average, state=state):
            moments = [value for entry in state()["state"].values() for value in entry.values()]
            return [*task.model.parameters(), *average.values.values(), *moments]

        step = EagerStep(*given) if kind is EagerStep else GraphStep(*given, record_operations(changed))
        with fused.attention_by("plain"):
            losses.append([float(step(number, pool.batch(number))) for number in range(FIRST_STEPS + 4)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=5e-4)
    assert len(set(losses[0])) == len(losses[0])


@pytest.mark.parametrize("causal", [False, True])
def test_a_refiner_trains_on_a_pool_resumes_and_runs(people, tiny, lifters, tmp_path, causal):
    first, second = map(str, lifters)
    changes = dict(POOL, lifter=first, estimators={"others": [second], "held_out": [second]})
    if causal:
        changes |= {"model": {**RAYS["model"], "causal": True}, "training": {"window": 27}}
    config = tiny("refiner", **({} if causal else {"stride": STRIDE}), **changes)
    whole = train_refiner(config, people, tmp_path / "whole", quiet=True)
    train_refiner(config, people, tmp_path / "parts", quiet=True, minutes=0.0)
    parts = train_refiner(config, people, tmp_path / "parts", quiet=True)
    checkpoint = load_checkpoint(whole)
    for name, value in load_checkpoint(parts).tensors.items():
        assert torch.equal(value, checkpoint.tensors[name]), name
    assert ("trust" in checkpoint.tensors) is not causal
    metrics = checkpoint.config["metrics"]["validation"]
    assert metrics["mpjpe_mm"] == pytest.approx((metrics["lifter_mpjpe_mm"] + metrics["held_out_1_mpjpe_mm"]) / 2)
    assert "/" not in str(checkpoint.config["estimators"])
    clip = people.clips("validation")[0]
    given = (clip.pose_2d, clip.pose_3d.astype(np.float32), clip.image_size)
    if causal:
        stream = StreamingRefiner.load(whole, image_size=clip.image_size, camera=clip.lens)
        assert stream is not None
    else:
        refined = Refiner.load(whole).refine(*given, camera=clip.lens)
        assert refined.shape == clip.pose_3d.shape and np.isfinite(refined).all()
    other = tiny(
        "refiner",
        **{**changes, "estimators": {"others": [first], "held_out": [second]}},
        stride=1 if causal else STRIDE,
    )
    with pytest.raises(TrainingError, match=r"another configuration|other checkpoints"):
        train_refiner(other, people, tmp_path / "whole", quiet=True)


def test_a_run_that_starts_from_a_checkpoint_starts_with_what_that_gives(people, tiny, lifters, tmp_path):
    """The unit of the network's errors goes with its weights, though the new pool's errors are of another size."""
    changes = dict(POOL, lifter=str(lifters[0]), stride=STRIDE)
    first = train_refiner(tiny("refiner", **changes), people, tmp_path / "first", quiet=True)
    again = tiny("refiner", **{**changes, "lifter": str(lifters[1])}, start_from=str(first))
    other = prepare_refiner(again, people).task
    kept = load_checkpoint(first).tensors["error_scale"]
    assert torch.equal(other.error_scale, kept.float())
    alone = prepare_refiner(tiny("refiner", **{**changes, "lifter": str(lifters[1])}), people).task
    assert not torch.allclose(alone.error_scale, kept.float(), rtol=1e-3)


def test_what_does_not_go_together_is_refused(people, tiny, lifters, tmp_path):
    def train(**changes):
        config = tiny("refiner", **{**POOL, "lifter": str(lifters[0]), "stride": STRIDE, **changes})
        train_refiner(config, people, tmp_path / "refused", quiet=True)

    with pytest.raises(ConfigError, match=r'take model.input = "rays"'):
        train(model={"input": "screen"})
    with pytest.raises(ConfigError, match="leave stride out"):
        train(model={"input": "rays", "causal": True})
    with pytest.raises(ConfigError, match="windows of 12 frames"):
        train(frames=12)
    with pytest.raises(ConfigError, match="starts from the pose"):
        train(diffusion={"train_on": "unrolled", "start": "corrected"})


def test_the_further_a_frame_is_moved_the_more_is_kept():
    given, refined = bodies(batch=4), bodies(batch=4) + 0.0
    refined[0] = given[0] + torch.tensor([0.005, 0.0, 0.0])
    refined[1] = given[1] + torch.tensor([0.0, 0.02, 0.0])
    refined[2] = given[2] + torch.tensor([0.0, 0.0, 0.5])
    refined[3] = given[3]
    refined[:, :, 0] = 0.0
    found = apply_trust(given, refined, (0.01, 0.03))
    torch.testing.assert_close(found[0], given[0])
    torch.testing.assert_close(found[1], 0.5 * (given[1] + refined[1]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[2], refined[2])
    torch.testing.assert_close(found[3], given[3])


def test_trust_is_chosen_by_the_estimators_that_validate():
    """One estimator is as good as what the steps make of it, with errors of its own; the other is bad."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 0.3, (6, 9, 17, 3)).astype(np.float32)
    truth -= truth[:, :, :1]

    def off_by(size):
        return (truth + size * rng.normal(0, 1, truth.shape) * (np.arange(17) > 0)[:, None]).astype(np.float32)

    windows = ValidationWindows([(np.zeros((9, 17, 6), np.float32), pose) for pose in truth], 9)
    good, bad = (ValidatedEstimator(name, windows, off_by(size)) for name, size in (("good", 0.01), ("bad", 0.06)))
    steps = [off_by(0.01), off_by(0.01)]
    (low, high), errors = choose_trust([good, bad], steps)
    assert errors[0] < 0.85 * min(windows.mpjpe_mm(good.lifted), windows.mpjpe_mm(steps[0]))
    assert errors[1] == pytest.approx(windows.mpjpe_mm(steps[1]), rel=0.02)
    assert 0 <= low < 0.025 < high < 0.1


def test_what_runs_keeps_what_it_trusts(people, tiny, lifters):
    pool, config = make_pool(people, tiny, lifters[:1])
    torch.manual_seed(0)
    task = UnrolledRefinerTask(config, build_model(dataclasses.asdict(config)), pool.fit(config)[0], ())
    tensors = {f"model.{name}": value for name, value in task.model.state_dict().items()}
    rng = np.random.default_rng(1)
    keypoints = torch.from_numpy(np.concatenate([rng.uniform(300, 700, (2, 9, 17, 2)), np.ones((2, 9, 17, 1))], -1))
    given = (keypoints.float(), bodies(batch=2), torch.tensor([[1000.0, 1000.0, 1100.0]] * 2))
    whole = module_of(Checkpoint(dataclasses.asdict(config), tensors | task.extra_tensors()))(*given)
    task.trust = (0.0, 2.0)
    kept = module_of(Checkpoint(dataclasses.asdict(config), tensors | task.extra_tensors()))(*given)
    torch.testing.assert_close(kept, apply_trust(given[1], whole, (0.0, 2.0)), atol=1e-5, rtol=1e-4)
    assert (kept - whole).abs().max() > 1e-3
    causal = dataclasses.replace(config, stride=1, model=dataclasses.replace(config.model, causal=True))
    with pytest.raises(ConfigError, match="trust is for windowed refiners"):
        module_of(Checkpoint(dataclasses.asdict(causal), tensors | task.extra_tensors()))


def test_trust_is_chosen_on_clips_and_written(people, tiny, lifters, tmp_path, monkeypatch, capsys):
    from refiner.cli import calibrate

    monkeypatch.setattr("refiner.data.clips.open_motion_folder", lambda folder: people)
    path = train_refiner(
        tiny("refiner", stride=STRIDE, lifter=str(lifters[0]), **POOL), people, tmp_path / "run", quiet=True
    )
    given = ["--checkpoint", str(path), "--data", "somewhere", "--output", str(tmp_path / "kept.safetensors")]
    assert calibrate.main([*given, "--trust", *map(str, lifters), "--clips", "2", "--quiet"]) == 0
    told = capsys.readouterr().out
    assert told.count("those that are trusted") == 2 and "nothing is kept up to" in told
    before, after = load_checkpoint(path), load_checkpoint(tmp_path / "kept.safetensors")
    rows = after.config["metrics"]["trust_mpjpe_mm"]
    # What is tried has one that keeps nearly everything.
    kept, steps = ([np.log(row[name]) for row in rows] for name in ("kept", "steps"))
    assert len(rows) == 2 and np.mean(kept) <= np.mean(steps) + 1e-3
    low, high = after.tensors["trust"].tolist()
    assert 0 <= low < high
    torch.testing.assert_close(after.tensors["error_scale"], before.tensors["error_scale"])
    # Chosen on the whole of the changes, whatever was trusted before.
    again = [given[0], given[-1], *given[2:5], str(tmp_path / "again.safetensors")]
    assert calibrate.main([*again, "--trust", *map(str, lifters), "--clips", "2", "--quiet"]) == 0
    assert load_checkpoint(tmp_path / "again.safetensors").tensors["trust"].tolist() == [low, high]
    assert calibrate.main([*given, "--trust", str(lifters[0]), "--clips", "0"]) == 2
