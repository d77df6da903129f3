"""The discrete gradient of an ODE solve, at the memory of its accepted states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.adjoints.base import Adjoint, wrong_pair
from zoo.adjoints.recompute import Recomputation, RecomputedStep, kept_tensors
from zoo.adjoints.rng import saved_autocast
from zoo.solvers.ode.base import Attempt, Field, ODESolution, ODESolver, Step, VectorField
from zoo.solvers.ode.events import Events
from zoo.solvers.ode.integrate import integrate
from zoo.solvers.ode.one_step import OneStep


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Adjoint):
    """The gradient of `Unroll`, number for number, keeping one state an accepted step instead of all that ``f`` keeps.

    Each step's graph is recorded with its saved tensors left out; when the backward pass reaches a step, the step is
    computed once more from its state to bring them back, and they are let go with it. So memory is that of the
    accepted states and one step, for one more evaluation of every stage. Tensors that ``f`` captures, weights that
    another network generated among them, get their gradient as by `Unroll`: the graph is the same.

    ``f`` must answer the same twice: no state that a call changes. What it draws at random from torch's generators
    (dropout) is drawn again, and its steps then keep the slope at their start too. Gives first derivatives only.

    Reference: Zhuang et al., "Adaptive checkpoint adjoint method for gradient estimation in neural ODE", ICML 2020.
    """

    def integrate(
        self,
        f: VectorField,
        y0: Tensor,
        ts: Tensor | Sequence[float],
        solver: ODESolver,
        args: tuple[Tensor, ...] | None = None,
        params: tuple[Tensor, ...] | None = None,
        *,
        event: Events | None = None,
        dense: bool = False,
    ) -> ODESolution:
        if not isinstance(solver, OneStep):
            raise wrong_pair(self, "an ODE", solver, "one of this package's own methods, such as dopri5, or unroll")
        around = _frames if torch.is_grad_enabled() else None
        return integrate(f, y0, ts, solver, args=args, event=event, dense=dense, step_wrapper=around)


def _frames(step: Step, field: Field, keep_slope: bool) -> Step:
    """The same step, each in a frame of its own, which holds its start: the state, and what is bound to ``f`` then."""
    solves: list[Recomputation] = []  # the one that the steps share, once their device is known

    def framed(t: Any, dt: Any, y: Tensor, k: Tensor | None, dense: bool) -> Attempt:
        start, slope, bound = (
            y.detach(),
            k.detach() if keep_slope and k is not None else None,
            (field.args, field.active_mask, field.stand_in),
        )
        wants = y.requires_grad, k is not None, k is not None and k.requires_grad

        def replay() -> None:
            now = field.args, field.active_mask, field.stand_in
            field.args, field.active_mask, field.stand_in = bound
            try:
                with autocast():
                    again = slope
                    if wants[1] and again is None:
                        with torch.no_grad(), kept_tensors():  # it was not part of this step
                            time = torch.full((), t, dtype=y_dtype, device=start.device) if isinstance(t, float) else t
                            again = field(time, start)
                    state = start.detach().requires_grad_(wants[0])
                    step(t, dt, state, again if again is None else again.detach().requires_grad_(wants[2]), dense)
            finally:
                field.args, field.active_mask, field.stand_in = now

        y_dtype, autocast = y.dtype, saved_autocast(y.device.type)
        if not solves:
            solves.append(Recomputation("Checkpoint", y.device))
        frame = RecomputedStep(replay, solves[0])
        attempt = frame.record(lambda: step(t, dt, y, k, dense))
        older = (y, *field.args) if k is None else (y, k, *field.args)
        solves[0].watch(attempt.y if attempt.k is None else attempt.k, (y, *field.args), older)
        if frame.draws.states and k is not None:
            slope = k.detach()  # made within another frame, by other draws
        return attempt

    return framed
