"""Times of variants of an STC attention layer, and of the sampling of a batch of scenes, on a CUDA device.

The layer runs forward and backward: with PyTorch's calls, and compiled with some calls written as sums. The batch of
scenes is sampled operation by operation, and as a CUDA graph.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

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
from refiner_bench.report import JsonObject

# The sizes of a training step of lifter-small and lifter-base.
DIMS, BATCH, FRAMES, JOINTS, HEADS = (128, 256), 256, 27, 17, 8
WARM_UP = 3
# By variant: the parts that are written as sums in a compiled layer. None stands for a layer that is not compiled.
VARIANTS: dict[str, tuple[Part, ...] | None] = {
    "eager": None,
    "compiled": (),
    "compiled, all sums": ("attention", "convolution"),
    "compiled, sums for attention": ("attention",),
    "compiled, sums for convolution": ("convolution",),
}
# The number of kernels in the report.
ROWS = 8


def build_parser() -> argparse.ArgumentParser:
    """The parser of the job's arguments."""
    parser = argparse.ArgumentParser(prog="operations", allow_abbrev=False)
    parser.add_argument("--output", type=Path, required=True, help="JSON, written again after every variant")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every variant."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> None:
    if not torch.cuda.is_available():
        raise MissingComponentError("PyTorch sees no CUDA device here: sums are for CUDA devices")
    device = torch.device("cuda")
    runs: dict[str, Callable[[], JsonObject]] = {}
    for dim in DIMS:
        runs |= {
            f"width {dim}, {name}": partial(measured, dim, parts, device, BATCH) for name, parts in VARIANTS.items()
        }
        runs.setdefault("a batch of scenes", partial(scenes_measured, device, BATCH))
    results: dict[str, JsonObject] = {}
    for name, measure in runs.items():
        print(f"{name}: beginning")
        try:
            results[name] = measure()
        except Exception as error:  # errors of many types, also from the compiler; the other variants go on
            results[name] = {"failed": (str(error).strip() or repr(error)).splitlines()[0]}
        print(f"{name}: { {key: value for key, value in results[name].items() if key != 'rows'} }")
        atomic_write_text(arguments.output, json.dumps(results, indent=1) + "\n")


def measured(dim: int, parts: tuple[Part, ...] | None, device: torch.device, batch: int) -> JsonObject:
    """Measure forward and backward pass of one variant.

    Args:
        dim: The width of the layer.
        parts: The value of `VARIANTS`.
        device: The device.
        batch: The number of windows.

    Returns:
        The keys ``wall_ms`` (without the profiler), ``device_ms`` (the sum over all kernels) and ``rows`` (the kernels
        that take the most time).
    """
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = STCAttention(dim, HEADS).to(device).train()
    x = torch.randn(batch, FRAMES, JOINTS, dim, device=device, requires_grad=True)
    gradient = torch.randn_like(x)
    if parts is not None:
        layer.compile()

    def step(number: int) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            result = layer(x)
        torch.autograd.grad(result, [x, *layer.parameters()], gradient.to(result.dtype))

    with sums_of(*(parts or ())):
        for number in range(WARM_UP):
            step(number)
        _, wall = timed(step, device)
        rows = kernels_of(step, device)
    return {"wall_ms": wall, "device_ms": sum(row.ms for row in rows), "rows": [asdict(row) for row in rows[:ROWS]]}


def scenes_measured(device: torch.device, batch: int) -> dict[str, float]:
    """The times of a batch of scenes.

    Returns:
        ``host_ms`` and ``wall_ms`` operation by operation; ``replayed_host_ms`` and ``replayed_wall_ms`` as one CUDA
        graph.
    """
    clips = [MotionClip("one", "Walking", synthetic_motion(1, "Walking", 300))]
    scenes = SceneSampler(clips, DetectorModel.default(), SceneConfig(), FRAMES, batch, 0, device, 3)
    times: dict[str, float] = {}
    for name, source in (("", scenes), ("replayed_", ReplayedScenes(scenes))):
        for step in range(FIRST_BATCHES + 1):
            source.batch(step)
        host, wall = timed(partial(_draw, source), device)
        times |= {f"{name}host_ms": host, f"{name}wall_ms": wall}
    return times


def _draw(source: SceneSampler | ReplayedScenes, step: int) -> None:
    source.batch(step)
