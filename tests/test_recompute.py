"""Adjoints that compute a step again: what the map drew at random is drawn again, what it changed is noticed."""

from __future__ import annotations

import pytest
import torch
from problems import matrix
from torch import nn

import zoo
from zoo.adjoints.rng import RNGState
from zoo.solve import make_solver
from zoo.solvers.iterate import iterate

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
ODE = [
    {"name": "euler", "steps": 5},
    {"name": "rk4", "steps": 4},
    {"name": "dopri5", "rtol": 0.9, "atol": 0.9},
    {"name": "dopri5", "rtol": 0.9, "atol": 0.9, "per_sample": True},
    {"name": "implicit_midpoint", "steps": 3, "solver": {"name": "picard", "max_steps": 4}},
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("solver", ODE, ids=lambda s: "-".join(map(str, s.values()))[:24])
def test_checkpoint_with_dropout_is_unroll_with_the_same_seed(solver, device):
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 4)).double().to(device)
    y0 = torch.linspace(-1, 1, 12, dtype=torch.float64, device=device).view(3, 4).requires_grad_()

    def run(adjoint):
        torch.manual_seed(3)
        value = zoo.odeint(lambda t, y: net(y), y0, [0.0, 0.4, 1.0], solver, adjoint).value
        drawn = torch.rand(3, device=device)
        gradient = torch.autograd.grad(value.pow(2).sum(), (y0, *net.parameters()))
        return value, gradient, drawn, torch.rand(3, device=device)

    plain, again = run("unroll"), run("checkpoint")
    torch.testing.assert_close(again[0], plain[0])
    torch.testing.assert_close(again[1], plain[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(again[2:], plain[2:], rtol=0, atol=0)  # drawing again leaves the generators alone


@pytest.mark.parametrize("device", DEVICES)
def test_reversible_with_dropout_is_the_gradient_of_its_iteration(device):
    w = matrix(6, 0.6).to(device).requires_grad_()
    x = torch.linspace(-1, 1, 18, dtype=torch.float64, device=device).view(3, 6).requires_grad_()
    f = lambda z: torch.tanh(nn.functional.dropout(z, 0.3) @ w.T + x)  # noqa: E731
    solver, z0 = make_solver({"name": "reversible", "max_steps": 12}), torch.zeros_like(x)
    torch.manual_seed(3)
    plain = iterate(f, z0, solver, select="last").value
    torch.manual_seed(3)
    own = zoo.fixed_point(f, z0, solver, "reversible").value
    torch.testing.assert_close(own, plain)
    exact = torch.autograd.grad(plain.pow(3).sum(), (w, x))
    for _ in range(2):  # a second backward pass draws the same once more
        found = torch.autograd.grad(own.pow(3).sum(), (w, x), retain_graph=True)
        torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_is_kept_of_what_draws_nothing(device):
    draws = RNGState(torch.device(device, 0) if device == "cuda" else torch.device(device))
    torch.ones(2, device=device).sum()
    assert not draws.close() and draws.states == []
    with draws.again():
        pass
    draws = RNGState(torch.device(device, 0) if device == "cuda" else torch.device(device))
    a = torch.rand(2, device=device)
    assert draws.close()
    for _ in range(2):
        with draws.again():
            assert torch.equal(torch.rand(2, device=device), a)


def test_as_many_tensors_of_other_shapes_are_noticed():
    """The number alone would not tell."""
    width = iter(range(2, 100))
    w = torch.randn(4, 100, dtype=torch.float64, requires_grad=True)

    def f(t, y):
        n = next(width)
        return torch.tanh(y @ w[:, :n]) @ w[:, :n].T

    solution = zoo.odeint(
        f, torch.ones(1, 4, dtype=torch.float64), [0.0, 1.0], {"name": "euler", "steps": 2}, "checkpoint"
    )
    with pytest.raises(RuntimeError, match="saved other tensors: f does not answer the same twice"):
        solution.value.sum().backward()
