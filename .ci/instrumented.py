"""A pytest plugin that loads the kernels from the module in REFINER_INSTRUMENTED, which is built with sanitizers."""

from __future__ import annotations

import importlib.util
import os
import sys

import refiner

_spec = importlib.util.spec_from_file_location("refiner._native", os.environ["REFINER_INSTRUMENTED"])
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
sys.modules["refiner._native"] = _module
refiner._native = _module  # type: ignore[attr-defined]


def pytest_report_header() -> str:
    from refiner import native

    assert native._native is _module, "the tests run on another build of the kernels"
    return f"instrumented kernels: {_module.__file__}"
