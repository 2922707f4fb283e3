"""What every command shares: errors become one line and an exit code, never a traceback."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from refiner.errors import InputWarning, RefinerError

Command = Callable[[argparse.Namespace], "int | None"]

INTERRUPTED = 130
REGRESSION = 6
BAD_OUTPUT = 5

EXIT_CODES = """\
exit codes:
  0 done   2 usage   3 a component is missing   4 a gate refused   5 bad input   6 a regression   130 interrupted"""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and examples."""


def run(command: Command, parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse ``argv`` (default: the process's arguments), run ``command`` and return its exit code.

    A RefinerError becomes "error: ..." on stderr and its own code; Ctrl-C gives 130; a file that cannot be read or
    written gives 5. Any other exception is a bug and keeps its traceback. ``command`` returns a code or None for 0.
    """
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse exits by itself after --help (0) and on a usage error (2)
        return int(stop.code or 0)
    try:
        with warnings.catch_warnings():
            more = _tell_warnings(parser.prog)
            code = command(arguments)
        for message, number in more.items():
            print(f"{parser.prog}: warning: {number} more like this: {message}", file=sys.stderr)
        sys.stdout.flush()
    except RefinerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe (head, less) left: not an error. Without this Python complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"error: {_describe(error)}", file=sys.stderr)
        return BAD_OUTPUT
    return int(code or 0)


def _tell_warnings(program: str) -> Counter[str]:
    """Print warnings about inputs as a line on stderr; Python shows other warnings.

    Of warnings that differ in their numbers alone, as those of many clips do, the first is printed. Returns a counter
    that fills up: how many more of each there were, by the first one's text.
    """
    python_s = warnings.showwarning
    first: dict[str, str] = {}
    told: set[str] = set()
    more: Counter[str] = Counter()

    def show(message: Any, category: type[Warning], *where: Any, **more_of_it: Any) -> None:
        if not issubclass(category, InputWarning):
            python_s(message, category, *where, **more_of_it)
            return
        text = str(message)
        if text in told:
            return
        told.add(text)
        kind = re.sub(r"\d+(\.\d+)?", "#", text)
        if kind in first:
            more[first[kind]] += 1
        else:
            first[kind] = text
            print(f"{program}: warning: {text}", file=sys.stderr)

    warnings.showwarning = show
    warnings.simplefilter("always", InputWarning)
    return more


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    hints = {
        errno.ENOSPC: "the disk is full; free some space and run the command again",
        errno.EACCES: "permission denied; choose a file or folder that you may read and write",
        errno.EROFS: "the file system is read-only; choose another folder",
    }
    return f"{where}{hints.get(error.errno or 0, error.strerror or str(error))}"
