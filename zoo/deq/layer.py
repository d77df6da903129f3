"""Any module as a deep equilibrium layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.implicit import ImplicitMixin
from zoo.solve import Spec
from zoo.solvers.packing import Tensors


class DEQ(ImplicitMixin, nn.Module):
    """The layer ``x -> z*`` with ``z* = cell(z*, x)``, around a module of your own.

        >>> class Cell(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear, self.norm = torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)
        ...     def forward(self, z, x):
        ...         return self.norm(torch.relu(self.linear(z)) + x)
        >>> layer = DEQ(Cell())
        >>> layer(torch.randn(4, 8)).shape
        torch.Size([4, 8])

    ``layer.last`` says how the newest solve went; ``layer.configure_implicit(...)`` changes solver and adjoint, in any
    state of training. For the cell to have a fixed point: normalise its output (group or layer normalisation), keep
    its weights small (weight or spectral normalisation, the Jacobian penalty of `zoo.penalties`), and draw dropout
    masks outside of it.

    Args:
        cell: called as ``cell(z, x)``, or ``cell(z, *inputs)``; returns a state shaped like ``z``.
        solver: a name of `zoo.list_solvers`, a mapping with options, or an instance.
        adjoint: how gradients cross the solve, given likewise.
        eval_solver: used in evaluation mode, unless None.

    Reference: Bai, Kolter and Koltun, "Deep equilibrium models", NeurIPS 2019.
    """

    def __init__(
        self,
        cell: nn.Module,
        solver: Spec | Any = "anderson",
        adjoint: Spec | Any = "implicit",
        *,
        eval_solver: Spec | Any | None = None,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.configure_implicit(solver, adjoint, eval_solver=eval_solver)

    def forward(self, *inputs: Tensor, z0: Tensors | None = None) -> Any:
        """The equilibrium for inputs that are batch first.

        Args:
            *inputs: what the cell takes behind its state.
            z0: where to start, and what the state is shaped like; by default zeros like the first input. Given the
                equilibrium of a similar input (the frame before, say), the solve takes fewer steps.
        """
        if not inputs and z0 is None:
            raise ValueError("DEQ needs an input, or a z0 that says what its state is shaped like.")
        start = torch.zeros_like(inputs[0]) if z0 is None else z0
        return self.solve(self.cell, start, args=inputs)
