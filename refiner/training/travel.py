"""Move a run to another machine: its weights as a checkpoint in half precision, and its state in small files.

The checkpoint contains the moving average, so the state does not. The moments of the optimiser are stored in bfloat16,
which has the same range and 8 bits of precision. So the update of each weight is off by up to 0.4 % until the moments
are renewed, within a few hundred steps. The trained weights are stored in float32 or, on request, in float16, which
changes each of them once by up to 0.05 %.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from refiner.errors import CheckpointError
from refiner.files import atomic_path, atomic_write_text, sha256_of
from refiner.model_files.arrays import MODEL_PREFIX
from refiner.model_files.checkpoint import compress_checkpoint, load_checkpoint
from refiner.models.weights import read_safetensors
from refiner.training.config import Config, config_from_dict
from refiner.training.loop import BEST_FILE, HISTORY_FILE, LAST_FILE, STATE_FILE

LIMIT = 16 * 2**20 - 4096
_PART = re.compile(r"(?P<name>.+)\.state-(?P<number>\d+)-of-(?P<parts>\d+)")
_AVERAGE, _MODEL, _OPTIMISER = "average.", "model.", "optimiser."


def split_state(
    run: Path,
    folder: Path,
    name: str,
    weights: Literal["float32", "float16"] = "float32",
    limit: int = LIMIT,
) -> list[Path]:
    """Write the state of a run as ``NAME.safetensors`` and the files ``NAME.state-1-of-N`` to ``NAME.state-N-of-N``.

    Args:
        run: the folder of the run.
        folder: the folder to write to.
        name: NAME.
        weights: the type of the trained weights in the files.
        limit: largest size of a file in bytes.

    Returns:
        The files, the checkpoint first.

    Raises:
        CheckpointError: the folder holds no state, or the checkpoint alone is larger than ``limit``.
    """
    state, last = run / STATE_FILE, run / LAST_FILE
    if not state.is_file():
        raise CheckpointError(f"{run} holds no state of a run ({STATE_FILE}); nothing was trained there yet")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{name}.safetensors"
    compress_checkpoint(last, checkpoint)
    if checkpoint.stat().st_size > limit:
        raise CheckpointError(f"{checkpoint} has {checkpoint.stat().st_size:,} bytes, more than the limit of {limit:,}")
    tensors, metadata = read_safetensors(state)
    packed = {key: _packed(key, value, weights) for key, value in tensors.items() if not key.startswith(_AVERAGE)}
    header = {"run": metadata["run"], "checkpoint_sha256": sha256_of(checkpoint)}
    for old in _parts_of(folder, name):
        old.unlink()
    return [checkpoint, *_write_parts(packed, header, folder, name, limit)]


def join_state(folders: Sequence[Path], name: str, run: Path) -> int:
    """Restore the folder of a run from the files of `split_state`, so that the usual command can resume it.

    Args:
        folders: folders that may hold the files; the last folder with them is used.
        name: NAME of the files.
        run: the folder to write.

    Returns:
        The step of the run.

    Raises:
        CheckpointError: files are missing, damaged, or do not belong together.
    """
    folder = next((folder for folder in reversed(folders) if _parts_of(folder, name)), None)
    if folder is None:
        raise CheckpointError(f"no {name}.state-1-of-N in {', '.join(map(str, folders)) or 'no folder'}")
    checkpoint = folder / f"{name}.safetensors"
    run.mkdir(parents=True, exist_ok=True)
    with atomic_path(run / "joined.safetensors") as whole:
        _join_parts(_parts_of(folder, name), whole)
        tensors, metadata = read_safetensors(whole)
        loaded = load_checkpoint(checkpoint)
        if sha256_of(checkpoint) != metadata["checkpoint_sha256"]:
            raise CheckpointError(f"{checkpoint} is not the checkpoint that the state beside it was written with")
        tensors = {key: value.float() for key, value in tensors.items()}
        tensors |= {f"{_AVERAGE}{key}": value.contiguous() for key, value in loaded.state(MODEL_PREFIX).items()}
        _save(tensors, {"run": metadata["run"]}, run / STATE_FILE)
    (run / "joined.safetensors").unlink(missing_ok=True)
    header = json.loads(metadata["run"])
    atomic_write_text(run / HISTORY_FILE, json.dumps(header["history"], indent=1))
    for target in (LAST_FILE, BEST_FILE):
        with atomic_path(run / target) as temporary:
            shutil.copyfile(checkpoint, temporary)
    return int(header["step"])


def has_state(folder: Path, name: str) -> bool:
    """Whether ``folder`` holds files of a state of that name, complete or not."""
    return bool(_parts_of(folder, name))


def restart_from_weights(checkpoint: Path, run: Path) -> int:
    """Create the folder of a run from a checkpoint alone, after the state of the run was lost.

    The trained weights start as the moving average, and the optimiser starts without moments. The schedule continues
    from the step of the checkpoint.

    Args:
        checkpoint: a checkpoint of the lost run.
        run: the folder to write.

    Returns:
        The step of the run.

    Raises:
        CheckpointError: the file is no checkpoint of a run.
    """
    loaded = load_checkpoint(checkpoint)
    try:
        description, metrics = loaded.config["data_description"], loaded.config["metrics"]
        step, curve = int(metrics["step"]), metrics["validation_curve"]
        history = [{"step": point, "mpjpe_mm": error} for point, error in curve]
        seconds = float(metrics["wall_s"])
        followed = bool(metrics.get("rate_followed_clock", False))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} does not say how far it was trained ({error!r})") from error
    config = {key: value for key, value in loaded.config.items() if key not in ("data_description", "metrics")}
    header = {"config": config, "description": description, "step": step, "updates": step}
    header |= {"history": history, "seconds": seconds, "rate_followed_clock": followed}
    tensors = {
        f"{prefix}{key}": value.float().clone(memory_format=torch.contiguous_format)
        for prefix in (_AVERAGE, _MODEL)
        for key, value in loaded.state(MODEL_PREFIX).items()
    }
    run.mkdir(parents=True, exist_ok=True)
    _save(tensors, {"run": json.dumps(header)}, run / STATE_FILE)
    atomic_write_text(run / HISTORY_FILE, json.dumps(history, indent=1))
    for target in (LAST_FILE, BEST_FILE):
        with atomic_path(run / target) as temporary:
            shutil.copyfile(checkpoint, temporary)
    return step


def adopt_state(run: Path, config: Config) -> int:
    """Let a run continue with another configuration and other data; only the network must be the same.

    Args:
        run: the folder of the run.
        config: the new configuration.

    Returns:
        The step of the run.

    Raises:
        CheckpointError: the state belongs to another network.
    """
    tensors, metadata = read_safetensors(run / STATE_FILE)
    header = json.loads(metadata["run"])
    wanted = dataclasses.asdict(config)
    stored = config_from_dict(header["config"])
    if (stored.kind, stored.frames, stored.model) != (config.kind, config.frames, config.model):
        raise CheckpointError(f"{run} holds a run of another network than the configuration's; start a new run")
    _save(tensors, {"run": json.dumps({**header, "config": wanted, "description": {}})}, run / STATE_FILE)
    return int(header["step"])


def _packed(key: str, value: Tensor, weights: str) -> Tensor:
    if key.startswith(_OPTIMISER) and value.dim():
        return value.bfloat16()
    if key.startswith(_MODEL) and weights == "float16":
        return value.half()
    return value


def _save(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def _write_parts(
    tensors: dict[str, Tensor], metadata: dict[str, str], folder: Path, name: str, limit: int
) -> list[Path]:
    """Write a state in parts. A part is a line (its number, the number of parts, the digest of the whole) and bytes."""
    with atomic_path(folder / f"{name}.whole") as whole:
        _save(tensors, metadata, whole)
        content = whole.read_bytes()
    (folder / f"{name}.whole").unlink(missing_ok=True)
    room = limit - 256
    number = max(1, -(-len(content) // room))
    digest = hashlib.sha256(content).hexdigest()
    paths = []
    for part in range(number):
        path = folder / f"{name}.state-{part + 1}-of-{number}"
        line = json.dumps({"part": part + 1, "parts": number, "sha256": digest}).encode() + b"\n"
        with atomic_path(path) as temporary:
            temporary.write_bytes(line + content[part * room : (part + 1) * room])
        paths.append(path)
    return paths


def _parts_of(folder: Path, name: str) -> list[Path]:
    matches = {path: match for path in folder.glob(f"{name}.state-*") if (match := _PART.fullmatch(path.name))}
    return sorted(matches, key=lambda path: int(matches[path]["number"]))


def _join_parts(parts: Sequence[Path], whole: Path) -> None:
    lines, digest = [], hashlib.sha256()
    with open(whole, "wb") as written:
        for path in parts:
            with open(path, "rb") as part:
                try:
                    line = json.loads(part.readline())
                    lines.append((int(line["part"]), int(line["parts"]), str(line["sha256"])))
                except (ValueError, KeyError, TypeError) as error:
                    raise CheckpointError(f"{path} is no part of a state ({error!r})") from error
                content = part.read()
            digest.update(content)
            written.write(content)
    wanted = lines[0][1]
    if [number for number, _, _ in lines] != list(range(1, wanted + 1)):
        present = ", ".join(path.name for path in parts)
        raise CheckpointError(f"the state has {wanted} files, and here are: {present}; bring all of one run together")
    if {line[2] for line in lines} != {digest.hexdigest()}:
        raise CheckpointError(f"{parts[0].parent}: the files of the state are damaged, or of two runs")


def bytes_of_state(run: Path, weights: Literal["float32", "float16"]) -> int:
    """The bytes that `split_state` would write beside the checkpoint, without headers."""
    tensors, _ = read_safetensors(run / STATE_FILE)
    stored = (_packed(key, value, weights) for key, value in tensors.items() if not key.startswith(_AVERAGE))
    return sum(value.numel() * value.element_size() for value in stored if isinstance(value, torch.Tensor))
