"""The exceptions of the library. Every error that the library raises on purpose is a RefinerError.

An error message names the wrong value, the expected value and the remedy. ``exit_code`` is the exit code that the
commands return for the error: 2 for wrong usage, 3 for a missing component, 4 for a gate that refused the result, 5
for bad input.
"""

from __future__ import annotations


class RefinerError(Exception):
    """The base class of every error that refiner, refiner_export and refiner_bench raise."""

    exit_code = 5


class UsageError(RefinerError):
    """An argument is wrong, or two arguments exclude each other."""

    exit_code = 2


class ConfigError(RefinerError):
    """A configuration file has an unknown key, a missing key or a value out of range."""

    exit_code = 2


class MissingComponentError(RefinerError):
    """An optional dependency, a device or a compiled module is missing; the message names the extra to install."""

    exit_code = 3


class GateError(RefinerError):
    """A check refused the result, because parity, accuracy or size is outside its bound."""

    exit_code = 4


class ParityError(GateError):
    """A compiled artefact differs from its PyTorch reference by more than the gate allows."""


class InputError(RefinerError):
    """The base class of errors about a user's arrays and files."""


class ShapeError(InputError):
    """An array has the wrong number of dimensions or an axis of the wrong length."""


class JointCountError(ShapeError):
    """The length of the joint axis is not the number of joints of the joint set."""


class SwappedInputError(ShapeError):
    """The caller passed a 2D pose as the 3D pose, or a 3D pose as the 2D pose."""


class LengthError(ShapeError):
    """Two sequences that belong together differ in their number of frames."""


class JointOrderError(InputError):
    """The joints of a pose are in another order than its joint set says; the message names the order that fits."""


class EmptySequenceError(InputError):
    """A sequence has no frames."""


class NonFiniteError(InputError):
    """An array holds NaN or infinite values, but the operation needs finite values."""


class UnitError(InputError):
    """Values are out of range for the unit, for example millimetres instead of metres or normalised 2D for pixels."""


class DTypeError(InputError):
    """The data type of an array cannot be used, or two arrays differ in data type."""


class ArchiveError(InputError):
    """A pose archive cannot be read or does not have the expected layout."""


class UnsafeArchiveError(ArchiveError):
    """A pose archive contains a pickle that would load something other than NumPy data."""


class VideoError(InputError):
    """A video cannot be read: it is missing, broken, truncated, or holds no picture."""


class CheckpointError(InputError):
    """A checkpoint is truncated, has another format, or does not fit the model."""


class ArtefactError(InputError):
    """An exported graph is truncated, comes from another program, or lacks the expected inputs and outputs."""


class InputWarning(UserWarning):
    """The library used an input, but had to guess a part of it, or a part is hardly usable; the message names it."""


class DefaultLensWarning(InputWarning):
    """The caller gave no focal length and no camera, so the library used a default focal length."""


class ExportError(RefinerError):
    """A model cannot be traced or compiled."""


class TrainingError(RefinerError):
    """Training cannot continue: the loss is not finite, or the run folder holds another run."""
