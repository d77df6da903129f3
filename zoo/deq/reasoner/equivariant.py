"""The reasoner for Sudoku of any size, equivariant to renaming its symbols."""

from __future__ import annotations

from zoo.deq.reasoner.base import Reasoner
from zoo.layers.equivariant import EquivariantCell


class EquivariantReasoner(Reasoner):
    """Equilibrium of `EquivariantCell`; the same weights solve grids of 4, 6, 9, 16, ... symbols.

        >>> import torch
        >>> model = EquivariantReasoner(channels=8)
        >>> model(torch.zeros(2, 9, 9, dtype=torch.long)).shape
        torch.Size([2, 9, 9, 9])
        >>> model(torch.zeros(2, 4, 4, dtype=torch.long)).shape
        torch.Size([2, 4, 4, 4])

    What differs from the papers: messages are means over groups instead of attention or mixing over all cells, so that
    no weight belongs to a symbol or a place; the norm comes after the residual.

    Args:
        channels: of the state, for each pair of cell and symbol.
        box: rows and columns of a box, see `EquivariantCell`.
        start_std: of the random starts.

    Raises:
        ValueError: a size below 1; when called, givens that are no n x n grids of 0 (blank) to n.

    References: see `zoo.deq.reasoner.base`; equivariance to symbols: "SE-RRM", 2026, https://arxiv.org/abs/2603.02193
    """

    def __init__(self, channels: int = 24, box: tuple[int, int] = (3, 3), start_std: float = 1.0) -> None:
        super().__init__(EquivariantCell(channels, box), start_std)
