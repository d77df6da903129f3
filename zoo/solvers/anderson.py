"""Anderson acceleration, type II."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from zoo.solvers.base import FixedPointSolver
from zoo.solvers.history import History, write, write_cross


class State(NamedTuple):
    z: Tensor
    norm: Tensor
    f: History  # f(z_i)
    g: History  # g_i = f(z_i) - z_i
    gram: Tensor  # (B, m, m) float64: g_i . g_j, its diagonal raised by the ridge; one row new a step
    ones: Tensor  # (B, m, 1) 1 for the iterates since the sample's last restart, else 0


@dataclass(frozen=True, kw_only=True)
class Anderson(FixedPointSolver):
    """Mix the last ``window`` iterates so that their combined residual is least.

    ``z_{k+1} = sum_i a_i (z_i + damping * g_i)`` where ``a`` minimizes ``|sum_i a_i g_i|`` subject to
    ``sum_i a_i = 1``, with ``g_i = f(z_i) - z_i``. On an affine map with a full window this is GMRES.

    With ``H_ij = g_i . g_j`` the weights are ``a ~ H^{-1} 1``. The ridge raises each diagonal entry by a share of
    itself: a constant would drown the newest, smallest residuals, which matter most. (A floor far below all of them
    keeps ``H`` regular where a residual is exactly 0.) A sample whose residual grows to
    ``restart`` times its least forgets all older iterates.

    Args:
        window: iterates kept, at least 1 (1 is damped Picard). Costs two states each.
        damping: share of the residuals taken, in (0, 1].
        ridge: share by which the diagonal is raised. None: the resolution of the state's dtype, times 10.
        restart: growth of the residual that empties a sample's window.

    Raises:
        ValueError: an option out of its range.

    Reference: Anderson 1965; Walker and Ni, "Anderson acceleration for fixed-point iterations", SINUM 49, 2011.
    """

    window: int = 5
    damping: float = 1.0
    ridge: float | None = None
    restart: float = 10.0

    traceable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise ValueError(f"Anderson: window must be at least 1; got {self.window}.")
        if not 0 < self.damping <= 1:
            raise ValueError(f"Anderson: damping must lie in (0, 1]; got {self.damping}.")
        if self.ridge is not None and self.ridge < 0:
            raise ValueError(f"Anderson: ridge must not be negative; got {self.ridge}.")
        if not self.restart > 1:
            raise ValueError(f"Anderson: restart must be above 1; got {self.restart}.")

    def start(self, z: Tensor, fz: Tensor) -> State:
        m = min(self.window, self.max_steps + 1)
        gram = torch.zeros(z.shape[0], m, m, dtype=torch.float64, device=z.device)
        ones = torch.ones(z.shape[0], m, 1, dtype=torch.float64, device=z.device)
        return self.absorb(State(z, z, History.empty(z, m), History.empty(z, m), gram, ones), z, fz)

    def propose(self, state: State) -> tuple[Tensor, State]:
        f, g = state.f, state.g
        n = g.used
        if n == 1:
            newest = f.newest.clone()  # its place in the ring will be overwritten
            return newest if self.damping == 1 else newest - (1 - self.damping) * g.newest, state
        weights = self.weights(state).to(f.buffer.dtype)
        z = f.mix(weights)
        return (z if self.damping == 1 else z - (1 - self.damping) * g.mix(weights)), state

    def weights(self, state: State) -> Tensor:
        """(B, n) float64: ``a`` of the iterates in the window, by their place in it."""
        n = state.g.used
        y = solve_positive(state.gram[:, :n, :n], state.ones[:, :n])[:, :, 0]
        return y / y.sum(dim=1, keepdim=True)

    def absorb(self, state: State, z: Tensor, fz: Tensor) -> State:
        f, g = state.f.push(fz), state.g.push(fz, minus=z)
        row = g.dot(g.newest)
        square = row[:, g.slot]
        ridge = 10 * torch.finfo(z.dtype).eps if self.ridge is None else self.ridge
        diagonal = (square * (1 + ridge)).clamp_min(max(torch.finfo(z.dtype).tiny, 1e-200))
        gram = write_cross(state.gram, g.slot, row, diagonal=diagonal)
        ones = state.ones
        if g.pushed > g.size:  # the place just taken may have been a forgotten one
            ones = write(ones, (slice(None), g.slot), 1.0)
        return State(z, square.detach().sqrt(), f, g, gram, ones)

    @property
    def forgets_at(self) -> float:
        return self.restart

    def residual(self, state: State) -> Tensor:
        return state.g.newest

    def forget(self, state: State, mask: Tensor) -> State:
        """An uncoupled row with right-hand side 0 has weight 0; the newest iterate stays."""
        n, slot = state.g.used, state.g.slot
        m = state.gram.shape[1]
        alone = torch.eye(m, dtype=state.gram.dtype, device=state.gram.device)
        here = alone[slot]  # 1 at the newest iterate
        alone = torch.where((here[:, None] * here) > 0, state.gram, alone)
        weight = torch.where(torch.arange(m, device=here.device) < n, here, 1.0)[:, None]
        gone = mask[:, None, None]
        return state._replace(gram=torch.where(gone, alone, state.gram), ones=torch.where(gone, weight, state.ones))


def solve_positive(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve ``matrix y = right`` for positive definite matrices (B, n, n), of a few rows; (B, n, k).

    In an exported program by elimination, in operations that every runtime has: such matrices need no pivots.
    """
    if not torch.compiler.is_exporting():
        return torch.linalg.solve_ex(matrix, right)[0]
    n = matrix.shape[1]
    both = torch.cat([matrix, right], 2)
    for i, unit in enumerate(torch.eye(n, dtype=matrix.dtype, device=matrix.device)):
        row = both[:, i : i + 1] / both[:, i : i + 1, i : i + 1]
        both = both - (both[:, :, i : i + 1] - unit[:, None]) * row  # row i becomes ``row``, column i the unit
    return both[:, :, n:]
