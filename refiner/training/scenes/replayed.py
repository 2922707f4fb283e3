"""Scenes drawn by one launch: the hundreds of small operations of a batch as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from refiner.training.scenes.draws import Draws, seed_of_draws
from refiner.training.scenes.sampler import SceneBatch, SceneSampler

# Batches that are drawn operation by operation before one is captured.
FIRST_BATCHES = 3
# Records ``run``, whose random numbers come from the generator; returns what replays it, and what ``run`` returned.
Recorder = Callable[[Callable[[], SceneBatch], torch.Generator], tuple[Callable[[], None], SceneBatch]]


class ReplayedScenes:
    """The batches of a `SceneSampler` on a CUDA device, number for number.

    A batch lies in the same memory as the one before: use or copy it before the next is drawn. ``record``: how a batch
    is recorded; `record_with_generator`, or a stand-in.
    """

    def __init__(self, scenes: SceneSampler, record: Recorder | None = None) -> None:
        self._scenes, self._record = scenes, record or record_with_generator
        self._generator = torch.Generator(scenes.device)
        self._replay: Callable[[], None] | None = None
        self._held: SceneBatch | None = None
        self._taken = 0

    def batch(self, step: int) -> SceneBatch:
        """The windows of one training step."""
        # A replay reads the seed from the generator, and begins where it begins.
        self._generator.manual_seed(seed_of_draws(self._scenes.seed, step))
        self._taken += 1
        if self._taken <= FIRST_BATCHES:
            return self._drawn()
        if self._replay is None or self._held is None:
            self._replay, self._held = self._record(self._drawn, self._generator)
        self._replay()
        return self._held

    def _drawn(self) -> SceneBatch:
        return self._scenes.drawn(Draws.of(self._generator))


def record_with_generator(
    run: Callable[[], SceneBatch], generator: torch.Generator
) -> tuple[Callable[[], None], SceneBatch]:
    """Capture ``run`` on the current CUDA device; nothing is computed before the first replay."""
    cuda: Any = torch.cuda
    cuda.synchronize()
    graph = cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with cuda.graph(graph):
        held = run()
    replay: Callable[[], None] = graph.replay
    return replay, held
