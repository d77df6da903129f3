"""A cell for Latin squares and Sudoku that treats all symbols alike.

The state has a vector for every pair of cell and symbol. It hears the mean over each group of its cell (row, column,
box) of the same symbol, and the mean over all symbols of its cell:

    h   = W [z, mean_row z, mean_column z, mean_box z, mean_symbols z, x] + b
    f   = rms(z + V silu(h) + c)

``x`` is one of three learned vectors: the cell is blank, holds this symbol, or holds another. No weight belongs to a
symbol, a place or a size, so that renaming symbols, permuting rows within a band, bands, columns alike, and transposing
(of square boxes) permute the states, and the same weights serve grids of every size.

Shape letters: ``B`` puzzles, ``n`` rows, columns and symbols, ``d`` channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.grids import GridCell, GridHead, check_grids

BLANK, THIS, OTHER = 0, 1, 2


class EquivariantCell(GridCell):
    """The map above, on states (B, n n, n, d).

    Args:
        channels: ``d``.
        box: rows and columns of a box, of grids of ``n = rows * columns``. For other sizes the box is as square as
            can be, with no more rows than columns.

    Raises:
        ValueError: a size below 1; when called, givens that are no n x n grids of 0 (blank) to n.
    """

    def __init__(self, channels: int = 24, box: tuple[int, int] = (3, 3)) -> None:
        super().__init__()
        if channels < 1 or len(box) != 2 or min(box) < 1:
            raise ValueError(f"channels and both sides of a box must be at least 1; got {channels} and {tuple(box)}.")
        self.channels, self.box = channels, (box[0], box[1])
        self.embedding = nn.Embedding(3, channels)
        self.widen, self.narrow = nn.Linear(6 * channels, 2 * channels), nn.Linear(2 * channels, channels)

    def state_shape(self, givens: Tensor) -> tuple[int, ...]:
        n = givens.shape[-1]
        return n * n, n, self.channels

    def inject(self, givens: Tensor) -> Tensor:
        """Return ``W_x x + b`` (B, n n, n, 2 d), all that the givens add to ``h``, of givens (B, n, n)."""
        check_grids(givens)
        n = givens.shape[-1]
        if givens.shape[-2] != n:
            raise ValueError(f"Grids must be square, n x n with the symbols 1 to n; got {tuple(givens.shape[1:])}.")
        check_grids(givens, n + 1)
        cells = givens.flatten(1)[:, :, None]
        same = cells == torch.arange(1, n + 1, device=givens.device)
        kind = torch.where(same, THIS, torch.where(cells == 0, BLANK, OTHER))
        return F.embedding(kind, F.linear(self.embedding.weight, self._weights()[2], self.widen.bias))

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        batch, cells, n, d = z.shape
        own, heard, _ = self._weights()
        member = _membership(n, self.box_of(n)).to(z)
        # all means of groups by one small product, and each on its way by its own matrix
        means = torch.matmul(member.T / n, z.view(batch, cells, n * d)).view(batch, 3, n * n, d)
        sent = torch.matmul(means, heard[:3]).view(batch, 3 * n, n * 2 * d)
        h = torch.addmm(e.reshape(-1, 2 * d), z.reshape(-1, d), own).view(batch, cells, -1)
        h = torch.baddbmm(h, member.expand(batch, -1, -1), sent).view(batch, cells, n, 2 * d)
        h = h + torch.matmul(z.mean(2), heard[3])[:, :, None]
        return F.rms_norm(z + self.narrow(F.silu(h)), (d,), eps=1e-6)

    def box_of(self, n: int) -> tuple[int, int]:
        """Return rows and columns of a box in grids n x n."""
        if n == self.box[0] * self.box[1]:
            return self.box
        rows = next(r for r in range(int(n**0.5), 0, -1) if n % r == 0)
        return rows, n // rows

    def head(self) -> GridHead:
        return SymbolHead(self.channels)

    def _weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """``W`` for the state (d, 2d), for what it hears (4, d, 2d), and for the input (2d, d)."""
        own, *heard, given = self.widen.weight.split(self.channels, dim=1)
        return own.T, torch.stack(heard).mT, given


class SymbolHead(GridHead):
    """A score for every pair of cell and symbol: logits (B, n, n, n) of states (B, n n, n, d)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Linear(channels, 1)

    def forward(self, z: Tensor, givens: Tensor) -> Tensor:
        return self.score(z).view(*givens.shape, z.shape[2])


def _membership(n: int, box: tuple[int, int]) -> Tensor:
    """Which of the rows, the columns and the boxes each cell lies in: ones in (n n, 3 n)."""
    cell = torch.arange(n * n)
    row, column = cell // n, cell % n
    boxes = row // box[0] * (n // box[1]) + column // box[1]
    return torch.cat([F.one_hot(g, n) for g in (row, column, boxes)], 1).float()
