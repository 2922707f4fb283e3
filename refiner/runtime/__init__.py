"""Run trained models on sequences of any length and on live streams, with any of several engines."""

from refiner.runtime.lifter import Lifter
from refiner.runtime.loading import open_causal_engine
from refiner.runtime.refiner import Refiner
from refiner.runtime.streaming import StreamingRefiner

__all__ = ["Lifter", "Refiner", "StreamingRefiner", "open_causal_engine"]
