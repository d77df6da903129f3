"""The shapes of a model that a file asks for, at the cost of no more than its weights deserve."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

PARTS, FEW = 20, 1_000  # modules and parameters that a model may have for each tensor of its weights, and besides
ELEMENTS, SMALL = 4, 10_000_000  # likewise numbers in a tensor, for those of the weights


class TooLarge(ValueError):
    """A configuration that asks for a larger model than its weights are of."""


def shapes(
    factory: Callable[..., nn.Module], arguments: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the state of the model that these arguments make, without memory.

    A class that computes with values when it is made is built as it is, under the same bounds.

    Raises:
        TooLarge: the model would outgrow the weights by far; it is built no further.
    """
    with limited(PARTS * len(weights) + FEW):
        try:
            with torch.device("meta"):
                return factory(**arguments).state_dict()
        except (NotImplementedError, RuntimeError):
            numbers = sum(w.numel() for w in weights.values())
            with _Elements(ELEMENTS * numbers + SMALL):
                return factory(**arguments).state_dict()


@contextmanager
def limited(parts: int) -> Iterator[None]:
    """Scope in which this thread can make no model of more than so many modules and parameters.

    Raises:
        TooLarge: there was one more.
    """
    thread, seen = threading.get_ident(), 0

    def count(*_: Any) -> None:
        nonlocal seen
        if threading.get_ident() != thread:
            return
        seen += 1
        if seen > parts:
            raise TooLarge(f"the model would have more than {parts:,} parts, many more than its weights are of")

    hooks = [register_module_module_registration_hook(count), register_module_parameter_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Elements(TorchDispatchMode):
    """Refuses tensors of more than so many numbers before their memory is taken."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in args:
            size = [n for n in given if isinstance(n, int)] if isinstance(given, (list, tuple)) else [given]
            if size and all(isinstance(n, int) for n in size) and math.prod(size) > self.most:
                raise TooLarge(f"a tensor of {math.prod(size):,} numbers, many more than the weights have")
        return func(*args, **(kwargs or {}))
