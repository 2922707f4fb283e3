"""The driver of an archive: what is to be done, and the ledger of what is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refiner.archive.chunks import chunks_of
from refiner.archive.job import Job
from refiner.archive.ledger import FILE, Ledger
from refiner.archive.listing import list_archive
from refiner.archive.lock import alone_in
from refiner.archive.models import load_models
from refiner.archive.readers import identity_of
from refiner.archive.sequences import Chunk, Outcome
from refiner.archive.work import refine_chunk
from refiner.errors import UsageError


@dataclass(frozen=True)
class Summary:
    """What came of an archive.

    Attributes:
        done: sequences that are refined, those of earlier runs included.
        earlier: those of them that an earlier run had finished.
        frames: frames of all sequences that are done.
        failed: (name, error) of those that failed, in the order of the archive.
        notes: how many of the sequences that are done have each reason of `refiner.reasons`.
    """

    done: int
    earlier: int
    frames: int
    failed: tuple[tuple[str, str], ...]
    notes: Mapping[str, int]


class ArchiveRun:
    """An archive that is being refined into a folder. Make one with `open_run`; one process alone has it.

    Attributes:
        job: the job.
        chunks: all chunks of the archive.
        todo: those that are to be done, in the order of the archive.
        changes: why something that an earlier run had finished is done again, for people.
        gone: inputs that the ledger lists and the archive does not have any more. Their results stay.
    """

    def __init__(self, job: Job, ledger: Ledger, temporary: Path) -> None:
        self.job = job
        self._ledger, self._temporary, self._folder = ledger, temporary, Path(job.output)
        refs = list_archive(job)
        names = {ref.name for ref in refs}
        self.gone = tuple(sorted(name for name in ledger.sources if name not in names))
        if self.gone and not any(name in names for name in ledger.sources):
            raise UsageError(
                f"{self._folder} has the results of another archive ({self.gone[0]!r}): choose another folder"
            )
        self._remove(ledger.forgotten)
        self.chunks = chunks_of(refs, job.chunk_frames, self.gone)
        self._recipe = job.recipe_id
        self.changes = self._changes()
        self.todo = tuple(chunk for chunk in self.chunks if not self._is_done(chunk))
        self._recorded: set[str] = set()
        ledger.add_recipe(self._recipe, job.recipe())

    def record(self, chunk: Chunk, outcomes: Sequence[Outcome]) -> None:
        """Write the outcomes of a chunk, whose files are in place, into the ledger. Chunks may come in any order.

        Raises:
            OSError: there is no room for the lines.
        """
        self._ledger.append(chunk, self._recipe, outcomes)
        self._remove(self._ledger.forgotten)
        self._recorded.add(chunk.identity)

    def finish(self) -> Summary:
        """Sort the ledger, and say what came of the archive. Call it when all chunks of `todo` are recorded.

        Raises:
            UsageError: a chunk is not recorded.
        """
        left = [chunk for chunk in self.todo if chunk.identity not in self._recorded]
        if left:
            raise UsageError(f"{len(left)} of {len(self.todo)} chunks are not done")
        summary = self._summary()
        self._ledger.finish(self._temporary)
        return summary

    def _is_done(self, chunk: Chunk) -> bool:
        """Whether all inputs of a chunk were done in it, by this recipe, did not change, and their files are there."""
        for ref in chunk.refs:
            entry = self._ledger.entry(ref.name)
            if entry is None or (entry.chunk, entry.recipe) != (chunk.identity, self._recipe):
                return False
            if not all((self._folder / file).is_file() for file in entry.files):
                return False
        return all(self._unchanged(ref.name, identity_of(self.job, ref)) for ref in chunk.refs)

    def _unchanged(self, source: str, found: str) -> bool:
        entry = self._ledger.entry(source)
        return entry is not None and entry.input == found

    def _changes(self) -> tuple[str, ...]:
        """What is different from the recipe that most of the ledger was written by."""
        recipes = Counter(entry.recipe for entry in map(self._ledger.entry, self._ledger.sources) if entry is not None)
        if not recipes or self._recipe in recipes:
            return ()
        before = self._ledger.recipe(recipes.most_common(1)[0][0])
        if before is None:
            return ("the recipe is another one",)
        return tuple(_differences(before, self.job.recipe()))

    def _remove(self, files: set[str]) -> None:
        """Remove files that no line of the ledger names any more."""
        for file in sorted(files):
            path = self._folder / file
            path.unlink(missing_ok=True)
            if path.parent != self._folder and path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()
        files.clear()

    def _summary(self) -> Summary:
        todo = {ref.name for chunk in self.todo for ref in chunk.refs}
        done = earlier = frames = 0
        failed: list[tuple[str, str]] = []
        notes: Counter[str] = Counter()
        for chunk in self.chunks:
            for ref in chunk.refs:
                entry = self._ledger.entry(ref.name)
                assert entry is not None
                for sequence in entry.sequences:
                    if sequence["status"] != "done":
                        failed.append((sequence["sequence"], sequence["error"]))
                        continue
                    done += 1
                    earlier += ref.name not in todo
                    frames += sequence["frames"]
                    notes.update(sequence.get("notes", ()))
        return Summary(done, earlier, frames, tuple(failed), dict(notes))


@contextmanager
def open_run(job: Job) -> Iterator[ArchiveRun]:
    """List the archive, read the ledger, and find what is to be done.

    Raises:
        UsageError: another run works in the folder, or the folder holds something else.
        ArchiveError: the archive cannot be listed, or the ledger is damaged.
        MissingComponentError: a package that reads or writes the files is not installed.
    """
    folder = Path(job.output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder}: is a file, expected a folder")
    if folder.is_dir() and not (folder / FILE).exists():
        others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if others:
            raise UsageError(
                f"--output {folder}: holds {others[0]!r} and no {FILE}; choose another folder, or empty it"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder) as temporary, Ledger(folder) as ledger:
        yield ArchiveRun(job, ledger, temporary)


def refine_archive(
    job: Job,
    advance: Callable[[int], None] = lambda frames: None,
    begin: Callable[[ArchiveRun], None] = lambda run: None,
) -> Summary:
    """Refine an archive in this process.

    Args:
        job: what is to be done.
        advance: takes the number of frames (`Chunk.weight`) of every chunk that is done.
        begin: takes the run before the first chunk.

    Raises:
        OSError: an output cannot be written, such as on a full disk. What is done stays, and the next run goes on.
        RefinerError: as `open_run` and `load_models`.
    """
    with open_run(job) as run:
        begin(run)
        models = load_models(job) if run.todo else None
        for chunk in run.todo:
            assert models is not None
            run.record(chunk, refine_chunk(job, models, chunk))
            advance(chunk.weight)
        return run.finish()


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two recipes, for people."""
    for name in ("refiner", "lifter"):
        one, two = before.get(name), now[name]
        for key in two:
            if not isinstance(one, Mapping) or one.get(key) != two[key]:
                what = "file" if key == "sha256" else key
                yield f"the {what} of the {name} is another one"
    if before.get("refiner_version") != now["refiner_version"]:
        yield "the version of refiner is another one"
    options = before.get("options")
    for key, value in now["options"].items():
        if not isinstance(options, Mapping) or options.get(key) != value:
            yield f"{key} is {value}"
