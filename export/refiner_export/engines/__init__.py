"""One module for each engine: what it needs, and how it makes an artefact of a graph.

The table of engines (`refiner.engines`) names the modules. A module has ``require(options)``, which raises
MissingComponentError before any work is done for nothing, and ``compile_graph(graph, options, target, report)``, which
writes the artefact to ``target`` (and files beside it of the same stem) and returns what the manifest should say of the
build. `refiner.runtime` runs it.
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
    """What is compiled: the PyTorch modules, and the traced graph in the precision that was asked for.

    ``typed`` is None for the engines that take the module itself, which is not traced;
    ``float32_branches`` is what a lower precision leaves alone in their modules.
    """

    source: Source
    typed: TypedGraph | None
    float32_branches: tuple[str, ...] = ()

    @property
    def model(self) -> onnx.ModelProto:
        """The typed graph of an engine that takes one."""
        assert self.typed is not None
        return self.typed.model


class EngineModule(Protocol):
    """The interface of every module of this folder."""

    def require(self, options: ExportOptions) -> None: ...

    def compile_graph(self, graph: Graph, options: ExportOptions, target: Path, report: Report) -> dict[str, Any]: ...


def engine_module(name: str) -> EngineModule:
    """The module that makes an engine's files. Raises UsageError for an engine that has none."""
    compiler = ENGINES[name].compiler
    if compiler is None:
        raise UsageError(f"refiner-export makes no files for {name}")
    return cast(EngineModule, import_module(compiler))
