"""Frames in, refined frames out: a live stream through a window model or a causal one."""

from refiner.runtime.streaming.frames import FrameStatus, RefinedFrame, StreamCounters
from refiner.runtime.streaming.handover import StreamWorker
from refiner.runtime.streaming.refiner import Frame, StreamingRefiner

__all__ = ["Frame", "FrameStatus", "RefinedFrame", "StreamCounters", "StreamWorker", "StreamingRefiner"]
