"""Read files of weights without running code from them, and load state dicts that must match exactly."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from refiner.errors import CheckpointError, MissingComponentError
from refiner.tensor_hashes import check_hashes

State = dict[str, Tensor]

# Training scripts save NumPy numbers and the state of NumPy's generator beside the weights. The reader accepts these
# names and discards the objects that they build.
IGNORED_GLOBALS = (
    "numpy.random._pickle.__randomstate_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random._mt19937.MT19937",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of weights without running code from it.

    Args:
        path: a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file.

    Returns:
        The stored dictionary: a state dict, or a dictionary around it.

    Raises:
        CheckpointError: the file is missing, cannot be read, is a TorchScript archive, or asks for objects that are
            no tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint at {file}; expected a .pth, .pt, .bin or .safetensors file")
    if file.suffix == ".safetensors":
        return dict(read_safetensors(file)[0])
    _refuse_script(file)
    ignored = [(_Ignored, name) for name in IGNORED_GLOBALS]
    try:
        with torch.serialization.safe_globals(ignored):  # type: ignore[arg-type]
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises many kinds without a common base
        requested = re.search(r"GLOBAL (\S+)", str(error))
        if requested is not None:
            raise CheckpointError(
                f"{file} asks for {requested[1]}, which is no tensor, and is not read; if you trust its author, save "
                "the state dict alone as .safetensors"
            ) from error
        raise CheckpointError(f"{file} cannot be read as a PyTorch file; is it whole?") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds a {type(content).__name__}, expected a state dict")
    return content


def load_exactly(model: nn.Module, state: State, where: str) -> None:
    """`load_state_dict` with a readable error.

    Args:
        model: the model to fill.
        state: its state dict.
        where: the name of the source in the error message.

    Raises:
        CheckpointError: entries are missing, unexpected or of another shape; the message names them.
    """
    own = model.state_dict()
    wrong = {name: value for name, value in state.items() if name in own and value.shape != own[name].shape}
    shapes = [f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}" for name, value in wrong.items()]
    parts = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": shapes,
    }
    problems = [f"{kind}: {shortened(names)}" for kind, names in parts.items() if names]
    if problems:
        raise CheckpointError(f"{where} does not fit the model; {'; '.join(problems)}")
    model.load_state_dict(state)


def count_entries(state: State, prefix: str) -> int:
    """Count the entries ``{prefix}{number}.``, such as the layers of a module list."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _refuse_script(file: Path) -> None:
    """Raise CheckpointError for a TorchScript archive: its weights cannot be read without running its program."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(Path(name).name == "constants.pkl" for name in archive.namelist()):
                raise CheckpointError(
                    f"{file} is a TorchScript archive, which is a program; if you trust its author, save "
                    "torch.jit.load(FILE).state_dict() as .safetensors"
                )


def read_safetensors(file: Path) -> tuple[State, dict[str, str]]:
    """Read a ``.safetensors`` file: its tensors by name, and its metadata.

    Raises:
        CheckpointError: the file is truncated, has another format, or differs from the hashes in it.
        MissingComponentError: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"reading {file} needs safetensors; run: pip install 'pose-refiner[train]'"
        ) from error
    check_hashes(file)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            return {name: opened.get_tensor(name) for name in opened.keys()}, metadata  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} is no readable safetensors file ({error}); it may be truncated: copy or train it again"
        ) from error


def shortened(names: list[str], most: int = 6) -> str:
    """The first ``most`` names and the number of the others, for error messages."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class _Ignored:
    """Replaces an object that a file holds beside the weights: it accepts any arguments and does nothing."""

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...
