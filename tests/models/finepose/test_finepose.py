"""FinePOSE: the published pass, what was wrong with it, its three parts, and the text side baked in."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refiner.actions import UNKNOWN_ACTION  # noqa: E402
from refiner.diffusion.clean_pose import draw_noises  # noqa: E402
from refiner.errors import CheckpointError, ConfigError, UsageError  # noqa: E402
from refiner.models import FinePOSE, PromptedLifter, from_published  # noqa: E402
from refiner.models.finepose import (  # noqa: E402
    PROMPT_SETS,
    ActionClassifier,
    CachedText,
    FinePoseDenoiser,
    PromptedText,
    TextTower,
    WordVocabulary,
)
from refiner.models.finepose.prompts import texts_of  # noqa: E402

DIM, DEPTH, FRAMES, HEADS, WIDTH, CLIP_HEADS = 32, 2, 4, 8, 128, 2
ACTIONS = ("Walking", "Sitting", "WalkDog")


class Words(WordVocabulary):
    """Two tokens for the last action, so that texts end at different places."""

    def encode(self, text):
        return super().encode("walk dog" if text == "WalkDog" else text)


WORDS = Words([text for name in ("full", "S") for text in texts_of(PROMPT_SETS[name], ACTIONS)] + ["walk dog"])


@pytest.fixture
def published_state(layouts, random_state):
    shapes = layouts.finepose(DIM, DEPTH, FRAMES, WORDS.size, WIDTH, clip_layers=2, encoder_layers=2, hidden=48)
    state = random_state({f"pose_estimator.{name}": shape for name, shape in shapes.items()}, seed=3)
    state["pose_estimator.head.1.weight"] *= 0.4
    return state


@pytest.fixture
def load(published_state):
    def load(published=False, **options):
        options |= {"actions": ACTIONS, "vocabulary": WORDS, "published": published}
        return from_published("finepose", published_state, **options)

    return load


def poses(seed, batch):
    rng = np.random.default_rng(seed)
    noisy = rng.normal(0, 0.5, (batch, FRAMES, 17, 3)).astype(np.float32)
    return noisy, rng.normal(0, 0.4, (batch, FRAMES, 17, 2)).astype(np.float32), rng.integers(0, 1000, batch)


def run(model, noisy, pose_2d, timesteps, actions):
    with torch.no_grad():
        given = (torch.from_numpy(array) for array in (noisy, pose_2d, timesteps))
        return model(*given, model.numbers(actions)).numpy()


# Where the action's own text ends, counted from its start: the place that the published code projects.
PUBLISHED_END = {"Walking": 2, "Sitting": 2, "WalkDog": 3}
# The end of the last prompt's text: 3 + 4 + 8 + 4 + 3 (6 + 4) + 10 + 4 + 10 behind, then its start, its word, its end.
LAST_END = 73 + 2


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("action", ACTIONS)
def test_it_is_the_straight_line_pass(layouts, in_float64, published_state, load, published, action):
    noisy, pose_2d, timesteps = poses(5, 2)
    found = run(load(published=published), noisy, pose_2d, timesteps, [action] * 2)
    state = in_float64(published_state, "pose_estimator.")
    end = PUBLISHED_END[action] if published else LAST_END
    features, projected = layouts.finepose_text(state, WORDS, action, end, CLIP_HEADS, HEADS)
    for row in range(2):
        given = noisy[row], pose_2d[row], timesteps[row], features, projected
        expected = layouts.finepose_pass(*given, state, HEADS)
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-5)


def test_a_mixed_batch_is_its_windows_one_by_one(load):
    model = load()
    noisy, pose_2d, timesteps = poses(6, 5)
    actions = ["Walking", "WalkDog", UNKNOWN_ACTION, "Walking", "Sitting"]
    together = run(model, noisy, pose_2d, timesteps, actions)
    for row, action in enumerate(actions):
        alone = run(model, *(array[row : row + 1] for array in (noisy, pose_2d, timesteps)), [action])
        np.testing.assert_allclose(together[row : row + 1], alone, rtol=1e-5, atol=1e-6)
    others = run(model, noisy, pose_2d, timesteps, ["Sitting"] * 5)
    assert (np.abs(together - others).max(axis=(1, 2, 3)) > 1e-4).tolist() == [True, True, True, True, False]


def test_the_published_switch_pairs_joints_with_other_windows_texts(layouts, in_float64, published_state, load):
    """Row n of the windows' joints attends to text n modulo the batch, as the published code tiles them."""
    noisy, pose_2d, timesteps = poses(7, 3)
    actions = ["Walking", "WalkDog", "Sitting"]
    found = run(load(published=True), noisy, pose_2d, timesteps, actions)
    state = in_float64(published_state, "pose_estimator.")
    texts = [layouts.finepose_text(state, WORDS, a, PUBLISHED_END[a], CLIP_HEADS, HEADS) for a in actions]
    for row in range(3):
        answers = [texts[(17 * row + joint) % 3][0] for joint in range(17)]
        given = noisy[row], pose_2d[row], timesteps[row], *texts[row]
        expected = layouts.finepose_pass(*given, state, HEADS, answers)
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hypotheses", [1, 3])
def test_the_published_pairing_is_the_same_in_the_sampler(load, hypotheses):
    """Flips and hypotheses are more rows of the same batch there; the published code runs the flips apart."""
    model = load(published=True)
    _, pose_2d, _ = poses(8, 2)
    noises = torch.from_numpy(draw_noises(1, hypotheses, FRAMES, seed=2))[:, None]
    given = model.numbers(["Walking", "Sitting"])
    from refiner.skeleton import flip_pose

    with torch.no_grad():
        found = model.sample(torch.from_numpy(pose_2d), noises, given)
        noisy = noises[0].expand(2, -1, -1, -1, -1).clip(-1.1, 1.1)
        time = model.pose_estimator.project_time(torch.tensor([999]))
        condition = model.pose_estimator.condition(given)

        def one(noisy, screen):
            return model.pose_estimator.denoise(noisy, torch.from_numpy(screen), time, *condition)

        expected = 0.5 * (one(noisy, pose_2d) + flip_pose(one(flip_pose(noisy), flip_pose(pose_2d))))
    torch.testing.assert_close(found, expected.clip(-1.1, 1.1), rtol=1e-5, atol=1e-5)


def test_the_gradient_reaches_the_context_and_stops_before_the_frozen_tower(load):
    noisy, pose_2d, timesteps = (torch.from_numpy(array) for array in poses(9, 2))
    for published in (False, True):
        model = load(published=published).train()
        model(noisy, pose_2d, timesteps, model.numbers(["Walking", "Sitting"])).square().mean().backward()
        text = model.pose_estimator.text
        contexts = [getattr(text, f"ctx_{prompt.name}").grad for prompt in text.prompts]
        assert len(contexts) == 7
        if published:
            assert all(gradient is None for gradient in contexts)
        else:
            assert all(gradient.abs().max() > 0 for gradient in contexts)
        assert all(parameter.grad is None for parameter in text.clip_text.parameters())
        assert model.pose_estimator.textTransEncoder.layers[0].linear1.weight.grad.abs().max() > 0


def small(prompts="full", seed=0, **options):
    """A model of our own with every weight drawn, the zero-initialised layer too."""
    torch.manual_seed(seed)
    text = None
    if PROMPT_SETS[prompts]:
        tower = TextTower(WORDS.size, 16, 1, 2)
        text = PromptedText(tower, WORDS, ACTIONS, PROMPT_SETS[prompts])
    sizes = {"encoder_layers": 1, "encoder_hidden": 32, "encoder_heads": 2, "depth": 1, "frames": FRAMES}
    denoiser = FinePoseDenoiser(text, 16, heads=2, **sizes, **options)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.abs().max() == 0:
                parameter.normal_(std=0.3)
    return FinePOSE(denoiser, ActionClassifier(len(ACTIONS), 8)).eval()


def test_each_part_switched_off_changes_the_result():
    noisy, pose_2d, timesteps = poses(1, 2)
    full = small()
    found = {"full": run(full, noisy, pose_2d, timesteps, ["Walking", "Sitting"])}
    for name, model in (
        ("FPC", small(fpc=False)),
        ("PTS", small(pts=False)),
        *((prompts, small(prompts)) for prompts in ("M", "S", "C", "AL")),
    ):
        state = {key: value for key, value in full.state_dict().items() if key in model.state_dict()}
        model.load_state_dict(state)
        found[name] = run(model, noisy, pose_2d, timesteps, ["Walking", "Sitting"])
    names = list(found)
    for first in range(len(names)):
        for second in range(first):
            assert np.abs(found[names[first]] - found[names[second]]).max() > 1e-4, (names[first], names[second])


def test_without_prompts_it_is_d3dp():
    noisy, pose_2d, timesteps = (torch.from_numpy(array) for array in poses(2, 2))
    model = small("none")
    assert model.actions == () and not [name for name in model.state_dict() if "text" in name or "ctx" in name]
    with torch.no_grad():
        torch.testing.assert_close(
            model(noisy, pose_2d, timesteps),
            model.pose_estimator.denoise(noisy[:, None], pose_2d, model.pose_estimator.project_time(timesteps))[:, 0],
        )


def test_context_alone_says_nothing_of_the_action():
    noisy, pose_2d, timesteps = poses(3, 1)
    for prompts, same in (("AL", True), ("M", False), ("S", False), ("C", False), ("full", False)):
        model = small(prompts)
        walking, sitting = (run(model, noisy, pose_2d, timesteps, [action]) for action in ("Walking", "Sitting"))
        assert np.array_equal(walking, sitting) == same, prompts


def test_where_the_whole_text_is_said_to_stand():
    ends = {
        name: PromptedText(TextTower(WORDS.size, 16, 1, 2), WORDS, ACTIONS, PROMPT_SETS[name])
        for name in PROMPT_SETS
        if name != "none"
    }
    assert ends["full"].end_of.tolist() == [75] * 4 and ends["full"].length == 77
    assert ends["M"].end_of.tolist() == [26] * 4 and ends["M"].length == 28
    assert ends["C"].end_of.tolist() == [2, 2, 3, 2]
    assert ends["AL"].end_of.tolist() == [48] * 4
    sentence = WORDS.encode(PROMPT_SETS["S"][0].text.replace("{action}", "Walking"))
    assert ends["S"].end_of.tolist()[0] == len(sentence) + 1 < ends["S"].length


def test_texts_that_are_too_long_lose_their_end():
    long = WordVocabulary(["a1b2c", "moving"])
    text = PromptedText(TextTower(long.size, 16, 1, 2), long, ["a1b2c"], PROMPT_SETS["C"])
    assert text.tokens.tolist()[0] == [long.start, *long.encode("a1b")] and text.end_of.tolist() == [3, 2]


@pytest.mark.parametrize("classifier", [True, False])
def test_the_baked_lifter_is_the_model_with_its_text_side(classifier):
    model = small()
    if not classifier:
        model.classifier = None
    pose_2d = torch.from_numpy(poses(4, 6)[1])
    lifter = PromptedLifter(model, steps=2, hypotheses=2, seed=3).eval()
    assert not [name for name, _ in lifter.named_parameters() if "clip_text" in name or "TransEncoder" in name]
    assert model.pose_estimator.text is not None
    noises = torch.from_numpy(draw_noises(2, 2, FRAMES, seed=3))[:, None]
    actions = model.numbers(["Walking", "Sitting", "WalkDog", UNKNOWN_ACTION, "Walking", "Sitting"])
    with torch.no_grad():
        expected = model.sample(pose_2d, noises, actions)
        torch.testing.assert_close(lifter.hypotheses(pose_2d, actions), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(lifter(pose_2d, actions), expected.mean(dim=1), rtol=1e-5, atol=1e-6)
        guessed = model.classifier(pose_2d).argmax(dim=-1) if classifier else torch.full((6,), 3)
        by_guess = model.sample(pose_2d, noises, guessed).mean(dim=1)
        torch.testing.assert_close(lifter(pose_2d), by_guess, rtol=1e-5, atol=1e-6)
        some = torch.where(torch.arange(6) % 2 == 0, actions, -1)
        mixed = model.sample(pose_2d, noises, torch.where(some < 0, guessed, some)).mean(dim=1)
        torch.testing.assert_close(lifter(pose_2d, some), mixed, rtol=1e-5, atol=1e-6)


def test_cached_text_is_the_tower_s():
    noisy, pose_2d, timesteps = poses(5, 3)
    actions = ["Walking", "Sitting", UNKNOWN_ACTION]
    model = small()
    before = run(model, noisy, pose_2d, timesteps, actions)
    model.pose_estimator.text = CachedText.of(model.pose_estimator.text)
    np.testing.assert_allclose(run(model, noisy, pose_2d, timesteps, actions), before, rtol=1e-6, atol=1e-7)
    with pytest.raises(ConfigError, match="does not belong to 2 actions"):
        CachedText(torch.ones(4, 7, 16), torch.ones(4), ACTIONS[:2])


def test_unknown_names_and_prompts_that_do_not_fit_are_refused():
    model = small()
    with pytest.raises(UsageError, match=r"no action 'Dancing'; choose one of Walking.*unknown"):
        model.numbers(["Dancing"])
    with pytest.raises(ConfigError, match="77 tokens together, the text tower takes 1 to 40"):
        PromptedText(TextTower(WORDS.size, 16, 1, 2, length=40), WORDS, ACTIONS)
    long = WordVocabulary(["a1b2c", "moving"])
    with pytest.raises(ConfigError, match="at 6, lies behind the 4 tokens"):
        PromptedText(TextTower(long.size, 16, 1, 2), long, ["a1b2c"], PROMPT_SETS["C"], published=True)


def test_the_classifier_does_not_see_place_and_size():
    torch.manual_seed(1)
    classifier = ActionClassifier(5, 16)
    pose_2d = torch.randn(4, 9, 17, 2)
    scores = classifier(pose_2d)
    torch.testing.assert_close(classifier(3.0 * pose_2d + torch.tensor([0.4, -0.2])), scores, rtol=1e-4, atol=1e-4)
    assert (classifier(pose_2d.flip(1)) - scores).abs().max() > 1e-3


def test_the_checkpoint_needs_tokens_and_a_tower(published_state):
    with pytest.raises(UsageError, match="merges="):
        from_published("finepose", published_state)
    bare = {name: value for name, value in published_state.items() if "clip_text" not in name}
    with pytest.raises(CheckpointError, match="carries no CLIP"):
        from_published("finepose", bare, actions=ACTIONS, vocabulary=WORDS)


@pytest.mark.parametrize("names", ["clip", "transformers"])
def test_a_local_clip_file_is_the_same_tower(published_state, load, tmp_path, names):
    from safetensors.torch import save_file

    prefix = "pose_estimator.clip_text."
    clip = {name.removeprefix(prefix): value for name, value in published_state.items() if name.startswith(prefix)}
    bare = {name: value for name, value in published_state.items() if not name.startswith(prefix)}
    file = tmp_path / "clip.safetensors"
    save_file(clip if names == "clip" else transformers_names(clip), file)
    model = from_published("finepose", bare, actions=ACTIONS, vocabulary=WORDS, clip=file, published=False)
    noisy, pose_2d, timesteps = poses(5, 2)
    expected = run(load(), noisy, pose_2d, timesteps, ["Walking", "WalkDog"])
    np.testing.assert_array_equal(run(model, noisy, pose_2d, timesteps, ["Walking", "WalkDog"]), expected)


def transformers_names(clip):
    """The same weights as the transformers library names them, with the vision part beside."""
    state = {
        "text_model.embeddings.token_embedding.weight": clip["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": clip["positional_embedding"],
        "text_model.final_layer_norm.weight": clip["ln_final.weight"],
        "text_model.final_layer_norm.bias": clip["ln_final.bias"],
        "vision_model.post_layernorm.weight": torch.ones(4),
        "logit_scale": torch.tensor(4.6),
    }
    renamed = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    renamed |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for index in range(2):
        block, layer = f"transformer.resblocks.{index}.", f"text_model.encoder.layers.{index}."
        for kind in ("weight", "bias"):
            for old, new in renamed.items():
                state[f"{layer}{new}.{kind}"] = clip[f"{block}{old}.{kind}"]
            for part, values in zip("qkv", clip[f"{block}attn.in_proj_{kind}"].chunk(3), strict=True):
                state[f"{layer}self_attn.{part}_proj.{kind}"] = values.clone()
    return state


def test_a_checkpoint_without_the_verb_has_no_prompt_for_it(published_state):
    """The published model for MPI-INF-3DHP, which knows no actions."""
    state = {name: value for name, value in published_state.items() if name != "pose_estimator.ctx_verb"}
    model = from_published("finepose", state, actions=(), vocabulary=WORDS, published=True)
    text = model.pose_estimator.text
    assert [prompt.name for prompt in text.prompts] == ["subject", "speed", "head", "body", "arm", "leg"]
    assert text.length == 65 and text.end_of.tolist() == [64]
