"""Where the time of a call goes, in the native engine and in others: networks of other depths and widths in turns.

No engine says how long its parts take. So the parts are measured from outside, in the same way for every engine: a
network with half of the blocks is faster by these blocks, and one with narrow MLPs by its MLPs. The networks are
smaller, not larger, than the one in question, so that they stay in the caches where it does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from refiner_export.build import export_artefact
from refiner_export.options import ExportOptions

from refiner.arguments import check_whole
from refiner.engines import CHECKPOINT_SUFFIX, ENGINES, NATIVE, EngineOptions
from refiner.errors import MissingComponentError, UsageError
from refiner.evaluation.tables import markdown_table
from refiner.model_files.arrays import load_arrays
from refiner.model_spec import ModelSpec
from refiner.reports import Report, new_report
from refiner.runtime.loading import open_engine
from refiner.runtime.native.window import NativeEngine
from refiner_bench.inputs import refiner_inputs
from refiner_bench.report import JsonObject
from refiner_bench.steps import step_of
from refiner_bench.timing import Contestant, Run, interleaved, large_product
from refiner_bench.untrained import random_checkpoint

MEASURED = (NATIVE, "torch", "onnx")
WARM_UP, TURN_S = 2, 0.03
MOST_ROUNDS = 10_000
PRODUCT = "large product"
# Before the name of a phase that is a part of the phase before it.
PART = "of it "

Log = Callable[[str], None]
Times = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A kind of call.

    Attributes:
        title: Its name in the report.
        config: The named configuration of its network, which gets random weights.
        overrides: Changes of the configuration.
        step: Whether a call is a causal step instead of a window.
        threads: The threads of a call.
    """

    title: str
    config: str
    overrides: tuple[str, ...] = ()
    step: bool = False
    threads: int = 1


CASES = (
    Case("window, bundled size", "refiner-nano-rays"),
    Case("causal step, bundled size", "refiner-nano-rays-causal", step=True),
    Case("window, the paper's size", "refiner-paper", threads=2),
)


def profile_report(
    rounds: int, without: Sequence[str] = (), cases: Sequence[Case] = CASES, log: Log = lambda line: None
) -> Report:
    """Measure where the time of a call goes, for some kinds of call, in every engine that has them.

    Args:
        rounds: The number of timed rounds.
        without: The names of engines to leave out.
        cases: The kinds of call.
        log: Called with lines about the progress.

    Returns:
        The report: by kind of call and engine the milliseconds of a call and of its phases, each as its median over
        the rounds and the quartiles. Phases that begin with "of it" are parts of the one before them; the others add
        up to the call.

    Raises:
        UsageError: The number of rounds is out of range, or an engine is unknown.
    """
    rounds = check_whole(rounds, "rounds", 2, MOST_ROUNDS)
    unknown = [name for name in without if name not in MEASURED]
    if unknown:
        raise UsageError(f"{unknown[0]} is not measured here; these are: {', '.join(MEASURED)}")
    report = new_report("profile-native", {"rounds": rounds})
    engines = [name for name in MEASURED if name not in without]
    with tempfile.TemporaryDirectory() as name:
        report["cases"] = {case.title: _profiled(case, Path(name), engines, rounds, log) for case in cases}
    return report


def _profiled(case: Case, folder: Path, engines: Sequence[str], rounds: int, log: Log) -> dict[str, object]:
    torch.set_num_threads(case.threads)
    whole = random_checkpoint(folder / f"{case.config}.safetensors", case.config, case.overrides)
    arrays = load_arrays(whole)
    spec, model = ModelSpec.of_config(arrays.config), arrays.config["model"]
    blocks, ratio, steps = int(model["blocks"]), int(model["mlp_ratio"]), int(arrays.config["diffusion"]["steps"])
    files = {"whole": whole}
    if blocks < 2 or ratio < 2:
        raise UsageError(f"{case.title} needs two blocks and MLPs of ratio 2, or more of both, for its differences")
    for variant, change in (("narrow", "model.mlp_ratio=1"), ("shallow", f"model.blocks={blocks // 2}")):
        path = folder / f"{case.config}-{variant}.safetensors"
        files[variant] = random_checkpoint(path, case.config, (*case.overrides, change))
    calls: dict[str, Run] = {}
    missing: dict[str, str] = {}
    for engine in engines:
        log(f"{case.title}: {engine}")
        try:
            calls |= {f"{engine}, {variant}": _call(case, file, folder, engine) for variant, file in files.items()}
        except MissingComponentError as error:
            missing[engine] = str(error)
    if NATIVE in engines and not case.step:
        calls["inputs"] = _without_network(whole, case.threads)
        calls["mixing"] = _mixing(model, spec.frames, case.threads)
    log(f"{case.title}: timing")
    contestants = {name: Contestant(1, run) for name, run in calls.items()} | {PRODUCT: large_product(torch.float32)}
    rates = interleaved(contestants, rounds, WARM_UP, TURN_S)
    times = {name: 1000.0 / np.array(values) for name, values in rates.items() if name != PRODUCT}
    tokens = 17 * (1 if case.step else spec.frames)
    attentions = 2 * blocks * steps
    flop = {"MLPs": 2.0 * 2 * ratio * int(model.get("mlps", 1)), "products": 2.0 * 2 * 4}
    floors = {
        name: 1000.0 * tokens * int(model["dim"]) ** 2 * blocks * steps * each / np.array(rates[PRODUCT])
        for name, each in flop.items()
    }
    measured: dict[str, object] = {}
    for engine in engines:
        if engine not in missing:
            of = {variant: times[f"{engine}, {variant}"] for variant in files}
            own = times if engine == NATIVE else {}
            mlps = (of["whole"] - of["narrow"]) * ratio / (ratio - 1)
            layers = (of["whole"] - of["shallow"]) * blocks / (blocks - blocks // 2) - mlps
            mixing = own["mixing"] * attentions if "mixing" in own else None
            parts = _phases(of["whole"], mlps, layers, own.get("inputs"), mixing)
            measured[engine] = {name: _summary(values) for name, values in parts.items()}
    return {
        "threads": case.threads,
        "frames": 1 if case.step else spec.frames,
        "model": model,
        "steps": steps,
        "floors": {name: _summary(values) for name, values in floors.items()},
        "engines": measured,
        "missing": missing,
    }


def _phases(whole: Times, mlps: Times, layers: Times, inputs: Times | None, mixing: Times | None) -> dict[str, Times]:
    """The milliseconds of the phases in each round; "call" is the sum of those that are no part of another.

    Args:
        whole: The times of a call.
        mlps: Those of its MLPs.
        layers: Those of its attention layers.
        inputs: Those of a call without its network.
        mixing: Those of attention and convolution in its attention layers.
    """
    phases = {"call": whole, "MLPs": mlps, "attention layers": layers}
    if mixing is not None:
        phases |= {f"{PART}attention and convolution": mixing, f"{PART}products and norms": layers - mixing}
    rest = phases["the rest"] = whole - mlps - layers
    if inputs is not None:
        phases |= {f"{PART}inputs and sampling": inputs, f"{PART}embedding, head": rest - inputs}
    return phases


def _summary(values: Times) -> dict[str, float]:
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"ms": float(median), "low_ms": float(low), "high_ms": float(high)}


def _call(case: Case, file: Path, folder: Path, engine: str) -> Run:
    if case.step:
        return step_of(file, folder, engine)
    path = file
    if ENGINES[engine].suffix != CHECKPOINT_SUFFIX:
        path = export_artefact(ExportOptions(engine, folder / f"{file.stem}-{engine}", file), lambda line: None).path
    opened = open_engine(path, "refiner", EngineOptions(engine, threads=case.threads))
    given = refiner_inputs(opened.rays, opened.frames)
    return lambda: opened(*given)


class _WithoutNetwork(NativeEngine):
    """The native engine without its network, whose output is 0: what is left is what NumPy does."""

    def _run(self, step: int, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.zeros((*features.shape[:-1], 3), np.float32)


def _without_network(file: Path, threads: int) -> Run:
    engine = _WithoutNetwork(file, "refiner", threads=threads)
    given = refiner_inputs(engine.rays, engine.frames)
    return lambda: engine(*given)


def _mixing(model: Mapping[str, int], frames: int, threads: int) -> Run:
    """Attention and convolution of one layer, in the kernel that the native engine calls for windows."""
    from refiner import _native

    dim, heads = int(model["dim"]), int(model["heads"])
    width = dim // (2 * heads)
    rng = np.random.default_rng(0)
    qkv = rng.normal(size=(1, frames, 17, 3 * dim)).astype(np.float32)
    convolution = rng.normal(size=(2, 9, width, heads)).astype(np.float32)
    bias = rng.normal(size=(2, 17, width, heads)).astype(np.float32)
    out = np.empty((1, frames, 17, dim), np.float32)
    scale = (dim // 2) ** -0.5
    return lambda: _native.stc_attention_forward(qkv, convolution, bias, out, scale, threads, 0)


def phase_table(measured: JsonObject) -> str:
    """The phases of a kind of call as Markdown, a row for each phase and a column for each engine."""
    engines = measured["engines"]
    names = list(dict.fromkeys(name for phases in engines.values() for name in phases))
    rows = [[name, *(_cell(phases.get(name), phases["call"]) for phases in engines.values())] for name in names]
    return markdown_table(["phase", *engines], rows)


def _cell(phase: JsonObject | None, call: JsonObject) -> str:
    if phase is None:
        return ""
    share = "" if phase == call else f", {max(phase['ms'], 0.0) / call['ms']:.0%}"
    return f"{phase['ms']:.2f} ({phase['low_ms']:.2f} to {phase['high_ms']:.2f}){share}"


def format_cases(report: JsonObject) -> str:
    """What was measured of each kind of call, as Markdown."""
    parts = []
    for title, measured in report["cases"].items():
        model, floors = measured["model"], measured["floors"]
        parts.append(
            f"{title[0].upper()}{title[1:]} (C = {model['dim']}, {model['blocks']} blocks, MLPs of ratio "
            f"{model['mlp_ratio']}, K = {measured['steps']}, T = {measured['frames']}, {measured['threads']} "
            "thread(s)):"
        )
        parts.append(phase_table(measured))
        parts.append(
            f"At the rate of a large product the MLPs would take {floors['MLPs']['ms']:.2f} ms and the products of the "
            f"attention layers {floors['products']['ms']:.2f} ms."
        )
        parts += [f"{engine} was not measured: {reason}" for engine, reason in measured["missing"].items()]
    return "\n\n".join(parts)


def format_profile(report: JsonObject) -> str:
    """The report as Markdown."""
    return (
        f"# Where the time of a call goes\n\n{report['environment']['processor']}, {report['settings']['rounds']} "
        "rounds in turns within one run; medians in ms, the quartiles in brackets, and the share of the call.\n\n"
    ) + format_cases(report)
