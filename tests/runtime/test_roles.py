"""A model is used for what it was made for, or refused: refiners of windows, causal refiners and lifters."""

from __future__ import annotations

import pytest

from refiner.engines import EngineOptions
from refiner.errors import ArtefactError, CheckpointError, ConfigError, UsageError
from refiner.runtime import Lifter, Refiner, open_causal_engine
from refiner.runtime.engine import ModelDefaults
from refiner.runtime.loading import open_engine
from refiner.runtime.streaming import StreamingRefiner
from refiner.runtime.streaming.causal_backend import CausalBackend
from refiner.runtime.streaming.window_backend import WindowBackend

CAUSAL, WINDOWS, LIFTER = "refiner-nano-rays-causal", "refiner-nano-rays", "lifter-nano-rays"
LENS = {"image_size": (1000, 1002), "focal_length": 1145}
# By engine, because the two have different files: PyTorch has checkpoints, ONNX Runtime the graphs beside them.
WRONG_FILES = {
    "windows of a causal refiner": (lambda engine: StreamingRefiner.load(CAUSAL, "window", engine=engine, **LENS)),
    "a stream of a window refiner": (lambda engine: StreamingRefiner.load(WINDOWS, engine=engine, **LENS)),
    "a causal refiner as a lifter": (lambda engine: Lifter.load(CAUSAL, engine=engine)),
    "a refiner as a lifter": (lambda engine: Lifter.load(WINDOWS, engine=engine)),
    "a lifter as a refiner": (lambda engine: Refiner.load(LIFTER, engine=engine)),
    "a stream of a lifter": (lambda engine: StreamingRefiner.load(LIFTER, engine=engine, **LENS)),
    "windows of a lifter": (lambda engine: StreamingRefiner.load(LIFTER, "window", engine=engine, **LENS)),
    "a refiner in front of a stream": (lambda engine: StreamingRefiner.load(lifter=WINDOWS, engine=engine, **LENS)),
}


@pytest.mark.parametrize("engine", ["torch", "onnx"])
@pytest.mark.parametrize("case", WRONG_FILES)
def test_files_for_something_else(case, engine):
    pytest.importorskip({"torch": "torch", "onnx": "onnxruntime"}[engine], reason=f"{engine} is not installed")
    with pytest.raises(
        (UsageError, ConfigError, CheckpointError, ArtefactError), match=r"causal|windows|lifter|refiner"
    ):
        WRONG_FILES[case](engine)


def test_a_causal_refiner_of_windows_is_refused_by_name():
    pytest.importorskip("torch", reason="PyTorch is not installed: checkpoints cannot be run")
    with pytest.raises(UsageError, match="this refiner is causal and was not trained on windows"):
        StreamingRefiner.load(CAUSAL, "window", engine="torch", **LENS)
    # Whole sequences are right: each frame is the frame of a stream.
    assert Refiner.load(CAUSAL, engine="torch").causal


class Other(ModelDefaults):
    """An engine of a kind, which is refused before it runs."""

    least_batch, largest_batch, frames, streams = 1, 1, 9, 1
    reach = None

    def __init__(self, kind):
        self.kind = kind


def test_engines_for_something_else():
    pytest.importorskip("torch", reason="PyTorch is not installed: checkpoints cannot be run")
    causal = open_causal_engine(CAUSAL, EngineOptions("torch"))
    sequences = open_engine(CAUSAL, "refiner", EngineOptions("torch"))
    for wrong in (
        lambda: Refiner(Other("lifter")),
        lambda: Refiner(causal),
        lambda: Lifter(Other("refiner")),
        lambda: Lifter(causal),
        lambda: WindowBackend(Other("lifter")),
        lambda: WindowBackend(causal),
        lambda: WindowBackend(sequences),
        lambda: WindowBackend(Other("refiner"), lifter=Other("refiner")),
        lambda: CausalBackend(Other("refiner")),
        lambda: CausalBackend(sequences),
        lambda: CausalBackend(causal, Other("refiner")),
    ):
        with pytest.raises(UsageError, match=r"this model is a|this refiner is causal"):
            wrong()
    # A refused stream does not keep the engine.
    CausalBackend(causal, Other("lifter"))
