"""The compiled step of explicit Runge-Kutta methods."""

from __future__ import annotations

import math

import pytest
import torch

from zoo.solve import odeint


@pytest.mark.slow
def test_compiled_step_equals_the_eager_one():
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).double()
    y0 = torch.randn(5, 4, dtype=torch.float64)

    def f(t, y):
        return net(y) + t

    def gradient(compile):
        solution = odeint(f, y0, [0.0, 0.3, 1.0], {"name": "dopri5", "compile": compile})
        return solution, torch.autograd.grad(solution.value.square().sum(), tuple(net.parameters()))

    (eager, g), (compiled, h) = gradient(False), gradient(True)
    assert torch.allclose(eager.value, compiled.value, atol=1e-12) and eager.stats.nfe == compiled.stats.nfe
    for a, b in zip(g, h, strict=True):
        assert torch.allclose(a, b, atol=1e-11)


def test_what_cannot_be_compiled_is_said_and_solved_all_the_same():
    def f(t, y):
        torch._dynamo.graph_break()
        return -y

    with pytest.warns(UserWarning, match="compile=True has no effect"):
        solution = odeint(f, torch.ones(2, 2), [0.0, 1.0], {"name": "dopri5", "compile": True})
    assert torch.allclose(solution.value[-1], torch.full((2, 2), math.exp(-1)), atol=1e-4)
