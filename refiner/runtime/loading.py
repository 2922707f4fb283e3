"""Open the engine that runs a file, or the bundled model where no file is named."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast, overload

from refiner import bundled
from refiner.arguments import check_path
from refiner.causal_state import CAUSAL
from refiner.engines import CHECKPOINT_SUFFIX, ENGINES, NATIVE, EngineOptions, EngineSpec, engines_of
from refiner.errors import ArtefactError, CheckpointError, UsageError

if TYPE_CHECKING:
    from refiner.runtime.causal import StreamEngine
    from refiner.runtime.engine import LifterEngine, Model, RefinerEngine

PathLike = str | os.PathLike[str]
DEFAULT = EngineOptions()

Engine = TypeVar("Engine", bound="Model")


@overload
def open_engine(path: PathLike | None, role: Literal["refiner"], options: EngineOptions = DEFAULT) -> RefinerEngine: ...


@overload
def open_engine(path: PathLike | None, role: Literal["lifter"], options: EngineOptions = DEFAULT) -> LifterEngine: ...


@overload
def open_engine(path: PathLike | None, role: str, options: EngineOptions = DEFAULT) -> RefinerEngine | LifterEngine: ...


def open_engine(path: PathLike | None, role: str, options: EngineOptions = DEFAULT) -> RefinerEngine | LifterEngine:
    """Open a window model. PyTorch runs a checkpoint; an artefact runs in the engine that it was made for.

    Args:
        path: the file; a bare name is a bundled checkpoint; None is the bundled checkpoint of that role.
        role: "refiner" or "lifter".
        options: the engine's options. A device of None is the device that the artefact was made for, and the CPU where
            there is a choice.

    Returns:
        A `refiner.runtime.engine.RefinerEngine` or `LifterEngine`.

    Raises:
        UsageError: the file and the options do not go together.
        CheckpointError, ArtefactError, MissingComponentError: the engine raises them.
    """
    options = options.checked()
    file, spec = _find(path, role, options)
    if spec.suffix != CHECKPOINT_SUFFIX and options.steps is not None:
        raise UsageError(f"the steps of {file} are fixed in its graph: export it again with --steps {options.steps}")
    # The role decides which of the two it is.
    opened = cast("RefinerEngine | LifterEngine", spec.open_window(file, role, options))
    return _checked(opened, file, spec, options)


def open_causal_engine(path: PathLike | None = None, options: EngineOptions = DEFAULT) -> StreamEngine:
    """Open a causal refiner for streams, which come frame by frame.

    Args:
        path: a causal checkpoint, which PyTorch runs, or an artefact of one; None is the bundled checkpoint.
        options: the engine's options. ``streams``, ``pipelined`` and ``steps`` are fixed in an artefact. For a
            checkpoint their None means one stream, not pipelined, and the checkpoint's own K.

    Returns:
        The engine (`refiner.runtime.causal.StreamEngine`).

    Raises:
        UsageError: the file and the options do not go together.
        ConfigError: the checkpoint is not causal.
        CheckpointError, ArtefactError, MissingComponentError: the engine raises them.
    """
    options = options.checked()
    file, spec = _find(path, CAUSAL, options)
    opened: StreamEngine = _checked(spec.open_causal(file, options), file, spec, options)
    if spec.suffix == CHECKPOINT_SUFFIX:
        return opened
    fixed = {"streams": opened.streams, "pipelined": opened.layout.pipelined, "steps": opened.layout.steps}
    requested = {"streams": options.streams, "pipelined": options.pipelined, "steps": options.steps}
    for name, wanted in requested.items():
        if wanted not in (None, fixed[name]):
            raise UsageError(
                f"{file} was exported with {name} = {fixed[name]}, not {wanted}: export it again with --streams, "
                "--pipelined and --steps as you need them"
            )
    return opened


def find_model(path: PathLike | None, role: str, options: EngineOptions = DEFAULT) -> tuple[Path, str]:
    """The file that `open_engine` would open, and the name of the engine that would run it.

    The arguments and the errors are those of `open_engine`, as far as they show without opening the file.
    """
    file, spec = _find(path, role, options.checked())
    return file, spec.name


def _find(path: PathLike | None, role: str, options: EngineOptions) -> tuple[Path, EngineSpec]:
    """Find the file, and the engine that the file's suffix and the options select.

    Raises:
        UsageError: the options contradict each other or the file.
        CheckpointError, ArtefactError: the file does not exist.
    """
    file = bundled.default_checkpoint(role) if path is None else bundled.by_name(check_path(path))
    file = bundled.file_for(file, options.engine)
    suffixes = dict.fromkeys(spec.suffix for spec in ENGINES.values())
    if path is None and not file.exists():
        named = role.replace("-", " ")
        raise CheckpointError(f"this installation holds no bundled {named} ({file}); name a checkpoint or an artefact")
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder; expected a checkpoint or an artefact: {', '.join(suffixes)}")
    # A file with another suffix counts as a checkpoint. The error comes when it is read.
    suffix = file.suffix if file.suffix in suffixes else CHECKPOINT_SUFFIX
    specs = {spec.name: spec for spec in engines_of(suffix)}
    if options.engine is not None and options.engine not in specs:
        raise UsageError(_wrong_engine(file, suffix, options.engine))
    if suffix != CHECKPOINT_SUFFIX and not file.is_file():
        raise ArtefactError(f"there is no artefact at {file}; write one with refiner-export")
    chosen = specs[options.engine or (NATIVE if _runs_natively(file, options) else next(iter(specs)))]
    if suffix == CHECKPOINT_SUFFIX and options.precision not in (None, *chosen.precisions):
        raise UsageError(_wrong_precision(file, specs.values(), chosen, options))
    return file, chosen


def _runs_natively(file: Path, options: EngineOptions) -> bool:
    """Whether a file is a bundled checkpoint that the native engine runs with these options.

    All bundled models are of sizes that it has kernels for.
    """
    bundled_checkpoint = file.parent == bundled.FOLDER and file.suffix == CHECKPOINT_SUFFIX
    return bundled_checkpoint and options.device in (None, "cpu")


def _checked(opened: Engine, file: Path, spec: EngineSpec, options: EngineOptions) -> Engine:
    """Return the engine if it is the requested one. For engines with the same suffix only the manifest tells."""
    if options.engine not in (None, opened.engine):
        raise UsageError(f"{file} is an artefact for {opened.engine}, not for {options.engine}")
    if spec.suffix != CHECKPOINT_SUFFIX and options.precision not in (None, opened.metadata["precision"]):
        raise UsageError(
            f"{file} was exported in {opened.metadata['precision']}, not in {options.precision}: export it again with "
            f"--precision {options.precision}"
        )
    return opened


def _wrong_precision(file: Path, specs: Iterable[EngineSpec], chosen: EngineSpec, options: EngineOptions) -> str:
    others = [f"engine='{spec.name}'" for spec in specs if options.precision in spec.precisions]
    remedy = f"{' or '.join(others)} runs it so" if others else "export it with refiner-export --precision"
    *most, last = chosen.precisions
    known = f"{', '.join(most)} or {last}" if most else last
    return f"{file}: {chosen.name} runs checkpoints in {known}, not in {options.precision}; {remedy}"


def _wrong_engine(file: Path, suffix: str, engine: str) -> str:
    made_for = " or ".join(spec.name for spec in engines_of(suffix))
    if suffix == CHECKPOINT_SUFFIX:
        return (
            f"{file} is a checkpoint; {engine} runs artefacts. Make one with refiner-export --engine {engine} "
            f"--checkpoint {file}, and load what it writes"
        )
    if ENGINES[engine].suffix == CHECKPOINT_SUFFIX:
        return f"{file} is an artefact for {made_for}; PyTorch runs the checkpoint that it was exported from"
    return f"{file} is an artefact for {made_for}, not for {engine}; export one: refiner-export --engine {engine}"
