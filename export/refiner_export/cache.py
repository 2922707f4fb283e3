"""Artefacts that were built before, by the hash of everything that they follow from."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import refiner
from refiner import bundled
from refiner.errors import ArtefactError
from refiner.files import sha256_of
from refiner.runtime.manifest import check_files, manifest_path, read_manifest
from refiner_export.options import ExportOptions
from refiner_export.versions import versions

# Engines are native code: nobody else may put one here.
OWNER_ONLY = 0o700


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/refiner/exports``, by default under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "refiner" / "exports"


def build_key(options: ExportOptions) -> str:
    """The hash of the checkpoints, the options, the versions, this code and the machine that compiles."""
    files = [options.checkpoint, *([options.lifter] if options.lifter else [])]
    facts: dict[str, Any] = {
        "options": options.facts(),
        "gate": [options.windows, options.tolerance_mm, *_data_facts(options)],
        "checkpoints": [[path.name, sha256_of(path)] for path in files],
        "versions": versions(),
        "code": _code_hash(),
        "machine": _machine(options),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def find(key: str) -> Path | None:
    """The artefact of an earlier build, None where there is none or it is no longer whole."""
    entry = cache_folder() / key
    if not _is_ours(cache_folder()):
        return None
    for manifest in entry.glob("*.json"):
        try:
            artefact = manifest.with_name(manifest.name.removesuffix(".json"))
            check_files(read_manifest(artefact), artefact)
        except (ArtefactError, OSError):
            shutil.rmtree(entry, ignore_errors=True)
            return None
        return artefact
    return None


def keep(key: str, artefact: Path) -> None:
    """Copy an artefact, its files and its manifest into the cache; a cache that cannot be written is left alone."""
    root = cache_folder()
    building = root / f".{key}-{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True, mode=OWNER_ONLY)
        if not _is_ours(root):
            return
        building.mkdir(mode=OWNER_ONLY)
        copy_artefact(artefact, building)
        shutil.rmtree(root / key, ignore_errors=True)
        building.rename(root / key)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether the folder is this user's and nobody else may write into it."""
    if not folder.is_dir():
        return False
    found = folder.stat()
    return found.st_mode & 0o022 == 0 and (not hasattr(os, "getuid") or found.st_uid == os.getuid())


def copy_artefact(artefact: Path, folder: Path) -> Path:
    """Copy an artefact with all that belongs to it, the manifest last; returns the copy."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = manifest_path(artefact)
    names = [*json.loads(manifest.read_text(encoding="utf-8"))["files"], manifest.name]
    parts = {name: folder / f".{name}.part" for name in names}
    try:
        for name, part in parts.items():
            shutil.copyfile(artefact.parent / name, part)
        # All bytes are there: from here on nothing can run out of space.
        (folder / manifest.name).unlink(missing_ok=True)
        for name, part in parts.items():
            os.replace(part, folder / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return folder / artefact.name


def _code_hash() -> str:
    """Of the sources that an artefact follows from, so that an edit is not answered with what was built before it."""
    digest = hashlib.sha256()
    package = Path(refiner.__file__).parent
    for folder in (Path(__file__).parent, package):
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def _data_facts(options: ExportOptions) -> list[Any]:
    """The data folder's files by size and time, and the bundled lifters that lift its 2D poses."""
    if options.data is None:
        return []
    entries = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(options.data.iterdir())]
    lifters = [bundled.lifter_of(rays) for rays in (False, True)]
    return [str(options.data.resolve()), entries, [sha256_of(file) if file.is_file() else None for file in lifters]]


def _machine(options: ExportOptions) -> list[str]:
    found = [platform.machine()]
    if options.engine == "aoti":
        found += sorted({line for line in _cpu_description() if line.startswith(("model name", "flags"))})
    if options.spec.on_gpu_alone or options.device == "cuda":
        found.append(_gpu_description())
    return found


def _cpu_description() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else [platform.processor()]


def _gpu_description() -> str:
    command = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "no GPU"
