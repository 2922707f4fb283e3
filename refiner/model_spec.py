"""The description of a network, parsed once from the configuration of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refiner.diffusion.uncertainty import JointUncertainty
from refiner.errors import CheckpointError

# The rate of Human3.6M, which the lifters of the field are trained at, in frames/s.
DEFAULT_FPS = 50.0
SAMPLED_LIFTERS = ("d3dp", "finepose")


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
    flip_test: bool
    guesses_action: bool
    uncertainty: Mapping[str, Any] | None
    validation_curve: tuple[tuple[int, float], ...]
    left_out: tuple[str, ...]

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> ModelSpec:
        """Parse a configuration. Raises CheckpointError if it does not describe a model."""
        try:
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


def _point(entry: Sequence[float]) -> tuple[int, float]:
    step, error = entry
    return int(step), float(error)
