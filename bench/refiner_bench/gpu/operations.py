"""A layer of STC attention for training, forward and backward, by PyTorch's calls and compiled with sums instead; and
a batch of scenes, operation by operation and as a graph."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from refiner.cli.common import run
from refiner.data.detector import DetectorModel
from refiner.data.synthetic import synthetic_motion
from refiner.errors import MissingComponentError
from refiner.files import atomic_write_text
from refiner.models.fusible import Part, sums_of
from refiner.models.stc import STCAttention
from refiner.training.config import SceneConfig
from refiner.training.scenes import SceneSampler
from refiner.training.scenes.motion import MotionClip
from refiner.training.scenes.replayed import FIRST_BATCHES, ReplayedScenes
from refiner_bench.gpu.profile_step import kernels_of, timed

# Of a step of lifter-small and lifter-base.
DIMS, BATCH, FRAMES, JOINTS, HEADS = (128, 256), 256, 27, 17, 8
WARM_UP = 3
# None: operation by operation. Else compiled, with these parts as sums.
VARIANTS: dict[str, tuple[Part, ...] | None] = {
    "eager": None,
    "compiled": (),
    "compiled, all sums": ("attention", "convolution"),
    "compiled, sums for attention": ("attention",),
    "compiled, sums for convolution": ("convolution",),
}
ROWS = 8


def build_parser() -> argparse.ArgumentParser:
    """The job's arguments."""
    parser = argparse.ArgumentParser(prog="operations", allow_abbrev=False)
    parser.add_argument("--output", type=Path, required=True, help="JSON, written anew after every variant")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every variant; a time box ends it where it must."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> None:
    if not torch.cuda.is_available():
        raise MissingComponentError("PyTorch sees no CUDA device here: sums are for such")
    device = torch.device("cuda")
    runs: dict[str, Callable[[], dict[str, Any]]] = {}
    for dim in DIMS:
        runs |= {
            f"width {dim}, {name}": partial(measured, dim, parts, device, BATCH) for name, parts in VARIANTS.items()
        }
        runs.setdefault("a batch of scenes", partial(scenes_measured, device, BATCH))
    found: dict[str, Any] = {}
    for name, run_it in runs.items():
        print(f"{name}: beginning")
        try:
            found[name] = run_it()
        except Exception as error:  # of many kinds, the compiler's among them; the others go on
            found[name] = {"failed": (str(error).strip() or repr(error)).splitlines()[0]}
        print(f"{name}: { {key: value for key, value in found[name].items() if key != 'rows'} }")
        atomic_write_text(arguments.output, json.dumps(found, indent=1) + "\n")


def measured(dim: int, parts: tuple[Part, ...] | None, device: torch.device, batch: int) -> dict[str, Any]:
    """``wall_ms`` of forward and backward together, without the profiler, and the kernels that take most of it."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = STCAttention(dim, HEADS).to(device).train()
    x = torch.randn(batch, FRAMES, JOINTS, dim, device=device, requires_grad=True)
    given = torch.randn_like(x)
    if parts is not None:
        layer.compile()

    def step(number: int) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            result = layer(x)
        torch.autograd.grad(result, [x, *layer.parameters()], given.to(result.dtype))

    with sums_of(*(parts or ())):
        for number in range(WARM_UP):
            step(number)
        _, wall = timed(step, device)
        rows = kernels_of(step, device)
    return {"wall_ms": wall, "device_ms": sum(row["ms"] for row in rows), "rows": rows[:ROWS]}


def scenes_measured(device: torch.device, batch: int) -> dict[str, Any]:
    """``wall_ms`` and ``host_ms`` of a batch of scenes, operation by operation and replayed as one graph."""
    clips = [MotionClip("one", "Walking", synthetic_motion(1, "Walking", 300))]
    scenes = SceneSampler(clips, DetectorModel.default(), SceneConfig(), FRAMES, batch, 0, device, 3)
    found: dict[str, Any] = {}
    for name, source in (("", scenes), ("replayed_", ReplayedScenes(scenes))):
        for step in range(FIRST_BATCHES + 1):
            source.batch(step)
        host, wall = timed(partial(_draw, source), device)
        found |= {f"{name}host_ms": host, f"{name}wall_ms": wall}
    return found


def _draw(source: SceneSampler | ReplayedScenes, step: int) -> None:
    source.batch(step)
