"""Run trained models on sequences of any length: engines behind one interface, windows stitched together."""

from refiner.runtime.lifter import Lifter
from refiner.runtime.loading import open_causal_engine
from refiner.runtime.refiner import Refiner

__all__ = ["Lifter", "Refiner", "open_causal_engine"]
