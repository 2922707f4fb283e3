"""Run trained models on sequences of any length: engines behind one interface, windows stitched together, streams."""

from refiner.runtime.lifter import Lifter
from refiner.runtime.loading import open_causal_engine
from refiner.runtime.refiner import Refiner
from refiner.runtime.streaming import StreamingRefiner

__all__ = ["Lifter", "Refiner", "StreamingRefiner", "open_causal_engine"]
