"""Checkpoints read into NumPy arrays, without PyTorch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner import bundled
from refiner.diffusion.familiarity import InputModel
from refiner.errors import CheckpointError
from refiner.json_text import parse_json
from refiner.tensor_hashes import METADATA, check_hashes

Array = NDArray[np.float32]

FORMAT, VERSION = "refiner-checkpoint", "1"
MODEL_PREFIX, NOISE_PREFIX, INPUTS_PREFIX = "model.", "noise.", "inputs."

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
# NumPy has no such type: its bytes are the upper half of a float32.
_BFLOAT16 = "BF16"


@dataclass(frozen=True)
class CheckpointArrays:
    """The content of a checkpoint file.

    Attributes:
        config: the configuration.
        arrays: all tensors by their full names, in the types of the file; bfloat16 becomes float32.
    """

    config: dict[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def under(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The arrays whose names begin with ``prefix``, without it."""
        return {name[len(prefix) :]: array for name, array in self.arrays.items() if name.startswith(prefix)}

    def weights(self) -> dict[str, Array]:
        """The state dict of the network, in float32."""
        return {name: array.astype(np.float32) for name, array in self.under(MODEL_PREFIX).items()}

    @property
    def input_model(self) -> InputModel | None:
        """The model of a refiner's training inputs; None where the file has none."""
        arrays = self.under(INPUTS_PREFIX)
        return InputModel.from_tensors(arrays) if arrays else None


def load_arrays(path: str | os.PathLike[str]) -> CheckpointArrays:
    """Read a checkpoint.

    Args:
        path: a ``.safetensors`` file of this package.

    Raises:
        CheckpointError: the file is missing, truncated, of another program or damaged, or differs from the hashes in
            it.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint at {file}; {bundled.expected_at(file)}")
    layout = check_hashes(file)
    metadata = layout.metadata
    try:
        if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
            raise ValueError(
                f"its format is {metadata.get('format')!r}, version {metadata.get('version')!r}; this refiner reads "
                f"{FORMAT!r}, version {VERSION!r}"
            )
        content = file.read_bytes()
        tensors = {name: entry for name, entry in layout.header.items() if name != METADATA}
        arrays = {name: _array(content, layout.begin, entry) for name, entry in tensors.items()}
        config = parse_json(metadata["config"])
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
        OSError,
    ) as error:
        raise CheckpointError(
            f"{file} is no readable checkpoint of refiner ({error!r}); it may be truncated: copy or train it again"
        ) from error
    return CheckpointArrays(config, arrays)


def _array(content: bytes, start: int, entry: Mapping[str, Any]) -> NDArray[Any]:
    first, last = (int(number) for number in entry["data_offsets"])
    shape = tuple(int(number) for number in entry["shape"])
    name = entry["dtype"]
    if name != _BFLOAT16 and name not in _TYPES:
        raise ValueError(f"a tensor has the type {name!r}; this refiner reads {', '.join((*_TYPES, _BFLOAT16))}")
    kind = np.dtype("<u2" if name == _BFLOAT16 else _TYPES[name])
    if min((0, first, *shape)) < 0 or last - first != math.prod(shape) * kind.itemsize or start + last > len(content):
        raise ValueError(f"a tensor of shape {shape} cannot lie in bytes {first} to {last}")
    array = np.frombuffer(content, kind, math.prod(shape), start + first).reshape(shape)
    return (array.astype(np.uint32) << 16).view(np.float32) if name == _BFLOAT16 else array
