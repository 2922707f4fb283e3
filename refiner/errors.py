"""The exception tree: every error that the library raises on purpose is a RefinerError.

A message says what was found, what was expected and what to do. ``exit_code`` is what the commands
return for it: 2 usage, 3 a component is missing, 4 a gate refused, 5 bad input.
"""

from __future__ import annotations


class RefinerError(Exception):
    """Base of every error raised by refiner, refiner_export and refiner_bench."""

    exit_code = 5


class UsageError(RefinerError):
    """The arguments do not go together."""

    exit_code = 2


class ConfigError(RefinerError):
    """A configuration file has an unknown key, a missing key or a value out of range."""

    exit_code = 2


class MissingComponentError(RefinerError):
    """An optional dependency, a device or a compiled part is not there; the message names the extra."""

    exit_code = 3


class GateError(RefinerError):
    """A check refused the result: parity, accuracy or size outside its bound."""

    exit_code = 4


class ParityError(GateError):
    """A compiled artefact differs from its PyTorch reference by more than the gate allows."""


class InputError(RefinerError):
    """Base of everything that can be wrong with a user's arrays and files."""


class ShapeError(InputError):
    """An array has the wrong number of dimensions or an axis of the wrong length."""


class JointCountError(ShapeError):
    """The joint axis does not have the number of joints of the named joint set."""


class SwappedInputError(ShapeError):
    """2D and 3D poses were passed in each other's place."""


class LengthError(ShapeError):
    """Two sequences that belong together differ in their number of frames."""


class EmptySequenceError(InputError):
    """A sequence has no frames."""


class NonFiniteError(InputError):
    """An array holds NaN or infinite values where the operation needs finite ones."""


class UnitError(InputError):
    """Values lie outside what the unit allows: millimetres for metres, normalised 2D for pixels."""


class DTypeError(InputError):
    """An array's type cannot be used, or two arrays differ in type."""


class ArchiveError(InputError):
    """A pose archive cannot be read or does not have the field's layout."""


class UnsafeArchiveError(ArchiveError):
    """A pose archive asks the unpickler for something other than NumPy data."""


class CheckpointError(InputError):
    """A checkpoint is truncated, of another format, or does not fit the model."""


class ArtefactError(InputError):
    """An exported graph is truncated, foreign, or does not have the expected inputs and outputs."""


class InputWarning(UserWarning):
    """An input was used, but something in it had to be guessed or is hardly usable; the message says what."""


class DefaultLensWarning(InputWarning):
    """Nothing was said of the lens, so that a default focal length was taken."""


class ExportError(RefinerError):
    """A model could not be traced or compiled."""


class TrainingError(RefinerError):
    """Training cannot go on: a loss that is not finite, or a run folder that holds another run."""
