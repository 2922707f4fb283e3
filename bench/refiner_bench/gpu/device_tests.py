"""The project's tests for a device, where pytest is installed, with the compiled module that was built."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# Exit code of pytest where no test was found: each module was skipped.
NOTHING_RAN = 5
SKIPPED = 3


def main(argv: Sequence[str]) -> int:
    """Arguments: the project's folder. Exit codes: 0, 3 where nothing could run, else pytest's.

    The packages of AOTInductor have jobs of their own, and the latency report compares what they give.
    """
    try:
        import pytest
    except ModuleNotFoundError:
        print("pytest is not installed; check alone tells about the kernels")
        return SKIPPED
    root = Path(argv[0])
    os.chdir(root)
    # Not the project's own options, which ask for plugins; warnings are for the project's usual tests.
    options = ["-q", "-rs", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-o", "filterwarnings="]
    code = int(pytest.main([*options, "-k", "not aotinductor", str(root / "tests" / "gpu")]))
    if code == NOTHING_RAN:
        print("no test could run: no CUDA device, or no CUDA kernels")
        return SKIPPED
    return code
