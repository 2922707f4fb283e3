"""The options of an export."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refiner.arguments import check_choice, check_flag, check_number, check_whole
from refiner.engines import DEVICES, ENGINES, MOST_STEPS, MOST_STREAMS, EngineSpec, exporting_engines
from refiner.errors import UsageError

# The allowed joint difference from float32 PyTorch in mm: the largest one for fp32, the mean for the other precisions.
TOLERANCE_MM = {"fp32": 0.01, "fp16": 0.5, "bf16": 0.5, "int8": 5.0}
TOLERANCE_WITH_LIFTER_MM = {"fp32": 0.01, "fp16": 1.0, "bf16": 1.0, "int8": 10.0}
# The allowed change of MPJPE in mm.
MPJPE_TOLERANCE_MM = {"fp32": 0.01, "fp16": 0.05, "bf16": 0.05, "int8": 0.3}
MOST_WINDOWS = 4096
MOST_COMPARED, MOST_WORKSPACE_MB = 1_000_000, 10_000_000
SMALLEST_TOLERANCE_MM = 1e-9
DEFAULT_OPSET, DEFAULT_WINDOWS = 20, 100
# 18 is the default of PyTorch's exporter. Below 20 there is no Gelu operator, so the exporter writes its parts.
OPSETS = range(18, 23)


@dataclass(frozen=True)
class Batch:
    """How many windows an engine takes at a time.

    Attributes:
        least: the smallest batch.
        best: the batch that the engine is tuned for.
        most: the largest batch.
    """

    least: int = 1
    best: int = 1
    most: int = 64

    @property
    def fixed(self) -> bool:
        """Whether the engine takes only one size."""
        return self.least == self.most

    @classmethod
    def parse(cls, text: str) -> Batch:
        """Read ``N`` or ``MIN:OPT:MAX``. Raises UsageError."""
        parts = text.split(":")
        try:
            numbers = [int(part) for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2] <= MOST_WINDOWS:
            raise UsageError(
                f"--batch {text}: expected a number of windows or MIN:OPT:MAX in rising order, 1 to {MOST_WINDOWS}"
            )
        return cls(*numbers)

    def __str__(self) -> str:
        return str(self.most) if self.fixed else f"{self.least}:{self.best}:{self.most}"


@dataclass(frozen=True)
class ExportOptions:
    """The options of one export. None stands for the default of the checkpoint or of the engine.

    Attributes:
        engine: the name of an engine (`refiner.engines.ENGINES`).
        output: the folder to write to.
        checkpoint: the lifter or refiner to export.
        lifter: a lifter to put into the same graph, in front of the refiner.
        precision: "fp32", "fp16", "bf16" or "int8".
        frames: the number of frames in a window.
        steps: the number of denoising or sampling steps K.
        batch: how many windows the artefact takes at a time.
        flip_test: also run the mirrored poses in the same batch, and average.
        streams: only for a causal refiner: the number of streams; None is one.
        pipelined: only for a causal refiner: run the K steps of K neighbouring frames in one pass.
        opset: the ONNX operator set.
        compute_capability: only for "trt-rtx": that of the GPU to build for, like "8.9".
        device: "cpu" or "cuda", for engines that run on both.
        workspace_mb: the memory that TensorRT may use for the build.
        timing_cache: only for "trt": TensorRT's timing cache, which is read and written.
        windows: how many windows are compared with PyTorch.
        tolerance_mm: the allowed joint difference, instead of the default of the precision.
        data: a motion archive for the comparison; None is the built-in synthetic motion.
        hypotheses: only for a diffusion lifter: the number of hypotheses.
    """

    engine: str
    output: Path
    checkpoint: Path
    lifter: Path | None = None
    precision: str = "fp32"
    frames: int | None = None
    steps: int | None = None
    batch: Batch = Batch()
    flip_test: bool = False
    streams: int | None = None
    pipelined: bool = False
    opset: int = DEFAULT_OPSET
    compute_capability: str | None = None
    device: str = "cpu"
    workspace_mb: int | None = None
    timing_cache: Path | None = None
    windows: int = DEFAULT_WINDOWS
    tolerance_mm: float | None = None
    data: Path | None = None
    hypotheses: int | None = None

    def check(self) -> None:
        """Raises UsageError for options that are wrong or do not go together."""
        known = [spec.name for spec in exporting_engines()]
        if self.engine not in known:
            raise UsageError(f"there is no engine {self.engine!r}; choose one of {', '.join(known)}")
        if self.precision not in self.spec.precisions:
            allowed = ", ".join(self.spec.precisions)
            raise UsageError(f"--engine {self.engine} has no --precision {self.precision}; choose one of {allowed}")
        if self.compute_capability is not None and self.engine != "trt-rtx":
            raise UsageError("--compute-capability is for --engine trt-rtx; the others compile for the GPU at hand")
        if self.timing_cache is not None and self.engine != "trt":
            raise UsageError("--timing-cache is for --engine trt; TensorRT for RTX would ask for a GPU with one")
        if self.device == "cuda" and not self.has_device:
            *others, last = [spec.name for spec in exporting_engines() if len(spec.devices) > 1]
            raise UsageError(f"--device is for {', '.join(others)} and {last}; {self.engine} has one kind of device")
        check_choice(self.device, "device", DEVICES)
        check_flag(self.flip_test, "--flip-test")
        check_flag(self.pipelined, "--pipelined")
        check_whole(self.windows, "--windows", 1, MOST_COMPARED)
        for option, value, most in (
            ("--streams", self.streams, MOST_STREAMS),
            ("--frames", self.frames, MOST_WINDOWS),
            ("--steps", self.steps, MOST_STEPS),
            ("--hypotheses", self.hypotheses, MOST_WINDOWS),
            ("--workspace-mb", self.workspace_mb, MOST_WORKSPACE_MB),
        ):
            if value is not None:
                check_whole(value, option, 1, most)
        if self.engine == "onnx" and self.precision == "bf16" and self.device == "cpu":
            raise UsageError(
                "ONNX Runtime has no bf16 products on a CPU; take --engine openvino --precision bf16, or --device cuda"
            )
        if self.opset not in OPSETS:
            raise UsageError(f"--opset {self.opset}: expected {OPSETS.start} to {OPSETS.stop - 1}")
        if self.data is not None and not self.data.is_dir():
            raise UsageError(f"--data {self.data}: there is no such folder")
        if self.tolerance_mm is not None:
            check_number(self.tolerance_mm, "--tolerance-mm", SMALLEST_TOLERANCE_MM, unit="millimetres")

    @property
    def spec(self) -> EngineSpec:
        """The engine's row in the table of engines."""
        return ENGINES[self.engine]

    @property
    def has_device(self) -> bool:
        """Whether the engine's files run on more than one kind of device."""
        return len(self.spec.devices) > 1

    @property
    def chooses_branches(self) -> bool:
        """Whether bf16 leaves some branches in float32. OpenVINO and PyTorch have their own implementation of bf16."""
        return self.precision == "bf16" and self.engine not in ("openvino", "torch")

    def facts(self) -> dict[str, Any]:
        """The options that determine the bytes of the artefact, as JSON."""
        model = ("frames", "steps", "hypotheses", "flip_test", "streams", "pipelined")
        names = ("engine", "precision", *model, "opset", "compute_capability", "device")
        facts = {name: getattr(self, name) for name in names}
        return facts | {
            "batch": dataclasses.astuple(self.batch),
            "workspace_mb": self.workspace_mb,
        }

    def mean_tolerance_mm(self) -> float:
        """The allowed joint difference in mm: the largest one for fp32, the mean for other precisions."""
        if self.tolerance_mm is not None:
            return self.tolerance_mm
        return (TOLERANCE_MM if self.lifter is None else TOLERANCE_WITH_LIFTER_MM)[self.precision]
