"""Limited-memory Broyden's method ("good" Broyden), from the steps alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.solvers.base import FixedPointSolver
from zoo.solvers.history import History, write, write_cross


class State(NamedTuple):
    z: Tensor
    norm: Tensor
    g: Tensor
    steps: History  # s_i = z_{i+1} - z_i since the last restart
    gram: Tensor  # (B, L, L) float64: s_i . s_j
    system: Tensor  # (B, L, L) float64: the triangular system for the c_j, a row new each step
    kept: Tensor  # (B, L) 1 for the steps since the sample's own restart, else 0
    step: Tensor | None  # proposed, not yet absorbed: the step, before its scale 1 / (1 - c_n)
    scale: Tensor | None  # (B, 1); None: 1
    row: Tensor | None  # products of the scaled step with the kept ones


@dataclass(frozen=True, kw_only=True)
class Broyden(FixedPointSolver):
    """Quasi-Newton on ``g(z) = f(z) - z``: ``s = -H g`` with ``H`` updated so that ``H (g_{k+1} - g_k) = s_k``.

    Starting from ``H_0 = -I`` (a Picard step), the inverse estimate is a product of rank-one factors,
    ``H_n = prod_j (I + s_{j+1} s_j^T / |s_j|^2) H_0``, so the steps alone carry it: one stored state a step, where the
    textbook form keeps two. With ``v_0 = g`` and ``v_{j+1} = v_j + c_j s_{j+1}``, ``c_j = s_j . v_j / |s_j|^2``, the
    coefficients solve a small triangular system in the steps' Gram matrix; a step then reads the history twice:

        ``|s_j|^2 c_j - sum_{i<j} (s_j . s_{i+1}) c_i = s_j . g``
        ``s_{n+1} = (g + sum_{j<n} c_j s_{j+1}) / (1 - c_n)``

    Args:
        window: steps kept; when full, all are dropped and the method starts again from Picard, which costs evaluations:
            a solve of more steps wants a larger window. One state each, one more than ``max_steps`` at most.
        singular: least ``|1 - c_n|``: bounds a step to the inverse of it, times the unscaled one.
        restart: growth of a sample's residual over its least at which it forgets its steps. Far above 1: on its way the
            residual may well rise a hundredfold for a step or two, and the steps seen then are worth keeping.

    Raises:
        ValueError: a window below 1.

    Reference: Broyden 1965; Kelley, "Iterative methods for linear and nonlinear equations", SIAM 1995, section 7.3.
    """

    window: int = 60
    singular: float = 1e-2
    restart: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise ValueError(f"Broyden: window must be at least 1; got {self.window}.")

    def start(self, z: Tensor, fz: Tensor) -> State:
        room = min(self.window, self.max_steps + 1)  # one more, so that the last step is there for SHINE, too
        g = fz - z
        square = torch.zeros(z.shape[0], room, room, dtype=torch.float64, device=z.device)
        kept = torch.ones(z.shape[0], room, dtype=torch.float64, device=z.device)
        norm = torch.linalg.vector_norm(g.detach(), dim=1)
        return State(z, norm, g, History.empty(z, room), square, square.clone(), kept, None, None, None)

    def propose(self, state: State) -> tuple[Tensor, State]:
        n = state.steps.used
        if n == 0 or n == state.steps.size:
            steps = state.steps._replace(pushed=0)
            if torch.is_grad_enabled():
                steps = History.empty(state.z, steps.size)
            fresh = state._replace(steps=steps, kept=torch.ones_like(state.kept), step=state.g, scale=None, row=None)
            return state.z + state.g, fresh
        gram, kept = state.gram[:, :n, :n], state.kept[:, :n]
        t = kept * state.steps.dot(state.g)  # float64
        c = torch.linalg.solve_triangular(state.system[:, :n, :n], t[:, :, None], upper=False)[:, :, 0]
        # A denominator near zero says that the estimate is singular along the last step: bound the step it gives.
        scale = 1 - c[:, -1:]
        scale = torch.where(scale.abs() < self.singular, torch.copysign(scale.new_tensor(self.singular), scale), scale)
        scale = scale.reciprocal()
        step = state.g
        if n > 1:
            inner = c[:, None, :-1].to(step.dtype)
            step = torch.baddbmm(step[:, None], inner, state.steps.rows[:, 1:])[:, 0]
        # The new Gram row without reading the history again: S s = (S g + (S S^T) shifted by one, times c) / (1 - c_n).
        row = (t + torch.bmm(gram[:, :, 1:], c[:, :-1, None])[:, :, 0]) * scale if n > 1 else t * scale
        scale = scale.to(step.dtype)
        return torch.addcmul(state.z, step, scale), state._replace(step=step, scale=scale, row=row)

    def absorb(self, state: State, z: Tensor, fz: Tensor) -> State:
        assert state.step is not None
        steps = state.steps.push(state.step, times=state.scale)
        n, slot = steps.used, steps.slot
        square = torch.linalg.vector_norm(steps.newest, dim=1).double().square()[:, None]
        row = square if state.row is None else torch.cat((state.row, square), dim=1)
        gram = write_cross(state.gram, slot, row)
        # Row j of the triangular system: s_j . s_j on the diagonal, -(s_j . s_{i+1}) in column i < j.
        line = torch.cat((-row[:, 1:], square + torch.finfo(torch.float64).tiny), dim=1)
        system = write(state.system, (slice(None), slot, slice(n)), line)
        g = fz - z
        norm = torch.linalg.vector_norm(g.detach(), dim=1)
        return State(z, norm, g, steps, gram, system, state.kept, None, None, None)

    @property
    def forgets_at(self) -> float:
        return self.restart

    def residual(self, state: State) -> Tensor:
        return state.g

    def forget(self, state: State, mask: Tensor) -> State:
        """The sample's older steps become rows of the identity with right-hand side 0: they take no part."""
        n = state.steps.used
        kept, system, gram = state.kept.clone(), state.system.clone(), state.gram.clone()
        kept[mask, :n] = 0.0
        system[mask] = torch.eye(system.shape[1], dtype=system.dtype, device=system.device)
        gram[mask] = 0.0
        return state._replace(kept=kept, system=system, gram=gram)
