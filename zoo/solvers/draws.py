"""Maps that draw at random at every evaluation, and so have no fixed point."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from zoo.solvers.packing import Packing, Tensors, resolution
from zoo.solvers.progress import noise

_looked_at: WeakSet[nn.Module] = WeakSet()  # modules whose failing map was looked at


def warn_of_draws(module: Any, f: Callable[..., Tensors], z: Tensors, args: tuple[Any, ...] | None) -> None:
    """Warn where a map whose solve has failed answers at random; looked at once a module, by two evaluations.

    Args:
        module: whose map it is.
        f, z, args: the map, the state that was reached, and what else the map takes.
    """
    if module in _looked_at:
        return
    _looked_at.add(module)
    with untouched(module):
        if not answers_differ(f, z, args):
            return
    names = dropping(module)
    by = f"nn.Dropout: {', '.join(names[:3])}" if names else "torch.nn.functional.dropout, say, or noise"
    warnings.warn(
        f"The map of {type(module).__name__} draws at random at every evaluation ({by}), so that it has no fixed "
        "point. Draw the mask before the solve and hand it in as an input: zoo.layers.dropout.dropout_mask.",
        stacklevel=3,
    )


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Scope after which the buffers of a module and the random numbers go on as if nothing had been computed."""
    before = [(b, b.clone()) for b in module.buffers()]
    devices = {b.device for b in (*module.buffers(), *module.parameters()) if b.device.type == "cuda"}
    with torch.random.fork_rng(devices):
        yield
    with torch.no_grad():
        for buffer, value in before:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


@torch.no_grad()
def answers_differ(f: Callable[..., Tensors], z: Tensors, args: tuple[Any, ...] | None) -> bool:
    """Whether a map gives two answers at one state, further apart than other kernels explain."""
    packing = Packing.of(z, "z")
    once, again = (packing.pack(f(z, *(args or ()))) for _ in range(2))
    gap, size = torch.linalg.vector_norm(once - again), torch.linalg.vector_norm(once)
    return bool(gap > noise(resolution(packing.wrap(f), once), once.device.type) * size)


def dropping(module: nn.Module) -> list[str]:
    """The names of the parts of a module that drop entries at random now."""
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
    return [name or "itself" for name, m in module.named_modules() if isinstance(m, kinds) and m.training and m.p > 0]
