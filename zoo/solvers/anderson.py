"""Anderson acceleration, type II."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.solvers.base import FixedPointSolver
from zoo.solvers.history import History, set_cross


class State(NamedTuple):
    z: Tensor
    norm: Tensor
    f: History  # f(z_i)
    g: History  # g_i = f(z_i) - z_i
    gram: Tensor  # (B, m, m) of the g_i; one row new a step
    fresh: Tensor  # (B, m) 1 for the iterates since the sample's last restart, else 0


@dataclass(frozen=True, kw_only=True)
class Anderson(FixedPointSolver):
    """Mix the last ``window`` iterates so that their combined residual is least.

    ``z_{k+1} = sum_i a_i (z_i + damping * g_i)`` where ``a`` minimises ``|sum_i a_i g_i|`` subject to
    ``sum_i a_i = 1``, with ``g_i = f(z_i) - z_i``. On an affine map with a full window this is GMRES.

    The least-squares problem is solved from the residuals' Gram matrix, each residual scaled to length one first:
    a ridge on the unscaled matrix would drown the newest, smallest residuals, which matter most. A sample whose
    residual grows by more than ``restart`` over the best in its window forgets all older iterates.

    Args:
        window: iterates kept, at least 1 (1 is damped Picard). Costs two states each.
        damping: share of the residuals taken, in (0, 1].
        ridge: regularisation relative to the scaled Gram matrix, whose diagonal is 1. None: the resolution of the
            state's dtype, times 10.
        restart: growth of the residual that empties a sample's window.

    Raises:
        ValueError: an option out of its range.

    Reference: Anderson 1965; Walker and Ni, "Anderson acceleration for fixed-point iterations", SINUM 49, 2011.
    """

    window: int = 6
    damping: float = 1.0
    ridge: float | None = None
    restart: float = 10.0

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
        empty = State(
            z,
            z.new_zeros(z.shape[0]),
            History.empty(z, m),
            History.empty(z, m),
            z.new_zeros(z.shape[0], m, m),
            z.new_zeros(z.shape[0], m),
        )
        return self.absorb(empty, z, fz)

    def propose(self, state: State) -> tuple[Tensor, State]:
        n = state.g.used
        if n == 1:
            newest = state.f.rows[:, 0]
            z = newest if self.damping == 1 else newest - (1 - self.damping) * state.g.rows[:, 0]
            return z.clone(), state  # the ring will be overwritten
        # Scaled to unit diagonal: C = D^-1 (G G^T) D^-1. With a = D^-1 y, the constraint sum a = 1 scales the solution
        # of (C + ridge I) y = D^-1 1. A forgotten iterate becomes an uncoupled row with right-hand side 0.
        gram, fresh = state.gram[:, :n, :n].double(), state.fresh[:, :n].double()
        tiny = torch.finfo(torch.float64).tiny
        inverse = fresh * torch.diagonal(gram, dim1=1, dim2=2).clamp_min(tiny).rsqrt()
        scaled = gram * inverse[:, :, None] * inverse[:, None, :]
        ridge = 10 * torch.finfo(state.z.dtype).eps if self.ridge is None else self.ridge
        scaled = scaled + torch.diag_embed(1 - fresh + ridge)
        y = torch.linalg.solve_ex(scaled, inverse)[0] * inverse
        weights = y / y.sum(dim=1, keepdim=True)
        z = state.f.mix(weights)
        return (z if self.damping == 1 else z - (1 - self.damping) * state.g.mix(weights)), state

    def absorb(self, state: State, z: Tensor, fz: Tensor) -> State:
        residual = fz - z
        f, g = state.f.push(fz), state.g.push(residual)
        n, slot = g.used, g.slot
        gram = set_cross(state.gram, slot, g.dot(residual))
        square = torch.diagonal(gram.detach(), dim1=1, dim2=2)[:, :n]
        norm = square[:, slot].sqrt()
        if n == 1:
            return State(z, norm, f, g, gram, torch.cat((torch.ones_like(norm)[:, None], state.fresh[:, 1:]), dim=1))
        # Only the window of this sample counts: forgotten rows and the slot just overwritten are out.
        fresh = state.fresh.clone()
        fresh[:, slot] = 0
        least = square.masked_fill(fresh[:, :n] == 0, torch.inf).amin(dim=1)
        grown = norm.square() > self.restart**2 * least
        fresh = torch.where(grown[:, None], torch.zeros_like(fresh), fresh)
        fresh[:, slot] = 1
        return State(z, norm, f, g, gram, fresh)
