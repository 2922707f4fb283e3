"""Live streams: frames go in and refined frames come out, through a causal refiner or a window refiner."""

from refiner.runtime.streaming.frames import FrameStatus, RefinedFrame, StreamCounters
from refiner.runtime.streaming.handover import StreamWorker
from refiner.runtime.streaming.refiner import Frame, StreamingRefiner

__all__ = ["Frame", "FrameStatus", "RefinedFrame", "StreamCounters", "StreamWorker", "StreamingRefiner"]
