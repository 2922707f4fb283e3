"""``refiner-stream``: refine a live stream from a pipe, a file at its own frame rate, or the clients of a server."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from refiner.cli.common import EXIT_CODES, JOINT_CHOICES, PRECISION_HELP, HelpFormatter, run, thread_count, within
from refiner.cli.signals import TERMINATING, Terminated, UntilEnded
from refiner.files import LineFile
from refiner.ranges import FRAME_RATES, SHARE, Between

if TYPE_CHECKING:
    from refiner.errors import InputError
    from refiner.runtime.streaming import Frame, RefinedFrame, StreamingRefiner

MOST_CLIENTS = Between(1, 10_000)
PORTS = Between(0, 65535)

EXAMPLES = """\
examples:
  refiner-stream --camera 0 --view
  my-camera | refiner-stream --image-size 1280 720 --joints coco17 --lifter bundled > refined.jsonl
  refiner-stream --image-size 1280 720 --serve 8765
  refiner-stream --image-size 1280 720 --pose-2d 2d.npy --pose-3d 3d.npy --fps 30 --view

One frame is one line of JSON (or one WebSocket message):
  {"timestamp": 12.34, "pose_2d": [[x, y], ...], "pose_3d": [[x, y, z], ...], "person_id": 0, "confidence": [...]}
(and "image_size": [w, h], "focal_length": f where they differ from frame to frame)
in pixels and metres (camera axes). null marks a missing coordinate. Leave pose_3d out with --lifter. Several people of
one moment are {"frames": [...]}; {"flush": true} ends a stream. A refined frame is
  {"timestamp", "person_id", "status", "reasons": [words], "pose_3d": 17 x 3, "std": 17, "infilled": [joints]}
and {"error": ...} answers an invalid message; the stream goes on.
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``refiner-stream``."""
    parser = argparse.ArgumentParser(
        prog="refiner-stream",
        description="Refine 3D poses as they come.",
        epilog=EXAMPLES + "\n" + EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    source = parser.add_argument_group("where frames come from (default: lines on standard input)")
    source.add_argument("--serve", metavar="[HOST:]PORT", help="serve WebSocket clients; on loopback without HOST")
    source.add_argument("--camera", metavar="0|VIDEO", help="a webcam by its number, or a video played like one")
    source.add_argument(
        "--detector",
        metavar="NAME",
        help="of a camera: mediapipe, rtmlib, or MODULE:CLASS of your own (default: the one that is installed)",
    )
    source.add_argument("--pose-2d", metavar="FILE", help="play back 2D poses, .npy or .npz, at their frame rate")
    source.add_argument("--pose-3d", metavar="FILE", help="with their 3D poses")
    source.add_argument("--key-2d", metavar="NAME", help="the array of an .npz of 2D poses that holds several")
    source.add_argument("--key-3d", metavar="NAME", help="the array of an .npz of 3D poses that holds several")
    source.add_argument("--fps", type=within(FRAME_RATES), default=50.0, help="their frame rate (default: 50)")
    source.add_argument("--full-speed", action="store_true", help="play them back as fast as they are refined")
    model = parser.add_argument_group("the models")
    model.add_argument("--mode", choices=["causal", "window"], default="causal", help="default: causal")
    model.add_argument(
        "--checkpoint", metavar="PATH", help="checkpoint, artefact or bundled name (default: the bundled one)"
    )
    model.add_argument("--lifter", metavar="PATH", help='lift the 2D poses; "bundled" for the bundled lifter')
    model.add_argument("--hop", type=int, default=1, help="window: frames from one window to the next (default: 1)")
    model.add_argument("--look-ahead", type=int, default=0, help="window: frames that a frame waits for (default: 0)")
    model.add_argument(
        "--people", type=int, help="the most at a time (default: 1, or what an artefact was exported for)"
    )
    model.add_argument("--threads", type=thread_count, default=1, help="the engine's threads (default: 1)")
    model.add_argument("--precision", metavar="P", help=PRECISION_HELP)
    model.add_argument("--pool-shape", action="store_true", help="keep each person's bones at one length")
    model.add_argument("--smooth", action="store_true", help="run a One-Euro filter after the refiner, against jitter")
    model.add_argument("--image-size", nargs=2, type=float, metavar=("W", "H"), help="pixels (or in each frame)")
    model.add_argument(
        "--focal-length", type=float, metavar="F", help="pixels (or in each frame; default: the image's longer side)"
    )
    model.add_argument(
        "--joints",
        choices=JOINT_CHOICES,
        default="h36m17",
        help="joint set",
    )
    model.add_argument(
        "--joints-3d", choices=JOINT_CHOICES, help="joint set of the 3D, where it is not that of --joints"
    )
    model.add_argument(
        "--least-confidence",
        type=within(SHARE),
        default=0.0,
        help="a joint whose confidence is not above this is missing (default: 0)",
    )
    server = parser.add_argument_group("of --serve: the clients that it takes; others are told to try again later")
    server.add_argument(
        "--clients",
        type=within(Between(1, 10_000), int),
        help="the most at a time (default: as many as --share allows, by the measured cost of a frame)",
    )
    server.add_argument("--rate", type=within(FRAME_RATES), default=50.0, help="frames/s of each client (default: 50)")
    server.add_argument(
        "--share",
        type=within(Between(0.01, 1.0)),
        default=0.7,
        help="of one core, for all clients together (default: 0.7)",
    )
    parser.add_argument("--output", metavar="FILE", help="lines of refined frames (default: standard output)")
    parser.add_argument(
        "--view",
        nargs="?",
        type=within(Between(0, 65535), int),
        const=8080,
        metavar="PORT",
        help="show both skeletons in a browser",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> int | None:
    from refiner.errors import UsageError

    if arguments.pose_3d is not None and arguments.pose_2d is None:
        raise UsageError("--pose-3d goes with --pose-2d")
    if arguments.camera is not None:
        from refiner.cli.camera import CameraSource

        return _stream(arguments, CameraSource(arguments).frames())
    if arguments.detector is not None:
        raise UsageError("--detector goes with --camera")
    if arguments.serve is not None:
        if arguments.pose_2d is not None or arguments.view is not None or arguments.output is not None:
            raise UsageError("--serve answers its clients: leave --pose-2d, --output and --view out")
        _serve(arguments)
        return None
    return _stream(arguments, _frames(arguments))


def _open(
    arguments: argparse.Namespace, joints: str | None = None, joints_3d: str | None = None
) -> Callable[[], StreamingRefiner]:
    """Return a function that opens a stream with the models of the options, for their joint sets or for other ones."""
    from refiner.runtime.streaming import StreamingRefiner

    if joints is None:
        joints, joints_3d = arguments.joints, arguments.joints_3d

    def open_stream() -> StreamingRefiner:
        return StreamingRefiner.load(
            arguments.checkpoint,
            arguments.mode,
            threads=arguments.threads,
            precision=arguments.precision,
            hop=arguments.hop,
            look_ahead=arguments.look_ahead,
            people=arguments.people,
            lifter=True if arguments.lifter == "bundled" else arguments.lifter,
            image_size=None if arguments.image_size is None else (arguments.image_size[0], arguments.image_size[1]),
            focal_length=arguments.focal_length,
            joints=joints,
            joints_3d=joints_3d,
            least_confidence=arguments.least_confidence,
            pool_shape=arguments.pool_shape,
            smoothing=arguments.smooth,
        )

    return open_stream


def _serve(arguments: argparse.Namespace) -> None:
    import asyncio

    from refiner.errors import UsageError
    from refiner.runtime.streaming.capacity import Agreement, Capacity
    from refiner.runtime.streaming.server import LOOPBACK, StreamServer

    host, _, port = arguments.serve.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) < 65536:
        raise UsageError(f"--serve {arguments.serve}: expected [HOST:]PORT, such as 8765 or 0.0.0.0:8765")
    open_stream = _open(arguments)
    # Wrong options must show before the first client comes.
    open_stream()
    agreement = Agreement(arguments.rate, arguments.share, arguments.clients)
    capacity = Capacity(agreement, 0.0 if arguments.clients is not None else _frame_cost(arguments))

    received: list[int] = []

    async def serve() -> None:
        _cancel_on_signals(received)
        async with StreamServer(open_stream, host or LOOPBACK, int(port), capacity) as server:
            try:
                _print_status(f"serving ws://{host or LOOPBACK}:{server.port}, {capacity}; Ctrl-C ends it")
                await server.run_forever()
            finally:
                _print_status(", ".join(f"{name} {count}" for name, count in vars(server.counters).items()))
                latency = server.answer_times.percentiles_ms()
                if latency:
                    _print_status("latency in ms: " + ", ".join(f"{name} {value}" for name, value in latency.items()))

    try:
        asyncio.run(serve())
    except asyncio.CancelledError:
        raise Terminated(received[0]) from None


def _cancel_on_signals(received: list[int]) -> None:
    """Let a signal of `TERMINATING` cancel this task, and append its number: no handler of a client is torn apart."""
    import asyncio

    task = asyncio.current_task()
    assert task is not None

    def end(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in TERMINATING:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            with suppress(NotImplementedError):  # Windows
                asyncio.get_running_loop().add_signal_handler(number, end, number)


def _frame_cost(arguments: argparse.Namespace) -> float:
    """The processor time of a frame of these models, measured in Human3.6M's joints."""
    from refiner.runtime.streaming.calibration import frame_cost

    size = None if arguments.image_size is None else (arguments.image_size[0], arguments.image_size[1])
    open_stream = _open(arguments, "h36m17")
    return frame_cost(open_stream, arguments.people or 1, arguments.lifter is not None, size)


def _stream(arguments: argparse.Namespace, messages: Iterator[list[Frame] | InputError]) -> int | None:
    from refiner.errors import InputError, RefinerError
    from refiner.runtime.streaming.messages import error_message, refined_message

    refiner = _open(arguments)()
    with ExitStack() as stack:
        if arguments.output is not None:
            _refuse_own_input(arguments)
            write: Callable[[str], None] = stack.enter_context(LineFile(arguments.output)).write
        else:
            # Standard output is for lines of JSON alone: what libraries print there goes to standard error.
            write = partial(_write_line, sys.stdout)
            stack.enter_context(redirect_stdout(sys.stderr))
        view = None
        if arguments.view is not None:
            from refiner.viewer.live import LiveView

            view = LiveView(port=arguments.view)
            stack.callback(view.close)
            _print_status(f"view: {view.url}")

        def deliver(ready: list[RefinedFrame], latency_ms: float) -> None:
            for frame in ready:
                write(refined_message(frame))
                if view is not None:
                    view.show(frame, latency_ms)

        refused: list[str] = []
        ending = stack.enter_context(UntilEnded())
        for frames in ending.items(messages):
            try:
                if isinstance(frames, RefinerError):
                    raise frames
                began = time.perf_counter()
                ready = refiner.push_many(frames) if frames else refiner.flush()
                deliver(ready, 1000.0 * (time.perf_counter() - began))
            except RefinerError as error:
                refused.append(str(error))
                write(error_message(error))
        deliver(refiner.flush(), 0.0)
    counters = refiner.counters.as_dict() | {"refused": len(refused)}
    _print_status(", ".join(f"{name} {count}" for name, count in counters.items() if count))
    if ending.received is not None:
        _print_status(f"ended by {signal.Signals(ending.received).name}")
        return Terminated(ending.received).exit_code
    if not refiner.counters.steps:
        reason = ": none shows enough joints" if refiner.counters.frames else ": none came"
        if refused:
            reason = f"; the first error: {refused[0]}"
        raise InputError(f"no frame could be refined{reason}")
    return None


def _frames(arguments: argparse.Namespace) -> Iterator[list[Frame] | InputError]:
    """The frames of each message, empty to end the stream; for an invalid message its error."""
    return _lines() if arguments.pose_2d is None else _played(arguments)


def _lines() -> Iterator[list[Frame] | InputError]:
    """The frames of each line of standard input, and for an invalid line its error."""
    from refiner.errors import InputError
    from refiner.runtime.streaming.messages import parse_message, read_lines

    for line in read_lines(sys.stdin.buffer):
        if isinstance(line, InputError):
            yield line
            continue
        try:
            frames = parse_message(line)
        except InputError as error:
            yield error
            continue
        yield frames


def _played(arguments: argparse.Namespace) -> Iterator[list[Frame]]:
    """The frames of the files that ``--pose-2d`` and ``--pose-3d`` name, at their frame rate."""
    from refiner.data.layouts import check_stated_layout
    from refiner.data.safe_npz import load_user_array
    from refiner.errors import LengthError
    from refiner.runtime.streaming import Frame

    check_stated_layout(arguments.pose_2d, arguments.joints)
    pose_2d = load_user_array(arguments.pose_2d, arguments.key_2d)
    pose_3d = None if arguments.pose_3d is None else load_user_array(arguments.pose_3d, arguments.key_3d)
    if pose_3d is not None and len(pose_3d) != len(pose_2d):
        raise LengthError(f"{arguments.pose_2d} has {len(pose_2d)} frames, {arguments.pose_3d} {len(pose_3d)}")

    def played() -> Iterator[list[Frame]]:
        began = time.perf_counter()
        for index in range(len(pose_2d)):
            due = index / arguments.fps
            if not arguments.full_speed:
                time.sleep(max(began + due - time.perf_counter(), 0.0))
            yield [Frame(pose_2d[index], None if pose_3d is None else pose_3d[index], due)]

    return played()


def _refuse_own_input(arguments: argparse.Namespace) -> None:
    """Raises UsageError where the output would overwrite what the command reads."""
    from refiner.errors import UsageError

    output = Path(arguments.output)
    if not output.is_file():
        return
    for option in ("pose_2d", "pose_3d", "camera"):
        file = getattr(arguments, option)
        if file is not None and os.path.exists(file) and output.samefile(file):
            raise UsageError(f"--output {output}: is the file of --{option.replace('_', '-')}; choose another name")
    if arguments.pose_2d is None:
        try:
            source = os.fstat(sys.stdin.fileno())
        except (OSError, AttributeError):
            return  # standard input is no file
        if os.path.samestat(source, output.stat()):
            raise UsageError(f"--output {output}: is the file of standard input; choose another name")


def _write_line(output: TextIO, line: str) -> None:
    output.write(line + "\n")
    output.flush()


def _print_status(text: str) -> None:
    print(f"refiner-stream: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
