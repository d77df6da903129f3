"""Hamiltonian networks: a learned energy, whose equations of motion keep it.

The state is ``y = [q, p]``, positions and momenta side by side, and a network gives the energy ``H(q, p)``:

    dq/dt = dH/dp,    dp/dt = -dH/dq        so that  dH/dt = 0  along every path, whatever the weights are

A separable energy ``H = T(p) + V(q)`` is integrated by explicit symplectic methods (``leapfrog``, ``yoshida4``), a
general one by ``implicit_midpoint``: then the computed path, too, neither gains nor loses energy in the long run.

Reference: Greydanus, Dzamba and Yosinski, "Hamiltonian neural networks", 2019, https://arxiv.org/abs/1906.01563;
Chen et al., "Symplectic recurrent neural networks", 2020, https://arxiv.org/abs/1909.13334 (separable, through the
solver)

What differs from the first paper: it fits time derivatives; here trajectories are fitted through the solver, as they
are what is observed.

Shape letters: ``B`` samples, ``D`` numbers of a state, an even number, ``T`` times.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from zoo.implicit import ImplicitMixin
from zoo.node.derivatives import gradient
from zoo.node.fields import MLPField, activation

Structure = Literal["separable", "general", "plain"]


class Energy(nn.Module):
    """A scalar of a vector: ``W_n s(... s(W_1 y + b_1))``, with a smooth activation, as its derivative moves things.

    Args:
        width: numbers in.
        hidden: units of each hidden layer.
        act: ``tanh``, ``softplus`` or ``silu``.
    """

    def __init__(self, width: int, hidden: Sequence[int] = (64, 64), act: str = "tanh") -> None:
        super().__init__()
        if act not in ("tanh", "softplus", "silu"):
            raise ValueError(f"act must be smooth (tanh, softplus or silu), as the energy's slope moves; got {act!r}.")
        self.act = activation(act)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([width, *hidden]))
        self.last = nn.Linear(hidden[-1] if hidden else width, 1, bias=False)  # energies have no zero of their own

    def forward(self, y: Tensor) -> Tensor:
        """(B,) of (B, width)."""
        for layer in self.layers:
            y = self.act(layer(y))
        return self.last(y)[:, 0]


class Separable(nn.Module):
    """``H(q, p) = T(p) + V(q)``, an `Energy` each."""

    def __init__(self, features: int, hidden: Sequence[int] = (64, 64), act: str = "tanh") -> None:
        super().__init__()
        self.kinetic, self.potential = (Energy(features // 2, hidden, act) for _ in range(2))

    def forward(self, y: Tensor) -> Tensor:
        q, p = y.chunk(2, 1)
        return self.kinetic(p) + self.potential(q)


class HamiltonianField(nn.Module):
    """The equations of motion of an energy (a module, (B, D) -> (B,)): ``[dH/dp, -dH/dq]``."""

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        dq, dp = gradient(self.energy, y).chunk(2, 1)
        return torch.cat([dp, -dq], 1)


class MotionNet(ImplicitMixin, nn.Module):
    """Where a state moves: by a learned energy, or, for comparison, by a plain field.

    Args:
        features: D.
        hidden: units of the hidden layers, of each energy or of the field.
        structure: ``separable`` ``T(p) + V(q)``, ``general`` ``H(q, p)``, or ``plain``: a field without an energy.
        act: the activation; smooth.
    """

    problem_types: ClassVar[tuple[str, ...]] = ("ode",)

    def __init__(
        self,
        features: int = 2,
        hidden: Sequence[int] = (64, 64),
        structure: Structure = "separable",
        act: Literal["tanh", "softplus", "silu"] = "tanh",
    ) -> None:
        super().__init__()
        if structure not in ("separable", "general", "plain"):
            raise ValueError(f"structure must be 'separable', 'general' or 'plain'; got {structure!r}.")
        if features < 1 or (features % 2 and structure != "plain"):
            raise ValueError(f"Positions and momenta come in pairs: features must be even and above 0; got {features}.")
        self.features, self.structure = features, structure
        self.field: nn.Module
        if structure == "plain":
            self.field = MLPField(features, hidden, "plain", act)
        else:
            kind = Separable if structure == "separable" else Energy
            self.field = HamiltonianField(kind(features, hidden, act))
        solver = {"separable": "leapfrog", "general": "implicit_midpoint", "plain": "rk4"}[structure]
        self.configure_implicit({"name": solver, "step_size": 0.1}, "unroll")

    def energy(self, y: Tensor) -> Tensor:
        """The learned energy (B,) of states (B, D), up to a constant and a unit.

        Raises:
            RuntimeError: a plain field has none.
        """
        if not isinstance(self.field, HamiltonianField):
            raise RuntimeError("A plain field has no energy; create the model with structure='separable'.")
        return self.field.energy(y)

    def forward(self, y0: Tensor, ts: Tensor | Sequence[float]) -> Tensor:
        """The states (B, T, D) at the times, the first of which is the start's, from states (B, D).

        Raises:
            ValueError: another shape than (B, D); times that do not increase.
        """
        if y0.dim() != 2 or y0.shape[1] != self.features:
            raise ValueError(f"Expected states of shape (B, {self.features}); got {tuple(y0.shape)}.")
        return self.integrate(self.field, y0, ts).transpose(0, 1)
