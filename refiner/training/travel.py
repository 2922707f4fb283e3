"""A run that goes on at another machine: its weights as a checkpoint in half precision, and its state in small files.

The moving average travels once, as the checkpoint. The optimiser's moments travel in bfloat16, which keeps their range
and 8 bits: the rate of each weight is then off by up to 0.4 % until the moments have been renewed, within a few hundred
steps. The weights travel in float32, or in float16 where that is asked for: an error of up to 0.05 % of each, once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from refiner.errors import CheckpointError
from refiner.files import atomic_path, atomic_write_text, sha256_of
from refiner.model_files.checkpoint import MODEL_PREFIX, compress_checkpoint, load_checkpoint
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
    """Write the state of the run in ``run`` as ``NAME.safetensors`` and ``NAME.state-1-of-N`` into ``folder``.

    Args:
        weights: the type in which the weights that are trained travel.
        limit: bytes of a file, at most.

    Returns the files, the checkpoint first. Raises CheckpointError for a folder without a state, or where the
    checkpoint alone is larger than ``limit``.
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
    told = {"run": metadata["run"], "checkpoint_sha256": sha256_of(checkpoint)}
    for old in _parts_of(folder, name):
        old.unlink()
    return [checkpoint, *_write_parts(packed, told, folder, name, limit)]


def join_state(folders: Sequence[Path], name: str, run: Path) -> int:
    """Bring back what `split_state` wrote: ``run`` becomes the folder of a run, which the usual command goes on with.

    ``folders`` are looked through from the last to the first. Returns the step. Raises CheckpointError where files are
    missing, damaged, or do not belong together.
    """
    folder = next((folder for folder in reversed(folders) if _parts_of(folder, name)), None)
    if folder is None:
        raise CheckpointError(f"no {name}.state-1-of-N in {', '.join(map(str, folders)) or 'no folder'}")
    checkpoint = folder / f"{name}.safetensors"
    run.mkdir(parents=True, exist_ok=True)
    with atomic_path(run / "joined.safetensors") as whole:
        _join_parts(_parts_of(folder, name), whole)
        tensors, metadata = read_safetensors(whole)
        found = load_checkpoint(checkpoint)
        if sha256_of(checkpoint) != metadata["checkpoint_sha256"]:
            raise CheckpointError(f"{checkpoint} is not the checkpoint that the state beside it was written with")
        tensors = {key: value.float() for key, value in tensors.items()}
        tensors |= {f"{_AVERAGE}{key}": value.contiguous() for key, value in found.state(MODEL_PREFIX).items()}
        _save(tensors, {"run": metadata["run"]}, run / STATE_FILE)
    (run / "joined.safetensors").unlink(missing_ok=True)
    header = json.loads(metadata["run"])
    atomic_write_text(run / HISTORY_FILE, json.dumps(header["history"], indent=1))
    for target in (LAST_FILE, BEST_FILE):
        (run / target).write_bytes(checkpoint.read_bytes())
    return int(header["step"])


def has_state(folder: Path, name: str) -> bool:
    """Whether ``folder`` holds parts of a state of that name, whole or not."""
    return bool(_parts_of(folder, name))


def restart_from_weights(checkpoint: Path, run: Path) -> int:
    """Where a state is lost: ``run`` becomes the folder of a run that goes on from a checkpoint's weights.

    The weights that are trained begin as the moving average, the moments of the optimiser as nothing; the schedule goes
    on from the checkpoint's step, which is returned. Raises CheckpointError for a file that is no checkpoint of a run.
    """
    found = load_checkpoint(checkpoint)
    try:
        description, metrics = found.config["data_description"], found.config["metrics"]
        step, curve = int(metrics["step"]), metrics["validation_curve"]
        history = [{"step": point, "mpjpe_mm": error} for point, error in curve]
        seconds = float(metrics["wall_s"])
        followed = bool(metrics.get("rate_followed_clock", False))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} does not say how far it was trained ({error!r})") from error
    config = {key: value for key, value in found.config.items() if key not in ("data_description", "metrics")}
    header = {"config": config, "description": description, "step": step, "updates": step}
    header |= {"history": history, "seconds": seconds, "rate_followed_clock": followed}
    tensors = {
        f"{prefix}{key}": value.float().clone(memory_format=torch.contiguous_format)
        for prefix in (_AVERAGE, _MODEL)
        for key, value in found.state(MODEL_PREFIX).items()
    }
    run.mkdir(parents=True, exist_ok=True)
    _save(tensors, {"run": json.dumps(header)}, run / STATE_FILE)
    atomic_write_text(run / HISTORY_FILE, json.dumps(history, indent=1))
    for target in (LAST_FILE, BEST_FILE):
        (run / target).write_bytes(checkpoint.read_bytes())
    return step


def adopt_state(run: Path, config: Config) -> int:
    """Let the run in ``run`` go on under ``config`` and on whatever data it is given next; returns its step.

    Everything but the network may differ. Raises CheckpointError for a state of another network.
    """
    tensors, metadata = read_safetensors(run / STATE_FILE)
    header = json.loads(metadata["run"])
    wanted = dataclasses.asdict(config)
    stored = config_from_dict(header["config"])
    if (stored.kind, stored.frames, stored.model) != (config.kind, config.frames, config.model):
        raise CheckpointError(f"{run} holds a run of another network than the configuration's; begin anew")
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


def _write_parts(tensors: dict[str, Tensor], told: dict[str, str], folder: Path, name: str, limit: int) -> list[Path]:
    """Each part is a line that says which it is and what the whole is, then bytes of the whole."""
    with atomic_path(folder / f"{name}.whole") as whole:
        _save(tensors, told, whole)
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
    found = {path: match for path in folder.glob(f"{name}.state-*") if (match := _PART.fullmatch(path.name))}
    return sorted(found, key=lambda path: int(found[path]["number"]))


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
    """What `split_state` would write beside the checkpoint, without headers."""
    tensors, _ = read_safetensors(run / STATE_FILE)
    kept = (_packed(key, value, weights) for key, value in tensors.items() if not key.startswith(_AVERAGE))
    return sum(value.numel() * value.element_size() for value in kept if isinstance(value, torch.Tensor))
