"""``refiner-bench``: the measurements behind the project's published figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from refiner.cli.common import EXIT_CODES, HelpFormatter, run, thread_count
from refiner_bench.accuracy.command import add_accuracy
from refiner_bench.archive.command import add_archive
from refiner_bench.cli_reports import add_compare, add_page, add_readme
from refiner_bench.distributed import add_distributed
from refiner_bench.real.command import add_real
from refiner_bench.report import JsonObject
from refiner_bench.serving.command import add_serve
from refiner_bench.trajectory.command import add_trajectory

EXAMPLES = f"""\
examples:
  refiner-bench flops                                  the paper's Table IV: depths 4 6 8 10 at T = 27
  refiner-bench flops --frames 243 --depth 8 --json flops.json
  refiner-bench lifters                                the lifters at their published sizes
  refiner-bench cards --accuracy bench/reports/accuracy-study.json   cost, training data and accuracy of each model
  refiner-bench accuracy --data FOLDER                 the accuracy reports of the bundled models, minutes a report
  refiner-bench engines                                latency of a window in every engine, against a plain export
  refiner-bench steps                                  a causal step in every engine, by window and by memory
  refiner-bench profile-native                         where the time of a call goes, native against others
  refiner-bench busy                                   a window beside another busy program, by threads
  refiner-bench native                                 compiled kernels against NumPy, PyTorch and SciPy
  refiner-bench train-step                             windows/s of a training step, fused against plain
  refiner-bench distributed                            training by two processes against one: error and windows/s
  refiner-bench sweep --data FOLDER --json sweep.json  depths 4 to 10: cost, accuracy, every engine
  refiner-bench streaming --data FOLDER                a live stream: latency per frame, error by delay
  refiner-bench serve                                  a stream server and its clients: how many a core holds
  refiner-bench real                                   real videos, MediaPipe's 3D and ours; --rebuild detects again
  refiner-bench trajectory --data FOLDER               where people are in front of the camera, by what is known
  refiner-bench archive --ray                          an archive beside its engine, memory, one actor and two
  refiner-bench compare before.json after.json         regressions between two reports (exit code 6)
  refiner-bench page bench/reports                     one HTML page of all reports
  refiner-bench readme --check                         check that the README's tables equal its reports

{EXIT_CODES}"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command's options."""
    parser = argparse.ArgumentParser(
        prog="refiner-bench",
        description="Measure what the models cost and how good they are.",
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_flops(commands)
    _add_lifters(commands)
    _add_cards(commands)
    _add_train_step(commands)
    add_distributed(commands)
    _add_native(commands)
    _add_engines(commands)
    _add_steps(commands)
    _add_profile(commands)
    _add_busy(commands)
    _add_sweep(commands)
    _add_streaming(commands)
    add_serve(commands)
    add_accuracy(commands)
    add_real(commands)
    add_trajectory(commands)
    add_archive(commands)
    add_compare(commands)
    add_page(commands)
    add_readme(commands)
    return parser


def _add_flops(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "flops",
        help="parameters and FLOPs of PoseDenoiser by depth",
        description="Parameters and FLOPs of PoseDenoiser per token, frame, window and refinement: by formula, and "
        "per window by PyTorch's FLOP counter where PyTorch is installed.",
        allow_abbrev=False,
    )
    parser.add_argument("--depth", type=int, nargs="+", default=[4, 6, 8, 10], metavar="D", help="2 x blocks")
    parser.add_argument("--dim", type=int, default=256, help="width C (default: 256)")
    parser.add_argument("--heads", type=int, default=8, help="attention heads (default: 8)")
    parser.add_argument("--mlp-ratio", type=int, default=8, help="hidden width of the MLP over C (default: 8)")
    parser.add_argument("--frames", type=int, default=27, help="frames of a window, T (default: 27)")
    parser.add_argument("--joints", type=int, default=17, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=2, help="denoising steps, K (default: 2)")
    parser.add_argument("--no-torch", action="store_true", help="count only by formula, without PyTorch's counter")
    _add_outputs(parser)
    parser.set_defaults(run=_run_flops)


def _run_flops(arguments: argparse.Namespace) -> None:
    from refiner.errors import UsageError
    from refiner_bench.counts import DenoiserSize
    from refiner_bench.flops import flops_report, format_flops

    if arguments.steps < 1:
        raise UsageError(f"--steps must be at least 1, got {arguments.steps}")
    size = DenoiserSize(
        dim=arguments.dim,
        heads=arguments.heads,
        mlp_ratio=arguments.mlp_ratio,
        frames=arguments.frames,
        joints=arguments.joints,
    )
    report = flops_report(size, arguments.depth, arguments.steps, with_torch=not arguments.no_torch)
    _publish(report, format_flops(report), arguments)


def _add_lifters(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "lifters",
        help="parameters and multiply-adds of the lifters",
        description="Parameters and multiply-adds of STCFormer, MixSTE and D3DP at their published sizes, by formula "
        "and by PyTorch's counter where PyTorch is installed, next to the published figures.",
        allow_abbrev=False,
    )
    parser.add_argument("--no-torch", action="store_true", help="count only by formula, without PyTorch's counter")
    _add_outputs(parser)
    parser.set_defaults(run=_run_lifters)


def _run_lifters(arguments: argparse.Namespace) -> None:
    from refiner_bench.lifters import format_lifters, lifters_report

    report = lifters_report(with_torch=not arguments.no_torch)
    _publish(report, format_lifters(report), arguments)


def _add_cards(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "cards",
        help="cost, training data and accuracy of every bundled model and named configuration",
        description="Parameters, FLOPs and latency in PyTorch of one window through every bundled model and every "
        "named configuration, the training data of the bundled models, and the accuracies in accuracy reports.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--accuracy", type=Path, nargs="+", default=[], metavar="REPORT", help="reports of the accuracy study"
    )
    parser.add_argument("--threads", type=thread_count, default=1, help="PyTorch threads (default: 1)")
    parser.add_argument("--rounds", type=int, default=10, help="timed calls (default: 10)")
    parser.add_argument(
        "--most-gflop",
        type=float,
        default=400.0,
        metavar="N",
        help="time no model above N GFLOP a window (default: 400)",
    )
    _add_outputs(parser)
    parser.set_defaults(run=_run_cards)


def _run_cards(arguments: argparse.Namespace) -> None:
    _require_torch("cards needs PyTorch")
    from refiner.errors import InputError, UsageError
    from refiner.reports import STUDY, report_kind
    from refiner_bench.cards import cards_report, format_cards
    from refiner_bench.measures import read_measured

    if min(arguments.threads, arguments.rounds) < 1:
        raise UsageError(f"--threads and --rounds must be at least 1, got {arguments.threads} and {arguments.rounds}")
    reports = [(path.name, read_measured(path)) for path in arguments.accuracy]
    for name, report in reports:
        if report_kind(report) != STUDY:
            raise InputError(f"{name} is a report of {report_kind(report)}, not of accuracy")
    report = cards_report(reports, arguments.threads, arguments.rounds, 1e9 * arguments.most_gflop)
    _publish(report, format_cards(report), arguments)


def _add_train_step(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "train-step",
        help="windows/s of a training step: the native kernels against the plain module",
        description="Time a training step (forward, loss, backward, Adam) on fixed random windows of 27 frames: with "
        "the plainly written module, with the native attention kernel, with all native kernels, and in bfloat16, in "
        "alternating rounds of one run, and profile where the time goes.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        choices=["refiner", "lifter", "mixste"],
        default="refiner",
        help="default: refiner; lifter: STCFormer",
    )
    parser.add_argument("--dim", type=int, default=64, help="width C (default: 64)")
    parser.add_argument("--batch", type=int, default=12, help="windows of a step (default: 12)")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds of each backend (default: 10)")
    parser.add_argument("--steps", type=int, default=10, help="training steps of a round (default: 10)")
    parser.add_argument(
        "--threads", type=thread_count, default=0, help="PyTorch threads (default: PyTorch's own choice)"
    )
    _add_outputs(parser)
    parser.set_defaults(run=_run_train_step)


def _run_train_step(arguments: argparse.Namespace) -> None:
    _require_torch("train-step needs PyTorch")
    from refiner_bench.train_step import format_train_step, train_step_report

    report = train_step_report(
        dim=arguments.dim,
        batch=arguments.batch,
        rounds=arguments.rounds,
        steps=arguments.steps,
        threads=arguments.threads,
        kind=arguments.model,
    )
    _publish(report, format_train_step(report), arguments)


def _add_native(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "native",
        help="the compiled kernels against NumPy, PyTorch and SciPy, and against the machine",
        description="Time batched Procrustes alignment and conditional sampling in interleaved rounds with usual "
        "NumPy, PyTorch and SciPy code, and with the copies and matrix products of this machine, all in one run.",
        allow_abbrev=False,
    )
    parser.add_argument("--items", type=int, default=100_000, help="poses and frames of a call (default: 100000)")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (default: 15)")
    parser.add_argument("--threads", type=thread_count, default=2, help="threads of every contestant (default: 2)")
    _add_outputs(parser)
    parser.set_defaults(run=_run_native)


def _run_native(arguments: argparse.Namespace) -> None:
    _require_torch("bench native needs PyTorch as a peer")
    from refiner_bench.native_kernels import format_native, native_report

    report = native_report(arguments.items, arguments.rounds, arguments.threads)
    _publish(report, format_native(report), arguments)


def _add_engines(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "engines",
        help="latency of a window in every engine, against a plain export",
        description="Time one call of every installed engine in alternating rounds of one run, together with a "
        "straightforward port of the model that is exported and run with defaults.",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", type=Path, metavar="PATH", help="a refiner (default: the paper's size, random)")
    parser.add_argument("--batch", type=int, default=1, help="windows of a call (default: 1)")
    parser.add_argument("--threads", type=thread_count, default=2, help="threads of every contestant (default: 2)")
    parser.add_argument("--frames", type=int, metavar="T", help="frames of a window (default: the checkpoint's)")
    parser.add_argument("--rounds", type=int, default=40, help="timed rounds (default: 40)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="ENGINE", help="engines to leave out (aoti takes minutes)"
    )
    _add_outputs(parser)
    parser.set_defaults(run=_run_engines)


def _run_engines(arguments: argparse.Namespace) -> None:
    _require_export("engines")
    from refiner_bench.engines import engines_report, format_engines

    report = engines_report(
        arguments.checkpoint,
        arguments.batch,
        arguments.threads,
        arguments.rounds,
        arguments.without,
        arguments.device,
        arguments.frames,
    )
    _publish(report, format_engines(report), arguments)


def _add_sweep(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "sweep",
        help="cost and accuracy of depths 4 to 10, in every engine",
        description="For each depth: parameters, FLOPs, accuracy of its checkpoint on the test people (with --data), "
        "and latency, size and build time in every engine, compared with a plain export in the same run.",
        allow_abbrev=False,
    )
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 6, 8, 10], help="default: 4 6 8 10")
    parser.add_argument("--dim", type=int, default=64, help="width of depths without a checkpoint (default: 64)")
    parser.add_argument("--steps", type=int, metavar="K", help="denoising steps (default: the checkpoint's)")
    parser.add_argument("--frames", type=int, metavar="T", help="frames of a window (default: the checkpoint's)")
    parser.add_argument(
        "--checkpoints", type=Path, metavar="DIR", help="depth-D-seed-S.safetensors (default: the committed ones)"
    )
    parser.add_argument(
        "--runs", type=Path, metavar="DIR", help="the folder of the runs that trained them, instead of --checkpoints"
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="motion archive (default: REFINER_DATA)")
    parser.add_argument("--cameras", type=int, metavar="N", help="score N cameras of each clip (default: all)")
    parser.add_argument("--batch", type=int, default=1, help="windows of a call (default: 1)")
    parser.add_argument("--threads", type=thread_count, default=2, help="threads of every contestant (default: 2)")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds (default: 30)")
    parser.add_argument(
        "--engines", nargs="+", metavar="ENGINE", help="measure only these (default: onnx openvino torch)"
    )
    _add_outputs(parser)
    parser.set_defaults(run=_run_sweep)


def _run_sweep(arguments: argparse.Namespace) -> None:
    _require_export("sweep")
    from refiner.data import open_motion_folder
    from refiner.data.clips import data_folder_from_env
    from refiner_bench.sweep import CHECKPOINTS, PAIRS, SweepOptions, format_sweep, sweep_report

    options = SweepOptions(
        depths=tuple(arguments.depths),
        dim=arguments.dim,
        steps=arguments.steps,
        frames=arguments.frames,
        batch=arguments.batch,
        threads=arguments.threads,
        rounds=arguments.rounds,
        checkpoints=arguments.checkpoints or CHECKPOINTS,
        runs=arguments.runs,
        cameras=arguments.cameras,
        pairs=tuple(pair for pair in PAIRS if arguments.engines is None or pair[0] in arguments.engines),
    )
    options.check()
    data = arguments.data or data_folder_from_env()
    folder = None if data is None else open_motion_folder(data)
    report = sweep_report(options, folder, lambda line: print(line, file=sys.stderr, flush=True))
    _publish(report, format_sweep(report), arguments)


def _add_streaming(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "streaming",
        help="latency per frame of a live stream, several people, error by delay",
        description="Compare a causal step with a whole window for every frame, in the paper's size with random "
        "weights: percentiles over single calls. With --data also measure errors by delay of the bundled causal "
        "refiner, of the windowed refiner that it started from and of tuned filters, and the share of errors inside "
        "the predicted regions.",
        allow_abbrev=False,
    )
    parser.add_argument("--frames", type=int, default=10_000, help="timed frames (default: 10000)")
    parser.add_argument("--threads", type=thread_count, default=1, help="threads of every engine (default: 1)")
    parser.add_argument(
        "--people", type=int, nargs="+", default=[1, 4, 16], help="numbers of people in one engine (default: 1 4 16)"
    )
    parser.add_argument(
        "--hour",
        type=int,
        default=0,
        metavar="FRAMES",
        help="one long stream at full speed (an hour: 360000; default: 0)",
    )
    parser.add_argument("--engine", default="native", choices=["native", "onnx", "openvino"], help="default: native")
    parser.add_argument("--cameras", type=int, metavar="N", help="score N cameras of each clip (default: all)")
    parser.add_argument("--config", default="refiner-paper", help="size of the model (default: refiner-paper)")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw error against delay into this folder")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="motion archive (default: REFINER_DATA)")
    _add_outputs(parser)
    parser.set_defaults(run=_run_streaming)


def _run_streaming(arguments: argparse.Namespace) -> None:
    _require_export("streaming")
    from refiner.data import open_motion_folder
    from refiner.data.clips import data_folder_from_env
    from refiner_bench.streaming.format import format_streaming
    from refiner_bench.streaming.report import StreamingOptions, streaming_report

    options = StreamingOptions(
        frames=arguments.frames,
        threads=arguments.threads,
        people=tuple(arguments.people),
        hour=arguments.hour,
        engine=arguments.engine,
        config=arguments.config,
        cameras=arguments.cameras,
    )
    data = arguments.data or data_folder_from_env()
    folder = None if data is None else open_motion_folder(data)
    report = streaming_report(options, folder, lambda line: print(line, file=sys.stderr, flush=True))
    if arguments.pictures is not None:
        from refiner_bench.page_plots import draw_plots

        draw_plots(report, arguments.pictures)
    _publish(report, format_streaming(report), arguments)


def _add_steps(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "steps",
        help="a step of a causal refiner in every engine, by its window and by its weights",
        description="Time one frame of one person in causal refiners: the bundled one, and one of the paper's width "
        "with random weights. It is compared with a window in the same engine, and with reading the weights once.",
        allow_abbrev=False,
    )
    parser.add_argument("--rounds", type=int, default=20, help="timed turns of each contestant (default: 20)")
    parser.add_argument("--without", nargs="+", default=[], metavar="ENGINE", help="leave these engines out")
    _add_outputs(parser)
    parser.set_defaults(run=_run_steps)


def _run_steps(arguments: argparse.Namespace) -> None:
    _require_export("steps")
    from refiner_bench.steps import format_steps, steps_report

    report = steps_report(arguments.rounds, arguments.without, lambda line: print(line, file=sys.stderr, flush=True))
    _publish(report, format_steps(report), arguments)


def _add_profile(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "profile-native",
        help="where the time of a call goes, in the native engine and in others",
        description="The time of a call by phases, for windows and causal steps. Networks with more blocks and with "
        "narrower MLPs run in turns with the network itself; their differences are the phases.",
        allow_abbrev=False,
    )
    parser.add_argument("--rounds", type=int, default=30, help="timed turns of each contestant (default: 30)")
    parser.add_argument("--without", nargs="+", default=[], metavar="ENGINE", help="leave these engines out")
    _add_outputs(parser)
    parser.set_defaults(run=_run_profile)


def _run_profile(arguments: argparse.Namespace) -> None:
    _require_export("profile-native")
    from refiner_bench.profile_native import format_profile, profile_report

    report = profile_report(
        arguments.rounds, arguments.without, log=lambda line: print(line, file=sys.stderr, flush=True)
    )
    _publish(report, format_profile(report), arguments)


def _add_busy(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "busy",
        help="a window in every engine beside another busy program, by the number of threads",
        description="Time one window of the bundled refiner in every engine while other programs compute: with the "
        "engine's default, with one thread, and with a thread for each processor.",
        allow_abbrev=False,
    )
    parser.add_argument("--programs", type=int, default=1, help="busy programs (default: 1)")
    parser.add_argument("--rounds", type=int, default=40, help="timed calls of each contestant (default: 40)")
    parser.add_argument("--without", nargs="+", default=[], metavar="ENGINE", help="leave these engines out")
    _add_outputs(parser)
    parser.set_defaults(run=_run_busy)


def _run_busy(arguments: argparse.Namespace) -> None:
    _require_export("busy")
    from refiner_bench.busy import busy_report, format_busy

    report = busy_report(
        arguments.programs,
        arguments.rounds,
        arguments.without,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    _publish(report, format_busy(report), arguments)


def _require_torch(need: str) -> None:
    from importlib.util import find_spec

    from refiner.errors import MissingComponentError

    if find_spec("torch") is None:
        raise MissingComponentError(f"{need}; run: pip install 'pose-refiner[train]'")


def _require_export(command: str) -> None:
    from importlib.util import find_spec

    from refiner.errors import MissingComponentError

    missing = [name for name in ("torch", "onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MissingComponentError(
            f"bench {command} needs {', '.join(missing)}; run: pip install 'pose-refiner[export,cpu]'"
        )


def _publish(report: JsonObject, text: str, arguments: argparse.Namespace) -> None:
    """Write the files that the user asked for, and print the text."""
    from refiner_bench.report import publish

    publish(report, text, arguments.json, arguments.markdown)
    print(text)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the printed text")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(lambda arguments: arguments.run(arguments), build_parser(), argv)
