"""The symplectic methods: order, symplecticity, reversibility, bounded energy error, gradients, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.solve import odeint
from zoo.solvers import SOLVERS
from zoo.solvers.base import Result

NAMES = ["leapfrog", "yoshida4"]


def pendulum(t: Tensor, y: Tensor) -> Tensor:
    q, p = y.chunk(2, 1)
    return torch.cat([p, -torch.sin(q)], 1)


def energy(y: Tensor) -> Tensor:
    q, p = y.chunk(2, -1)
    return (p.square() / 2 - torch.cos(q)).sum(-1)


def driven(t: Tensor, y: Tensor) -> Tensor:
    """``q'' = -q + sin(2 t)``; from q = 0, p = 0: ``q = (2 sin t - sin 2t) / 3``."""
    q, p = y.chunk(2, 1)
    return torch.cat([p, torch.sin(2 * t) - q], 1)


START = torch.tensor([[1.0, 0.2], [-0.4, 1.3]], dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("problem", ["pendulum", "driven"])
def test_measured_order_is_the_declared_order(name, problem):
    if problem == "pendulum":
        f, y0 = pendulum, START
        exact = odeint(f, y0, [0.0, 2.0], {"name": "dopri8", "rtol": 1e-13, "atol": 1e-13}).value[-1]
    else:
        f, y0 = driven, torch.zeros(1, 2, dtype=torch.float64)
        exact = torch.tensor([[(2 * np.sin(2.0) - np.sin(4.0)) / 3, (2 * np.cos(2.0) - 2 * np.cos(4.0)) / 3]])
    counts = np.array([16, 24, 32, 48])
    errors = [float((odeint(f, y0, [0.0, 2.0], {"name": name, "steps": int(n)}).value[-1] - exact).abs().max())
              for n in counts]  # fmt: skip
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - SOLVERS[name].order) < 0.3


@pytest.mark.parametrize("name", [*NAMES, "implicit_midpoint", "rk4"])
def test_the_jacobian_keeps_areas(name):
    omega = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    omega = torch.kron(omega, torch.eye(2, dtype=torch.float64))
    coupling = torch.tensor([[1.0, 0.4], [0.4, 2.0]], dtype=torch.float64)

    def springs(t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, 1)
        return torch.cat([torch.sinh(p), -torch.sin(q) - q @ coupling], 1)

    tight = {"solver": {"name": "newton", "rtol": 1e-13, "atol": 1e-14}} if name == "implicit_midpoint" else {}
    if tight:
        tight["linear_solver"] = {"name": "gmres", "rtol": 1e-13, "atol": 0.0, "max_steps": 50}

    def flow(y: Tensor) -> Tensor:
        return odeint(springs, y[None], [0.0, 1.0], {"name": name, "steps": 4, **tight}).value[-1, 0]

    y = torch.tensor([0.7, -0.3, 0.5, 1.1], dtype=torch.float64)
    j = torch.autograd.functional.jacobian(flow, y)
    error = (j.T @ omega @ j - omega).abs().max()
    assert error > 1e-6 if name == "rk4" else error < 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_a_step_back_undoes_a_step(name):
    there = odeint(pendulum, START, [0.0, 30.0], {"name": name, "steps": 60}).value[-1]
    back = odeint(pendulum, there, [30.0, 0.0], {"name": name, "steps": 60}).value[-1]
    assert (there - START).abs().max() > 0.1
    torch.testing.assert_close(back, START, rtol=0, atol=1e-11)


@pytest.mark.slow
def test_the_energy_error_stays_bounded_over_ten_thousand_steps():
    ts, dt = [0.0, 500.0, 1000.0], 0.1

    def drift(name: str) -> tuple[float, float]:
        with torch.no_grad():
            solver = {"name": name, "step_size": dt, "max_steps": 20_000}
            solution = odeint(pendulum, START, ts, solver)
        assert (solution.stats.accepted == 10_000).all()
        error = (energy(solution.value) - energy(START)).abs()[1:].amax(1)
        return float(error[0]), float(error[1])

    half, full = drift("leapfrog")
    assert full < 2e-3 and half < 2e-3  # dt^2 / 12 or so, and no more after twice the time
    half, full = drift("rk4")
    assert 1.8 < full / half < 2.2  # grows in proportion to the time


def test_explicit_euler_gains_energy():
    value = odeint(pendulum, START, [0.0, 100.0], {"name": "euler", "step_size": 0.1}).value
    assert (energy(value[-1]) - energy(START)).min() > 0.5


@pytest.mark.parametrize("adjoint", ["unroll", "checkpoint", {"name": "backsolve", "solver": "dopri5"}])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_cross_the_steps(name, adjoint):
    length = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    y0 = START.clone().requires_grad_()

    def swing(t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, 1)
        return torch.cat([p, -torch.sin(q) / length], 1)

    def gradient(solver, adjoint):
        value = odeint(swing, y0, [0.0, 0.5, 2.0], solver, adjoint, params=(length,)).value
        return torch.autograd.grad(value.square().sum(), (y0, length))

    want = gradient({"name": "dopri8", "rtol": 1e-11, "atol": 1e-12}, "unroll")
    for g, h in zip(gradient({"name": name, "steps": 200}, adjoint), want, strict=True):
        torch.testing.assert_close(g, h, rtol=1e-3, atol=1e-3)
    if adjoint == "checkpoint":
        exact = gradient({"name": name, "steps": 20}, "unroll")
        for g, h in zip(gradient({"name": name, "steps": 20}, "checkpoint"), exact, strict=True):
            assert (g - h).abs().max() < 1e-12


def test_counts_tuples_and_dense_output():
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return pendulum(t, y)

    solution = odeint(counted, START, [0.0, 1.0], {"name": "leapfrog", "steps": 10, "check": False})
    assert solution.result is Result.fixed_steps and solution.stats.nfe == calls == 21
    assert odeint(pendulum, START, [0.0, 1.0], {"name": "leapfrog", "steps": 10}).stats.nfe == 24

    def pairs(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1], -torch.sin(y[0])

    q, p = odeint(pairs, tuple(START.chunk(2, 1)), [0.0, 1.0], {"name": "leapfrog", "steps": 10}).value
    torch.testing.assert_close(torch.cat([q, p], 2), solution.value)
    dense = odeint(pendulum, START, [0.0, 1.0], {"name": "leapfrog", "steps": 40}, dense=True)
    half = odeint(pendulum, START, [0.0, 0.4875], {"name": "leapfrog", "steps": 400}).value[-1]
    torch.testing.assert_close(dense.evaluate(0.4875), half, rtol=1e-3, atol=1e-3)


def coupled(t: Tensor, y: Tensor) -> Tensor:
    q, p = y.chunk(2, 1)
    return torch.cat([p * (1 + q**2), -q * p**2], 1)  # H = p^2 (1 + q^2) / 2


def test_what_cannot_be():
    for f, y0, words in (
        (coupled, START, r"dq/dt changes with q.*implicit_midpoint"),
        (lambda t, y: pendulum(t, y) - 0.1 * y * torch.tensor([0.0, 1.0]), START, "dp/dt changes with p"),
        (lambda t, y: -y, torch.ones(2, 3), r"an even number of them; got the shape \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            odeint(f, y0, [0.0, 1.0], "leapfrog")
    with pytest.raises(ValueError, match="backsolve needs a solver of its own"):
        odeint(pendulum, START.clone().requires_grad_(), [0.0, 1.0], "leapfrog", "backsolve").value.sum().backward()


@pytest.mark.parametrize("start", [-1.0, 0.0, 3.0])
def test_a_coupled_field_is_refused_wherever_it_starts(start):
    def coupled(t, y):
        q, p = y.chunk(2, 1)
        return torch.cat([p + q, -q], 1)

    with pytest.raises(ValueError, match="dq/dt changes with q"):
        odeint(coupled, torch.full((2, 2), start), [0.0, 1.0], {"name": "leapfrog", "steps": 4}, "unroll")
