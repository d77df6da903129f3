"""What a result claims: fixed steps without an estimate, stiffness by its name, a field that breaks the rules."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from zoo import odeint
from zoo.solvers import SOLVERS
from zoo.solvers.base import Result, SolveError

OWN = [n for n in SOLVERS.names(kind="ode") if ":" not in n and n not in ("leapfrog", "yoshida4")]


@pytest.mark.parametrize("solver", ["rk4", "torchdiffeq:euler"])
def test_fixed_steps_that_were_asked_for_are_taken(solver):
    spec = {"name": solver, "steps": 10_500, "max_steps": 10}
    solution = odeint(lambda t, y: y, torch.ones(1, 1, dtype=torch.float64), [0.0, 1.0], spec)
    assert solution.value[-1].item() == pytest.approx(math.e, rel=1e-4 if ":" in solver else 1e-12)
    assert int(solution.stats.steps[0]) == 10_500 and solution.result is Result.fixed_steps


def test_fixed_steps_never_say_converged():
    y0 = torch.ones(2, 1)
    rough = odeint(lambda t, y: -y, y0, [0.0, 1.0], {"name": "euler", "steps": 1}, throw=True)  # no failure, either
    assert rough.result is Result.fixed_steps and "nobody estimated" in rough.message
    assert odeint(lambda t, y: -y, y0, [0.0, 1.0], {"name": "dopri5", "steps": 4}).result is Result.fixed_steps
    assert odeint(lambda t, y: -y, y0, [0.0, 1.0], "dopri5").result is Result.converged


def robertson(t, y):
    a, b, c = y.unbind(1)
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack([back - slow, slow - back - fast, fast], 1)


@pytest.mark.parametrize("solver", ["dopri5", "bosh3"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_stiff_field_is_called_stiff(solver, per_sample):
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    spec = {"name": solver, "max_steps": 300, "per_sample": per_sample}
    with pytest.raises(SolveError, match=r"stiff.*implicit_euler.*Radau") as raised:
        odeint(robertson, y0, [0.0, 1e5], spec, throw=True)
    assert raised.value.solution.result is Result.stiff and not raised.value.solution.stats.converged.any()


def test_a_long_oscillation_is_not_called_stiff():
    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for name in ("dopri5", "dopri8", "bosh3"):
        for per_sample in (False, True):
            spec = {"name": name, "max_steps": 60, "per_sample": per_sample}
            solution = odeint(lambda t, y: torch.stack([y[:, 1], -y[:, 0]], 1), y0, [0.0, 1e5], spec)
            assert solution.result is Result.max_steps
            assert "contract" not in solution.message and "regulari" not in solution.message


def test_an_explicit_method_that_blows_up_names_stiffness():
    spec = {"name": "rk4", "steps": 100}
    with pytest.raises(SolveError, match="infinite or NaN.*too large for a field this stiff.*implicit_euler"):
        odeint(lambda t, y: -1e6 * y, torch.ones(1, 2), [0.0, 1.0], spec, throw=True)


@pytest.mark.parametrize("solver", [*OWN, "torchdiffeq:rk4"])
@pytest.mark.parametrize("adjoint", ["unroll", "checkpoint", "backsolve"])
def test_a_field_that_writes_into_its_input_is_refused_and_y0_stays(solver, adjoint):
    if ":" in solver and adjoint == "checkpoint":
        return
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 2))
    for scope in (nullcontext(), torch.no_grad(), torch.inference_mode()):
        with scope:
            y0 = torch.tensor([[-1.0, 2.0]], requires_grad=torch.is_grad_enabled())
            with pytest.raises(ValueError, match="wrote into"):
                odeint(lambda t, y: net(y), y0, [0.0, 1.0], solver, adjoint, params=tuple(net.parameters()))
            assert y0.tolist() == [[-1.0, 2.0]]


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", {"name": "dopri5", "per_sample": True}, "torchdiffeq:rk4"])
def test_a_field_that_begins_to_write_late_is_found_or_answered_rightly(solver):
    """Where torch counts no writes, under inference_mode, a copy bears them."""

    def late(t, y):
        return -(torch.relu_(y) if float(t.max()) > 0.3 else torch.relu(y))

    y0 = torch.tensor([[-1.0, 2.0]])
    for scope in (nullcontext(), torch.no_grad()):
        with scope, pytest.raises(ValueError, match="wrote into"):
            odeint(late, y0, [0.0, 0.2, 1.0], solver)
    with torch.inference_mode():
        torch.testing.assert_close(
            odeint(late, y0, [0.0, 0.2, 1.0], solver).value,
            odeint(lambda t, y: -torch.relu(y), y0, [0.0, 0.2, 1.0], solver).value,
        )
    assert y0.tolist() == [[-1.0, 2.0]]


def test_a_field_that_writes_into_its_arguments_is_refused():
    with pytest.raises(ValueError, match="wrote into"):
        odeint(lambda t, y, a: a.mul_(2) * y, torch.ones(1, 1), [0.0, 1.0], args=(torch.ones(1, 1),))


def test_callbacks_of_torchdiffeq_are_refused_in_words():
    field = nn.Linear(2, 2)
    field.callback_accept_step = lambda t, y, dt: None
    with pytest.raises(ValueError, match="callback_accept_step.*stats.accepted"):
        odeint(field, torch.ones(1, 2), [0.0, 1.0])


def test_a_list_of_times_with_a_gradient_is_refused_in_words():
    with pytest.raises(ValueError, match="Scale time inside f"):
        odeint(lambda t, y: y, torch.ones(1, 1), [0.0, torch.tensor(1.0, requires_grad=True)])
    value = odeint(lambda t, y: y, torch.ones(1, 1), [0.0, torch.tensor(1.0)]).value
    assert value[-1].item() == pytest.approx(math.e, rel=1e-4)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "scipy_solver"])
def test_torchdiffeq_tells_times_apart_and_keeps_the_start(method):
    y0 = torch.rand(2, 3)
    ts = [1e6, 1e6 + 0.01, 1e6 + 0.02]  # one time, in float32
    with torch.no_grad():
        solution = odeint(lambda t, y: -y, y0, ts, f"torchdiffeq:{method}")
    assert torch.equal(solution.value[0], y0) and solution.stats.reached.tolist() == [ts[-1]] * 2
    assert torch.allclose(solution.value[-1], y0 * math.exp(-0.02), rtol=1e-3)


@pytest.mark.parametrize("field", [lambda t, y: torch.full_like(y, torch.inf), lambda t, y: y**2])
def test_scipy_ends_where_the_field_does(field):
    y0 = torch.ones(1, 2, dtype=torch.float64)
    with torch.no_grad():
        solution = odeint(field, y0, [0.0, 0.5, 2.0], {"name": "torchdiffeq:scipy_solver", "max_steps": 50})
    assert solution.result in (Result.nonfinite, Result.max_steps, Result.stalled)
    assert torch.equal(solution.value[0], y0) and solution.value.shape == (3, 1, 2) and solution.value.isfinite().all()
