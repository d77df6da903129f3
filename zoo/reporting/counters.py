"""Counting what a computation does: floating-point operations, and bytes that stay alive."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from zoo.implicit import watched_maps


class Flops(TorchDispatchMode):
    """Counts the floating-point operations of matrix products, convolutions and attention, forward and backward.

    By torch's own table of operators. ``torch.utils.flop_counter.FlopCounterMode`` counts by the same table, but
    follows modules by hooks that raise where a backward pass calls ``autograd.grad``, as every implicit adjoint does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


class Held(TorchDispatchMode):
    """Counts the bytes that operators under it made and that are still alive; storages that existed before count not.

    ``torch.autograd.graph.saved_tensors_hooks`` sees what is packed into a graph only, and nothing where an adjoint
    uses such hooks itself; what stays alive is what a training step pays for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._foreign: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._made:
                    self._foreign[storage._cdata] = storage  # kept alive, so that its address stays its own
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._foreign:
                    self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return out

    def bytes(self) -> int:
        """Of the storages that are alive now."""
        gc.collect()
        return sum(size for ref, size in self._made.values() if not ref.expired())


def held_bytes(forward: Callable[[], Tensor]) -> int:
    """Count the bytes that stay alive after ``forward()`` while its result does: what is kept for the backward pass.

    Called once before it is measured, so that what solvers keep for their next call is there already.
    """
    forward()
    gc.freeze()  # what was there before need not be searched again: a collection of all of torch takes a second
    try:
        with Held() as mode:
            value = forward()
        held = mode.bytes()
        del value
    finally:
        gc.unfreeze()
    return held


class Peak(Held):
    """Counts the most bytes that were alive at once of those that operators under it made.

    What an operator needs for itself while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self._made = {k: (ref, size) for k, (ref, size) in self._made.items() if not ref.expired()}
        self.most = max(self.most, sum(size for _, size in self._made.values()))
        return out


def peak_bytes(forward: Callable[[], Tensor]) -> int:
    """The most bytes that are alive at once while ``forward()`` runs; called once before, as `held_bytes` does."""
    forward()
    with Peak() as mode:
        forward()
    return mode.most


class Evaluations:
    """Of the maps and fields of a model's implicit modules: how many samples they saw, and at how many operations."""

    def __init__(self) -> None:
        self.samples, self.flops = 0, 0


@contextlib.contextmanager
def evaluations(counter: Flops) -> Iterator[Evaluations]:
    """Scope that counts what happens inside the maps that models solve for, while ``counter`` is on."""
    seen = Evaluations()

    def watch(f: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            before = counter.total
            out = f(*args)
            seen.flops += counter.total - before
            seen.samples += len(tree_leaves(args[place])[0])
            return out

        return call

    with watched_maps(watch):
        yield seen
