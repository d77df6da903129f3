"""Optimization layers: the output obeys constraints, as it is the solution of a convex program.

    QP            minimize 1/2 x'Qx + q'x  subject to  Ax = b, Gx <= h
    Projection    the nearest point of {Ax = b, Gx <= h, lower <= x <= upper}
    LeastSquares  minimize 1/2 |r(x)|^2  subject to  lower <= x <= upper, for a residual of your own

All are implicit layers: the solution is the fixed point of a map, found by a solver of the registry, differentiated by
an adjoint of the registry, with a status for every sample.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.deq.optimization.least_squares import LeastSquares as LeastSquares
    from zoo.deq.optimization.projection import Projection as Projection
    from zoo.deq.optimization.qp import QP as QP
    from zoo.deq.optimization.status import ProgramRecord as ProgramRecord
    from zoo.deq.optimization.status import Status as Status

_HOME = {
    "QP": "qp",
    "Projection": "projection",
    "LeastSquares": "least_squares",
    "Status": "status",
    "ProgramRecord": "status",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}.")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
