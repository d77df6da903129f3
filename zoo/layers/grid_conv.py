"""A convolution cell for mazes and other grids on which what is near decides, for every size.

    h = K * z + e[symbol]
    f = rms(z + V silu(h) + c)

``K`` is a 3x3 convolution, ``V`` a matrix at each cell, and the norm is over the channels of a cell. Nothing looks at
the whole grid, so that the weights of a small one serve a large one, with as many iterations more as it is wider.

Shape letters: ``B`` puzzles, ``H, W`` rows and columns, ``d`` channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.grids import GridCell, GridHead, check_grids


class ConvCell(GridCell):
    """The map above, on states (B, d, H, W).

    Args:
        channels: ``d``.
        symbols: of the givens.
        num_classes: of an answer's cells.
        expansion: channels of ``h``, as a multiple of ``d``.

    Raises:
        ValueError: a size below 1; when called, givens that are none of the symbols.
    """

    def __init__(self, channels: int = 32, symbols: int = 4, num_classes: int = 2, expansion: int = 2) -> None:
        super().__init__()
        sizes = {"channels": channels, "symbols": symbols, "num_classes": num_classes, "expansion": expansion}
        if min(sizes.values()) < 1:
            raise ValueError(f"Sizes of a reasoner must be at least 1; got {sizes}.")
        self.channels, self.symbols, self.num_classes = channels, symbols, num_classes
        self.embedding = nn.Embedding(symbols, expansion * channels)
        self.widen = nn.Conv2d(channels, expansion * channels, 3, padding=1, bias=False)
        self.narrow = nn.Conv2d(expansion * channels, channels, 1)

    def state_shape(self, givens: Tensor) -> tuple[int, ...]:
        return self.channels, *givens.shape[1:]

    def inject(self, givens: Tensor) -> Tensor:
        """Return the vector of each cell's symbol, (B, expansion d, H, W), of givens (B, H, W)."""
        check_grids(givens, self.symbols)
        return self.embedding(givens).permute(0, 3, 1, 2).contiguous()

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        z = z + self.narrow(F.silu(self.widen(z) + e))
        return z * (z.square().mean(1, keepdim=True) + 1e-6).rsqrt()

    def head(self) -> GridHead:
        return ConvHead(self.channels, self.num_classes)


class ConvHead(GridHead):
    """Logits (B, H, W, C) by a matrix at each cell of states (B, d, H, W)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, num_classes, 1)

    def forward(self, z: Tensor, givens: Tensor) -> Tensor:
        return self.score(z).permute(0, 2, 3, 1)
