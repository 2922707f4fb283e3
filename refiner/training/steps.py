"""One training step: operation by operation, with the network compiled, or as one CUDA graph.

No kind of step waits for the device. The loss stays on the device, and so does the question whether it is finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from refiner.errors import ConfigError, MissingComponentError
from refiner.training.config import Config
from refiner.training.losses import lifter_loss
from refiner.training.optimiser import MuonWithAdamW, set_rate
from refiner.training.schedule import MovingAverage, learning_rate
from refiner.training.tasks import LifterTask, Task
from refiner.training.windows import Windows

Optimiser = torch.optim.Optimizer | MuonWithAdamW
# A step is captured after this many ordinary steps of the run. They run on a stream of their own, and in them libraries
# allocate memory and choose algorithms.
FIRST_STEPS = 3


class Step(Protocol):
    """Trains on a batch and returns its loss, a tensor without dimensions on the device.

    ``gone`` is the share of the time that is over, see `learning_rate`.
    """

    def __call__(self, step: int, windows: Windows, gone: float = 0.0) -> Tensor: ...


@runtime_checkable
class CapturableTask(Protocol):
    """A task whose loss a CUDA graph can hold."""

    def prepare(self, windows: Windows, step: int) -> tuple[Tensor, ...]:
        """Do everything that needs the host (draws, copies); return device tensors, of the same shapes each time."""
        ...

    def loss_of(self, *inputs: Tensor) -> Tensor:
        """The loss for the tensors of `prepare`. Nothing else that it uses may change from step to step."""
        ...


class Recorder(Protocol):
    """Records ``run`` without running it, and returns a function that replays it."""

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]: ...


def captures(config: Config) -> bool:
    """Whether the steps of a run are CUDA graphs. Raises ConfigError if they should be, but the device has none."""
    settings = config.training
    if not settings.compile.endswith("graph"):
        return False
    if torch.device(settings.device).type != "cuda":
        raise ConfigError(
            f'training.compile = "{settings.compile}" records CUDA graphs, and training.device is '
            f'"{settings.device}"; take "none" or "compile" there, or a CUDA device'
        )
    return True


def check_device(device: str) -> None:
    """Raise MissingComponentError if the configured CUDA device is not available."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError(
            f'training.device is "{device}" and PyTorch sees no CUDA device here; take training.device=cpu, or install '
            "PyTorch's CUDA build"
        )


def build_step(config: Config, task: Task, optimiser: Optimiser, average: MovingAverage) -> Step:
    """Build the step on whole batches that ``training.compile`` names.

    Raises ConfigError if task or device do not allow it.
    """
    graph = captures(config)
    compile_network(config, task)
    if graph:
        return GraphStep(config, task, optimiser, average)
    return EagerStep(config, task, optimiser, average)


def compile_network(config: Config, task: Task) -> None:
    """Compile the network of a task, if the configuration asks for it."""
    if config.training.compile.startswith("compile"):
        # This compiles in place, so that the names of the parameters do not change.
        task.model.compile()


class EagerStep:
    """Runs a step operation by operation."""

    def __init__(self, config: Config, task: Task, optimiser: Optimiser, average: MovingAverage) -> None:
        self._config, self._task, self._optimiser, self._average = config, task, optimiser, average

    def __call__(self, step: int, windows: Windows, gone: float = 0.0) -> Tensor:
        config, model = self._config, self._task.model
        seed_of_step(config, step)
        set_rate(self._optimiser, learning_rate(step, config.training.steps, config.optimiser, gone))
        self._optimiser.zero_grad(set_to_none=True)
        with autocast(config):
            loss = self._task.loss(windows, step)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradients(config, model)
        self._optimiser.step()
        self._average.update(model)
        return loss.detach()


class GraphStep:
    """Runs forward, backward, clipping, optimiser and moving average as one CUDA graph.

    All values that change from step to step lie in tensors that the graph reads: the batch, the rates, and the share of
    the moving average.

    Args:
        config: the configuration of the run.
        task: a `CapturableTask` or a `LifterTask`.
        optimiser: built with ``capturable``.
        average: the moving average.
        record: records a step; `record_cuda_graph` by default.

    Raises:
        ConfigError: a graph cannot hold the loss of the task.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        optimiser: Optimiser,
        average: MovingAverage,
        record: Recorder | None = None,
    ) -> None:
        self._config, self._model, self._optimiser, self._average = config, task.model, optimiser, average
        self._task = _capturable(task, config)
        self._record = record or record_cuda_graph
        device = next(task.model.parameters()).device
        self._share, self._loss = torch.zeros((), device=device), torch.zeros((), device=device)
        self._inputs: tuple[Tensor, ...] = ()
        self._replay: Callable[[], None] | None = None
        self._taken = 0

    def __call__(self, step: int, windows: Windows, gone: float = 0.0) -> Tensor:
        config = self._config
        seed_of_step(config, step)
        set_rate(self._optimiser, learning_rate(step, config.training.steps, config.optimiser, gone))
        self._share.fill_(self._average.next_share())
        self._hold(self._task.prepare(windows, step))
        if self._replay is None and self._taken >= FIRST_STEPS:
            self._optimiser.zero_grad(set_to_none=True)
            self._replay = self._record(self._run)
        if self._replay is None:
            _on_side_stream(self._run, self._loss.device)
        else:
            self._replay()
        self._taken += 1
        return self._loss

    def _hold(self, tensors: tuple[Tensor, ...]) -> None:
        """Copy a batch to the tensors that the graph reads. Raises ConfigError if its shapes differ."""
        if not self._inputs:
            self._inputs = tuple(value.clone() for value in tensors)
            return
        for held, value in zip(self._inputs, tensors, strict=True):
            if held.shape != value.shape or held.dtype != value.dtype:
                raise ConfigError(
                    f"a batch has a tensor of {value.dtype} {tuple(value.shape)}, the one before of {held.dtype} "
                    f'{tuple(held.shape)}: a CUDA graph takes one shape; take training.compile = "compile"'
                )
            held.copy_(value, non_blocking=True)

    def _run(self) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        with autocast(self._config):
            loss = self._task.loss_of(*self._inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradients(self._config, self._model)
        self._optimiser.step()
        self._average.blend(self._model, self._share)
        self._loss.copy_(loss.detach())


def record_cuda_graph(run: Callable[[], None]) -> Callable[[], None]:
    """Capture ``run`` on the current CUDA device. The capture computes nothing; the returned function replays it."""
    cuda: Any = torch.cuda
    cuda.synchronize()
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        run()
    replay: Callable[[], None] = graph.replay
    return replay


def on_device(value: Any, device: torch.device) -> Tensor:
    """Copy an array or a tensor to ``device``, from pinned memory, so that the host does not wait for the copy."""
    tensor = torch.as_tensor(value)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def seed_of_step(config: Config, step: int) -> None:
    """Seed PyTorch from the seed and the step: dropout and stochastic depth use its generator."""
    torch.manual_seed(int(np.random.SeedSequence([config.training.seed, step]).generate_state(1)[0]))


def clip_gradients(config: Config, model: nn.Module) -> None:
    """Limit the norm of the gradients, if the configuration asks for it."""
    if config.optimiser.clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), config.optimiser.clip_norm)


def autocast(config: Config) -> torch.autocast:
    """The context of the loss: products in bfloat16 if the configuration asks for them."""
    settings = config.training
    return torch.autocast(torch.device(settings.device).type, torch.bfloat16, enabled=settings.precision == "bfloat16")


def _on_side_stream(run: Callable[[], None], device: torch.device) -> None:
    """Run on a separate stream, as CUDA graphs require before a capture."""
    if device.type != "cuda":
        run()
        return
    cuda: Any = torch.cuda
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        run()
    cuda.current_stream().wait_stream(side)


def _capturable(task: Task, config: Config) -> CapturableTask:
    if isinstance(task, CapturableTask):
        return task
    if isinstance(task, LifterTask):
        return _LifterLoss(task)
    raise ConfigError(
        f'training.compile = "{config.training.compile}" cannot hold the loss of a {type(task).__name__}, which draws '
        'on the host; take "compile" or "none"'
    )


class _LifterLoss:
    """The loss of a `LifterTask` as a `CapturableTask`."""

    def __init__(self, task: LifterTask) -> None:
        self._task = task

    def prepare(self, windows: Windows, step: int) -> tuple[Tensor, ...]:
        device = next(self._task.model.parameters()).device
        return on_device(windows.pose_2d, device), on_device(windows.pose_3d, device)

    def loss_of(self, *inputs: Tensor) -> Tensor:
        pose_2d, target = inputs
        config = self._task.config
        return lifter_loss(self._task.model(pose_2d).float(), target, config.loss, config.model.root)
