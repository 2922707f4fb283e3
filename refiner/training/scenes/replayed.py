"""Draw scenes with one launch: a CUDA graph holds the hundreds of small operations of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from refiner.training.scenes.draws import Draws, seed_of_draws
from refiner.training.scenes.sampler import SceneBatch, SceneSampler

# A batch is captured after this many batches that are drawn operation by operation.
FIRST_BATCHES = 3
# Records ``run``, whose random numbers come from the generator. Returns a function that replays it, and the result of
# ``run``.
Recorder = Callable[[Callable[[], SceneBatch], torch.Generator], tuple[Callable[[], None], SceneBatch]]


class ReplayedScenes:
    """Draws the same batches as a `SceneSampler` on a CUDA device, number for number.

    A batch uses the same memory as the batch before: use it or copy it before drawing the next.

    Args:
        scenes: the sampler.
        record: records a batch; `record_with_generator` by default.
    """

    def __init__(self, scenes: SceneSampler, record: Recorder | None = None) -> None:
        self._scenes, self._record = scenes, record or record_with_generator
        self._generator = torch.Generator(scenes.device)
        self._replay: Callable[[], None] | None = None
        self._held: SceneBatch | None = None
        self._taken = 0

    def batch(self, step: int) -> SceneBatch:
        """The windows of one training step."""
        # A replay reads the seed and the position of the generator.
        self._generator.manual_seed(seed_of_draws(self._scenes.seed, step))
        self._taken += 1
        if self._taken <= FIRST_BATCHES:
            return self._draw()
        if self._replay is None or self._held is None:
            self._replay, self._held = self._record(self._draw, self._generator)
        self._replay()
        return self._held

    def _draw(self) -> SceneBatch:
        return self._scenes.drawn(Draws.of(self._generator))


def record_with_generator(
    run: Callable[[], SceneBatch], generator: torch.Generator
) -> tuple[Callable[[], None], SceneBatch]:
    """Capture ``run`` on the current CUDA device. The capture computes nothing; the returned function replays it."""
    cuda: Any = torch.cuda
    cuda.synchronize()
    graph = cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with cuda.graph(graph):
        held = run()
    replay: Callable[[], None] = graph.replay
    return replay, held
