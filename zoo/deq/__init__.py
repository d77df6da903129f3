"""Deep equilibrium models: ``z* = f(z*, x)``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.deq.layer import DEQ as DEQ
    from zoo.deq.states import trajectory as trajectory

_HOME = {"DEQ": "zoo.deq.layer", "trajectory": "zoo.deq.states"}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'zoo.deq' has no attribute {name!r}; it has {', '.join(__all__)}.")
