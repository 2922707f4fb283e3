"""Configurations: small TOML files. Every key is a field of a dataclass here, and is checked when the file is read."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from refiner.errors import ConfigError
from refiner.from_toml import dataclass_from
from refiner.model_spec import (
    CLASSIFIERS,
    DEPTHS,
    FRAMES,
    HEADS,
    HYPOTHESES,
    LIMITS,
    MLP_RATIOS,
    MLPS,
    OFFSETS,
    RATES,
    STEPS,
    STRIDES,
    TIMESTEPS,
    WIDTHS,
)
from refiner.ranges import AT_LEAST_ONE, FROM_ZERO, SEED, SHARE, SPREAD, Between, Pair

CONFIG_FOLDER = Path(__file__).parent.parent / "configs"
# The weight of a term of the loss beside the distance of joints, which has the weight 1.
FACTOR = Between(0.0, 1000.0)


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    ``blocks`` counts STC blocks in an STCFormer, denoising blocks (half the depth) in a refiner, and pairs of blocks in
    MixSTE, D3DP and FinePOSE.
    """

    dim: Annotated[int, WIDTHS] = 256
    blocks: Annotated[int, DEPTHS] = 4
    heads: Annotated[int, HEADS] = 8
    mlp_ratio: Annotated[int, MLP_RATIOS] = 8
    # MLPs in a refiner's block: 1 (of ratio 8, which fits the paper's Table IV), or 2, one after each STC module (of
    # ratio 4).
    mlps: Annotated[int, MLPS] = 1
    joint_embedding: bool = False
    # Only for a refiner. Each frame sees itself and the ``frames - 1`` frames before it, but no later frame. Such a
    # refiner can run on a stream, frame by frame.
    causal: bool = False
    # "default" is STCFormer for a lifter and PoseDenoiser for a refiner. "mlp" is the frame-by-frame network of
    # Martinez et al., "tcn" the network of VideoPose3D.
    architecture: Literal[
        "default", "stcformer", "mixste", "d3dp", "finepose", "mlp", "tcn", "pose-denoiser", "smoothnet"
    ] = "default"
    # Stochastic depth in the training of MixSTE, D3DP and FinePOSE; 0.1 as published. For an STCFormer, the probability
    # that a training step drops the part embedding of an attention; 0.5 as published.
    drop_path: Annotated[float, RATES] = 0.0
    # How a lifter's root comes to 0. "subtracted": the root is subtracted from all joints, and the loss ignores the
    # root. "zeroed": the root is overwritten, and the loss contains its error.
    root: Literal["subtracted", "zeroed"] = "subtracted"
    # The 2D input of the network. "screen": image coordinates, as in published lifters. "rays": rays and their
    # confidence (see `refiner.models.canonical`), which do not depend on the position in the image, the resolution
    # and the lens.
    input: Literal["screen", "rays"] = "screen"
    # Width inside a block of SmoothNet.
    hidden: Annotated[int, WIDTHS] = 256
    # Dropout rate of SmoothNet, "mlp" and "tcn", and in the MLPs of an STCFormer; there 0.1 as published.
    dropout: Annotated[float, RATES] = 0.0
    # The joint set in whose order the weights of a published lifter were trained. Inputs and outputs of the network are
    # Human3.6M's in any case.
    joints: Literal["h36m17", "3dhp"] = "h36m17"


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process of a refiner.

    The defaults are the paper's: 50 timesteps and K = 2 [text], cosine offset 0.008 and terminal step [inferred].
    """

    timesteps: Annotated[int, TIMESTEPS] = 50
    steps: Annotated[int, STEPS] = 2
    offset: Annotated[float, OFFSETS] = 0.008
    terminal: Literal["zero", "literal"] = "zero"
    # The unit of the network's output. "Output is normalised by its average value" [text]: e / mean |e| [inferred].
    normalisation: Literal["none", "mean_abs", "per_dimension"] = "mean_abs"
    # The pose where the K steps start, which also defines the error that is diffused. "lifter": the lifter's pose, as
    # in the paper. "corrected": the lifter's pose minus the conditional mean of its error (eq. 5), so that the
    # denoiser learns only the part of the error that the noise model cannot predict.
    start: Literal["lifter", "corrected"] = "lifter"
    # The loss (eq. 7): the squared difference [inferred], or the distance joint by joint, which is less sensitive to
    # outliers.
    loss: Literal["squared", "distance"] = "squared"
    # The timesteps t of the training. "all": any t. "inference": only the K timesteps at which the refiner will run
    # (49 and 24 for K = 2). Near t = 0 the noisy pose is nearly clean and its error can hardly be predicted, so those
    # timesteps cost capacity without a benefit. "unrolled": train through the K steps from an estimator's pose, with
    # `estimators` (only for models that see rays).
    train_on: Literal["all", "inference", "unrolled"] = "all"


@dataclass(frozen=True)
class LossConfig:
    """The loss of a lifter: distances of joints (MPJPE), and MixSTE's additional terms."""

    # Weights of the joints: "equal", or MixSTE's, which are largest at the hands and feet.
    joints: Literal["equal", "mixste"] = "equal"
    # Weight of a term for smooth motion: the mean weighted square of the predicted movement from frame to frame; 0.5
    # in MixSTE.
    smoothness: Annotated[float, FACTOR] = 0.0
    # Weight of a term for correct motion: the mean distance between the predicted and the true movement; 2 in MixSTE.
    velocity: Annotated[float, FACTOR] = 0.0


@dataclass(frozen=True)
class SamplingConfig:
    """How a diffusion lifter (D3DP, FinePOSE) is diffused and sampled. All defaults but K and H are as published."""

    timesteps: Annotated[int, TIMESTEPS] = 1000
    offset: Annotated[float, OFFSETS] = 0.008
    # Metres. Noisy and predicted poses are clipped to this absolute value per coordinate, relative to the root.
    limit: Annotated[float, LIMITS] = 1.1
    # K and H. The published headline results use 10 and 20. A window costs K x H passes of the network, twice as many
    # with the flip.
    steps: Annotated[int, STEPS] = 1
    hypotheses: Annotated[int, HYPOTHESES] = 1
    # Share of the noise that is drawn anew in every step.
    eta: Annotated[float, SHARE] = 1.0
    # Average every prediction with the prediction for the mirrored input.
    flip: bool = True
    # Seed of the noise. The noise is part of the model that runs.
    seed: Annotated[int, SEED] = 0


@dataclass(frozen=True)
class TextConfig:
    """The text side of FinePOSE."""

    # The set of prompts, from the poster's ablation: see `refiner.models.finepose.PROMPT_SETS`.
    # "3dhp" is the set of the published model for MPI-INF-3DHP, which knows no actions.
    prompts: Literal["none", "M", "S", "C", "AL", "full", "3dhp"] = "full"
    # "clip": CLIP's text tower, frozen, with weights from `file` and tokens from `merges`. "small": a tower that is
    # trained from scratch. "cached": precomputed features from `file`, without a tower.
    tower: Literal["clip", "small", "cached"] = "small"
    file: str = ""
    merges: str = ""
    # Size of the text tower; CLIP ViT-B/32 has 512, 12 and 8.
    width: Annotated[int, WIDTHS] = 512
    layers: Annotated[int, DEPTHS] = 12
    heads: Annotated[int, HEADS] = 8
    # Size of the transformer after the tower.
    encoder_layers: Annotated[int, DEPTHS] = 4
    encoder_hidden: Annotated[int, WIDTHS] = 2048
    encoder_heads: Annotated[int, HEADS] = 8
    # Use the cross-attention (FPC) and the stylisation (PTS).
    fpc: bool = True
    pts: bool = True
    # Behave exactly like the authors' code, including its defects.
    published: bool = False
    # The actions that have a prompt. Empty: the actions in the clips of the training people.
    actions: tuple[str, ...] = ()
    # Share of the windows whose action is given as unknown, so that the prompt for the unknown action is trained.
    unknown: Annotated[float, SHARE] = 0.15
    # Width of the classifier that guesses the action; 0 for no classifier. It is trained together with the rest.
    classifier: Annotated[int, CLASSIFIERS] = 64
    # Filled in by the training, not by hand: the tokens of CLIP's texts, or where the cached texts end.
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataConfig:
    """How training windows of models of image coordinates are drawn and augmented."""

    # true: an action of a person counts by the square root of its frames, so that long recordings do not dominate.
    # false: every frame counts alike.
    balance: bool = True
    detections: Literal["simulated", "ground-truth"] = "simulated"
    # Share of the windows with the archive's real detections, seen by the cameras that recorded them. The other windows
    # have simulated detections. Only two of the augmentations below apply to real detections: `reverse` and `flip`.
    detected: Annotated[float, SHARE] = 0.0
    # Share of the windows that come from the built-in synthetic motion.
    synthetic: Annotated[float, SHARE] = 0.0
    # Share of the windows whose motion is rotated about the vertical by a random angle, so that the fixed cameras see
    # people from all sides.
    turn: Annotated[float, SHARE] = 1.0
    # Share of the windows that are mirrored.
    flip: Annotated[float, SHARE] = 0.5
    # Log-normal spread of a factor on the length of the whole body, and of a factor on each bone (the same for left and
    # right).
    stature: Annotated[float, SPREAD] = 0.0
    bones: Annotated[float, SPREAD] = 0.0
    # Share of the windows that are played backwards.
    reverse: Annotated[float, SHARE] = 0.0
    # Share of the windows that get the upper body of another window, possibly of another person and action, on their
    # own hips and legs.
    recombine: Annotated[float, SHARE] = 0.0
    # Share of the windows seen by a random camera (position, direction and lens) instead of a camera of the archive.
    new_cameras: Annotated[float, SHARE] = 0.0


@dataclass(frozen=True)
class SceneConfig:
    """The training scenes of a camera-aware model (``model.input = "rays"``): any camera, body and detector.

    The values are shares and ranges for `refiner.training.scenes`. The validation person is seen by the cameras of the
    archive and by random ones. Lengths in the image are in units of its longer side.
    """

    # Motion: share of the windows played backwards, and share with the upper body of another window.
    reverse: Annotated[float, SHARE] = 0.3
    recombine: Annotated[float, SHARE] = 0.35
    # Share of the windows with a random stride, from 1 to the model's stride, instead of the model's stride.
    other_strides: Annotated[float, SHARE] = 0.2
    # Share of the windows that come from the built-in synthetic motion.
    synthetic: Annotated[float, SHARE] = 0.1
    # Share of the windows that are mirrored.
    flip: Annotated[float, SHARE] = 0.5
    # Range of the stature in metres.
    stature: Annotated[tuple[float, ...], Pair(Between(0.3, 3.0))] = (1.45, 2.0)
    # Log-normal spread of the length of each bone, and of the legs, the trunk and the arms as a whole.
    bones: Annotated[float, SPREAD] = 0.06
    # Share of the windows seen by the cameras of the archive, where it has any.
    fixed_cameras: Annotated[float, SHARE] = 0.25
    # Range of the focal length, in units of the longer side of the image.
    focal_length: Annotated[tuple[float, ...], Pair(Between(0.25, 30.0))] = (0.5, 2.2)
    # Range of the share of the image's height that the body takes.
    body_share: Annotated[tuple[float, ...], Pair(Between(0.0, 2.0, above=True))] = (0.1, 0.95)
    # Share of the cameras that are so near that the legs are outside of the image.
    cropped: Annotated[float, SHARE] = 0.08
    # Share of the cameras with a random pitch instead of a random height.
    free_pitch: Annotated[float, SHARE] = 0.15
    # Range of the height of the camera above the floor, in metres.
    height: Annotated[tuple[float, ...], Pair(Between(0.0, 100.0))] = (0.3, 4.0)
    # Range of the camera's elevation above the person, in degrees.
    pitch: Annotated[tuple[float, ...], Pair(Between(-90.0, 90.0))] = (-30.0, 60.0)
    # Standard deviations of the roll in degrees: of cameras that are held level, and of all others. Half of the cameras
    # are of each kind.
    roll: Annotated[tuple[float, ...], Pair(Between(0.0, 180.0), rising=False)] = (3.0, 14.0)
    # How far from the middle of the image the person may stand: 1 uses the whole image, 0 keeps the person in the
    # middle.
    off_centre: Annotated[float, SHARE] = 1.0
    # Strength of the barrel distortion; half of the lenses have a distortion.
    barrel: Annotated[float, SHARE] = 0.25
    # The focal length that the user states. Share of the windows where it is wrong, and the log-normal spread of that
    # error.
    wrong_focal: Annotated[float, SHARE] = 0.25
    focal_error: Annotated[float, SPREAD] = 0.2
    # Share of the windows where the stated focal length is the default, the longer side of the image.
    guessed_focal: Annotated[float, SHARE] = 0.2
    # Detectors. Log-normal spread of their error level.
    detector_spread: Annotated[float, Between(0.0, 3.0)] = 0.4
    # Share of the windows whose detector defines the joints differently, and the spread of that difference in metres.
    biased: Annotated[float, SHARE] = 0.6
    joint_bias: Annotated[float, Between(0.0, 0.5)] = 0.015
    # Share of the windows whose detector computes the joints of the trunk from the hips and shoulders.
    by_rule: Annotated[float, SHARE] = 0.35
    # Shares of the frames with left and right swapped, with a frozen limb, with a missing joint, and without a person.
    swapped_body: Annotated[float, SHARE] = 0.012
    frozen: Annotated[float, SHARE] = 0.02
    missing: Annotated[float, SHARE] = 0.02
    gaps: Annotated[float, SHARE] = 0.01
    # Share of the windows in which a part of the body is hidden.
    hidden: Annotated[float, SHARE] = 0.06


@dataclass(frozen=True)
class EstimatorConfig:
    """The estimators for a refiner that must work with unknown estimators (``diffusion.train_on = "unrolled"``).

    They are added to the estimator that the setting ``lifter`` names.
    """

    # Checkpoints of further lifters to train on. They must see rays; architecture and stage of training are free.
    others: tuple[str, ...] = ()
    # Checkpoints of lifters that are not trained on. Together with ``lifter`` they choose the best checkpoint.
    held_out: tuple[str, ...] = ()
    # Share of the windows whose errors are drawn from the conditional Gaussian of the lifter, instead of the lifter's
    # own errors.
    drawn: Annotated[float, SHARE] = 0.3
    # Share of the windows with systematic errors (`refiner.training.systematic`), and the probability of each such
    # error in one of these windows.
    systematic: Annotated[float, SHARE] = 0.5
    each: Annotated[float, SHARE] = 0.35
    # Only for a causal refiner. true: the lifters lift each frame from the frames before it, as in a stream, with one
    # window for every frame. false: each phase of the lifter's stride is one window, in which some frames see
    # more of the future than others.
    live: bool = False


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser and the schedule of its rate.

    The schedule "exponential" multiplies the rate by ``decay`` every ``epoch_steps`` steps, as in the papers. "cosine"
    lets it fall to 1 %.
    """

    # "muon": Muon for the weight matrices, AdamW for everything else (see `refiner.training.optimiser`).
    name: Literal["adam", "adamw", "muon"] = "adam"
    rate: Annotated[float, Between(0.0, 10.0, above=True)] = 1e-3
    # Muon's rate for the matrices, on the scale of AdamW's rates. It follows the same schedule as `rate`.
    matrix_rate: Annotated[float, Between(0.0, 10.0, above=True)] = 3e-3
    amsgrad: bool = False
    weight_decay: Annotated[float, SHARE] = 0.0
    schedule: Literal["exponential", "cosine"] = "exponential"
    decay: Annotated[float, Between(0.0, 1.0, above=True)] = 0.96
    epoch_steps: Annotated[int, AT_LEAST_ONE] = 1000
    # Steps of linear warm-up.
    warmup: Annotated[int, FROM_ZERO] = 0
    # Largest norm of the gradient; 0 for no clipping.
    clip_norm: Annotated[float, Between(0.0)] = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    """Length, device and bookkeeping of a run. All random numbers follow from ``seed`` and the number of the step."""

    steps: Annotated[int, AT_LEAST_ONE] = 20000
    # Windows of a batch, of all processes together.
    batch: Annotated[int, Between(1, 1_000_000)] = 12
    # Parts of a batch. A part is drawn and computed alone, and the gradients of the parts are averaged. So a process
    # holds one part at a time, and several processes share the parts. The result depends on the number of parts, not
    # on the number of processes. 1: as many parts as processes. A run may continue with another number.
    parts: Annotated[int, Between(1, 1_000_000)] = 1
    # Length of the training windows of a causal refiner. A window longer than ``frames`` also trains frames that have
    # all of their past frames. 0: ``frames``.
    window: Annotated[int, Between(0, 10_000)] = 0
    seed: Annotated[int, SEED] = 0
    # For a refiner whose lifter costs far more than the refiner itself, such as a diffusion lifter: the number of
    # batches that are drawn and lifted. The run repeats them with fresh noise, and the noise model is fitted on them,
    # too (noise.fit_frames must not ask for more frames than they have). 0: every batch is new.
    distinct_batches: Annotated[int, FROM_ZERO] = 0
    # Decay of the moving average of the weights.
    ema: Annotated[float, Between(0.0, 0.999999)] = 0.999
    validate_every: Annotated[int, AT_LEAST_ONE] = 1000
    # Threads on the CPU; 0 is PyTorch's default.
    threads: Annotated[int, Between(0, 1024)] = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    # How a step runs. "none": operation by operation. "compile": the network through torch.compile. "graph": the whole
    # step as one CUDA graph. "compile-graph": the compiled network inside such a graph. A run may continue with
    # another of these values, and on another device.
    compile: Literal["none", "compile", "graph", "compile-graph"] = "none"


@dataclass(frozen=True)
class NoiseConfig:
    """How a refiner's conditional noise model is fitted."""

    # Cross-fitting: checkpoints of lifters, each trained without some people (`refiner-train lifter --without`). The
    # run lifts each person with a lifter that never saw this person.
    cross_fit: tuple[str, ...] = ()
    fit_frames: Annotated[int, AT_LEAST_ONE] = 400_000
    # The errors that are diffused. "conditional": draws from the Gaussian conditioned on the 2D pose and the lifter's
    # pose, as in the paper. "marginal": draws from one Gaussian for all errors. "observed": the lifter's own errors.
    errors: Literal["conditional", "marginal", "observed"] = "conditional"
    # The correlation of the draws between the frames of a window. "white": independent, as we read the paper. "ar1": an
    # AR(1) process. "full": the whole measured correlation.
    time: Literal["white", "ar1", "full"] = "white"
    # Share of the variance that stays independent in every frame, for "ar1" and "full". It teaches the refiner to
    # smooth as well.
    white_share: Annotated[float, SHARE] = 0.0


@dataclass(frozen=True)
class Config:
    """The configuration of a run.

    Attributes:
        frames: T, the length of a window; for a causal refiner, the number of frames that a frame sees.
        stride: the paper's temporal downsampling. A window takes every ``stride``-th frame, which covers more time at
            the same cost.
        lifter: the checkpoint of the lifter that a refiner refines.
        start_from: a checkpoint of the same network, whose weights the run starts from.
    """

    kind: Literal["lifter", "refiner"]
    frames: Annotated[int, FRAMES] = 27
    stride: Annotated[int, STRIDES] = 1
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
        """The length of the training windows."""
        return self.training.window or self.frames

    @property
    def windows_of_part(self) -> int:
        """The windows of a part of a batch."""
        return self.training.batch // self.training.parts


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a configuration.

    Args:
        path: a TOML file, or the name of a bundled configuration, such as ``lifter-small``.
        overrides: changes ``section.key=value``.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value has the wrong type or lies outside of its
            range.
    """
    file = Path(path)
    if not file.suffix and not file.exists():
        file = CONFIG_FOLDER / f"{path}.toml"
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(bundled.stem for bundled in CONFIG_FOLDER.glob("*.toml")))
        raise ConfigError(f"cannot read the configuration {path}: {error}; bundled ones: {known}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, bytes that are no text, endless digits
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    for override in overrides or []:
        apply_override(content, override)
    return config_from_dict(content, str(file))


def config_from_dict(content: dict[str, Any], where: str = "configuration") -> Config:
    """Build a configuration from nested dictionaries, the inverse of `dataclasses.asdict`. Raises ConfigError."""
    return dataclass_from(Config, content, where)


def same_configuration(stored: Mapping[str, Any], config: Config) -> bool:
    """Whether a stored configuration, of a run or of a checkpoint, equals ``config``.

    A key that is newer than the stored configuration counts with its default. Training fills in the actions and tokens
    of the text side; they are not compared where ``config`` leaves them empty.
    """
    known = {entry.name for entry in dataclasses.fields(Config)}
    try:
        before = config_from_dict({name: value for name, value in stored.items() if name in known})
    except ConfigError:
        return False
    filled_in = {name: getattr(config.text, name) for name in ("actions", "tokens") if not getattr(config.text, name)}
    return dataclasses.replace(before, text=dataclasses.replace(before.text, **filled_in)) == config


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
    except (ValueError, RecursionError):
        target[key] = value  # a bare word is a string
