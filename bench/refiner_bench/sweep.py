"""``refiner-bench sweep``: cost and accuracy of each network depth, next to Table IV of the paper.

``python -m studies.accuracy --table studies/depths.toml`` trains the checkpoints of all depths with equal budgets and
several seeds. The committed checkpoints are in the folder `CHECKPOINTS`. A depth without a checkpoint is measured with
random weights and has no accuracy.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner import bundled
from refiner.data import CameraClip, MotionFolder
from refiner.errors import UsageError
from refiner.evaluation.tables import markdown_table
from refiner.files import sha256_of
from refiner.model_files.checkpoint import load_checkpoint
from refiner.reports import Report, new_report
from refiner_bench.cameras import cameras_text, of_cameras
from refiner_bench.counts import PAPER_TABLE_IV, DenoiserSize, window_flops
from refiner_bench.engines import PEER, EngineResult, measure_engines
from refiner_bench.report import JsonObject
from refiner_bench.timing import best_rate, large_product
from refiner_bench.untrained import random_checkpoint

CHECKPOINTS = Path(__file__).parent / "checkpoints"
DEPTHS = (4, 6, 8, 10)
# AOTInductor is missing here because it compiles for minutes; `refiner-bench engines` measures it.
PAIRS = (("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("torch", "fp32"))
METRICS = ("mpjpe", "p_mpjpe", "acceleration_error")

# The program of the process whose memory `peak_memory_mb` measures.
PEAK_MEMORY_PROGRAM = """
import resource, sys
import numpy as np
from refiner.engines import EngineOptions
from refiner.runtime.loading import open_engine
engine = open_engine(sys.argv[1], "refiner", EngineOptions(threads=int(sys.argv[2])))
rng = np.random.default_rng(0)
frames = engine.frames
pose_2d = rng.uniform(200, 800, (1, frames, 17, 2)).astype(np.float32)
pose_3d = rng.normal(0, 0.4, (1, frames, 17, 3)).astype(np.float32)
for _ in range(5):
    engine(pose_2d, pose_3d, np.float32([[1000, 1002]]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@dataclasses.dataclass(frozen=True)
class ScoredClips:
    """The clips of the test people, and for each clip the poses of the bundled lifter, ``(F, 17, 3)`` metres."""

    clips: list[CameraClip]
    lifted: list[NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class SweepAccuracy:
    """One metric on the test people, averaged over frames: before refinement, and after it for each seed."""

    lifter: float
    by_seed: list[float]
    mean: float


@dataclasses.dataclass(frozen=True)
class SweepRow:
    """One depth of the report. The field names are the keys of the JSON report.

    Attributes:
        name: "depth D".
        depth: The number of attention modules, twice the number of blocks.
        model: The model's section of the checkpoint's configuration.
        steps: The denoising steps K.
        frames: The frames T of a window.
        trained: The SHA-256 of each trained checkpoint; empty for random weights.
        parameters: The number of trainable numbers.
        window_flops: FLOPs of a window, all K steps.
        frame_flops: FLOPs of a frame.
        token_flops: FLOPs of one joint of one frame.
        paper_table_iv: MFLOP a token and MPJPE in mm of the paper's Table IV, or None.
        accuracy: The accuracy by metric, or None.
        peak_mb: The peak memory of a process that refines a few windows, in MB.
        engines: The measurement of each engine by its title.
        missing: For each engine that can't run here, the reason.
    """

    name: str
    depth: int
    model: JsonObject
    steps: int
    frames: int
    trained: list[str]
    parameters: int
    window_flops: int
    frame_flops: int
    token_flops: int
    paper_table_iv: tuple[float, float] | None
    accuracy: dict[str, SweepAccuracy] | None
    peak_mb: float
    engines: dict[str, EngineResult]
    missing: dict[str, str]

    def to_json(self) -> dict[str, object]:
        """The row of a JSON report. An engine that can't run has the reason in the place of its measurement."""
        row = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "missing"}
        if self.accuracy is not None:
            row["accuracy"] = {metric: dataclasses.asdict(entry) for metric, entry in self.accuracy.items()}
        measured: dict[str, object] = {title: result.to_json() for title, result in self.engines.items()}
        row["engines"] = measured | {title: {"missing": reason} for title, reason in self.missing.items()}
        return row


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """The options of a sweep.

    Attributes:
        depths: The depths to measure.
        dim: The width of depths without a checkpoint.
        steps: The denoising steps K; None for those of the checkpoints.
        frames: The frames T of a window; None for those of the checkpoints.
        batch: The number of windows of a call.
        threads: The number of threads of every engine.
        rounds: The number of timed rounds.
        checkpoints: A folder with files ``depth-D-seed-S.safetensors``.
        runs: The folder of the runs that trained the checkpoints. It replaces ``checkpoints`` where it is not None.
        pairs: The engines to measure, each with its precision.
        cameras: The number of cameras of each clip that are scored; None for all.
    """

    depths: tuple[int, ...] = DEPTHS
    dim: int = 64
    steps: int | None = None
    frames: int | None = None
    batch: int = 1
    threads: int = 2
    rounds: int = 30
    checkpoints: Path = CHECKPOINTS
    runs: Path | None = None
    pairs: tuple[tuple[str, str], ...] = PAIRS
    cameras: int | None = None

    def check(self) -> None:
        """Raise UsageError for values out of range."""
        if not self.depths or min(self.depths) < 2 or any(depth % 2 for depth in self.depths):
            raise UsageError(f"depths are even and at least 2 (two attention modules a block), got {self.depths}")
        if self.cameras is not None and self.cameras < 1:
            raise UsageError(f"cameras must be at least 1, got {self.cameras}")
        if min(self.batch, self.threads, self.rounds) < 1:
            raise UsageError(
                f"batch, threads and rounds must be at least 1, got {self.batch}, {self.threads} and {self.rounds}"
            )


def sweep_report(
    options: SweepOptions, folder: MotionFolder | None, tell: Callable[[str], None] = lambda line: None
) -> Report:
    """Measure every depth: counts, accuracy on the test people, and latency in every engine.

    Args:
        options: The options. Raises UsageError for values out of range.
        folder: The motion archive for the accuracy; None leaves the accuracy out.
        tell: Receives a line of progress for each depth.
    """
    import torch

    options.check()
    with tempfile.TemporaryDirectory() as name:
        rows: list[SweepRow] = []
        scored = None if folder is None else _scored_clips(options, folder, Path(name))
        for depth in options.depths:
            tell(f"depth {depth}")
            rows.append(_row(options, depth, scored, Path(name)))
    settings = dataclasses.asdict(options)
    del settings["checkpoints"], settings["runs"]
    report = new_report("sweep", settings | {"data": None if folder is None else folder.description.name})
    report["products_per_s"] = best_rate(*large_product(torch.float32))
    report["rows"] = [
        row.to_json() | {"floor_ms": 1000.0 * options.batch * row.window_flops / report["products_per_s"]}
        for row in rows
    ]
    report["resolved"] = {metric: resolved_difference(report["rows"], metric) for metric in METRICS}
    return report


def checkpoints_of(options: SweepOptions, depth: int) -> list[Path]:
    """The checkpoints of a depth, sorted by seed; an empty list for a depth that was not trained."""
    if options.runs is not None:
        return sorted(options.runs.glob(f"depth-{depth}/seed-*/last.safetensors"))
    return sorted(options.checkpoints.glob(f"depth-{depth}-seed-*.safetensors"))


def resolved_difference(rows: Sequence[JsonObject], metric: str) -> float | None:
    """The smallest difference between two depths that is not explained by the choice of the seeds.

    It is half the width of Student's 95 % interval of the difference of two means. The variance over seeds is pooled
    over all depths.

    Args:
        rows: Rows of the JSON report.
        metric: One of `METRICS`.

    Returns:
        The difference in the unit of the metric; None if no depth has two seeds.
    """
    from scipy.stats import t

    values = [row["accuracy"][metric]["by_seed"] for row in rows if row["accuracy"] is not None]
    values = [entry for entry in values if len(entry) > 1]
    freedom = sum(len(entry) - 1 for entry in values)
    if not freedom:
        return None
    variance = sum(float(np.var(entry, ddof=1)) * (len(entry) - 1) for entry in values) / freedom
    seeds = min(len(entry) for entry in values)
    return float(t.ppf(0.975, freedom) * np.sqrt(2.0 * variance / seeds))


def _scored_clips(options: SweepOptions, folder: MotionFolder, cache: Path) -> ScoredClips:
    """The test people's clips, and the bundled lifter's poses of them."""
    from refiner_bench.accuracy.scores import LiftedClips

    clips = of_cameras(folder.clips("test"), options.cameras)
    lifter = bundled.checkpoint(bundled.SCREEN_LIFTER)
    return ScoredClips(clips, LiftedClips(cache, options.threads).lift(lifter, clips, "test"))


def _row(options: SweepOptions, depth: int, scored: ScoredClips | None, work: Path) -> SweepRow:
    """Measure one depth; ``work`` is a folder for a checkpoint with random weights."""
    trained = checkpoints_of(options, depth)
    overrides = [f"model.dim={options.dim}", f"model.blocks={depth // 2}"]
    first = (
        trained[0] if trained else random_checkpoint(work / f"random-{depth}.safetensors", "refiner-small", overrides)
    )
    model = load_checkpoint(first, "refiner").config["model"]
    if 2 * int(model["blocks"]) != depth:
        raise UsageError(f"{first} has {model['blocks']} blocks, which is depth {2 * model['blocks']}, not {depth}")
    measured = measure_engines(
        first, options.batch, options.threads, options.rounds, options.pairs, options.steps, options.frames
    )
    size = DenoiserSize(
        depth=depth, dim=model["dim"], heads=model["heads"], mlp_ratio=model["mlp_ratio"], frames=measured.module.frames
    )
    window = measured.module.steps * window_flops(size)
    return SweepRow(
        name=f"depth {depth}",
        depth=depth,
        model=model,
        steps=measured.module.steps,
        frames=size.frames,
        trained=[sha256_of(path) for path in trained],
        parameters=sum(value.numel() for value in measured.module.denoiser.parameters()),
        window_flops=window,
        frame_flops=window // size.frames,
        token_flops=window // size.tokens,
        paper_table_iv=PAPER_TABLE_IV.get(depth),
        accuracy=_accuracy(trained, scored, options) if trained and scored is not None else None,
        peak_mb=peak_memory_mb(first, options.threads),
        engines=measured.contestants,
        missing=measured.missing,
    )


def _accuracy(trained: Sequence[Path], scored: ScoredClips, options: SweepOptions) -> dict[str, SweepAccuracy]:
    """The accuracy of each checkpoint of a depth, by metric."""
    from refiner.evaluation.metrics import root_relative
    from refiner.evaluation.protocol import EvaluationResult
    from refiner.runtime import Refiner
    from refiner_bench.accuracy.scores import Scores, score_clips

    clips, lifted = scored.clips, scored.lifted

    def score(checkpoint: Path) -> Scores:
        refiner = Refiner.load(checkpoint, steps=options.steps, threads=options.threads)
        refined = [
            root_relative(refiner.refine(clip.pose_2d, pose, clip.image_size, fps=clip.fps))
            for clip, pose in zip(clips, lifted, strict=True)
        ]
        return score_clips(clips, lifted, refined, "test", "default")

    scores = [score(path) for path in trained]
    before = EvaluationResult(scores[0].before)
    accuracy = {}
    for metric in METRICS:
        by_seed = [entry.result.frame_mean(metric) for entry in scores]
        accuracy[metric] = SweepAccuracy(before.frame_mean(metric), by_seed, float(np.mean(by_seed)))
    return accuracy


def peak_memory_mb(artefact: Path, threads: int) -> float:
    """The peak resident memory in MB of a new process that loads an exported model and refines five windows."""
    result = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY_PROGRAM, str(artefact), str(threads)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(result.stdout)


def format_sweep(report: JsonObject) -> str:
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
        [
            "depth, engine",
            "median ms",
            "p99 ms",
            "windows/s",
            "x the plain export",
            "of the floor",
            "largest mm",
            "size MB",
            "build s",
        ],
        [
            [
                f"{row['depth']}, {title}",
                f"{entry['median_ms']:.2f}",
                f"{entry['p99_ms']:.2f}",
                f"{1000 * settings['batch'] / entry['median_ms']:.0f}",
                "{ratio:.2f} ({low:.2f} to {high:.2f})".format(**entry["faster_than_peer"]),
                f"{row['floor_ms'] / entry['median_ms']:.0%}",
                f"{entry['largest_difference_mm']:.4f}",
                f"{entry['bytes'] / 1e6:.2f}" if "bytes" in entry else "",
                f"{entry['build_s']:.1f}" if "build_s" in entry else "",
            ]
            for row in rows
            for title, entry in row["engines"].items()
            if "missing" not in entry
        ],
    )
    untrained = [str(row["depth"]) for row in rows if not row["trained"]]
    notes = [f"Depth {', '.join(untrained)}: random weights, no accuracy."] if untrained else []
    if report["settings"]["data"] is not None:
        seeds = max(len(row["trained"]) for row in rows)
        notes.append(
            f"Accuracy: mm on the test people of {settings['data']}, simulated detections, the bundled lifter; mean of "
            f"{seeds} seed(s){cameras_text(settings.get('cameras'))}. The budget is equal and short: depths trained to "
            "their ends may order differently."
        )
        resolved = report["resolved"]["mpjpe"]
        if resolved is not None:
            notes.append(f"Smaller differences in MPJPE than {resolved:.2f} mm are within the chance of the seeds.")
    return "\n\n".join(
        [
            f"# Depth against cost and accuracy\n\nWidth {first['model']['dim']}, T = {first['frames']}, K = "
            f"{first['steps']}, batch {settings['batch']}, {settings['threads']} threads, {settings['rounds']} rounds, "
            f"{report['environment']['processor']}. FLOPs are those of all K steps. Last column: "
            "the paper's Table IV, MFLOP a token and MPJPE, of width 256 on Human3.6M: not comparable.",
            costs,
            *notes,
            f"The peer is the {PEER}. The floor: all operations at the float32 rate of a large product, "
            f"{report['products_per_s'] / 1e9:.0f} GFLOP/s in this run.",
            engines,
        ]
    )


def _accuracies(row: JsonObject) -> list[str]:
    accuracy = row["accuracy"]
    if accuracy is None:
        return ["", "", ""]
    return [f"{accuracy[metric]['mean']:.2f}" for metric in METRICS]


def _paper(figures: Sequence[float] | None) -> str:
    return "" if figures is None else " / ".join(f"{value:g}" for value in figures)
