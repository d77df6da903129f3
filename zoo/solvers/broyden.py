"""Limited-memory Broyden's method ("good" Broyden), from the steps alone."""

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
    g: Tensor
    steps: History  # s_i = z_{i+1} - z_i since the last restart
    gram: Tensor  # (B, L, L) float64: s_i . s_j
    kept: Tensor  # (B, L) 1 for the steps since the sample's own restart, else 0
    step: Tensor | None  # proposed, not yet absorbed; None: the Picard step g
    row: Tensor | None  # its products with the kept steps


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
        window: steps kept; when full, all are dropped and the method starts again from Picard. Costs one state each.

        singular: ``|1 - c_n|`` below which a sample forgets its steps.

    Raises:
        ValueError: a window below 1.

    Reference: Broyden 1965; Kelley, "Iterative methods for linear and nonlinear equations", SIAM 1995, section 7.3.
    """

    window: int = 30
    singular: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise ValueError(f"Broyden: window must be at least 1; got {self.window}.")

    def start(self, z: Tensor, fz: Tensor) -> State:
        room = min(self.window, self.max_steps)
        batch = z.shape[0]
        small = {"dtype": torch.float64, "device": z.device}
        steps = History.empty(z, room)
        return self._measure(z, fz, steps, torch.zeros(batch, room, room, **small), torch.ones(batch, room, **small))

    def _measure(self, z: Tensor, fz: Tensor, steps: History, gram: Tensor, kept: Tensor) -> State:
        g = fz - z
        return State(z, torch.linalg.vector_norm(g.detach(), dim=1), g, steps, gram, kept, None, None)

    def propose(self, state: State) -> tuple[Tensor, State]:
        n = state.steps.used
        if n == 0 or n == state.steps.size:
            fresh = state._replace(steps=state.steps._replace(count=0), kept=torch.ones_like(state.kept))
            return state.z + state.g, fresh
        kept, gram = state.kept[:, :n], state.gram[:, :n, :n]
        square = torch.diagonal(gram, dim1=1, dim2=2)
        t = kept * state.steps.dot(state.g).double()
        # Row j, column i < j: -(s_j . s_{i+1}); a forgotten step is a row of the identity with right-hand side 0.
        shifted = torch.nn.functional.pad(gram[:, :, 1:], (0, 1))
        system = torch.diag_embed(torch.where((kept > 0) & (square > 0), square, 1.0)) - shifted.tril(-1)
        c = torch.linalg.solve_triangular(system, t[:, :, None], upper=False)[:, :, 0] * kept
        denominator = 1 - c[:, -1]
        # A denominator near zero says that the estimate is singular along the last step: begin again from Picard.
        sound = denominator.abs() > self.singular  # false for NaN too
        inner = torch.where(sound[:, None], c[:, :-1], 0.0)
        scale = torch.where(sound, denominator, 1.0).reciprocal()
        s = state.g
        if n > 1:
            s = torch.baddbmm(s[:, None, :], inner.to(s.dtype)[:, None, :], state.steps.rows[:, 1:])[:, 0]
        s = s * scale.to(s.dtype)[:, None]
        # The new Gram row without reading the history again: S s = (S g + (S S^T) shifted by one, times c) / (1 - c_n).
        row = (t + torch.bmm(gram[:, :, 1:], inner[:, :, None])[:, :, 0]) * scale[:, None]
        kept = state.kept.clone()
        kept[:, :n] = kept[:, :n] * sound[:, None]
        return state.z + s, state._replace(kept=kept, step=s, row=row)

    def absorb(self, state: State, z: Tensor, fz: Tensor) -> State:
        s = state.g if state.step is None else state.step
        steps = state.steps.push(s)
        square = torch.linalg.vector_norm(s, dim=1).double().square()[:, None]
        row = square if state.row is None else torch.cat((state.row, square), dim=1)
        return self._measure(z, fz, steps, set_cross(state.gram, steps.slot, row), state.kept)
