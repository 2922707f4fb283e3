"""Frame by frame: the step with its state gives what the pass over the whole stream gives."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refiner.causal_state import CausalState, StateLayout, StreamCounts, step_inputs, step_outputs  # noqa: E402
from refiner.errors import ConfigError  # noqa: E402
from refiner.models import PoseDenoiser, UnrolledRefiner  # noqa: E402
from refiner.models.causal import CarriedStep, CausalStep  # noqa: E402

FRAMES = 7
SIZES = torch.tensor([[1000.0, 1002.0], [640.0, 480.0], [1920.0, 1080.0]])


@pytest.fixture
def refiner():
    """A causal refiner with random weights everywhere, norms and biases included."""

    def make(steps=2, mlps=1, band=FRAMES, corrected=False):
        denoiser = PoseDenoiser(dim=32, blocks=2, heads=4, joint_embedding=True, mlps=mlps, band=band).eval()
        with torch.no_grad():
            for parameter in denoiser.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        config = {"diffusion": {"timesteps": 50, "steps": steps, "offset": 0.008, "terminal": "zero"}}
        expected = (0.02 * torch.randn(51, 85), 0.02 * torch.randn(51)) if corrected else None
        return UnrolledRefiner(denoiser, 0.02 + 0.05 * torch.rand(51), FRAMES, config, None, expected).eval()

    return make


def streams(length):
    """Smooth poses of three people: pixels and metres, the root anywhere."""
    walk = torch.randn(3, 1, 17, 3) * 0.4 + 0.02 * torch.randn(3, length, 17, 3).cumsum(dim=1)
    pixels = SIZES[:, None, None] * (0.5 + 0.2 * walk[..., :2]) + 5 * torch.randn(3, length, 17, 2)
    return pixels, walk + torch.randn(3, length, 1, 3)


class Runner:
    """A `CausalStep` on the arrays of a `CausalState`, as an engine runs it."""

    def __init__(self, step):
        self.step, self.state = step, CausalState(step.layout)
        self.tensors = [torch.from_numpy(array) for array in self.state.tensors().values()]
        self.fresh = [torch.from_numpy(array) for array in self.state.fresh().values()]

    def __call__(self, pose_2d, pose_3d, sizes, active):
        """The refined poses, and which streams have one."""
        with torch.inference_mode():
            refined, *fresh = self.step(pose_2d, pose_3d, sizes, torch.from_numpy(self.state.seen), *self.tensors)
            for kept, new in zip(self.fresh, fresh, strict=True):
                kept.copy_(new)
        rows = self.state.rows_of(np.asarray(active))
        self.state.advance(rows)
        return refined, rows[-len(active) :]


class CarriedRunner:
    """The same of a `CarriedStep`, whose state goes from one call to the next; only the counts are kept here."""

    def __init__(self, step):
        self.step, self.state = CarriedStep(step), StreamCounts(step.layout)
        # Whatever lies in an unused state must not matter.
        self.tensors = [torch.randn(shape) for shape in step.layout.state().values()]

    def __call__(self, pose_2d, pose_3d, sizes, active):
        rows = self.state.rows_of(np.asarray(active))
        seen, write = torch.from_numpy(self.state.seen.copy()), torch.from_numpy(self.state.writes(rows))
        with torch.inference_mode():
            refined, *self.tensors = self.step(pose_2d, pose_3d, sizes, seen, write, *self.tensors)
        self.state.advance(rows)
        return refined, rows[-len(active) :]


def play(run, pixels, poses, starts, skip=0.0, seed=3):
    """Every stream from its tick of ``starts`` on, some ticks left out; what came out, in order ``(S, L, 17, 3)``."""
    generator = np.random.default_rng(seed)
    length, people = pixels.shape[1], range(len(pixels))
    given, out = [0] * len(pixels), [[] for _ in people]
    for tick in range(10 * length + max(starts)):
        active = [tick >= starts[person] and generator.random() >= skip for person in people]
        at = [min(place, length - 1) for place in given]
        frame_2d, frame_3d = (torch.stack([part[person, at[person]] for person in people]) for part in (pixels, poses))
        refined, there = run(frame_2d, frame_3d, SIZES, active)
        for person in people:
            given[person] += active[person]
            if there[person]:
                out[person].append(refined[person])
        if min(len(frames) for frames in out) >= length:
            return torch.stack([torch.stack(frames[:length]) for frames in out])
    raise AssertionError("the streams did not come to their end")


@pytest.mark.parametrize("runner", [Runner, CarriedRunner])
@pytest.mark.parametrize(
    ("steps", "pipelined", "mlps", "corrected"),
    [(2, False, 1, False), (2, True, 1, False), (1, False, 2, True), (3, True, 2, True)],
)
def test_frame_by_frame_is_the_pass_over_the_stream(refiner, runner, steps, pipelined, mlps, corrected):
    """Streams that begin at different times and stop in between, over many turns of the ring."""
    module = refiner(steps, mlps, corrected=corrected)
    pixels, poses = streams(90)
    with torch.inference_mode():
        expected = module(pixels, poses, SIZES)
    step = CausalStep(module, 3, pipelined)
    assert step.layout.delay == (steps - 1 if pipelined else 0)
    found = play(runner(step), pixels, poses, starts=(0, 4, 17), skip=0.2)
    assert (found - expected).abs().max() < 2e-6
    assert (expected - poses).abs().mean() > 1e-3  # it does something


@pytest.mark.slow
@pytest.mark.parametrize("pipelined", [False, True])
def test_five_hundred_frames_without_drift(refiner, pipelined):
    module = refiner()
    pixels, poses = streams(500)
    with torch.inference_mode():
        expected = module(pixels, poses, SIZES)
    found = play(Runner(CausalStep(module, 3, pipelined)), pixels, poses, starts=(0, 1, 29))
    assert (found - expected).abs().amax(dim=(0, 2, 3))[-100:].max() < 2e-6


@pytest.mark.parametrize("runner", [Runner, CarriedRunner])
@pytest.mark.parametrize("pipelined", [False, True])
def test_a_stream_that_is_reset_begins_anew_and_the_others_go_on(refiner, runner, pipelined):
    module = refiner()
    pixels, poses = streams(40)
    run = runner(CausalStep(module, 3, pipelined))
    delay, reset_at = run.step.layout.delay, 23
    with torch.inference_mode():
        alone = module(pixels[1:2], poses[1:2], SIZES[1:2])[0]
        whole = module(pixels, poses, SIZES)
    for frame in range(40):
        at = [frame, frame if frame < reset_at else frame - reset_at, frame]
        if frame == reset_at:
            run.state.reset(1)
        frame_2d, frame_3d = (
            torch.stack([part[person, at[person]] for person in range(3)]) for part in (pixels, poses)
        )
        refined, there = run(frame_2d, frame_3d, SIZES, [True] * 3)
        assert there.tolist() == [frame >= delay, at[1] >= delay, frame >= delay]
        for person in np.flatnonzero(there):
            expected = alone[at[1] - delay] if person == 1 else whole[person, frame - delay]
            torch.testing.assert_close(refined[person], expected, rtol=0, atol=2e-6)


def test_what_was_not_finite_does_not_outlive_a_reset(refiner):
    run = Runner(CausalStep(refiner(), 3))
    pixels, poses = streams(5)
    spoilt = poses.clone()
    spoilt[1] = float("nan")
    for frame in range(5):
        refined, _ = run(pixels[:, frame], spoilt[:, frame], SIZES, [True] * 3)
    assert refined[1].isnan().any() and refined[[0, 2]].isfinite().all()
    run.state.reset(1)
    refined, _ = run(pixels[:, 0], poses[:, 0], SIZES, [True] * 3)
    assert refined.isfinite().all()


@pytest.mark.parametrize(("pipelined", "carried"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_layout_says_what_a_step_takes_and_gives(refiner, pipelined, carried):
    step = CausalStep(refiner(), 3, pipelined)
    inputs, outputs = step_inputs(step.layout, carried), step_outputs(step.layout, carried)
    with torch.inference_mode():
        found = (CarriedStep(step) if carried else step)(*(torch.rand(shape) for shape in inputs.values()))
    assert [tuple(part.shape) for part in found] == list(outputs.values())
    state = CausalState(step.layout)
    assert {name: array.shape for name, array in state.tensors().items()} == step.layout.state()
    assert {name: array.shape for name, array in state.fresh().items()} == step.layout.fresh()


def test_what_has_no_state_is_refused(refiner):
    with pytest.raises(ConfigError, match="trained on windows"):
        CausalStep(refiner(band=None))
    with pytest.raises(ConfigError, match="nothing to pipeline"):
        CausalStep(refiner(steps=1), pipelined=True)
    with pytest.raises(ConfigError, match="at least one stream"):
        CausalStep(refiner(), streams=0)
    with pytest.raises(ConfigError, match="expected 3 or more"):
        StateLayout(streams=1, frames=2, steps=2, modules=2, heads=2, width=4)
