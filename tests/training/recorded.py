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


class NoHostReads(TorchDispatchMode):
    """Refuses whatever a device's host would wait for, or copy from: values, and shapes that depend on values.

    ``operations``: how many that are no mere views were taken.
    """

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if func in (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default):
            raise HostRead
        places = args[1] if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default) else ()
        if any(index is not None and index.dtype == torch.bool for index in places):
            raise HostRead
        result = func(*args, **(kwargs or {}))
        first = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)), None)
        new = next((leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)), None)
        view = (
            first is not None
            and new is not None
            and first.untyped_storage().data_ptr() == new.untyped_storage().data_ptr()
        )
        self.operations += not view
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
