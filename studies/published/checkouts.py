"""Import the authors' modules from checkouts of their repositories, and run them without CUDA."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from refiner.errors import ArchiveError, MissingComponentError
from refiner.models.finepose.text_tower import TextTower

# The packages of the authors' repositories, whose modules have the same names in all of them.
OWN_PACKAGES = ("common", "model")


class _KeepAll(nn.Module):
    """Takes the place of timm's DropPath, which drops nothing when a model runs."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


class LengthFirst(nn.Module):
    """The transformer of a text tower with CLIP's order of the axes: ``[L, N, W]``."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.resblocks, self._mask = tower.transformer.resblocks, tower.mask

    def forward(self, x: Tensor) -> Tensor:
        x, mask = x.transpose(0, 1), self._mask.to(x.dtype)
        for block in self.resblocks:
            x = block(x, mask)
        return x.transpose(0, 1)


class StandInClip(nn.Module):
    """A small tower with the interface of CLIP's text side that FinePOSE's code uses."""

    def __init__(self, vocabulary: int, layers: int) -> None:
        super().__init__()
        tower = TextTower(vocabulary, 512, layers, 8)
        self.token_embedding, self.positional_embedding = tower.token_embedding, tower.positional_embedding
        self.transformer, self.ln_final = LengthFirst(tower), tower.ln_final

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.ln_final.weight.dtype


@contextmanager
def checkout(folder: str | Path, clip: nn.Module | None = None) -> Iterator[Any]:
    """Make the modules below a folder importable, beside stand-ins for packages that they import and do not need.

    Stand-ins are only in memory: timm's DropPath, CLIP's loader, matplotlib, and the attentions that MixSTE's file
    offers and its published model does not use. `einops` must be installed.

    Args:
        folder: The checkout.
        clip: The text tower that FinePOSE's code gets from CLIP's loader.

    Yields:
        A function from the name of a module to the module.

    Raises:
        ArchiveError: There is no such folder.
        MissingComponentError: A module needs a package that is not installed, like einops. The function raises it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ArchiveError(f"there is no checkout at {root}")
    stand_ins = _stand_ins(clip)
    kept = {name: module for name, module in sys.modules.items() if _is_own(name) or name in stand_ins}
    for name in kept:
        del sys.modules[name]
    sys.modules.update(stand_ins)
    sys.path.insert(0, str(root))
    try:
        yield _load
    finally:
        sys.path.remove(str(root))
        for name in [name for name in sys.modules if _is_own(name) or name in stand_ins]:
            del sys.modules[name]
        sys.modules.update(kept)


@contextmanager
def without_cuda(noises: Sequence[Tensor] = ()) -> Iterator[None]:
    """Let code that asks for a CUDA device run on the CPU, and draw these noises instead of random ones, in order."""
    drawn = iter(noises)
    before = {name: getattr(torch, name) for name in ("randn", "randn_like", "full")}

    def next_noise(*shape: Any, **options: Any) -> Tensor:
        return next(drawn).clone()

    def full(*arguments: Any, **options: Any) -> Tensor:
        options.pop("device", None)
        filled: Tensor = before["full"](*arguments, **options)
        return filled

    on_cpu = types.SimpleNamespace(randn=next_noise, randn_like=next_noise, full=full)
    moved = Tensor.cuda
    try:
        for name in before:
            setattr(torch, name, getattr(on_cpu, name))
        Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
        yield
    finally:
        for name, function in before.items():
            setattr(torch, name, function)
        Tensor.cuda = moved  # type: ignore[method-assign]


def _load(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingComponentError(f"the authors' {name} needs {error.name}: pip install {error.name}") from error


def _is_own(name: str) -> bool:
    return name.split(".")[0] in OWN_PACKAGES


def _stand_ins(clip: nn.Module | None) -> dict[str, types.ModuleType]:
    def module(name: str, **content: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(content)
        return made

    def none(*arguments: Any, **options: Any) -> None:
        return None

    layers = {"DropPath": _KeepAll, "to_2tuple": lambda value: (value, value), "trunc_normal_": none}
    made = [
        module("timm"),
        module("timm.data", IMAGENET_DEFAULT_MEAN=None, IMAGENET_DEFAULT_STD=None),
        module("timm.models"),
        module("timm.models.helpers", load_pretrained=none),
        module("timm.models.layers", **layers),
        module("timm.models.registry", register_model=lambda function: function),
        module("matplotlib"),
        module("matplotlib.pyplot", bone=none),
        module("clip", load=lambda name, device: (clip, None)),
        module("common.rela", RectifiedLinearAttention=None),
        module("common.routing_transformer", KmeansAttention=None),
        module("common.linearattention", LinearMultiheadAttention=None),
    ]
    return {entry.__name__: entry for entry in made}
