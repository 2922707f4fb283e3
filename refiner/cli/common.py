"""The frame of every command: an expected error becomes one line and an exit code instead of a traceback."""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TextIO

from refiner import __version__
from refiner.arguments import check_threads, most_threads, shown
from refiner.cli.signals import Terminated, raising_terminated
from refiner.errors import InputWarning, RefinerError, UsageError
from refiner.files import NO_ROOM
from refiner.ranges import Between

Command = Callable[[argparse.Namespace], "int | None"]

INTERRUPTED = 130
REGRESSION = 6
SOME_FAILED = 7
BAD_OUTPUT = 5

# The names of `refiner.skeleton.JOINT_SETS`, which --help must not import NumPy for.
JOINT_CHOICES = (
    *("h36m17", "coco17", "3dhp", "halpe26", "mediapipe33", "body25", "coco18", "h36m32"),
    *("mpii16", "aic14", "crowdpose14", "3dhp28"),
)

PRECISION_HELP = "of a checkpoint in the native engine: fp32 or bf16 (default: fp32)"

EXIT_CODES = """\
exit codes:
  0 done   2 usage   3 a component is missing   4 a gate refused   5 bad input   6 a regression
  7 some sequences of an archive failed, and the rest is done
  130 interrupted (Ctrl-C)   143 terminated (SIGTERM)   129 hung up (SIGHUP)"""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and examples."""


def within(allowed: Between, kind: type[int] | type[float] = float) -> Callable[[str], int | float]:
    """The type of an option whose number lies in a range, for `argparse`."""

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not allowed.holds(value):
            raise argparse.ArgumentTypeError(f"expected {allowed}, got {text!r}")
        return value

    return read


def let_threads_wait() -> None:
    """Let PyTorch's threads wait without work, so that a command may use all of them beside another busy program.

    This works before PyTorch is loaded alone; see `refiner.runtime.replay.default_threads`.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def thread_count(text: str) -> int:
    """The type of ``--threads`` for argparse."""
    try:
        return check_threads(int(text))
    except (ValueError, UsageError) as error:
        expected = f"expected a whole number from 1 to {most_threads()}"
        raise argparse.ArgumentTypeError(f"{shown(text)}: {expected}") from error


def run(command: Command, parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, run a command and return its exit code.

    A RefinerError becomes "error: ..." on stderr, and its own exit code. A signal that ends the command gives 128 and
    its number: 130 for Ctrl-C. A file that cannot be read or written gives 5. Any other exception is a bug and keeps
    its traceback.

    Args:
        command: takes the parsed arguments and returns an exit code, or None for 0.
        parser: the parser of the command.
        argv: the arguments; None stands for the arguments of the process.
    """
    parser.add_argument("--version", action="version", version=f"{parser.prog} {__version__}")
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse exits by itself after --help (0) and on a usage error (2)
        return int(stop.code or 0)
    try:
        with warnings.catch_warnings(), raising_terminated():
            repeated = _print_warnings(parser.prog)
            code = command(arguments)
        for message, number in repeated.items():
            print(f"{parser.prog}: warning: {number} more like this: {message}", file=sys.stderr)
        sys.stdout.flush()
    except RefinerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Terminated as stop:
        print(f"ended by {signal.Signals(stop.number).name}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()  # the reader of the pipe (head, less) left, which is no error
        return 0
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _forget_stdout()
        print(f"error: {_describe(error)}", file=sys.stderr)
        return BAD_OUTPUT
    return int(code or 0)


def _print_warnings(program: str) -> Counter[str]:
    """Print each `InputWarning` as a line on stderr from now on; Python shows other warnings as usual.

    Where warnings differ only in their numbers, like the warnings about many clips, only the first one is printed.

    Returns:
        How many more warnings of a kind came after the printed one, by the printed text. It fills while the command
        runs.
    """
    show_by_python = warnings.showwarning
    first: dict[str, str] = {}
    seen: set[str] = set()
    repeated: Counter[str] = Counter()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, InputWarning):
            show_by_python(message, category, filename, lineno, file, line)
            return
        text = str(message)
        if text in seen:
            return
        seen.add(text)
        kind = re.sub(r"\d+(\.\d+)?", "#", text)
        if kind in first:
            repeated[first[kind]] += 1
        else:
            first[kind] = text
            print(f"{program}: warning: {text}", file=sys.stderr)

    warnings.showwarning = show
    warnings.simplefilter("always", InputWarning)
    return repeated


def _forget_stdout() -> None:
    """Drop what standard output could not take. Otherwise Python tries again at exit, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _describe(error: OSError) -> str:
    """The error in words.

    A copy has two names (`OSError.filename2` is the target), and it is the target that has no room.
    """
    named = error.filename2 if error.errno in NO_ROOM and error.filename2 else error.filename
    file = f"{named}: " if named else ""
    where = f" in {os.path.dirname(os.path.abspath(os.fsdecode(named)))}" if named else ""
    hints = {
        errno.ENOSPC: f"the disk is full; free some space{where} and run the command again",
        errno.EDQUOT: f"the quota is used up; free some space{where} and run the command again",
        errno.EFBIG: "the file would be larger than this process may write (ulimit -f)",
        errno.EACCES: "permission denied; choose a file or folder that you may read and write",
        errno.EROFS: "the file system is read-only; choose another folder",
    }
    return f"{file}{hints.get(error.errno or 0, error.strerror or str(error))}"
