"""Cells of two levels for any grid: an answer ``y`` and a latent ``z``, revised by one small network in turn.

    z <- net(z + y + e), several times;    y <- net(y + z)

``net`` is a stack of blocks, ``h <- rms(h + mix(h)), h <- rms(h + swiglu(h))``, whose ``mix`` carries what the cells of
the grid tell one another: a perceptron over the cells for each channel (mixer), or attention.

Reference: Jolicoeur-Martineau, "Less is more: recursive reasoning with tiny networks", 2025,
https://arxiv.org/abs/2510.04871

Shape letters: ``B`` puzzles, ``N`` cells, ``D`` width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.attention import sinusoids
from zoo.layers.grids import GridCell, GridHead, check_grids


class SwiGLU(nn.Module):
    """``W (silu(A h) * B h)``, over the last axis."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        gate, value = self.widen(h).chunk(2, dim=-1)
        return self.narrow(F.silu(gate) * value)


class CellMixing(nn.Module):
    """A perceptron over the cells, the same for each channel: (B, N, D) to (B, N, D), for one ``N``."""

    def __init__(self, cells: int, inner: int) -> None:
        super().__init__()
        self.cells, self.mix = cells, SwiGLU(cells, inner)

    def forward(self, h: Tensor) -> Tensor:
        return self.mix(h.mT).mT


class CellAttention(nn.Module):
    """Attention of every cell to every cell: (B, N, D) to (B, N, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"The heads must divide the width; got width={width} and heads={heads}.")
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        batch, cells, width = h.shape
        q, k, v = self.qkv(h).view(batch, cells, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, cells, width))


class Block(nn.Module):
    """``h <- rms(h + mix(h)), h <- rms(h + swiglu(h))``."""

    def __init__(self, width: int, mix: nn.Module, inner: int) -> None:
        super().__init__()
        self.mix, self.feedforward = mix, SwiGLU(width, inner)

    def forward(self, h: Tensor) -> Tensor:
        for part in (self.mix, self.feedforward):
            h = F.rms_norm(h + part(h), h.shape[-1:], eps=1e-6)
        return h


class TwoLevelCell(GridCell):
    """The map above, on states (B, 2, N, D): the answer first.

    Args:
        net: what revises both levels, (B, N, D) to (B, N, D).
        width: ``D``, even.
        symbols: of the givens.
        num_classes: of an answer's cells.
        latent_steps: revisions of ``z`` before one of ``y``.
        box: rows and columns of a box of the grid, whose number then is part of a cell's position; None: there is none.
        grid: rows and columns of all grids; None: any.

    Raises:
        ValueError: a size below 1, or an odd width; when called, givens of another size, or that are no symbols.
    """

    def __init__(
        self,
        net: nn.Module,
        width: int,
        symbols: int,
        num_classes: int,
        latent_steps: int,
        box: tuple[int, int] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        sizes = {"symbols": symbols, "num_classes": num_classes, "latent_steps": latent_steps, "width": width}
        if min(sizes.values()) < 1 or width % 2:
            raise ValueError(f"Sizes of a reasoner must be at least 1, and its width even; got {sizes}.")
        self.net, self.width, self.symbols, self.num_classes = net, width, symbols, num_classes
        self.latent_steps, self.box, self.grid = latent_steps, box and (box[0], box[1]), grid and (grid[0], grid[1])
        self.embedding = nn.Embedding(symbols, width)
        self.position = nn.Linear(width * (3 if box else 2), width)

    def state_shape(self, givens: Tensor) -> tuple[int, ...]:
        return 2, givens[0].numel(), self.width

    def inject(self, givens: Tensor) -> Tensor:
        """Return the vectors of each cell's symbol and place, (B, N, D), of givens (B, H, W)."""
        check_grids(givens, self.symbols)
        rows, columns = givens.shape[1:]
        if self.grid is not None and (rows, columns) != self.grid:
            raise ValueError(
                f"A mixer has weights for every cell: it was made for grids {self.grid[0]}x{self.grid[1]}, and got "
                f"{rows}x{columns}. Create it with grid=({rows}, {columns}), or use attention, which takes any size."
            )
        row = torch.arange(rows, device=givens.device)[:, None].expand(rows, columns)
        column = torch.arange(columns, device=givens.device).expand(rows, columns)
        places = [row, column]
        if self.box is not None:
            places.append(row // self.box[0] * -(-columns // self.box[1]) + column // self.box[1])
        like = self.embedding.weight
        encoded = torch.cat([sinusoids(int(p.max()) + 1, self.width, like).flip(0)[p] for p in places], -1)
        return (self.embedding(givens) + self.position(encoded)).flatten(1, 2)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        y, latent = z.unbind(1)
        for _ in range(self.latent_steps):
            latent = self.net(latent + y + e)
        return torch.stack([self.net(y + latent), latent], 1)

    def head(self) -> GridHead:
        return LevelHead(self.width, self.num_classes)


class LevelHead(GridHead):
    """Logits (B, H, W, C) by a matrix at each cell of the answer's level."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, num_classes)

    def forward(self, z: Tensor, givens: Tensor) -> Tensor:
        return self.score(z[:, 0]).view(*givens.shape, -1)


def mixer(width: int, layers: int, cells: int, expansion: int) -> nn.Module:
    """Return the network of a mixer, for grids of so many cells."""
    _at_least_one(width=width, layers=layers, cells=cells, expansion=expansion)
    inner = [CellMixing(cells, expansion * cells) for _ in range(layers)]
    return nn.Sequential(*(Block(width, mix, expansion * width) for mix in inner))


def attention(width: int, layers: int, heads: int, expansion: int) -> nn.Module:
    """Return the network with attention, for grids of any size."""
    _at_least_one(width=width, layers=layers, heads=heads, expansion=expansion)
    return nn.Sequential(*(Block(width, CellAttention(width, heads), expansion * width) for _ in range(layers)))


def _at_least_one(**sizes: int) -> None:
    if min(sizes.values()) < 1:
        raise ValueError(f"Sizes of a reasoner must be at least 1; got {sizes}.")
