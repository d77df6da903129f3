"""What checkpoint needs of a solve between its two passes, and what it leaves behind."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from zoo import fixed_point, odeint

SOLVERS = ["dopri5", "rk4", {"name": "implicit_midpoint", "steps": 4}, {"name": "dopri5", "per_sample": True}]


@pytest.mark.parametrize("what", ["weight", "bias", "y0"])
def test_weights_that_changed_after_the_forward_pass_are_refused(what):
    net = nn.Linear(3, 3)
    y0 = torch.randn(4, 3).requires_grad_()

    def solve():
        return odeint(lambda t, y: torch.tanh(net(y)), y0, [0.0, 1.0], "dopri5", "checkpoint").value.sum()

    first, second = solve(), solve()
    second.backward()  # nothing has changed
    with torch.no_grad():
        (y0 if what == "y0" else getattr(net, what)).add_(0.5)
    with pytest.raises(RuntimeError, match=r"modified in place.*optimizer.step"):
        first.backward()


def test_reversible_refuses_them_too():
    net = nn.Linear(3, 3)
    x = torch.randn(4, 3)
    value = fixed_point(lambda z: torch.tanh(0.3 * net(z) + x), torch.zeros(4, 3), "reversible", "reversible").value
    with torch.no_grad():
        net.bias.add_(0.5)
    with pytest.raises(RuntimeError, match=r"modified in place.*Reversible"):
        value.sum().backward()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_field_may_differentiate_within(solver):
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    y0 = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def field(t, y):
        with torch.enable_grad():
            y = y if y.requires_grad else y.clone().requires_grad_()
            return torch.autograd.grad(net(y).sum(), y, create_graph=True)[0]

    def gradient(adjoint):
        value = odeint(field, y0, [0.0, 1.0], solver, adjoint, args=()).value
        return torch.autograd.grad(value.square().sum(), (y0, net[0].weight, net[0].bias, net[2].weight))

    for g, h in zip(gradient("unroll"), gradient("checkpoint"), strict=True):
        assert (g - h).abs().max() < 1e-12 and g.abs().max() > 0


def test_transforms_within_a_field_name_the_way_out():
    net = nn.Linear(3, 1)
    gradient = torch.func.vmap(torch.func.grad(lambda y: net(y).tanh()[0]))
    y0 = torch.randn(2, 3)
    with pytest.raises(RuntimeError, match=r"torch.func.*Checkpoint.*torch.autograd.grad"):
        odeint(lambda t, y: gradient(y), y0, [0.0, 1.0], "rk4", "checkpoint")
    assert odeint(lambda t, y: gradient(y), y0, [0.0, 1.0], "rk4", "unroll").value.requires_grad


@pytest.mark.parametrize("adjoint", ["unroll", "checkpoint", "backsolve"])
@pytest.mark.parametrize("solver", ["dopri5", "rk4", {"name": "dopri5", "per_sample": True}])
def test_a_solve_frees_what_it_made_when_its_graph_goes(adjoint, solver):
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))

    def train(solves):
        for _ in range(solves):
            y0 = torch.randn(3, 4, requires_grad=True)
            value = odeint(lambda t, y: net(y), y0, [0.0, 1.0], solver, adjoint, params=tuple(net.parameters())).value
            value.sum().backward()

    gc.collect()
    gc.disable()
    try:
        train(2)
        before = sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())
        train(5)
        after = sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())
    finally:
        gc.enable()
    assert after <= before
