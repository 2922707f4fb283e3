"""Live streams: frames go in and refined frames come out, through a causal refiner or a window refiner."""

from refiner.reasons import Reason as FrameReason
from refiner.reasons import Status as FrameStatus
from refiner.runtime.streaming.frames import RefinedFrame, StreamCounters
from refiner.runtime.streaming.handover import StreamWorker
from refiner.runtime.streaming.refiner import Frame, StreamingRefiner

__all__ = ["Frame", "FrameReason", "FrameStatus", "RefinedFrame", "StreamCounters", "StreamWorker", "StreamingRefiner"]
