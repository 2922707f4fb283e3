"""refiner: refine the 3D human poses of an estimator, in real time.

``Lifter`` and ``Refiner`` load and run models, ``refiner.evaluation`` measures their accuracy, and
``refiner.diffusion`` and ``refiner.models`` implement the method (D3PRefiner, arXiv 2401.03914). Importing this package
imports neither PyTorch nor ONNX Runtime: the code that needs them imports them on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from refiner.errors import RefinerError

if TYPE_CHECKING:
    from refiner import native
    from refiner.runtime import Lifter, Refiner, StreamingRefiner

__version__ = "0.1.0"
__all__ = ["Lifter", "Refiner", "RefinerError", "StreamingRefiner", "__version__", "native"]


def __getattr__(name: str) -> Any:
    if name in ("Lifter", "Refiner", "StreamingRefiner"):
        return getattr(import_module("refiner.runtime"), name)
    if name == "native":
        return import_module("refiner.native")
    raise AttributeError(f"module 'refiner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
