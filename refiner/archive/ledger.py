"""The ledger of an output folder: what is done, of which input, by which model, and what the files are.

Lines of JSON. A line with ``recipe_of`` says what a recipe is: the models, their engines and the options. Every other
line is one input (a file, or an entry of one) with its sequences. The process that drives a run appends lines after
the files that they name are in place. A later line of an input replaces the earlier one. At the end of a run the lines
are sorted, and hold nothing that changes from run to run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from refiner.archive.sequences import Chunk, Outcome
from refiner.errors import ArchiveError
from refiner.files import LineFile, atomic_path
from refiner.json_text import JsonError, parse_json

FILE = "ledger.jsonl"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """The line of one input.

    Attributes:
        source: the name of its reference.
        chunk: the identity of the chunk that it was refined with.
        recipe: the identity of the recipe.
        input: the hash of the input; "" where it could not be read.
        sequences: the name, and what came of it, of each of its sequences.
    """

    source: str
    chunk: str
    recipe: str
    input: str
    sequences: tuple[Mapping[str, Any], ...]

    @property
    def files(self) -> set[str]:
        """The output files of all of its sequences."""
        return {file for sequence in self.sequences for file in sequence["outputs"]}


class Ledger:
    """The ledger of a folder that is being filled. Use it as a context manager; one process alone has it.

    The lines stay in the file; memory has the place of each.

    Args:
        folder: the output folder.

    Raises:
        ArchiveError: the ledger is damaged, beyond a last line that a killed run left unfinished, or it is one of a
            later version.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        # Where the line of each input begins.
        self._places: dict[str, int] = {}
        self._recipes: dict[str, Any] = {}
        # Files that replaced lines name and the later lines do not.
        self.forgotten: set[str] = set()
        self._file.touch()
        self._opened = self._file.open("rb")
        try:
            whole = self._read()
        except BaseException:
            self._opened.close()
            raise
        if self._file.stat().st_size > whole:
            os.truncate(self._file, whole)
        self._appended = LineFile(self._file, append=True, synced=True)

    def _read(self) -> int:
        """Take all whole lines; returns where they end."""
        whole = 0
        for number, (line, begin) in enumerate(_whole_lines(self._file), 1):
            self._take(line, number, begin)
            whole = begin + len(line) + 1
        return whole

    def _take(self, line: bytes, number: int, begin: int) -> None:
        try:
            content = parse_json(line)
            if "recipe_of" in content:
                if content.get("ledger") != VERSION:
                    raise ArchiveError(
                        f"{self._file} is of version {content.get('ledger')}, expected {VERSION}: it was written by "
                        "another version of refiner; choose another folder"
                    )
                self._recipes[str(content["recipe"])] = content["recipe_of"]
                return
            entry = _entry(content)
        except (JsonError, TypeError, KeyError, AttributeError) as error:
            raise ArchiveError(
                f"{self._file}, line {number}, is damaged ({error}): choose another folder, or remove this one's "
                "content to begin anew"
            ) from error
        self._replace(entry, begin)

    def _replace(self, entry: Entry, begin: int) -> None:
        """Take the line of an input in place of its earlier one, whose files may be no more."""
        before = self.entry(entry.source)
        if before is not None:
            self.forgotten |= before.files
        if self.forgotten:
            self.forgotten -= entry.files
        self._places[entry.source] = begin

    def _line(self, source: str) -> bytes:
        self._opened.seek(self._places[source])
        return self._opened.readline()

    @property
    def sources(self) -> Iterable[str]:
        """The names of all inputs that have a line."""
        return self._places.keys()

    def entry(self, source: str) -> Entry | None:
        """The line of an input; None where there is none."""
        return _entry(json.loads(self._line(source))) if source in self._places else None

    def recipe(self, identity: str) -> Mapping[str, Any] | None:
        """What a recipe is; None for an unknown one."""
        found: Mapping[str, Any] | None = self._recipes.get(identity)
        return found

    def add_recipe(self, identity: str, recipe: Mapping[str, Any]) -> None:
        """Say what a recipe is, before the lines that name it."""
        if self._recipes.get(identity) != recipe:
            self._recipes[identity] = dict(recipe)
            self._appended.write(_recipe_line(identity, recipe))

    def append(self, chunk: Chunk, recipe: str, outcomes: Sequence[Outcome]) -> None:
        """Write the lines of a chunk whose files are in place.

        Raises:
            OSError: there is no room; the ledger ends with a whole line.
        """
        by_source: dict[str, list[Outcome]] = {ref.name: [] for ref in chunk.refs}
        for outcome in outcomes:
            by_source[outcome.source].append(outcome)
        lines = [_text(chunk.identity, recipe, some) for some in by_source.values() if some]
        begin = self._appended.length
        # One write, and one wait for the disk.
        self._appended.write("\n".join(lines))
        for ref, line in zip((ref for ref in chunk.refs if by_source[ref.name]), lines, strict=True):
            self._replace(replace(_entry(json.loads(line)), source=ref.name), begin)
            begin += len(line) + 1  # ASCII

    def finish(self, temporary_folder: Path) -> None:
        """Write the ledger anew: sorted, and without what was replaced."""
        self._appended.close()
        used = sorted({json.loads(self._line(source))["recipe"] for source in self._places})
        with atomic_path(self._file, temporary_folder) as temporary, open(temporary, "wb") as opened:
            for identity in used:
                opened.write(_recipe_line(identity, self._recipes.get(identity, {})).encode() + b"\n")
            opened.writelines(map(self._line, sorted(self._places)))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._appended.close()
        self._opened.close()


def _whole_lines(file: Path) -> Iterator[tuple[bytes, int]]:
    """The lines of a file that end, and where they begin."""
    at = 0
    with file.open("rb") as opened:
        for content in opened:
            if not content.endswith(b"\n"):
                return
            yield content[:-1], at
            at += len(content)


def _recipe_line(identity: str, recipe: Mapping[str, Any]) -> str:
    return json.dumps({"ledger": VERSION, "recipe": identity, "recipe_of": recipe}, sort_keys=True)


def _text(chunk: str, recipe: str, outcomes: Sequence[Outcome]) -> str:
    first = outcomes[0]
    sequences = []
    for outcome in outcomes:
        entry: dict[str, Any] = {
            "sequence": outcome.name,
            "status": "done" if outcome.done else "failed",
            "frames": outcome.frames,
            "outputs": dict(outcome.outputs),
        }
        if outcome.error:
            entry["error"] = outcome.error
        if outcome.notes:
            entry["notes"] = list(outcome.notes)
        sequences.append(entry)
    line = {"source": first.source, "input": first.input, "sequences": sequences, "chunk": chunk, "recipe": recipe}
    return json.dumps(line)


def _entry(content: Mapping[str, Any]) -> Entry:
    sequences = tuple(content["sequences"])
    for sequence in sequences:
        sequence["sequence"], sequence["status"], sequence["frames"], sequence["outputs"].keys()
    return Entry(
        str(content["source"]), str(content["chunk"]), str(content["recipe"]), str(content["input"]), sequences
    )
