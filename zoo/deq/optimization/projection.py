"""The projection onto a convex set as a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.deq.optimization.program import Cones
from zoo.deq.optimization.qp import QP
from zoo.deq.optimization.status import ProgramRecord
from zoo.solve import Spec


class Projection(nn.Module):
    """The layer ``p -> argmin |x - p|  subject to  Ax = b, Gx <= h, lower <= x <= upper, Fx + f in a cone``.

        >>> simplex = Projection(simplex=1.0)
        >>> simplex(torch.tensor([[0.4, 0.4, 2.0]])).round(decimals=4).abs()
        tensor([[0., 0., 1.]])

    The last layer of a network whose answers must obey constraints, whatever the weights. All samples share the
    constraints given here; those given to ``forward`` may be each sample's own.

    Args:
        A, b: equalities, (E, N) and (E,).
        G, h: inequalities, (I, N) and (I,).
        lower, upper: bounds, numbers or (N,).
        cones: pairs ``(F, f)`` of (K, N) and (K,): the first number of ``Fx + f`` is at least the length of the others.
        simplex: the sum of x, whose numbers are then not negative either.
        solver, adjoint, rounds: see `QP`.
    """

    def __init__(
        self,
        A: Tensor | None = None,
        b: Tensor | None = None,
        G: Tensor | None = None,
        h: Tensor | None = None,
        *,
        lower: Tensor | float | None = None,
        upper: Tensor | float | None = None,
        cones: Cones = (),
        simplex: float | None = None,
        solver: Spec | Any = None,
        adjoint: Spec | Any = None,
        rounds: int = 10,
    ) -> None:
        super().__init__()
        if simplex is not None and not (simplex > 0 and A is b is lower is None):
            raise ValueError(
                f"simplex={simplex} is the sum of x, above 0, and takes the place of A, b and lower; leave those out."
            )
        self.qp, self.simplex = QP(solver, adjoint, rounds=rounds), simplex
        for name, value in {"A": A, "b": b, "G": G, "h": h, "lower": lower, "upper": upper}.items():
            self.register_buffer(name, None if value is None else torch.as_tensor(value))
        self.cones = len(cones)
        for i, (F, f) in enumerate(cones):
            self.register_buffer(f"F{i}", F)
            self.register_buffer(f"f{i}", f)

    @property
    def program(self) -> ProgramRecord | None:
        """What the newest solve reached."""
        return self.qp.program

    def forward(self, p: Tensor, **constraints: Tensor) -> Tensor:
        """The projections of points (B, N).

        Args:
            p: the points.
            **constraints: ``A``, ``b``, ``G``, ``h``, ``lower``, ``upper`` in place of those of the layer.

        Raises:
            ValueError: an unknown constraint, or shapes that do not fit.
        """
        names = ("A", "b", "G", "h", "lower", "upper")
        if unknown := [k for k in constraints if k not in names]:
            raise ValueError(f"Projection takes the constraints {', '.join(names)}; got {unknown[0]!r}.")
        if p.dim() != 2:
            raise ValueError(f"Projection takes points (B, N); got {tuple(p.shape)}.")
        given = {k: constraints.get(k, getattr(self, k)) for k in names}
        eye = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
        if self.simplex is not None:
            given["A"], given["b"] = p.new_ones(1, p.shape[1]), p.new_full((1,), self.simplex)
            given["lower"] = 0.0
        cones = [(getattr(self, f"F{i}"), getattr(self, f"f{i}")) for i in range(self.cones)]
        return self.qp(eye, -p, **given, cones=cones)
