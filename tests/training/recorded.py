"""CUDA graphs on the CPU: what a step does to memory is recorded operation by operation, and replayed on that memory.

Like a graph, a replay knows nothing of Python: a number that the host put in when it was recorded stays what it was.
Whoever reads a value back to the host while it is recorded is refused.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HostRead(Exception):
    """A recorded step waited for the device."""


class _Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.taken = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise HostRead
        result = func(*args, **(kwargs or {}))
        self.taken.append((func, args, kwargs or {}, result))
        return result


def record_operations(changed):
    """A recorder for `refiner.training.steps.GraphStep`; ``changed()`` names the tensors that a step changes."""

    def record(run):
        kept = [(tensor, tensor.detach().clone()) for tensor in changed()]
        with _Operations() as operations:
            run()
        with torch.no_grad():  # as a capture computes nothing
            for tensor, before in kept:
                tensor.detach().copy_(before)
        return lambda: _replay(operations.taken)

    return record


@torch.no_grad()
def _replay(taken):
    for func, args, kwargs, result in taken:
        again = func(*args, **kwargs)
        for held, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
            if isinstance(held, torch.Tensor) and held.data_ptr() != new.data_ptr():
                held.detach().copy_(new)
