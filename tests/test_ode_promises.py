"""What odeint promises whatever the pair of solver and adjoint: captured tensors, exhausted steps, blow-up."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from zoo.adjoints import ADJOINTS
from zoo.solve import odeint
from zoo.solvers import SOLVERS
from zoo.solvers.base import Result, SolveError

ADJOINT = [e.name for e in ADJOINTS.entries() if e.kind in ("ode", "any")]
OWN = [n for n in SOLVERS.names(kind="ode") if ":" not in n]
SOLVER = [*OWN, "torchdiffeq:dopri5", "torchdiffeq:rk4"]
IMPLICIT = ["implicit_euler", "implicit_midpoint", "trapezoid"]
SOLVES = [(s, a) for s in SOLVER for a in ADJOINT]


def adaptive(solver: str) -> bool:
    return getattr(SOLVERS[solver], "embedded", solver == "torchdiffeq:dopri5")


class Generator(nn.Module):
    """Makes the weights of a field: what a hypernetwork does. The field captures them; they are no leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))
        self.out = nn.Linear(2, 2).double()

    def field(self):
        w = self.out(self.code)
        free = torch.tanh(self.code)  # a second path to the same leaf

        def f(t: Tensor, y: Tensor) -> Tensor:
            q, p = y.chunk(2, 1)
            return torch.cat([p * w[0], -torch.sin(q) * w[1] + 0.1 * free[0]], 1)

        return f, (w, free)


def refused(solver: str, adjoint: str, told: bool) -> tuple[type[Exception], str] | None:
    """The error of a combination that cannot give the gradient; of every other one, None."""
    if adjoint == "backsolve" and not told:
        return ValueError, "f depends on 3 tensors that require gradients.* backsolve was not told of"
    if adjoint == "backsolve" and solver in ("leapfrog", "yoshida4"):  # it solves for y and its adjoint together
        return ValueError, "needs a separable field"
    if adjoint == "checkpoint" and ":" in solver:
        return TypeError, f"Checkpoint cannot differentiate an ODE solved by {solver}"
    return None


@pytest.mark.parametrize("solver, adjoint", SOLVES)
@pytest.mark.parametrize("told", [True, False])
def test_captured_tensors_get_their_gradient_or_a_clear_error(solver, adjoint, told):
    torch.manual_seed(0)
    generator = Generator()
    y0 = torch.randn(3, 2, dtype=torch.float64)
    adaptive = getattr(SOLVERS[solver], "embedded", solver == "torchdiffeq:dopri5")
    spec = {
        "name": solver,
        **({"rtol": 1e-6, "atol": 1e-8} if adaptive else {"steps": 10 if solver in IMPLICIT else 40}),
    }
    if solver == "heun":
        spec["rtol"] = 1e-4

    def gradient(spec, adjoint, told):
        f, weights = generator.field()
        value = odeint(f, y0, [0.0, 0.5, 1.0], spec, adjoint, params=weights if told else None).value
        return torch.autograd.grad(value.square().sum(), tuple(generator.parameters()))

    want = gradient({"name": "dopri8", "rtol": 1e-10, "atol": 1e-11}, "unroll", True)
    if why := refused(solver, adjoint, told):
        with pytest.raises(why[0], match=why[1]):
            gradient(spec, adjoint, told)
        return
    found = gradient(spec, adjoint, told)
    rough = {"euler": 0.1, "implicit_euler": 0.2}.get(solver, 5e-3)
    for g, h in zip(found, want, strict=True):
        assert (g - h).norm() <= rough * h.norm() + 1e-6


@pytest.mark.parametrize("solver, adjoint", [(s, a) for s, a in SOLVES if adaptive(s)])
def test_exhausted_steps_return_the_last_state_or_raise_as_chosen(solver, adjoint):
    def f(t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, 1)
        return torch.cat([p, -q], 1)

    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    spec = {"name": solver, "max_steps": 7}
    ts = [0.0, 1e-3, 100.0]  # the first of them is reached
    if adjoint == "checkpoint" and ":" in solver:
        with pytest.raises(TypeError, match=f"Checkpoint cannot differentiate an ODE solved by {solver}"):
            odeint(f, y0, ts, spec, adjoint)
        return
    solution = odeint(f, y0, ts, spec, adjoint)
    assert solution.result is Result.max_steps and "Raise max_steps" in solution.result.value
    assert not solution.stats.converged.any() and int(solution.stats.steps[0]) == 7
    reached = float(solution.stats.reached[0])
    assert 1e-3 < reached < 100
    want = torch.tensor([math.cos(reached), -math.sin(reached)], dtype=torch.float64)
    assert (solution.value[-1, 0] - want).abs().max() < 0.1
    assert (solution.value[1, 0] - torch.tensor([1.0, -1e-3], dtype=torch.float64)).abs().max() < 1e-5
    if adjoint == "backsolve":  # there is no way back from where the solve was to end
        with pytest.raises(RuntimeError, match="cannot go back along a solve that did not reach its end.*max_steps"):
            torch.autograd.grad(solution.value[-1, 0, 0], y0)
    else:
        (gradient,) = torch.autograd.grad(solution.value[-1, 0, 0], y0)  # what was reached is differentiable, too
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    with pytest.raises(SolveError, match="all its steps") as raised:
        odeint(f, y0, ts, spec, adjoint, throw=True)
    assert torch.equal(raised.value.solution.value, solution.value)


@pytest.mark.parametrize("solver", [n for n in OWN if n not in ("leapfrog", "yoshida4")])
def test_a_blow_up_has_a_status_and_no_nan(solver):
    """``y' = y^2`` from 1 ends at t = 1; behind it nothing is right, and nothing may be silently so."""
    y0 = torch.ones(2, 1, dtype=torch.float64)
    adaptive = SOLVERS[solver].embedded
    spec = {"name": solver, "max_steps": 500, **({} if adaptive else {"steps": 24 if solver in IMPLICIT else 100})}
    solution = odeint(lambda t, y: y**2, y0, [0.0, 0.5, 4.0], spec)
    assert solution.result in (Result.nonfinite, Result.stalled, Result.unsolved, Result.max_steps)
    assert not solution.stats.converged.any() and torch.isfinite(solution.value).all()
    assert solution.value[1, 0, 0] == pytest.approx(2.0, rel=0.5 if solver == "implicit_euler" else 0.1)
    assert len(solution.result.value) > 40


@pytest.mark.parametrize("solver", ["rk4", "euler", "leapfrog"])
def test_an_explicit_method_on_a_stiff_field_blows_up_with_a_status(solver):
    def stiff(t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, 1)
        return torch.cat([p, -1e8 * q], 1)

    y0 = torch.tensor([[1.0, 0.0]])
    solution = odeint(stiff, y0, [0.0, 0.01, 100.0], {"name": solver, "steps": 2000})
    assert solution.result is Result.nonfinite and not solution.stats.converged.any()
    assert torch.isfinite(solution.value).all()
    with pytest.raises(SolveError, match="infinite or NaN"):
        odeint(stiff, y0, [0.0, 0.01, 100.0], {"name": solver, "steps": 2000}, throw=True)
