"""The explicit twins of the equilibrium reasoners: the same cell, a fixed number of times.

    tied:      z_{k+1} = f(z_k, e)        one cell, K times
    untied:    z_{k+1} = f_k(z_k, e_k)    K cells with weights and injections of their own

The tied twin is the reasoner with its solver cut to K plain iterations; more of them at test are not more of the same,
as nothing has taught it to settle. The untied one has the parameters of K cells: make it narrower for equal numbers.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from zoo.layers.equivariant import EquivariantCell
from zoo.layers.grid_conv import ConvCell
from zoo.layers.grids import GridCell, GridModel


class ExplicitReasoner(GridModel):
    """A net of ``depth`` cells that fills in a grid.

        >>> import torch
        >>> ExplicitReasoner("conv", depth=3, channels=8)(torch.zeros(1, 5, 5, dtype=torch.long)).shape
        torch.Size([1, 5, 5, 2])

    Args:
        cell: ``equivariant``, for Sudoku, or ``conv``, for mazes.
        depth: cells one after the other.
        tied: one cell applied ``depth`` times, or ``depth`` cells.
        channels: of the cell's state.
        box: see `EquivariantCell`; of that cell only.
        symbols, num_classes: see `ConvCell`; of that cell only.
        start_std: of the random starts.

    Raises:
        ValueError: a depth below 1, a cell of another name, or sizes that the cell refuses.
    """

    def __init__(
        self,
        cell: Literal["equivariant", "conv"] = "equivariant",
        depth: int = 4,
        tied: bool = False,
        channels: int = 12,
        box: tuple[int, int] = (3, 3),
        symbols: int = 4,
        num_classes: int = 2,
        start_std: float = 1.0,
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1; got {depth}.")

        def make() -> GridCell:
            if cell == "equivariant":
                return EquivariantCell(channels, box)
            if cell == "conv":
                return ConvCell(channels, symbols, num_classes)
            raise ValueError(f"cell must be 'equivariant' or 'conv'; got {cell!r}.")

        super().__init__(make(), start_std)
        self.depth, self.tied = depth, tied
        self.further = nn.ModuleList(make() for _ in range(0 if tied else depth - 1))

    def equilibrium(self, givens: Tensor, z0: Tensor | None = None) -> Tensor:
        """Return the state after the last cell, from ``z0`` on (None: from `start`)."""
        z = self.start(givens) if z0 is None else z0
        if self.tied:
            e = self.embed(givens)
            for _ in range(self.depth):
                z = self.cell(z, e)
            return z
        for cell in (self.cell, *self.further):
            z = cell(z, cell.inject(givens))
        return z
