"""Deep equilibrium models: ``z* = f(z*, x)``."""

from __future__ import annotations

from typing import Any

__all__ = ["DEQ"]


def __getattr__(name: str) -> Any:
    if name == "DEQ":
        from zoo.deq.layer import DEQ

        return DEQ
    raise AttributeError(f"module 'zoo.deq' has no attribute {name!r}; it has {', '.join(__all__)}.")
