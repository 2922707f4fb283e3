"""Configurations: small TOML files whose every key is a field here, checked when they are read."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from refiner.errors import ConfigError
from refiner.from_toml import dataclass_from

CONFIG_FOLDER = Path(__file__).parent.parent / "configs"


@dataclass(frozen=True)
class ModelConfig:
    """The network; ``blocks`` counts STCFormer layers in a lifter, denoising blocks (depth / 2) in a refiner."""

    dim: int = 256
    blocks: int = 4
    heads: int = 8
    mlp_ratio: int = 8
    # A refiner's blocks alone: one MLP (of ratio 8, which fits Table IV), or one after each STC module (of ratio 4).
    mlps: int = 1
    joint_embedding: bool = False
    # A refiner alone: each frame sees the last ``frames`` frames, itself among them, and none that come after it, so
    # that a stream can be refined frame by frame.
    causal: bool = False
    # "default": STCFormer for a lifter, PoseDenoiser for a refiner. MixSTE, D3DP and FinePOSE count pairs of blocks.
    # "mlp" is the frame-by-frame network of Martinez et al., "tcn" that of VideoPose3D.
    architecture: Literal[
        "default", "stcformer", "mixste", "d3dp", "finepose", "mlp", "tcn", "pose-denoiser", "smoothnet"
    ] = "default"
    # Stochastic depth of MixSTE, D3DP and FinePOSE in training; 0.1 as published.
    drop_path: float = 0.0
    # How a lifter's root comes to 0, and whether the loss sees the root: "subtracted" and not, or "zeroed" and so.
    root: Literal["subtracted", "zeroed"] = "subtracted"
    # What the network sees: screen coordinates, as published lifters do, or rays with their confidence (see
    # `refiner.models.canonical`), for which the place in the image, the resolution and the lens make no difference.
    input: Literal["screen", "rays"] = "screen"
    # SmoothNet's width inside a block; the dropout of SmoothNet, "mlp" and "tcn".
    hidden: int = 256
    dropout: float = 0.0


@dataclass(frozen=True)
class DiffusionConfig:
    """The paper's process: 50 timesteps and K = 2 [text], cosine offset 0.008 and terminal step [inferred]."""

    timesteps: int = 50
    steps: int = 2
    offset: float = 0.008
    terminal: Literal["zero", "literal"] = "zero"
    # "Output is normalised by its average value" [text]: e / mean |e| [inferred].
    normalisation: Literal["none", "mean_abs", "per_dimension"] = "mean_abs"
    # Where the K steps begin and what is diffused: the lifter's pose and its whole error (the paper's), or that pose
    # less eq. 5's conditional mean, so that the denoiser learns only what the noise model cannot tell.
    start: Literal["lifter", "corrected"] = "lifter"
    # Eq. 7: the square of the difference [inferred], or its length joint by joint, which outliers sway less.
    loss: Literal["squared", "distance"] = "squared"
    # Which t the windows are diffused to: any of them, or the K that the refiner will run (49 and 24 for K = 2). Near
    # t = 0 the error can hardly be told from a nearly clean pose, and only costs capacity. "unrolled" trains through
    # the K steps from an estimator's pose, with `estimators` (models that see rays alone).
    train_on: Literal["all", "inference", "unrolled"] = "all"


@dataclass(frozen=True)
class LossConfig:
    """What a lifter is trained by: distances of joints (MPJPE), and what MixSTE adds to them."""

    # Weights of the joints: all alike, or MixSTE's, which are largest at hands and feet.
    joints: Literal["equal", "mixste"] = "equal"
    # Times the mean weighted square of the prediction's own movement from frame to frame; MixSTE's is 0.5.
    smoothness: float = 0.0
    # Times the mean distance of predicted and true movement; MixSTE's is 2.
    velocity: float = 0.0


@dataclass(frozen=True)
class SamplingConfig:
    """How a diffusion lifter (D3DP, FinePOSE) is diffused and sampled; defaults are published but for K and H."""

    timesteps: int = 1000
    offset: float = 0.008
    # Metres: poses are kept within this distance of the root, coordinate by coordinate.
    limit: float = 1.1
    # K and H. The published headline runs take 10 and 20; every pass costs K x H, and twice that with the flip.
    steps: int = 1
    hypotheses: int = 1
    eta: float = 1.0
    flip: bool = True
    # Of the noise, which is part of the model that runs.
    seed: int = 0


@dataclass(frozen=True)
class TextConfig:
    """FinePOSE's text side."""

    # Which prompts: the poster's ablation, see `refiner.models.finepose.PROMPT_SETS`.
    prompts: Literal["none", "M", "S", "C", "AL", "full"] = "full"
    # "clip": frozen, weights from `file` and tokens from `merges`; "small": trained from scratch; "cached": features
    # from `file`, no tower at all.
    tower: Literal["clip", "small", "cached"] = "small"
    file: str = ""
    merges: str = ""
    # Of the tower; CLIP ViT-B/32's are 512, 12 and 8.
    width: int = 512
    layers: int = 12
    heads: int = 8
    # Of the transformer behind it.
    encoder_layers: int = 4
    encoder_hidden: int = 2048
    encoder_heads: int = 8
    # The cross-attention and the stylisation.
    fpc: bool = True
    pts: bool = True
    # As the authors' code is, defects included.
    published: bool = False
    # The actions that have a prompt; by default those of the training people's clips.
    actions: tuple[str, ...] = ()
    # Share of the windows whose action is called unknown, so that its prompt is learnt.
    unknown: float = 0.15
    # Width of the classifier that guesses the action, 0 for none; it is trained beside the rest.
    classifier: int = 64
    # Written by the training, not by hand: the tokens of CLIP's texts, or where cached ones end.
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataConfig:
    """What windows are drawn from."""

    # Everybody counts alike and each of a person's actions alike (true), or every frame alike (false).
    balance: bool = True
    detections: Literal["simulated", "ground-truth"] = "simulated"
    # Share of the windows with the archive's real detections, by the cameras that took them; the others are simulated.
    # Of what changes motion or view below, they are reversed and flipped alone.
    detected: float = 0.0
    # Share of the windows that come from the built-in synthetic motion.
    synthetic: float = 0.0
    # Share of training windows turned about the vertical by a random angle: the same cameras from all around.
    turn: float = 1.0
    flip: float = 0.5
    # Spread of the factor on the whole body and of one on each (symmetric) bone length, log-normal.
    stature: float = 0.0
    bones: float = 0.0
    # Share of the windows played backwards.
    reverse: float = 0.0
    # Share of the windows with the upper body of another window, be it another person's and action's, on their own hips
    # and legs.
    recombine: float = 0.0
    # Share of the windows seen by a camera of random place, direction and lens instead of one of the archive's.
    new_cameras: float = 0.0


@dataclass(frozen=True)
class SceneConfig:
    """What a camera-aware model (``model.input = "rays"``) is trained on: any camera, body and detector.

    Shares and ranges of `refiner.training.scenes`; the validation person is seen by the archive's cameras and by random
    ones. Lengths of the image are in units of its longer side.
    """

    # Motion: share of windows played backwards, and with another window's upper body; and of those taken at any stride
    # up to the model's instead of its own.
    reverse: float = 0.3
    recombine: float = 0.35
    other_strides: float = 0.2
    # Share of the windows that come from the built-in synthetic motion.
    synthetic: float = 0.1
    flip: float = 0.5
    # Metres; and the log-normal spread of each bone's length, and of legs, trunk and arms as a whole.
    stature: tuple[float, ...] = (1.45, 2.0)
    bones: float = 0.06
    # Share of the windows seen by the archive's own cameras, where it has some.
    fixed_cameras: float = 0.25
    focal_length: tuple[float, ...] = (0.5, 2.2)
    body_share: tuple[float, ...] = (0.1, 0.95)
    # Share of the cameras that are too near for the legs, and of those whose pitch is drawn instead of their height.
    cropped: float = 0.08
    free_pitch: float = 0.15
    height: tuple[float, ...] = (0.3, 4.0)
    pitch: tuple[float, ...] = (-30.0, 60.0)  # degrees, of the camera above the person
    roll: tuple[float, ...] = (3.0, 14.0)  # degrees, of cameras held level and of those held anyhow
    off_centre: float = 1.0
    barrel: float = 0.25
    # What the user states: a wrong focal length by this log-normal spread, or the default of the image's size.
    wrong_focal: float = 0.25
    focal_error: float = 0.2
    guessed_focal: float = 0.2
    # Detectors: log-normal spread of how good they are; shares of windows with joints of another definition (metres),
    # and with a trunk made up of hips and shoulders.
    detector_spread: float = 0.4
    biased: float = 0.6
    joint_bias: float = 0.015
    by_rule: float = 0.35
    # Shares of frames with left and right swapped, a limb frozen, a joint missing, nobody found; of windows with a part
    # hidden.
    swapped_body: float = 0.012
    frozen: float = 0.02
    missing: float = 0.02
    gaps: float = 0.01
    hidden: float = 0.06


@dataclass(frozen=True)
class EstimatorConfig:
    """What a refiner for unknown estimators is trained on, beside ``lifter`` (``diffusion.train_on = "unrolled"``)."""

    # Checkpoints of further lifters that see rays, of any architecture and stage of training; and of those that choose
    # the checkpoint, beside ``lifter``, and are not trained on.
    others: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    # Share of the windows with errors drawn from the lifter's conditional Gaussian instead of its own; share with
    # systematic errors (`refiner.training.systematic`), and how often such a window has each of them.
    drawn: float = 0.3
    systematic: float = 0.5
    each: float = 0.35
    # Of a causal refiner: the lifters lift each frame from those before it, as in a stream, a window for every frame.
    # Otherwise each of their phases is one window, whose frames know more or less of what comes.
    live: bool = False


@dataclass(frozen=True)
class OptimiserConfig:
    """``exponential`` multiplies the rate by ``decay`` every ``epoch_steps`` (the papers'); ``cosine`` falls to 1 %."""

    # "muon": the weight matrices by Muon, everything else by AdamW (see `refiner.training.optimiser`).
    name: Literal["adam", "adamw", "muon"] = "adam"
    rate: float = 1e-3
    # Muon's rate for the matrices, on AdamW's scale; it falls and rises with `rate`.
    matrix_rate: float = 3e-3
    amsgrad: bool = False
    weight_decay: float = 0.0
    schedule: Literal["exponential", "cosine"] = "exponential"
    decay: float = 0.96
    epoch_steps: int = 1000
    warmup: int = 0
    clip_norm: float = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    """Length and bookkeeping of a run. Everything random follows from ``seed`` and the number of the step."""

    steps: int = 20000
    batch: int = 12
    # Length of the windows that are trained on, of a causal refiner: longer than ``frames``, so that frames whose past
    # is whole are trained, too. 0: ``frames``.
    window: int = 0
    seed: int = 0
    # Of a refiner whose lifter is far dearer than itself, a diffusion lifter: so many batches are drawn and lifted, for
    # the fit of the noise model too (noise.fit_frames must not ask for more), and come again and again with fresh
    # noise. 0: every batch is a new one.
    distinct_batches: int = 0
    ema: float = 0.999
    validate_every: int = 1000
    threads: int = 0  # 0: PyTorch's default
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    # How a step runs: operation by operation; the network through torch.compile; the whole step as one CUDA graph; or
    # the compiled network inside of such a graph. A run may go on another way, and on another device.
    compile: Literal["none", "compile", "graph", "compile-graph"] = "none"


@dataclass(frozen=True)
class NoiseConfig:
    """How a refiner's conditional noise model is fitted."""

    # Lifters of the folds, each with the people that it never saw: see `refiner-train lifter --without`.
    cross_fit: tuple[str, ...] = ()
    fit_frames: int = 400_000
    # What the diffused errors are: draws given the 2D pose and the lifter's (the paper's), draws from the Gaussian of
    # all errors alike, or the lifter's errors themselves.
    errors: Literal["conditional", "marginal", "observed"] = "conditional"
    # How the draws of a window's frames hang together: independent (the paper's reading), an AR(1) process, or with
    # the whole measured correlation between frames.
    time: Literal["white", "ar1", "full"] = "white"
    # Share of the variance that is drawn anew in every frame all the same, which teaches smoothing beside the rest.
    white_share: float = 0.0


@dataclass(frozen=True)
class Config:
    """A whole run. ``lifter`` names the checkpoint that a refiner refines, ``start_from`` one of the same network
    whose weights a run begins with; ``frames`` is T, the length of a window or what a causal refiner sees. ``stride``
    is the paper's temporal downsampling: a window takes every so many frames, which lengthens its view at no cost."""

    kind: Literal["lifter", "refiner"]
    frames: int = 27
    stride: int = 1
    lifter: str = ""
    start_from: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    data: DataConfig = field(default_factory=DataConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)
    estimators: EstimatorConfig = field(default_factory=EstimatorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    text: TextConfig = field(default_factory=TextConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @property
    def window(self) -> int:
        """The length of the windows that are trained on."""
        return self.training.window or self.frames


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a TOML file, or the bundled one of that name (``lifter-small``), with ``section.key=value`` changes.

    Raises ConfigError for a file that cannot be read, an unknown key or a value of the wrong type.
    """
    file = Path(path)
    if not file.suffix and not file.exists():
        file = CONFIG_FOLDER / f"{path}.toml"
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(bundled.stem for bundled in CONFIG_FOLDER.glob("*.toml")))
        raise ConfigError(f"cannot read the configuration {path}: {error}; bundled ones: {known}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    for override in overrides or []:
        apply_override(content, override)
    return config_from_dict(content, str(file))


def config_from_dict(content: dict[str, Any], where: str = "configuration") -> Config:
    """The inverse of `dataclasses.asdict`. Raises ConfigError."""
    return dataclass_from(Config, content, where)


def same_configuration(stored: Mapping[str, Any], config: Config) -> bool:
    """Whether a run or a checkpoint was made with ``config``.

    What the format has gained since counts with its default; what training fills in of the text side (actions, tokens)
    does not count where ``config`` leaves it open.
    """
    known = {entry.name for entry in dataclasses.fields(Config)}
    try:
        before = config_from_dict({name: value for name, value in stored.items() if name in known})
    except ConfigError:
        return False
    opened = {name: getattr(config.text, name) for name in ("actions", "tokens") if not getattr(config.text, name)}
    return dataclasses.replace(before, text=dataclasses.replace(before.text, **opened)) == config


def apply_override(content: dict[str, Any], override: str) -> None:
    """Change one value of a configuration by ``section.key=value``, in place. Raises ConfigError."""
    name, _, value = override.partition("=")
    if not value:
        raise ConfigError(f"expected section.key=value, got {override!r}")
    *sections, key = name.strip().split(".")
    target = content
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{override!r}: {section} is a value, not a section")
    try:
        target[key] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        target[key] = value  # a bare word is a string
