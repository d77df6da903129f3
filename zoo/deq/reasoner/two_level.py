"""Reasoners of two levels, an answer and a latent, for any grid."""

from __future__ import annotations

from zoo.deq.reasoner.base import Reasoner
from zoo.layers.grid_levels import TwoLevelCell, attention, mixer


class MixerReasoner(Reasoner):
    """Equilibrium of a `TwoLevelCell` whose cells of the grid speak through a perceptron, for grids of one size.

        >>> import torch
        >>> MixerReasoner(width=8, grid=(4, 4), symbols=5, num_classes=4)(torch.zeros(2, 4, 4, dtype=torch.long)).shape
        torch.Size([2, 4, 4, 4])

    What differs from the paper: one evaluation is the paper's whole cycle, ``latent_steps`` revisions of the latent and
    one of the answer, and it is iterated to an equilibrium; there is no head that decides when to stop, as the residual
    does; positions are sinusoids of row, column and box.

    Args:
        width: of both levels at each cell.
        layers: blocks of the network.
        expansion: inner width of a block's perceptrons, as a multiple of what they take.
        latent_steps: revisions of the latent before one of the answer.
        grid: rows and columns of all grids.
        symbols: of the givens.
        num_classes: of an answer's cells.
        box: rows and columns of a box of the grid; None: there are none.
        start_std: of the random starts.

    Raises:
        ValueError: a size below 1, or an odd width; when called, givens of another size, or that are no symbols.

    Reference: Jolicoeur-Martineau, "Less is more: recursive reasoning with tiny networks", 2025,
    https://arxiv.org/abs/2510.04871
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 2,
        expansion: int = 2,
        latent_steps: int = 3,
        grid: tuple[int, int] = (9, 9),
        symbols: int = 10,
        num_classes: int = 9,
        box: tuple[int, int] | None = None,
        start_std: float = 1.0,
    ) -> None:
        net = mixer(width, layers, grid[0] * grid[1], expansion)
        super().__init__(TwoLevelCell(net, width, symbols, num_classes, latent_steps, box, grid), start_std)
        self.symbols, self.num_classes, self.grid = symbols, num_classes, (grid[0], grid[1])


class AttentionReasoner(Reasoner):
    """Equilibrium of a `TwoLevelCell` whose cells of the grid attend to one another, for grids of any size.

        >>> import torch
        >>> AttentionReasoner(width=8, heads=2, symbols=4, num_classes=2)(torch.zeros(1, 3, 5, dtype=torch.long)).shape
        torch.Size([1, 3, 5, 2])

    What differs from the paper: see `MixerReasoner`.

    Args:
        width: of both levels at each cell.
        layers: blocks of the network.
        heads: of attention.
        expansion, latent_steps, symbols, num_classes, box, start_std: see `MixerReasoner`.

    Raises:
        ValueError: a size below 1, an odd width, or one that the heads do not divide; when called, givens that are none
            of the symbols.

    Reference: Jolicoeur-Martineau, "Less is more: recursive reasoning with tiny networks", 2025,
    https://arxiv.org/abs/2510.04871
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        expansion: int = 2,
        latent_steps: int = 3,
        symbols: int = 10,
        num_classes: int = 9,
        box: tuple[int, int] | None = None,
        start_std: float = 1.0,
    ) -> None:
        net = attention(width, layers, heads, expansion)
        super().__init__(TwoLevelCell(net, width, symbols, num_classes, latent_steps, box), start_std)
        self.symbols, self.num_classes = symbols, num_classes
