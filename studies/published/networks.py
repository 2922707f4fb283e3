"""The networks and samplers of STCFormer, MixSTE, D3DP and FinePOSE beside ours."""

from __future__ import annotations

import types
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refiner.models import from_published
from refiner.models.finepose import WordVocabulary
from refiner.models.finepose.prompts import FULL_PROMPTS, texts_of
from refiner.models.published import HUMAN36M_ACTIONS
from refiner.skeleton import H36M17, MPI_INF_3DHP, JointSet, flip_pose, from_h36m17
from studies.published.checkouts import StandInClip, checkout, without_cuda
from studies.published.comparison import Comparison, compare, gradients, random_weights

# (width, depth, frames). The last one of each is the published size, on shorter windows where 243 frames take minutes.
STCFORMERS = ((32, 2, 9), (64, 3, 27), (256, 6, 27), (256, 6, 81))
MIXSTES = ((32, 2, 9), (64, 3, 27), (512, 8, 27))
SAMPLED = ((32, 2, 9), (64, 3, 27), (512, 8, 9))
# (steps, hypotheses) of the samplers.
SAMPLINGS = ((1, 1), (2, 3), (5, 2))
# Spread of the poses that random weights give, in metres. The samplers clip at 1.1.
POSE_SPREAD = 0.3
PAIRING = "the published code gives the poses of a batch of several actions each other's texts"
END_OF_TEXT = "the published code reads the whole text at the place where the action's own text ends"
NO_GRADIENT = "the published code lets no gradient reach the learnable context"


def compare_stcformer(folder: str, seed: int = 0) -> Iterator[Comparison]:
    """STCFormer: poses, and the gradients of all weights."""
    for width, layers, frames in STCFORMERS:
        sizes = types.SimpleNamespace(layers=layers, d_hid=width, frames=frames, n_joints=17, out_joints=17)
        with checkout(folder) as load, without_cuda():
            theirs = load("model.stcformer").Model(sizes)
        state = random_weights(theirs, seed + frames)
        theirs, ours = theirs.double().eval(), from_published("stcformer", state).double()
        pose_2d = _normal(seed, 2, frames, 17, 2)
        outputs = theirs(pose_2d), ours(pose_2d)
        name = f"width {width}, {layers} layers, {frames} frames"
        yield compare("STCFormer", f"{name}: poses", *outputs)
        yield compare("STCFormer", f"{name}: mirrored pass", _mirrored(theirs, pose_2d), _mirrored(ours, pose_2d))
        if width < 256:
            own, found = gradients((theirs, ours), outputs)
            yield compare("STCFormer", f"{name}: gradients", own, found)


def compare_mixste(folder: str, seed: int = 0) -> Iterator[Comparison]:
    """MixSTE: poses, and the gradients of all weights."""
    for width, depth, frames in MIXSTES:
        with checkout(folder) as load:
            theirs = load("common.model_cross").MixSTE2(
                num_frame=frames, embed_dim_ratio=width, depth=depth, num_heads=8, mlp_ratio=2.0, qkv_bias=True
            )
        state = random_weights(theirs, seed + frames)
        theirs, ours = theirs.double().eval(), from_published("mixste", state).double()
        pose_2d = _normal(seed, 2, frames, 17, 2)
        outputs = theirs(pose_2d.clone()), ours(pose_2d)
        name = f"width {width}, depth {depth}, {frames} frames"
        yield compare("MixSTE", f"{name}: poses", *outputs)
        yield compare("MixSTE", f"{name}: mirrored pass", _mirrored(theirs, pose_2d), _mirrored(ours, pose_2d))
        if width < 512:
            own, found = gradients((theirs, ours), outputs)
            yield compare("MixSTE", f"{name}: gradients", own, found)


def compare_d3dp(folder: str, seed: int = 0) -> Iterator[Comparison]:
    """D3DP on both data sets: schedule, one prediction, and the sampler with and without the mirrored pass."""
    for module, joints in (("common.diffusionpose", H36M17), ("common.diffusionpose_3dhp", MPI_INF_3DHP)):
        for width, depth, frames in SAMPLED if joints is H36M17 else SAMPLED[:2]:
            build = partial(_build_d3dp, folder, module, joints, _options(frames, width, depth, True))
            theirs = build()
            state = _within_limit(random_weights(theirs, seed + frames))
            theirs.load_state_dict(state)
            ours = _in_float64(from_published("d3dp", state, joints=joints.name))
            where = f"{joints.name}, width {width}, depth {depth}, {frames} frames"
            yield compare("D3DP", f"{where}: schedule", theirs.alphas_cumprod, ours.alphas_cumprod)
            noisy, pose_2d = _normal(seed + 1, 2, frames, 17, 3), _normal(seed, 2, frames, 17, 2)
            time = torch.tensor([3, 700])
            training = build(train=True)
            training.load_state_dict(state)
            own_noisy, own_2d = _own(noisy, joints), _own(pose_2d, joints)
            predicted = _in_float64(training).pose_estimator(own_2d, own_noisy, time)
            yield compare("D3DP", f"{where}: one prediction", predicted, _own(ours(noisy, pose_2d, time), joints))
            for steps, hypotheses in SAMPLINGS if width < 512 else SAMPLINGS[1:2]:
                for flip in (False, True):
                    model = build(steps=steps, hypotheses=hypotheses)
                    model.load_state_dict(state)
                    model.flip = flip
                    name = f"{where}: sampling, {steps} steps, {hypotheses} hypotheses{', mirrored' if flip else ''}"
                    noises = _normal(seed + 2, steps, 2, hypotheses, frames, 17, 3)
                    result = _sampled(model, pose_2d, noises, joints, flip)
                    found = ours.sample(pose_2d, noises, flip=flip)
                    yield compare("D3DP", name, result, _own(found, joints))


def _build_d3dp(
    folder: str,
    module: str,
    joints: JointSet,
    options: types.SimpleNamespace,
    train: bool = False,
    steps: int = 1,
    hypotheses: int = 1,
) -> Any:
    with checkout(folder) as load:
        return load(module).D3DP(options, list(joints.left), list(joints.right), train, hypotheses, steps)


def compare_finepose(folder: str, seed: int = 0) -> Iterator[Comparison]:
    """FinePOSE in both forms: as its authors run it, and mended. The text tower is a small stand-in for CLIP's."""
    width, frames = 512, 5  # the published code allows no other width
    words = WordVocabulary(texts_of(FULL_PROMPTS, HUMAN36M_ACTIONS))
    for depth in (1, 2):
        with checkout(folder, StandInClip(words.size, 2)) as load:
            options = _options(frames, width, depth, True)
            module = load("common.finepose")
            train, run = (
                module.FinePOSE(options, list(H36M17.left), list(H36M17.right), is_train, 2, 2)
                for is_train in (True, False)
            )
        state = _within_limit(random_weights(train, seed + depth))
        train.load_state_dict(state)
        run.load_state_dict(state)
        kept = {name: value for name, value in state.items() if not name.endswith("_mask")}
        ours = {
            published: _in_float64(from_published("finepose", kept, vocabulary=words, published=published))
            for published in (True, False)
        }
        where = f"width {width}, depth {depth}, {frames} frames"
        noisy, pose_2d = _normal(seed + 1, 3, frames, 17, 3), _normal(seed, 3, frames, 17, 2)
        time = torch.tensor([3, 300, 700])
        train, run = _in_float64(train), _in_float64(run)
        for actions in (["Walking"] * 3, ["SittingDown"] * 3, ["Walking", "Greeting", "WalkDog"]):
            texts = _texts(words, actions)
            predicted = train.pose_estimator(pose_2d, noisy, time, *texts)
            told = "one action" if len(set(actions)) == 1 else "several actions"
            name = f"{where}: one prediction, {told}, {actions[0]}"
            model = ours[True]
            numbers = model.numbers(actions)
            yield compare("FinePOSE", name, predicted, model(noisy, pose_2d, time, numbers))
            finding = END_OF_TEXT if len(set(actions)) == 1 else PAIRING
            yield compare("FinePOSE", f"{name}, mended", predicted, ours[False](noisy, pose_2d, time, numbers), finding)
        for flip in (False, True):
            run.flip = flip
            noises = _normal(seed + 2, 2, 3, 2, frames, 17, 3)
            texts = _texts(words, ["Eating"] * 3)
            model = ours[True]
            found = model.sample(pose_2d, noises, model.numbers(["Eating"] * 3), flip=flip)
            result = _sampled(run, pose_2d, noises, H36M17, flip, *texts)
            yield compare("FinePOSE", f"{where}: sampling{', mirrored' if flip else ''}", result, found)
        yield from _context_gradients(train, ours, (noisy, pose_2d, time), words, where)


def _context_gradients(
    train: Any,
    ours: dict[bool, Any],
    inputs: tuple[Tensor, Tensor, Tensor],
    words: WordVocabulary,
    where: str,
) -> Iterator[Comparison]:
    """The gradient of the learnable context, 0 where none arrives."""
    noisy, pose_2d, time = inputs
    found = {}
    for published, model in ours.items():
        model.zero_grad()
        model(noisy, pose_2d, time, model.numbers(["Walking"] * 3)).square().mean().backward()
        found[published] = _gradient(model.pose_estimator.text.ctx_subject)
    train.zero_grad()
    train.pose_estimator(pose_2d, noisy, time, *_texts(words, ["Walking"] * 3)).square().mean().backward()
    theirs = _gradient(train.pose_estimator.ctx_subject)
    yield compare("FinePOSE", f"{where}: gradient of the context", theirs, found[True])
    yield compare("FinePOSE", f"{where}: gradient of the context, mended", theirs, found[False], NO_GRADIENT)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _options(frames: int, width: int, depth: int, flip: bool) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        number_of_frames=frames, test_time_augmentation=flip, timestep=1000, scale=1.0, cs=width, dep=depth
    )


def _texts(words: WordVocabulary, actions: list[str]) -> tuple[Tensor, Tensor]:
    """The tokens that FinePOSE's script passes to its model: the actions', and those of the fixed prompts."""

    def tokens(text: str) -> Tensor:
        row = [words.start, *words.encode(text), words.end]
        return torch.tensor(row + [words.pad] * (77 - len(row)))

    fixed = torch.stack([tokens(prompt.text) for prompt in FULL_PROMPTS if prompt.name != "verb"])
    return torch.stack([tokens(action) for action in actions]), fixed.expand(len(actions), -1, -1)


def _sampled(model: Any, pose_2d: Tensor, noises: Tensor, joints: JointSet, flip: bool, *texts: Tensor) -> Tensor:
    """What the authors' sampler gives from these noises after its last step, in metres and in its own joints."""
    model = _in_float64(model)
    inputs_2d, drawn = _own(pose_2d, joints), [_own(noise, joints) for noise in noises]
    mirrored = _own(flip_pose(pose_2d), joints)
    if not flip:
        model.device = torch.device("cpu")
    with torch.no_grad(), without_cuda(drawn):
        result = model(inputs_2d, None, *texts, input_2d_flip=mirrored)
    last = result[:, -1] if isinstance(result, Tensor) else result[-1]
    # With the mirrored pass, the authors' sampler for MPI-INF-3DHP gives millimetres.
    pose: Tensor = last / 1000.0 if flip and joints is MPI_INF_3DHP else last
    return pose


def _within_limit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose poses are so small that the samplers clip few of them, which would hide differences."""
    head = "pose_estimator.head.1"
    spread = state[f"{head}.weight"].square().sum(dim=1).mean().sqrt()  # of the poses: the head's input is normalised
    return state | {f"{head}.{kind}": state[f"{head}.{kind}"] * (POSE_SPREAD / spread) for kind in ("weight", "bias")}


def _in_float64(model: Any) -> Any:
    """A diffusion lifter that runs in float64. Both codes compute the sinusoids of the timestep in float32."""
    model.pose_estimator.time_mlp[0].register_forward_hook(lambda module, inputs, output: output.double())
    return model.double().eval()


def _own(values: Tensor, joints: JointSet) -> Tensor:
    """Values of Human3.6M's joints in the order of the authors' data."""
    if joints is H36M17:
        return values
    return torch.from_numpy(np.ascontiguousarray(from_h36m17(values.detach().numpy(), joints)))


def _mirrored(model: nn.Module, pose_2d: Tensor) -> Tensor:
    """The average with the mirrored pass, as the authors' scripts compute it."""
    left, right = list(H36M17.left), list(H36M17.right)
    with torch.no_grad():
        flipped = pose_2d.clone()
        flipped[..., 0] *= -1
        flipped[:, :, left + right] = flipped[:, :, right + left]
        pose, other = model(pose_2d.clone()), model(flipped)
        other[..., 0] *= -1
        other[:, :, left + right] = other[:, :, right + left]
        mean: Tensor = (pose + other) / 2
        return mean


def _normal(seed: int, *shape: int) -> Tensor:
    return 0.4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
