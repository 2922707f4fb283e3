"""``python -m refiner_bench.gpu.native_first MODULE.so COMMAND ...``: runs COMMAND with a compiled module."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module


def use_native(file: str) -> None:
    """Load ``file`` as ``refiner._native``. This must happen before any other import of refiner."""
    spec = importlib.util.spec_from_file_location("refiner._native", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no compiled module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["refiner._native"] = module


if __name__ == "__main__":
    if sys.argv[1] != "-":
        use_native(sys.argv[1])
    sys.exit(import_module(sys.argv[2]).main(sys.argv[3:]))
