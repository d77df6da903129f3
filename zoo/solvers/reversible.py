"""The reversible relaxed iteration: every step can be undone, so that nothing needs to be kept for its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from zoo.solvers.base import Map, Solver


class State(NamedTuple):
    z: Tensor
    norm: Tensor
    y: Tensor
    fz: Tensor


@dataclass(frozen=True, kw_only=True)
class Reversible(Solver):
    """Two coupled relaxed iterates, two evaluations a step::

        y' = (1 - d) y + d f(z)          z = (z' - d f(y')) / (1 - d)
        z' = (1 - d) z + d f(y')         y = (y' - d f(z )) / (1 - d)

    Forward on the left, backward on the right. Both tend to the fixed point where ``f`` contracts, more slowly than
    Picard. Undoing a step enlarges rounding errors by ``1 / (1 - d)`` for each line, so that many steps of a large
    damping cannot be undone: the adjoint `reversible` says so.

    Args:
        damping: ``d``, in (0, 1).
        max_steps: steps at most; by default as many as the adjoint can undo at the default damping.

    Reference: McCallum, Arora and Foster, "Reversible deep equilibrium models", 2025.
    """

    damping: float = 0.5
    max_steps: int = 22

    unrollable: ClassVar[bool] = False
    holds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.damping < 1:
            raise ValueError(f"Reversible: damping must lie within (0, 1); got {self.damping}.")

    def _state(self, z: Tensor, y: Tensor, fz: Tensor) -> State:
        return State(z, torch.linalg.vector_norm((fz - z).detach(), dim=1), y, fz)

    def residual(self, state: State) -> Tensor:
        return state.fz - state.z

    def init(self, f: Map, z: Tensor) -> State:
        return self._state(z, z, f(z))

    def step(self, f: Map, state: State, active: Tensor | None) -> State:
        y = _settled(state.y, torch.lerp(state.y, state.fz, self.damping), active)
        z = _settled(state.z, torch.lerp(state.z, f(y), self.damping), active)
        return self._state(z, y, f(z))


def _settled(old: Tensor, new: Tensor, active: Tensor | None) -> Tensor:
    """A sample whose answer is settled stays put: how many steps it took must be known to undo them."""
    return new if active is None else torch.where(active[:, None], new, old)
