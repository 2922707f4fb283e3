"""What a checkpoint's configuration says of its network, parsed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refiner.diffusion.uncertainty import JointUncertainty
from refiner.errors import CheckpointError

# The rate of Human3.6M, which the lifters of the field are trained at, in frames/s.
DEFAULT_FPS = 50.0
SAMPLED_LIFTERS = ("d3dp", "finepose")


@dataclass(frozen=True)
class ModelSpec:
    """A network and what its users must know of it.

    Attributes:
        kind: "lifter" or "refiner".
        architecture: a name that `refiner.models` knows; "default" is STCFormer for lifters, PoseDenoiser for refiners.
        frames: the length of a window.
        stride: frames of a sequence from one frame of a window to the next.
        fps: the frame rate of the training data, frames/s.
        rays: whether it sees rays (`refiner.models.canonical`) instead of screen coordinates.
        causal: whether a frame's result depends on that frame and those before it alone.
        root: "subtracted" or "zeroed", how the mid-hip of a lifter's poses comes to 0.
        flip_test: whether its authors average with the mirrored pass.
        guesses_action: whether a lifter that takes an action can guess it.
        uncertainty: section ``uncertainty``, as `joint_uncertainty` parses it; None where there is none.
        validation_curve: (training step, MPJPE in mm) of the validation person.
        left_out: training people that were left out.
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
        """Parse a configuration. Raises CheckpointError where it describes no model."""
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
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's configuration does not describe a model: {error!r}") from error

    @property
    def joint_uncertainty(self) -> JointUncertainty | None:
        """Section ``uncertainty``, parsed. Raises CheckpointError for another form."""
        return None if self.uncertainty is None else JointUncertainty.from_config(self.uncertainty)

    @property
    def is_denoiser(self) -> bool:
        """Whether it is a refiner that denoises in steps; SmoothNet does not."""
        return self.kind == "refiner" and self.architecture != "smoothnet"

    @property
    def is_sampled_lifter(self) -> bool:
        """Whether it is a diffusion lifter, which is sampled in steps."""
        return self.kind == "lifter" and self.architecture in SAMPLED_LIFTERS


def _point(entry: Any) -> tuple[int, float]:
    step, error = entry
    return int(step), float(error)
