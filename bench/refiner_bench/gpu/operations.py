"""A layer of STC attention for training, forward and backward: by PyTorch's calls, and compiled with sums instead."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from refiner.cli.common import run
from refiner.errors import MissingComponentError
from refiner.files import atomic_write_text
from refiner.models.fusible import Part, sums_of
from refiner.models.stc import STCAttention
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
    found: dict[str, Any] = {}
    for dim in DIMS:
        for variant in VARIANTS:
            name = f"width {dim}, {variant}"
            print(f"{name}: beginning")
            try:
                found[name] = measured(dim, VARIANTS[variant], torch.device("cuda"), BATCH)
            except Exception as error:  # of many kinds, the compiler's among them; the other variants go on
                found[name] = {"failed": (str(error).strip() or repr(error)).splitlines()[0]}
            print(f"{name}: {found[name].get('wall_ms', found[name].get('failed'))}")
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
