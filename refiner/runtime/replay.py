"""Run PyTorch code on a CUDA device as CUDA graphs: record it once for each batch size, replay it with one launch."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# The number of batch sizes whose graphs are kept. A graph holds the memory of its activations.
MOST_GRAPHS = 8
# Launches before a capture, on a stream of their own: libraries allocate and choose algorithms in their first launches.
WARM_UPS = 3


def on_arrays(
    function: Callable[..., Tensor], device: torch.device, threads: int | None = None
) -> Callable[..., NDArray[np.float32]]:
    """Wrap a function of tensors on a device as a function of arrays, which any number of threads may call.

    On a CUDA device it runs as CUDA graphs. ``threads``: PyTorch's threads during a call on the CPU; None is
    `default_threads`.
    """
    if device.type == "cuda":
        return GraphReplay(function, device)
    import torch

    def run(*arrays: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch_threads(threads):
            output = function(*(torch.from_numpy(array) for array in arrays))
        result: NDArray[np.float32] = output.float().numpy()
        return result

    return run


def default_threads() -> int | None:
    """The number of PyTorch's threads where the caller asks for none; None leaves PyTorch's own.

    OpenMP's threads keep their processors busy while they wait for each other. Beside another busy program, a call on
    two threads then takes ten times as long as on one and more (`refiner-bench busy`). They wait without work where the
    environment has OMP_WAIT_POLICY=PASSIVE before PyTorch is loaded.
    """
    return None if os.environ.get("OMP_WAIT_POLICY", "").strip().upper() == "PASSIVE" else 1


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Run a block with this number of PyTorch's threads; None is `default_threads`.

    PyTorch keeps the number for every thread of the program. The thread that calls gets its own number back, so that
    the engine's choice changes nothing for the rest of the program, such as a detector.
    """
    import torch

    before = torch.get_num_threads()
    wanted = threads or default_threads() or before
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Recorder(Protocol):
    """Records ``run``. Returns a function that replays it, and the tensor that every replay writes."""

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]: ...


def record_cuda_graph(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Capture ``run`` on the current device. It must read and write the same memory every time."""
    import torch

    cuda: Any = torch.cuda
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        output = run()
    return graph.replay, output


@dataclass(frozen=True)
class _Recorded:
    inputs: tuple[Tensor, ...]
    replay: Callable[[], None]
    output: Tensor


class GraphReplay:
    """Wraps a function of tensors on a CUDA device as a function of arrays. Results are new arrays.

    A graph has one set of inputs, so only one call runs at a time. Calls from several threads wait for each other.

    Args:
        function: takes tensors of the device and returns one tensor. Its control flow must not depend on values.
        device: the device.
        record: records a run; `record_cuda_graph`, or a stand-in in tests.
    """

    def __init__(
        self, function: Callable[..., Tensor], device: torch.device, record: Recorder = record_cuda_graph
    ) -> None:
        self._function, self._device, self._record = function, device, record
        self._recorded: OrderedDict[tuple[tuple[int, ...], ...], _Recorded] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, *arrays: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with self._lock, torch.inference_mode():
            recorded = self._of_shapes(arrays)
            for tensor, array in zip(recorded.inputs, arrays, strict=True):
                tensor.copy_(torch.from_numpy(array))
            recorded.replay()
            # `cpu` waits for the replay. `copy` is needed because the next replay writes the same memory.
            result: NDArray[np.float32] = recorded.output.float().cpu().numpy().copy()
        return result

    def _of_shapes(self, arrays: tuple[NDArray[np.float32], ...]) -> _Recorded:
        import torch

        shapes = tuple(array.shape for array in arrays)
        if shapes not in self._recorded:
            inputs = tuple(torch.from_numpy(array.copy()).to(self._device) for array in arrays)
            replay, output = self._record(lambda: self._function(*inputs))
            self._recorded[shapes] = _Recorded(inputs, replay, output)
            if len(self._recorded) > MOST_GRAPHS:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(shapes)
        return self._recorded[shapes]
