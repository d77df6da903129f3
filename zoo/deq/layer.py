"""Any module as a deep equilibrium layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.implicit import ImplicitMixin
from zoo.solve import Spec, bind
from zoo.solvers.packing import Mixing, Tensors


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
    state of training. For the cell to have a fixed point: normalize its output (group or layer normalization), keep
    its weights small (weight or spectral normalization, the Jacobian penalty of `zoo.penalties`), and draw dropout
    masks outside of it (`zoo.layers.dropout.dropout_mask`): ``nn.Dropout`` in a cell draws anew at every evaluation,
    and a solve that fails warns of it.

    Every sample of a batch is solved by itself, and leaves the batch once it has converged. A cell that knows more of
    the batch (an edge list, a mask for each sample, the drop pattern of another package) is noticed where a part of the
    batch makes it fail or answer otherwise, and gets whole batches from then on; ``whole_batch`` spares the attempt.
    Samples that depend on one another are one system: ``coupled``.

    Args:
        cell: called as ``cell(z, x)``, or ``cell(z, *inputs)``; returns a state shaped like ``z``.
        solver: a name of `zoo.list_solvers`, a mapping with options, or an instance.
        adjoint: how gradients cross the solve, given likewise.
        eval_solver: used in evaluation mode, unless None.
        whole_batch: keep the batch together: no sample leaves it before all have. Inputs may then be anything.
        coupled: solve the batch as one system, with one stopping decision: for cells in which samples depend on one
            another, such as the nodes of a graph, or under batch normalization in training.

    Reference: Bai, Kolter and Koltun, "Deep equilibrium models", NeurIPS 2019.
    """

    def __init__(
        self,
        cell: nn.Module,
        solver: Spec | Any = "anderson",
        adjoint: Spec | Any = "implicit",
        *,
        eval_solver: Spec | Any | None = None,
        whole_batch: bool = False,
        coupled: bool = False,
    ) -> None:
        super().__init__()
        self.cell, self.whole_batch, self.coupled = cell, whole_batch, coupled
        self.configure_implicit(solver, adjoint, eval_solver=eval_solver)

    def forward(self, *inputs: Tensor, z0: Tensors | None = None) -> Any:
        """Return the equilibrium for inputs that are batch first.

        Args:
            *inputs: what the cell takes after its state.
            z0: where to start, and what the state is shaped like; by default zeros like the first input. Given the
                equilibrium of a similar input (the frame before, say), the solve takes fewer steps.
        """
        if not inputs and z0 is None:
            raise ValueError("DEQ needs an input, or a z0 that says what its state is shaped like.")
        if z0 is None and not (inputs[0].is_floating_point() or inputs[0].is_complex()):
            raise TypeError(
                f"DEQ begins at zeros like its first input, which is of {inputs[0].dtype}. Give a start of the state's "
                "shape, z0=torch.zeros(...), or embed the input first."
            )
        start = torch.zeros_like(inputs[0]) if z0 is None else z0
        try:
            out = self._equilibrium(inputs, start)
        except RuntimeError as error:
            if z0 is not None or self._takes(start, inputs):
                raise
            raise RuntimeError(
                f"DEQ began at zeros like its first input, {tuple(inputs[0].shape)}, and the cell refuses that state: "
                f"{str(error).splitlines()[0]}. Where the state has another shape, give it, z0=torch.zeros(...)."
            ) from error
        return out

    def _takes(self, start: Tensors, inputs: tuple[Tensor, ...]) -> bool:
        """Whether the cell can be evaluated at the start at all."""
        try:
            with torch.no_grad():
                self.cell(start, *inputs)
        except RuntimeError:
            return False
        return True

    def _equilibrium(self, inputs: tuple[Tensor, ...], start: Tensors) -> Any:
        if self.whole_batch or self.coupled:
            return self.solve(bind(self.cell, inputs), start, coupled=self.coupled)
        if _normalizes_batches(self.cell):
            return self.solve(Mixing(bind(self.cell, inputs)), start)
        out = self.solve(self.cell, start, args=inputs)
        self.whole_batch = self.last is not None and self.last.stats.whole
        return out


def _normalizes_batches(cell: nn.Module) -> bool:
    """Whether a part of a cell takes its statistics over the batch now: batch normalization in training."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return any(isinstance(m, kinds) and (m.training or m.running_mean is None) for m in cell.modules())
