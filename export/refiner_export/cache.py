"""The cache of earlier builds. Its key is the hash of everything that determines an artefact."""

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
from refiner.files import naming_full_disk, sha256_of
from refiner.runtime.manifest import check_files, manifest_path, read_manifest
from refiner_export.options import ExportOptions
from refiner_export.versions import versions

# Artefacts are native code, so other users must not be able to put files here.
OWNER_ONLY = 0o700


def cache_folder() -> Path:
    """The folder of the cache: ``$XDG_CACHE_HOME/refiner/exports``, by default under ``~/.cache``."""
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
    """The artefact of an earlier build; None where there is none, or where one of its files is missing or changed."""
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
    """Copy an artefact, its files and its manifest into the cache. Does nothing where the cache cannot be written."""
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
    status = folder.stat()
    return status.st_mode & 0o022 == 0 and (not hasattr(os, "getuid") or status.st_uid == os.getuid())


def copy_artefact(artefact: Path, folder: Path) -> Path:
    """Copy an artefact with all its files, the manifest last. Returns the path of the copy."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = manifest_path(artefact)
    names = [*json.loads(manifest.read_text(encoding="utf-8"))["files"], manifest.name]
    parts = {name: folder / f".{name}.part" for name in names}
    try:
        with naming_full_disk(folder):
            for name, part in parts.items():
                shutil.copyfile(artefact.parent / name, part)
        # All bytes are written, so the disk cannot become full any more.
        (folder / manifest.name).unlink(missing_ok=True)
        for name, part in parts.items():
            os.replace(part, folder / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return folder / artefact.name


def _code_hash() -> str:
    """The hash of the source code, so that an artefact built before an edit is not taken after it."""
    digest = hashlib.sha256()
    package = Path(refiner.__file__).parent
    for folder in (Path(__file__).parent, package):
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def _data_facts(options: ExportOptions) -> list[Any]:
    """The size and time of the files in the data folder, and the hashes of the bundled lifters."""
    if options.data is None:
        return []
    entries = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(options.data.iterdir())]
    lifters = [bundled.lifter_of(rays) for rays in (False, True)]
    return [str(options.data.resolve()), entries, [sha256_of(file) if file.is_file() else None for file in lifters]]


def _machine(options: ExportOptions) -> list[str]:
    """The parts of the machine that determine the code of the engine."""
    facts = [platform.machine()]
    if options.engine == "aoti":
        facts += sorted({line for line in _cpu_description() if line.startswith(("model name", "flags"))})
    if options.spec.on_gpu_alone or options.device == "cuda":
        facts.append(_gpu_description())
    return facts


def _cpu_description() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else [platform.processor()]


def _gpu_description() -> str:
    command = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "no GPU"
