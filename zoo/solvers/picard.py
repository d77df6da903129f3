"""Damped fixed-point (Picard) iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from zoo.solvers.base import FixedPointSolver


class State(NamedTuple):
    z: Tensor
    norm: Tensor
    fz: Tensor


@dataclass(frozen=True, kw_only=True)
class Picard(FixedPointSolver):
    """Repeat the map: ``z <- z + damping * (f(z) - z)``.

    Converges where ``f`` contracts, at the rate of its Lipschitz constant L: the error falls by L a step (Banach).
    Damping below 1 also tames a map whose Jacobian has eigenvalues far to the left of 1.

    Args:
        damping: share of the residual taken each step, in (0, 1].

    Raises:
        ValueError: a damping outside (0, 1].
    """

    damping: float = 1.0

    traceable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.damping <= 1:
            raise ValueError(f"Picard: damping must lie in (0, 1]; got {self.damping}.")

    def start(self, z: Tensor, fz: Tensor) -> State:
        return State(z, torch.linalg.vector_norm((fz - z).detach(), dim=1), fz)

    def propose(self, state: State) -> tuple[Tensor, State]:
        return state.fz if self.damping == 1 else torch.lerp(state.z, state.fz, self.damping), state

    def residual(self, state: State) -> Tensor:
        return state.fz - state.z

    def absorb(self, state: State, z: Tensor, fz: Tensor) -> State:
        return self.start(z, fz)
