"""torchdiffeq's methods under this package's statistics: steps counted, sizes kept, failures told apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.solve import odeint
from zoo.solvers.base import Result
from zoo.solvers.ode.torchdiffeq import _grid

pytest.importorskip("torchdiffeq")
D = torch.float64


@pytest.mark.parametrize("ts", [[0.0, 0.25, 1.0], [1.0, 0.75, 0.0]])
@pytest.mark.parametrize("name", ["euler", "midpoint", "rk4"])
def test_fixed_steps_are_those_of_this_package(name, ts):
    y0 = torch.ones(2, 1, dtype=D)
    for options in ({}, {"steps": 10}, {"step_size": 0.3}):
        theirs, ours = (
            odeint(lambda t, y: -y + t, y0, ts, {"name": n, **options}) for n in (f"torchdiffeq:{name}", name)
        )
        if name != "rk4":  # theirs has other stages
            torch.testing.assert_close(theirs.value, ours.value, rtol=1e-12, atol=0)
        assert theirs.stats.accepted.tolist() == ours.stats.accepted.tolist() == ours.stats.steps.tolist()
        assert theirs.stats.nfe == ours.stats.nfe and theirs.stats.rejected.tolist() == [0, 0]
        assert abs(theirs.stats.last_dt[0]) == pytest.approx(abs(ours.stats.last_dt[0].item()), rel=1e-9)
        assert theirs.result is Result.fixed_steps and theirs.stats.reached.tolist() == [ts[-1]] * 2


def test_the_grid_lands_on_every_time():
    ts = torch.tensor([0.0, 0.5, 0.6, 2.0], dtype=D)
    assert _grid(ts, 0.25).tolist() == pytest.approx(
        [0, 0.25, 0.5, 0.6, *(0.6 + 1.4 * i / 6 for i in range(1, 6)), 2.0]
    )
    assert _grid(ts.flip(0), 5.0).tolist() == ts.flip(0).tolist()
    assert len(_grid(torch.tensor([0.0, 0.3], dtype=D), 0.1)) == 4 and _grid(ts.float(), 1.0).dtype is torch.float32


def test_adaptive_steps_are_counted():
    calls = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        calls.append(float(t))
        return torch.where(t < 0.5, 1.0, -40.0) * y

    s = odeint(f, torch.ones(1, 1, dtype=D), [0.0, 1.0], {"name": "torchdiffeq:dopri5", "first_step": 0.25})
    accepted, rejected = s.stats.accepted.item(), s.stats.rejected.item()
    assert rejected > 0 and s.result is Result.converged and s.stats.steps.item() == accepted + rejected
    assert s.stats.nfe == len(calls) == 1 + 6 * (accepted + rejected)
    assert calls[1] == pytest.approx(0.25 / 5)
    free = odeint(
        f, torch.ones(1, 1, dtype=D), [0.0, 1.0], {"name": "torchdiffeq:dopri5", "options": {"first_step": 0.5}}
    )
    assert free.stats.nfe >= 7 and calls[s.stats.nfe + 1] == pytest.approx(0.1)


@pytest.mark.parametrize("ts", [[0.0, 0.05, 0.2, 5.0], [5.0, 4.95, 4.8, 0.0]])
def test_a_budget_that_runs_out_keeps_what_was_reached(ts):
    sign = math.copysign(1.0, ts[-1] - ts[0])
    solver = {"name": "torchdiffeq:dopri5", "first_step": 0.1, "max_steps": 2, "rtol": 1e-8}
    s = odeint(lambda t, y: -y * torch.cos(4 * t), torch.ones(2, 1, dtype=D), ts, solver)
    assert s.result is Result.max_steps and not s.stats.converged.any()
    assert s.stats.steps.tolist() == [2, 2]
    reached = s.stats.reached[0].item()
    assert 0 < sign * (reached - ts[0]) < 5
    exact = lambda t: math.exp((math.sin(4 * ts[0]) - math.sin(4 * t)) / 4)  # noqa: E731
    for t, row in zip(ts, s.value, strict=True):
        at = t if sign * t <= sign * reached else reached
        assert row.flatten().tolist() == pytest.approx([exact(at)] * 2, rel=1e-5)


def test_what_is_not_offered_is_refused_by_name():
    f, y0 = (lambda t, y: -y), torch.ones(1, 1, dtype=D)
    with pytest.raises(ValueError, match="dense"):
        odeint(f, y0, [0.0, 1.0], "torchdiffeq:rk4", dense=True)
    with pytest.raises(ValueError, match="event"):
        odeint(f, y0, [0.0, 1.0], "torchdiffeq:rk4", event=lambda t, y: y[:, 0])
    with pytest.raises(TypeError, match="Checkpoint"):
        odeint(f, y0, [0.0, 1.0], "torchdiffeq:rk4", "checkpoint")
    with pytest.raises(ValueError, match="not both"):
        odeint(f, y0, [0.0, 1.0], {"name": "torchdiffeq:rk4", "steps": 2, "step_size": 0.1})


def test_scipy_has_no_gradient_and_says_so():
    pytest.importorskip("scipy")
    y0 = torch.ones(1, 1, dtype=D)
    with pytest.raises(ValueError, match="outside of autograd"):
        odeint(lambda t, y: -y, y0.clone().requires_grad_(), [0.0, 1.0], "torchdiffeq:scipy_solver")
    s = odeint(lambda t, y: -y, y0, [0.0, 1.0], "torchdiffeq:scipy_solver")
    assert s.value[-1].item() == pytest.approx(math.exp(-1), rel=1e-4) and s.result is Result.converged
    assert torch.equal(s.value[0], y0)


def test_scipy_that_gives_up_is_said_to_have_stalled():
    """``y' = y^2`` from 1 is singular at t = 1."""
    pytest.importorskip("scipy")
    s = odeint(lambda t, y: y * y, torch.ones(2, 1, dtype=D), [0.0, 0.5, 0.75, 2.0, 3.0], "torchdiffeq:scipy_solver")
    assert not s.result.success and s.value.shape == (5, 2, 1) and torch.isfinite(s.value).all()
    if s.result is Result.stalled:
        assert s.stats.reached.tolist() == [0.75, 0.75] and not s.stats.converged.any()
        assert torch.equal(s.value[2], s.value[4]) and s.value[2, 0, 0].item() == pytest.approx(4.0, rel=1e-3)
