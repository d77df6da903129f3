"""Equilibrium MLP: one hidden layer at equilibrium, for vectors; and the explicit twin of as many weights.

    z = relu(W z + U x + b),    y = V z + v        the twin:  z_{k+1} = relu(W z_k + U x + b),  z_0 = 0,  k < depth

The spectral norm of ``W`` is at most ``contraction`` < 1, so that the equilibrium exists, is unique, and is found by
plain iteration at that rate. The twin is the same cell, applied ``depth`` times and differentiated through.

Reference: El Ghaoui, Gu, Travacca, Askari and Tsai, "Implicit deep learning", 2021, https://arxiv.org/abs/1908.06315

What differs from the paper: the spectral norm is bounded by a parametrization, instead of the infinity norm by a
projection.

Shape letters: ``B`` samples, ``D`` features, ``H`` width of the hidden layer, ``C`` classes or targets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.implicit import ImplicitMixin
from zoo.layers.spectral import spectral_norm


class MLPCell(nn.Module):
    """What the equilibrium MLP and its twin share: the cell ``relu(W z + U x + b)``, and the layer that answers.

    Args:
        features: ``D``; a sample of more dimensions is flattened.
        num_classes: logits that are answered; 0: numbers are.
        targets: numbers that are answered, where there are no classes.
        width: ``H``.
        contraction: bound of the spectral norm of W, in (0, 1).
        dropout: share of the hidden layer that is dropped before the answer, in training.

    Raises:
        ValueError: a size below 1, neither classes nor targets, or a contraction outside (0, 1).
    """

    def __init__(
        self,
        features: int,
        num_classes: int = 0,
        targets: int = 0,
        width: int = 64,
        contraction: float = 0.9,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(features, width) < 1 or not 0 < contraction < 1 or not 0 <= dropout < 1:
            raise ValueError(
                "An MLP needs features and a width of at least 1, a contraction in (0, 1) and a dropout in [0, 1); got "
                f"features={features}, width={width}, contraction={contraction}, dropout={dropout}."
            )
        if (num_classes < 1) == (targets < 1):
            raise ValueError(f"An MLP answers classes or targets; got num_classes={num_classes} and targets={targets}.")
        self.features, self.num_classes, self.targets = features, num_classes, targets
        self.inject = nn.Linear(features, width)
        self.linear = spectral_norm(nn.Linear(width, width, bias=False), contraction)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, num_classes or targets)

    def cell(self, z: Tensor, x: Tensor) -> Tensor:
        """Return ``relu(W z + x)`` (B, H) of the state and of what `inject` made of the input."""
        return F.relu(self.linear(z) + x)

    def injected(self, x: Tensor) -> Tensor:
        """Return ``U x + b`` (B, H) of vectors (B, D), or of what flattens to them.

        Raises:
            ValueError: another shape, or numbers that are not finite.
        """
        flat = x.flatten(1) if x.dim() > 1 else x
        if flat.dim() != 2 or flat.shape[1] != self.features:
            raise ValueError(f"Expected vectors of shape (B, {self.features}); got {tuple(x.shape)}.")
        if not torch.isfinite(flat).all():
            raise ValueError("The vectors hold NaN or infinity; check the data and their standardization.")
        return self.inject(flat)

    def answered(self, z: Tensor) -> Tensor:
        """Return logits or numbers (B, C) of the hidden layer."""
        return self.out(self.dropout(z))


class EquilibriumMLP(ImplicitMixin, MLPCell):
    """The MLP cell at equilibrium; see `MLPCell` for the arguments.

    >>> EquilibriumMLP(features=4, num_classes=3)(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        features: int = 30,
        num_classes: int = 0,
        targets: int = 0,
        width: int = 64,
        contraction: float = 0.9,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features, num_classes, targets, width, contraction, dropout)
        self.configure_implicit({"name": "anderson", "rtol": 1e-4, "max_steps": 40}, "implicit")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) or numbers (B, targets) of vectors (B, features)."""
        x = self.injected(x)
        return self.answered(self.solve(self.cell, torch.zeros_like(x), args=(x,)))


class UnrolledMLP(MLPCell):
    """The explicit twin: the same cell, ``depth`` times.

    Args:
        depth: how often the cell is applied.
    """

    def __init__(
        self,
        features: int = 30,
        num_classes: int = 0,
        targets: int = 0,
        width: int = 64,
        contraction: float = 0.9,
        dropout: float = 0.0,
        depth: int = 4,
    ) -> None:
        super().__init__(features, num_classes, targets, width, contraction, dropout)
        if depth < 1:
            raise ValueError(f"depth must be at least 1; got {depth}.")
        self.depth = depth

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) or numbers (B, targets) of vectors (B, features)."""
        x = self.injected(x)
        z = torch.zeros_like(x)
        for _ in range(self.depth):
            z = self.cell(z, x)
        return self.answered(z)
