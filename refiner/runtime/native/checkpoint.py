"""What a checkpoint holds beside its network: the parts of a refinement that run in NumPy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.ddim import DdimStep, ddim_schedule, run_ddim
from refiner.diffusion.familiarity import InputModel
from refiner.diffusion.schedule import cosine_schedule
from refiner.errors import CheckpointError, ConfigError, UsageError
from refiner.model_files.arrays import CheckpointArrays, load_arrays
from refiner.model_spec import ModelSpec
from refiner.runtime.native.network import OTHERS, check_size
from refiner.runtime.native.sampled import Sampling
from refiner.skeleton import H36M17, joint_order
from refiner.stc_layout import PARTS

Array = NDArray[np.float32]

STC_LIFTERS = ("default", "stcformer")
ARCHITECTURES = {"lifter": (*STC_LIFTERS, "mixste", "d3dp"), "refiner": ("default",)}


@dataclass(frozen=True, eq=False)
class Refinement:
    """How a denoiser is used, see `refiner.models.unrolled.UnrolledRefiner`.

    Attributes:
        schedule: the K steps.
        error_scale: metres per unit of the network's output, ``(J, 3)``; 0 for the root.
        expected_error: gain ``(3 J, 5 J)`` and offset ``(3 J,)`` of a denoiser that starts from the corrected pose.
        trust: two distances in metres, see `refiner.models.unrolled.apply_trust`.
    """

    schedule: tuple[DdimStep, ...]
    error_scale: Array
    expected_error: tuple[Array, Array] | None
    trust: tuple[float, float] | None

    def begin(self, start: Array, seen: Array) -> Array:
        """The root-relative pose ``(..., J, 3)`` that the first step gets."""
        if self.expected_error is None:
            return start
        gain, offset = self.expected_error
        lead = start.shape[:-2]
        condition = np.concatenate([seen[..., :2].reshape(*lead, -1), start.reshape(*lead, -1)], axis=-1)
        return start - (condition @ gain.T + offset).reshape(start.shape)

    def denoised(self, start: Array, network: Callable[[int, Array], Array]) -> Array:
        """The pose after all steps.

        Args:
            start: the pose that `begin` gave, ``(..., J, 3)``.
            network: called with the number of a step and its pose; returns the network's output ``(..., J, 3)``.
        """
        numbers = {step.time: number for number, step in enumerate(self.schedule)}
        return run_ddim(lambda pose, time: network(numbers[time], pose) * self.error_scale, start, self.schedule)

    def trusted(self, start: Array, refined: Array) -> Array:
        """The blend of `refiner.models.unrolled.apply_trust`."""
        if self.trust is None:
            return refined
        change = refined - start
        distance = np.sqrt(np.square(change[..., 1:, :]).sum(axis=-1)).mean(axis=-1)[..., None, None]
        low, high = self.trust
        share = np.clip((distance - low) / (high - low), 0.0, 1.0)
        return np.asarray(start + share * change, np.float32)


@dataclass(frozen=True, eq=False)
class NativeModel:
    """A checkpoint that the native engine runs.

    Attributes:
        spec: the description of its network.
        config: the configuration as JSON.
        weights: the state dict of its network.
        order: joint ``i`` of the network is joint ``order[i]`` of Human3.6M.
        refinement: for a refiner.
        sampling: for a diffusion lifter.
        inputs: the model of a refiner's training inputs, where the file has one.
    """

    spec: ModelSpec
    config: dict[str, Any]
    weights: Mapping[str, Array]
    order: tuple[int, ...]
    refinement: Refinement | None
    sampling: Sampling | None
    inputs: InputModel | None


def load_model(path: str | os.PathLike[str], role: str, steps: int | None, device: str = "cpu") -> NativeModel:
    """Read a checkpoint for the native engine.

    Args:
        path: the checkpoint.
        role: "lifter" or "refiner".
        steps: K, instead of the checkpoint's.
        device: "cpu" or "cuda", whose kernels it is for.

    Raises:
        CheckpointError: the file is no checkpoint of that role.
        UsageError: the native engine does not run such a network.
        ConfigError: ``steps`` is given for a lifter, or the configuration contradicts itself.
    """
    checkpoint = load_arrays(path)
    spec = ModelSpec.of_config(checkpoint.config)
    if spec.kind != role:
        raise CheckpointError(f"{path} holds a {spec.kind}, expected a {role}")
    if spec.architecture not in ARCHITECTURES[role]:
        raise UsageError(
            f"{path}: the native engine runs STCFormer, MixSTE, D3DP and PoseDenoiser, not {spec.architecture}; "
            f"{OTHERS}"
        )
    if spec.joints != H36M17.name and role == "refiner":
        raise UsageError(f"{path}: the native engine has no network of the joints of {spec.joints}; {OTHERS}")
    model, stc = checkpoint.config["model"], spec.architecture in STC_LIFTERS
    try:
        dim, heads = int(model["dim"]), int(model["heads"])
        for name in ("blocks", "mlp_ratio", *(("joint_embedding",) if stc else ())):
            int(model[name])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: its configuration does not describe a network: {error!r}") from error
    if stc:
        check_size(dim, heads, str(path), device)
    elif device == "cuda":
        raise UsageError(
            f"{path}: on a CUDA device the native engine runs networks of STC blocks, not {spec.architecture}; it runs "
            "this one on the CPU, and engine='torch' runs it on the device"
        )
    elif dim % heads:
        raise ConfigError(f"{path}: dim must be a multiple of heads, got dim {dim} and heads {heads}")
    sampled = spec.is_sampled_lifter
    if sampled and spec.rays:
        raise ConfigError(f"{path}: {spec.architecture} sees screen coordinates alone; leave model.input out")
    if role == "lifter" and steps is not None and not sampled:
        raise ConfigError("this lifter is not sampled: it has no steps to choose")
    refinement = _refinement(checkpoint, steps, str(path)) if role == "refiner" else None
    sampling = Sampling.of_config(checkpoint.config, spec.frames, steps, str(path)) if sampled else None
    return NativeModel(
        spec=spec,
        config=checkpoint.config,
        weights=checkpoint.weights(),
        order=joint_order(spec.joints),
        refinement=refinement,
        sampling=sampling,
        inputs=checkpoint.input_model,
    )


def _refinement(checkpoint: CheckpointArrays, steps: int | None, where: str) -> Refinement:
    try:
        diffusion = checkpoint.config["diffusion"]
        chosen = int(diffusion["steps"] if steps is None else steps)
        alphas = cosine_schedule(diffusion["timesteps"], diffusion["offset"])
        scale = _numbers(checkpoint, "error_scale").reshape(len(PARTS), 3).copy()
        expected = None
        if diffusion.get("start", "lifter") == "corrected":
            gain = _numbers(checkpoint, "noise.gain")
            offset = _numbers(checkpoint, "noise.mean_error") - gain @ _numbers(checkpoint, "noise.mean_condition")
            expected = gain, offset
            if gain.shape != (3 * len(PARTS), 5 * len(PARTS)) or expected[1].shape != (3 * len(PARTS),):
                raise ValueError(f"the expected error has shapes {gain.shape} and {expected[1].shape}")
        trust = tuple(map(float, _numbers(checkpoint, "trust"))) if "trust" in checkpoint.arrays else None
        terminal = diffusion["terminal"]
        if trust is not None and len(trust) != 2:
            raise ValueError(f"trust has {len(trust)} numbers, expected 2")
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{where} does not fit its own configuration: {error!r}") from error
    if trust is not None and (expected is not None or ModelSpec.of_config(checkpoint.config).causal):
        raise ConfigError(f"{where}: trust is for windowed refiners that start from the uncorrected input pose")
    scale[0] = 0.0
    schedule = ddim_schedule(chosen, alphas, terminal)
    return Refinement(schedule, scale, expected, None if trust is None else (trust[0], trust[1]))


def _numbers(checkpoint: CheckpointArrays, name: str) -> Array:
    return checkpoint.arrays[name].astype(np.float32)
