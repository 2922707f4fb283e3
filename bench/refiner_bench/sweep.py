"""``refiner-bench sweep``: what each depth costs and how good it is, beside the paper's Table IV.

The checkpoints of the depths are trained on equal budgets by ``refiner-bench accuracy --table`` with `DEPTHS_TABLE`;
those that are bundled lie in `CHECKPOINTS`. A depth without one is measured with random weights and has no accuracy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from refiner.data import MotionFolder
from refiner.errors import UsageError
from refiner.evaluation.tables import markdown_table
from refiner_bench.counts import PAPER_TABLE_IV, DenoiserSize, window_flops
from refiner_bench.engines import PEER, measure_engines
from refiner_bench.report import new_report

HERE = Path(__file__).parent
CHECKPOINTS = HERE / "checkpoints"
DEPTHS_TABLE = HERE / "depths.toml"
DEPTHS = (4, 6, 8, 10)
# AOTInductor compiles for minutes: `refiner-bench engines` has it.
PAIRS = (("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("torch", "fp32"))
TOKENS_A_FRAME = 17

PEAK = """
import resource, sys
import numpy as np
from refiner.runtime.loading import open_engine
from refiner.runtime.engine import INPUTS
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
engine = open_engine(sys.argv[1], "refiner", threads=int(sys.argv[2]))
rng = np.random.default_rng(0)
frames = engine.frames
pose_2d = rng.uniform(200, 800, (1, frames, 17, 2)).astype(np.float32)
pose_3d = rng.normal(0, 0.4, (1, frames, 17, 3)).astype(np.float32)
for _ in range(5):
    engine(pose_2d, pose_3d, np.float32([[1000, 1002]]))
print(peak() / 1024)
"""


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """``steps`` and ``frames`` None: those of the checkpoints. ``data`` None: no accuracy."""

    depths: tuple[int, ...] = DEPTHS
    dim: int = 64
    steps: int | None = None
    frames: int | None = None
    batch: int = 1
    threads: int = 2
    rounds: int = 30
    checkpoints: Path = CHECKPOINTS
    pairs: tuple[tuple[str, str], ...] = PAIRS

    def check(self) -> None:
        """Raises UsageError."""
        if not self.depths or min(self.depths) < 2 or any(depth % 2 for depth in self.depths):
            raise UsageError(f"depths are even and at least 2 (two attention modules a block), got {self.depths}")
        if min(self.batch, self.threads, self.rounds) < 1:
            raise UsageError(
                f"batch, threads and rounds must be at least 1, got {self.batch}, {self.threads} and {self.rounds}"
            )


def sweep_report(
    options: SweepOptions, folder: MotionFolder | None, told: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Counts, accuracy on the test people where there are data and a checkpoint, and every engine of each depth."""
    options.check()
    with tempfile.TemporaryDirectory() as name:
        rows = []
        for depth in options.depths:
            told(f"depth {depth}")
            rows.append(_row(options, depth, folder, Path(name)))
    settings = dataclasses.asdict(options)
    del settings["checkpoints"]
    report = new_report("sweep", settings | {"data": None if folder is None else folder.description.name})
    report["rows"] = rows
    return report


def checkpoint_of(options: SweepOptions, depth: int) -> Path:
    """Where the checkpoint of a depth lies, if there is one."""
    return options.checkpoints / f"depth-{depth}.safetensors"


def _row(options: SweepOptions, depth: int, folder: MotionFolder | None, place: Path) -> dict[str, Any]:
    trained = checkpoint_of(options, depth)
    is_trained = trained.is_file()
    checkpoint = (
        trained if is_trained else _random_checkpoint(place / f"random-{depth}.safetensors", depth, options.dim)
    )
    measured = measure_engines(
        checkpoint, options.batch, options.threads, options.rounds, options.pairs, options.steps, options.frames
    )
    model = measured.module.config["model"]
    if 2 * int(model["blocks"]) != depth:
        raise UsageError(
            f"{checkpoint} has {model['blocks']} blocks, which is depth {2 * model['blocks']}, not {depth}"
        )
    size = DenoiserSize(
        depth=depth, dim=model["dim"], heads=model["heads"], mlp_ratio=model["mlp_ratio"], frames=measured.module.frames
    )
    window = measured.module.steps * window_flops(size)
    return {
        "name": f"depth {depth}",
        "depth": depth,
        "model": model,
        "steps": measured.module.steps,
        "frames": size.frames,
        "trained": hashlib.sha256(trained.read_bytes()).hexdigest() if is_trained else None,
        "parameters": sum(value.numel() for value in measured.module.denoiser.parameters()),
        "window_flops": window,
        "frame_flops": window // size.frames,
        "token_flops": window // (size.frames * TOKENS_A_FRAME),
        "paper_table_iv": PAPER_TABLE_IV.get(depth),
        "accuracy": _accuracy(checkpoint, folder, options) if is_trained and folder is not None else None,
        "peak_mb": peak_memory_mb(checkpoint, options.threads),
        "engines": measured.contestants | {title: {"missing": why} for title, why in measured.missing.items()},
    }


def _random_checkpoint(path: Path, depth: int, dim: int) -> Path:
    import torch

    from refiner.training.checkpoints import build_model, save_checkpoint
    from refiner.training.config import load_config

    config = dataclasses.asdict(load_config("refiner-small", [f"model.dim={dim}", f"model.blocks={depth // 2}"]))
    torch.manual_seed(0)
    tensors = {f"model.{name}": value for name, value in build_model(config).state_dict().items()}
    save_checkpoint(path, config, tensors | {"error_scale": torch.full((51,), 0.03)})
    return path


def _accuracy(checkpoint: Path, folder: MotionFolder, options: SweepOptions) -> dict[str, float]:
    """Of the test people with the bundled lifter, frame-wise means: the lifter's and the refined."""
    from refiner.runtime import Refiner
    from refiner.runtime.loading import BUNDLED
    from refiner_bench.accuracy.scores import LiftedClips, score_clips

    clips = folder.clips("test")
    with tempfile.TemporaryDirectory() as cache:
        lifted = LiftedClips(Path(cache), options.threads).lift(BUNDLED / "lifter.safetensors", clips, "test")
    refiner = Refiner.load(checkpoint, steps=options.steps, threads=options.threads)
    scores = score_clips(
        clips,
        lifted,
        lambda clip, pose: refiner.refine(clip.pose_2d, pose, clip.image_size, fps=clip.fps),
        "test",
        "default",
    )
    metrics = ("mpjpe", "p_mpjpe", "acceleration_error")
    before = type(scores.result)(scores.before)
    return {metric: scores.result.frame_mean(metric) for metric in metrics} | {
        f"lifter_{metric}": before.frame_mean(metric) for metric in metrics
    }


def peak_memory_mb(artefact: Path, threads: int) -> float:
    """The largest resident memory of a process of its own that loads an artefact and refines five windows."""
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(artefact), str(threads)], capture_output=True, text=True, check=True
    )
    return float(result.stdout)


def format_sweep(report: dict[str, Any]) -> str:
    """The report as Markdown: costs and accuracy by depth, then every engine."""
    settings, rows = report["settings"], report["rows"]
    first = rows[0]
    costs = markdown_table(
        [
            "depth",
            "parameters",
            "MFLOP a token",
            "GFLOP a window",
            "MPJPE",
            "P-MPJPE",
            "acceleration",
            "peak MB",
            "paper",
        ],
        [
            [
                str(row["depth"]),
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['token_flops'] / 1e6:.2f}",
                f"{row['window_flops'] / 1e9:.2f}",
                *_accuracies(row),
                f"{row['peak_mb']:.0f}",
                _paper(row["paper_table_iv"]),
            ]
            for row in rows
        ],
    )
    engines = markdown_table(
        ["depth, engine", "median ms", "p99 ms", "windows/s", "x the plain export", "largest mm", "size MB", "build s"],
        [
            [
                f"{row['depth']}, {title}",
                f"{entry['median_ms']:.2f}",
                f"{entry['p99_ms']:.2f}",
                f"{1000 * settings['batch'] / entry['median_ms']:.0f}",
                "{ratio:.2f} ({low:.2f} to {high:.2f})".format(**entry["faster_than_peer"]),
                f"{entry['largest_difference_mm']:.4f}",
                f"{entry['bytes'] / 1e6:.2f}" if "bytes" in entry else "",
                f"{entry['build_s']:.1f}" if "build_s" in entry else "",
            ]
            for row in rows
            for title, entry in row["engines"].items()
            if "missing" not in entry
        ],
    )
    untrained = [str(row["depth"]) for row in rows if row["trained"] is None]
    notes = [f"Depth {', '.join(untrained)}: random weights, no accuracy."] if untrained else []
    if report["settings"]["data"] is not None:
        notes.append(
            f"Accuracy: mm on the test people of {settings['data']}, simulated detections, the bundled lifter."
        )
    return "\n\n".join(
        [
            f"# Depth against cost and accuracy\n\nWidth {first['model']['dim']}, T = {first['frames']}, K = "
            f"{first['steps']}, batch {settings['batch']}, {settings['threads']} threads, {settings['rounds']} rounds, "
            f"{report['environment']['processor']}. FLOPs are those of all K steps. Last column: "
            "the paper's Table IV, MFLOP a token and MPJPE, of width 256 on Human3.6M: not comparable.",
            costs,
            *notes,
            f"The peer is the {PEER}.",
            engines,
        ]
    )


def _accuracies(row: dict[str, Any]) -> list[str]:
    found = row["accuracy"]
    if found is None:
        return ["", "", ""]
    return [f"{found['mpjpe']:.1f}", f"{found['p_mpjpe']:.1f}", f"{found['acceleration_error']:.2f}"]


def _paper(figures: Sequence[float] | None) -> str:
    return "" if figures is None else " / ".join(f"{value:g}" for value in figures)
