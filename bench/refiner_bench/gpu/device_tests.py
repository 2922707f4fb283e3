"""Runs the project's tests for a CUDA device with the new compiled module, if pytest is installed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# The exit code of pytest if it finds no test, because every module was skipped.
NOTHING_RAN = 5
SKIPPED = 3


def main(argv: Sequence[str]) -> int:
    """Run the tests, except those of AOTInductor: its packages have their own jobs, which also check the results.

    Args:
        argv: The project's folder, and a file below ``tests/gpu`` to run alone.

    Returns:
        The exit code: 0, 3 if nothing could run, otherwise that of pytest.
    """
    try:
        import pytest
    except ModuleNotFoundError:
        print("pytest is not installed; only the job check tests the kernels")
        return SKIPPED
    root = Path(argv[0])
    os.chdir(root)
    # The project's own pytest options need plugins that may be missing. The usual tests check for warnings.
    options = ["-q", "-rs", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-o", "filterwarnings="]
    code = int(pytest.main([*options, "-k", "not aotinductor", str(root.joinpath("tests", "gpu", *argv[1:]))]))
    if code == NOTHING_RAN:
        print("no test could run: no CUDA device, or no CUDA kernels")
        return SKIPPED
    return code
