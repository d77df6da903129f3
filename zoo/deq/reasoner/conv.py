"""The reasoner for mazes: convolutions, trained on small grids and applied to large ones."""

from __future__ import annotations

from zoo.deq.reasoner.base import Reasoner
from zoo.layers.grid_conv import ConvCell


class ConvReasoner(Reasoner):
    """Equilibrium of `ConvCell`; the same weights serve grids of every size.

        >>> import torch
        >>> model = ConvReasoner(channels=8)
        >>> model(torch.zeros(1, 5, 5, dtype=torch.long)).shape, model(torch.zeros(1, 9, 7, dtype=torch.long)).shape
        (torch.Size([1, 5, 5, 2]), torch.Size([1, 9, 7, 2]))

    Args:
        channels: of the state at each cell.
        symbols: of the givens.
        num_classes: of an answer's cells.
        expansion: channels within the map, as a multiple of ``channels``.
        start_std: of the random starts.

    Raises:
        ValueError: a size below 1; when called, givens that are none of the symbols.

    References: Bansal et al., "End-to-end algorithm synthesis with recurrent networks", 2022,
    https://arxiv.org/abs/2202.05826 (the input at every step); Anil et al., "Path independent equilibrium models can
    better exploit test-time computation", 2022, https://arxiv.org/abs/2211.09961

    What differs from them: the norm is over the channels of a cell, so that it does not change with the grid's size.
    """

    def __init__(
        self,
        channels: int = 32,
        symbols: int = 4,
        num_classes: int = 2,
        expansion: int = 2,
        start_std: float = 1.0,
    ) -> None:
        super().__init__(ConvCell(channels, symbols, num_classes, expansion), start_std)
        self.symbols, self.num_classes = symbols, num_classes
