"""Neural ODEs: the output is the state that a field ``dy/dt = f(t, y)`` carries the input to."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.node.layer import NeuralODE as NeuralODE

_HOME = {"NeuralODE": "zoo.node.layer"}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'zoo.node' has no attribute {name!r}; it has {', '.join(__all__)}.")
