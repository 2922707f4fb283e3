"""The description of a network, parsed once from the configuration of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refiner.arguments import shown
from refiner.diffusion.uncertainty import JointUncertainty
from refiner.errors import CheckpointError
from refiner.ranges import FRAME_RATES, SEED, SHARE, Between
from refiner.skeleton import H36M17

# The rate of Human3.6M, which the lifters of the field are trained at, in frames/s.
DEFAULT_FPS = 50.0
SAMPLED_LIFTERS = ("d3dp", "finepose")

# The ranges of the numbers that describe a network. Published networks lie far within them; beyond them, building a
# network from a damaged file would take all memory or never end.
FRAMES = Between(1, 10_000, whole=True)
STRIDES = Between(1, 1000, whole=True)
WIDTHS = Between(1, 8192, whole=True)
DEPTHS = Between(1, 256, whole=True)
HEADS = Between(1, 256, whole=True)
MLP_RATIOS = Between(1, 64, whole=True)
MLPS = Between(1, 2, whole=True)
CLASSIFIERS = Between(0, 8192, whole=True)
# The rates of dropout and stochastic depth. A rate of 1 would drop everything.
RATES = Between(0.0, 0.99)
TIMESTEPS = Between(1, 100_000, whole=True)
STEPS = Between(1, 1000, whole=True)
HYPOTHESES = Between(1, 10_000, whole=True)
OFFSETS = Between(0.0, 1.0)
LIMITS = Between(0.0, 10.0, above=True)
# The sections of a configuration, and the ranges of their values. Training declares the same ones.
RANGES: dict[str, dict[str, Between]] = {
    "model": {
        "dim": WIDTHS,
        "blocks": DEPTHS,
        "heads": HEADS,
        "mlp_ratio": MLP_RATIOS,
        "mlps": MLPS,
        "hidden": WIDTHS,
        "drop_path": RATES,
        "dropout": RATES,
    },
    "diffusion": {"timesteps": TIMESTEPS, "steps": STEPS, "offset": OFFSETS},
    "sampling": {
        "timesteps": TIMESTEPS,
        "offset": OFFSETS,
        "limit": LIMITS,
        "steps": STEPS,
        "hypotheses": HYPOTHESES,
        "eta": SHARE,
        "seed": SEED,
    },
    "text": {
        "width": WIDTHS,
        "layers": DEPTHS,
        "heads": HEADS,
        "encoder_layers": DEPTHS,
        "encoder_hidden": WIDTHS,
        "encoder_heads": HEADS,
        "classifier": CLASSIFIERS,
    },
}
# More weights than any network of the field has; 8 GB in float32.
MOST_WEIGHTS = 2**31


@dataclass(frozen=True)
class ModelSpec:
    """The properties of a network that the code around it needs.

    Attributes:
        kind: "lifter" or "refiner".
        architecture: A name that `refiner.models` knows; "default" is STCFormer for lifters, PoseDenoiser for refiners.
        frames: The number of frames in a window.
        stride: The distance between two consecutive frames of a window, in frames of the sequence.
        fps: The frame rate of the training data, frames/s.
        rays: Whether the network's 2D input is rays (`refiner.models.canonical`) instead of image coordinates.
        causal: Whether the result of a frame depends only on this frame and earlier frames.
        root: "subtracted" or "zeroed": how the root (mid-hip) of a lifter's poses becomes 0.
        joints: The joint set in whose order the network's weights were trained. The network puts the joints into that
            order itself; its inputs and outputs are always Human3.6M's.
        flip_test: Whether the authors of the network average its result with the result of the mirrored input.
        guesses_action: Whether a lifter that takes an action can guess the action.
        uncertainty: The section ``uncertainty``, which `joint_uncertainty` parses; None if the section is missing.
        validation_curve: Pairs (training step, MPJPE in mm on the validation subject).
        left_out: The training subjects that were not used.
    """

    kind: str
    architecture: str
    frames: int
    stride: int
    fps: float
    rays: bool
    causal: bool
    root: str
    joints: str
    flip_test: bool
    guesses_action: bool
    uncertainty: Mapping[str, Any] | None
    validation_curve: tuple[tuple[int, float], ...]
    left_out: tuple[str, ...]

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> ModelSpec:
        """Parse a configuration.

        Raises:
            CheckpointError: It does not describe a model, or a number lies outside of its range (`RANGES`).
        """
        try:
            _check_ranges(config)
            model, described = config["model"], config.get("data_description") or {}
            return cls(
                kind=str(config["kind"]),
                architecture=str(model.get("architecture", "default")),
                frames=int(config["frames"]),
                stride=int(config.get("stride", 1)),
                fps=float(described.get("fps", DEFAULT_FPS)),
                rays=model.get("input", "screen") == "rays",
                causal=bool(model.get("causal", False)),
                root=str(model.get("root", "subtracted")),
                joints=str(model.get("joints", H36M17.name)),
                flip_test=bool(config.get("flip_test", False)),
                guesses_action=config.get("text", {}).get("classifier", 1) > 0,
                uncertainty=config.get("uncertainty"),
                validation_curve=tuple(map(_point, config.get("metrics", {}).get("validation_curve") or ())),
                left_out=tuple(map(str, described.get("without", ()))),
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's configuration does not describe a model: {error!r}") from error

    @property
    def joint_uncertainty(self) -> JointUncertainty | None:
        """The parsed section ``uncertainty``. Raises CheckpointError if the section has another form."""
        return None if self.uncertainty is None else JointUncertainty.from_config(self.uncertainty)

    @property
    def is_denoiser(self) -> bool:
        """Whether the network is a refiner that denoises in steps. SmoothNet is a refiner without steps."""
        return self.kind == "refiner" and self.architecture != "smoothnet"

    @property
    def is_sampled_lifter(self) -> bool:
        """Whether the network is a diffusion lifter, which samples a pose in steps."""
        return self.kind == "lifter" and self.architecture in SAMPLED_LIFTERS


def _check_ranges(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a number outside of its range, and for a network that is too large to build."""
    described = config.get("data_description") or {}
    found = {
        "frames": (FRAMES, config["frames"]),
        "stride": (STRIDES, config.get("stride", 1)),
        "data_description.fps": (FRAME_RATES, described.get("fps", DEFAULT_FPS)),
    }
    for section, ranges in RANGES.items():
        values = config.get(section) or {}
        found |= {f"{section}.{name}": (ranges[name], values[name]) for name in ranges if name in values}
    for name, (allowed, value) in found.items():
        if not allowed.holds(value):
            raise CheckpointError(
                f"the checkpoint's configuration does not describe a model: {name}: expected {allowed}, got "
                f"{shown(value)}"
            )
    sizes = config["model"]
    weights = sizes.get("blocks", 1) * sizes.get("dim", 1) ** 2 * (4 + 2 * sizes.get("mlp_ratio", 1))
    if weights > MOST_WEIGHTS:
        raise CheckpointError(
            f"the checkpoint's configuration describes a network of about {weights:.1e} weights (model.blocks, "
            f"model.dim); expected at most {MOST_WEIGHTS:.1e}"
        )


def _point(entry: Sequence[float]) -> tuple[int, float]:
    step, error = entry
    return int(step), float(error)
