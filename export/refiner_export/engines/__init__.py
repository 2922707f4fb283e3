"""One module for each engine compiles a graph to an artefact; `refiner.runtime` runs the artefact.

The table of engines (`refiner.engines`) names the modules. `EngineModule` describes their functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from refiner.engines import ENGINES
from refiner.errors import UsageError
from refiner_export.options import ExportOptions

if TYPE_CHECKING:
    import onnx

    from refiner_export.precision import TypedGraph
    from refiner_export.source import Source

Report = Callable[[str], None]


@dataclass(frozen=True)
class Graph:
    """The input of a compiler.

    Attributes:
        source: the PyTorch modules.
        typed: the traced graph in the requested precision; None for engines that take the PyTorch module.
        float32_branches: the branches of the PyTorch module that a lower precision leaves in float32.
    """

    source: Source
    typed: TypedGraph | None
    float32_branches: tuple[str, ...] = ()

    @property
    def model(self) -> onnx.ModelProto:
        """The typed graph. Only for engines that take one."""
        assert self.typed is not None
        return self.typed.model


class EngineModule(Protocol):
    """The interface of every module of this folder."""

    def require(self, options: ExportOptions) -> None:
        """Raises MissingComponentError where a package or device is missing, before any work is done."""
        ...

    def compile_graph(self, graph: Graph, options: ExportOptions, target: Path, report: Report) -> dict[str, Any]:
        """Write the artefact to ``target``, and further files of the same stem beside it.

        Returns:
            The entry ``build`` of the manifest.
        """
        ...


def engine_module(name: str) -> EngineModule:
    """The module that compiles for an engine. Raises UsageError for an engine without one."""
    compiler = ENGINES[name].compiler
    if compiler is None:
        raise UsageError(f"refiner-export makes no files for {name}")
    return cast(EngineModule, import_module(compiler))
