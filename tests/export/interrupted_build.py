"""Run by test_tensorrt.py in a process of its own: a signal as from the keyboard, in the middle of a build.

The process is new, since a signal may meet threads and stacks that other libraries left in the tests' own process.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from refiner_export.engines import tensorrt
from refiner_export.engines.tensorrt import build_plan


def main() -> None:
    spec = importlib.util.spec_from_file_location("test_tensorrt", Path(__file__).parent / "test_tensorrt.py")
    assert spec is not None and spec.loader is not None
    shared = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = shared
    spec.loader.exec_module(shared)
    tensorrt.device_at_hand = lambda: None
    lines: list[str] = []
    heard = threading.Event()

    def hear(number: int, frame: Any) -> None:
        heard.set()
        raise KeyboardInterrupt

    def interrupt(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:  # the first stage begins
            os.kill(os.getpid(), signal.SIGINT)
            # This is the builder's thread; the other one hears the signal.
            assert heard.wait(30)
            time.sleep(0.2)

    signal.signal(signal.SIGINT, hear)
    try:
        build_plan(shared.small_graph(), shared.for_rtx(), interrupt)
    except KeyboardInterrupt:
        sys.stdout.write("interrupted\n")
    # Whether the builder still hears of it depends on where it was; what was asked to stop never goes on to a plan.
    if build_plan(shared.small_graph(), shared.for_rtx()).plan:
        sys.stdout.write("works again\n")


if __name__ == "__main__":
    main()
