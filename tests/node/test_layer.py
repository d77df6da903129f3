"""A neural-ODE layer around any field: exact answers, gradients, and the idioms of a module."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import zoo
from zoo.node import NeuralODE

TIGHT = {"name": "dopri5", "rtol": 1e-10, "atol": 1e-12}


class Decay(nn.Module):
    """``dy/dt = -k t y``, so that ``y(t) = exp(-k t^2 / 2) y(0)``."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, t, y):
        return -self.k * t * y


class Offset(nn.Module):
    """An option with a default makes no second argument; nor does a name of its own."""

    def forward(self, state, scale: float = -1.0, *, shift: float = 0.0):
        return scale * state + shift


@pytest.mark.parametrize("ts", [(0.0, 1.0), (0.0, 0.25, 1.0), (1.0, 0.0)])
def test_a_field_of_the_time(ts):
    y0 = torch.randn(3, 2, dtype=torch.float64)
    exact = torch.exp(-(torch.tensor(ts, dtype=torch.float64) ** 2 - ts[0] ** 2))[:, None, None] * y0
    layer = NeuralODE(Decay(), ts, TIGHT)
    torch.testing.assert_close(layer(y0), exact[-1], rtol=1e-8, atol=1e-10)
    whole = NeuralODE(Decay(), ts, TIGHT, trajectory=True)(y0)
    torch.testing.assert_close(whole, exact, rtol=1e-8, atol=1e-10)
    assert layer.last.result is zoo.Result.converged


@pytest.mark.parametrize("make", [lambda: nn.Linear(3, 3, bias=False), lambda: nn.Sequential(nn.Linear(3, 3, False))])
def test_a_field_of_the_state_alone_in_a_sequential(make):
    torch.manual_seed(0)
    field, y0 = make().double(), torch.randn(4, 3, dtype=torch.float64)
    model = nn.Sequential(nn.Identity(), NeuralODE(field, solver=TIGHT), nn.Identity())
    w = next(field.parameters()).detach()
    torch.testing.assert_close(model(y0), y0 @ torch.linalg.matrix_exp(w).T, rtol=1e-8, atol=1e-10)
    y = NeuralODE(Offset(), solver=TIGHT)(y0)
    torch.testing.assert_close(y, y0 / torch.e, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("adjoint", ["unroll", "checkpoint", "backsolve"])
@pytest.mark.parametrize("autonomous", [False, True])
def test_gradients(adjoint, autonomous):
    torch.manual_seed(0)
    y0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    field = nn.Linear(2, 2, bias=False).double() if autonomous else Decay()
    NeuralODE(field, solver=TIGHT, adjoint=adjoint)(y0).sum().backward()
    if autonomous:
        w = field.weight.detach().clone().requires_grad_()
        start = y0.detach().clone().requires_grad_()
        (start @ torch.linalg.matrix_exp(w).T).sum().backward()
        expected = (start.grad, w.grad)
    else:
        expected = (torch.full_like(y0, torch.exp(torch.tensor(-1.0)).item()), -0.5 * y0.detach().sum() / torch.e)
    torch.testing.assert_close(y0.grad, expected[0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(next(field.parameters()).grad, expected[1], rtol=1e-6, atol=1e-8)


def test_it_is_saved_copied_and_configured_as_a_module():
    layer, y0 = NeuralODE(nn.Linear(2, 2), eval_solver="rk4"), torch.randn(3, 2)
    twin = NeuralODE(nn.Linear(2, 2))
    twin.load_state_dict(layer.state_dict())
    torch.testing.assert_close(twin(y0), layer(y0))
    torch.testing.assert_close(copy.deepcopy(layer)(y0), layer(y0))
    assert list(layer.state_dict()) == ["field.weight", "field.bias"]
    assert "Linear" in repr(layer) and "ts=(0.0, 1.0)" in repr(layer)
    layer.configure_implicit({"name": "euler", "steps": 1}, throw=True)
    torch.testing.assert_close(layer(y0), y0 + layer.field(y0))


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="the times of its input and of its output; got ts=\\(0.0,\\)"):
        NeuralODE(nn.Linear(2, 2), (0.0,))
    with pytest.raises(ValueError, match="the solver Anderson is for fixed points"):
        NeuralODE(nn.Linear(2, 2), solver="anderson")
    with pytest.raises(AttributeError, match="'zoo.node' has no attribute 'NeuralOD'; it has NeuralODE"):
        _ = zoo.node.NeuralOD
