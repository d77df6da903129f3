"""What the networks that fill in a grid share: a cell that revises a state, the start, and what reads the answer.

Shape letters: ``B`` puzzles, ``H, W`` rows and columns of a grid, ``C`` classes of an answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class GridCell(nn.Module, ABC):
    """The map ``f`` of ``z = f(z, e)``: what a grid injects, the shape of a state, one revision of it, its reading."""

    @abstractmethod
    def inject(self, givens: Tensor) -> Tensor:
        """Return ``e``, batch first, of givens (B, H, W)."""

    @abstractmethod
    def state_shape(self, givens: Tensor) -> tuple[int, ...]:
        """Return the shape of one puzzle's state."""

    @abstractmethod
    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """Return the revised state, shaped like ``z``."""

    @abstractmethod
    def head(self) -> GridHead:
        """Make what reads an answer off a state."""


class GridHead(nn.Module, ABC):
    """What reads an answer off a state."""

    @abstractmethod
    def forward(self, z: Tensor, givens: Tensor) -> Tensor:
        """Return logits (B, H, W, C) of a state."""


class GridModel(nn.Module, ABC):
    """A network that revises a state until it reads an answer off it: ``logits = read(z*)``.

    A task may stop it on the way: ``equilibrium(givens, z0)`` goes on from a state that an earlier call reached.

    Args:
        cell: the map.
        start_std: of the random starts, a normal distribution cut at two standard deviations.

    Raises:
        ValueError: a standard deviation that is not above 0.
    """

    def __init__(self, cell: GridCell, start_std: float = 1.0) -> None:
        super().__init__()
        if not start_std > 0:
            raise ValueError(f"start_std must be above 0; got {start_std}.")
        self.cell, self.start_std = cell, start_std
        self.head = cell.head()

    def embed(self, givens: Tensor) -> Tensor:
        """Return the injection ``e``, batch first, of givens (B, H, W)."""
        return self.cell.inject(givens)

    def start(self, givens: Tensor, random: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Return the state that a solve begins with: zeros, or drawn."""
        weight = next(self.head.parameters())
        z = torch.zeros(len(givens), *self.cell.state_shape(givens), dtype=weight.dtype, device=weight.device)
        bound = 2 * self.start_std
        return nn.init.trunc_normal_(z, 0.0, self.start_std, -bound, bound, generator) if random else z

    def read(self, z: Tensor, givens: Tensor) -> Tensor:
        """Return logits (B, H, W, C) of a state."""
        return self.head(z, givens)

    @abstractmethod
    def equilibrium(self, givens: Tensor, z0: Tensor | None = None) -> Tensor:
        """Return the last state for givens (B, H, W), from ``z0`` on (None: from `start`)."""

    def forward(self, givens: Tensor, z0: Tensor | None = None) -> Tensor:
        """Return logits (B, H, W, C) of givens (B, H, W)."""
        return self.read(self.equilibrium(givens, z0), givens)


def check_grids(givens: Tensor, symbols: int | None = None) -> None:
    """Raise ValueError where givens are no integers (B, H, W), or hold none of ``symbols`` (None: any)."""
    if givens.dim() != 3 or givens.is_floating_point() or givens.dtype is torch.bool or not givens.numel():
        raise ValueError(
            f"Givens are whole numbers (B, H, W), a number for each cell; got {givens.dtype} {tuple(givens.shape)}. "
            "One grid is a batch of one: givens[None]."
        )
    if symbols is not None and bool(((givens < 0) | (givens >= symbols)).any()):
        wrong = givens[(givens < 0) | (givens >= symbols)].unique().tolist()
        raise ValueError(
            f"Givens are 0 to {symbols - 1} here; got {', '.join(map(str, wrong[:5]))}. Check how the symbols are "
            "numbered, or create the model for more of them."
        )
