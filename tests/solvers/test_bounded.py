"""Solves that stand in an exported program: the same answers, residuals and statuses as the eager loops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo.implicit import ImplicitMixin
from zoo.solvers.anderson import Anderson, solve_positive
from zoo.solvers.bounded import bounded_fixed_point, bounded_odeint
from zoo.solvers.iterate import iterate
from zoo.solvers.picard import Picard


def contraction(n=6, rate=0.9, seed=0):
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(n, n, generator=g)
    w = rate * w / torch.linalg.matrix_norm(w, 2)
    return lambda z: torch.tanh(z @ w.T) + b, torch.zeros(4, n)


b = torch.linspace(-1, 2, 24).view(4, 6)


@pytest.mark.parametrize("solver", [Picard(max_steps=7), Picard(max_steps=80, damping=0.5), Anderson(max_steps=1),
                                    Anderson(max_steps=9), Anderson(max_steps=40, window=2, restart=1.01)])  # fmt: skip
def test_a_bounded_solve_is_the_eager_one(solver):
    f, z0 = contraction()
    with torch.no_grad():
        eager, held = iterate(f, z0, solver), bounded_fixed_point(f, z0, solver)
    torch.testing.assert_close(held.value, eager.value, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(held.stats.residual.double(), eager.stats.residual, rtol=1e-3, atol=1e-7)
    assert held.stats.converged.tolist() == eager.stats.converged.tolist()
    assert held.stats.steps.tolist() == eager.stats.steps.tolist()


def test_a_sample_that_is_not_finite_costs_itself_alone():
    f, z0 = contraction()
    z0[1] = float("nan")
    with torch.no_grad():
        held = bounded_fixed_point(f, z0, Anderson(max_steps=30))
        clean = bounded_fixed_point(f, torch.zeros_like(z0), Anderson(max_steps=30))
    assert held.stats.converged.tolist() == [True, False, True, True]
    torch.testing.assert_close(held.value[[0, 2, 3]], clean.value[[0, 2, 3]])


def test_elimination_solves_what_anderson_poses(monkeypatch):
    x = torch.randn(3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix, right = x @ x.mT + 1e-6 * torch.eye(5, dtype=torch.float64), torch.ones(3, 5, 1, dtype=torch.float64)
    expected = solve_positive(matrix, right)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(solve_positive(matrix, right), expected, rtol=1e-6, atol=0)


def test_fixed_steps_of_an_ode_are_the_eager_ones():
    f, y0, ts = (lambda t, y: torch.sin(t) - y**2), torch.linspace(0.1, 1, 6).view(3, 2), [0.0, 0.3, 1.0]
    solver = zoo.solve.make_solver({"name": "rk4", "steps": 5})
    held, eager = bounded_odeint(f, y0, ts, solver), zoo.odeint(f, y0, ts, solver)
    torch.testing.assert_close(held.value, eager.value, rtol=0, atol=1e-7)
    assert held.stats.converged.all() and int(held.stats.steps[0]) == int(eager.stats.steps[0])


class Layer(ImplicitMixin, nn.Module):
    problem_types = ("fixed_point", "ode")

    def __init__(self, solver):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        nn.init.orthogonal_(self.linear.weight, 0.8)
        self.configure_implicit(solver, "unroll" if hasattr(zoo.solve.make_solver(solver), "order") else "implicit")

    def forward(self, x):
        if hasattr(self.solver, "order"):
            return self.integrate(lambda t, y: -self.linear(y), x, [0.0, 1.0])[-1]
        return self.solve(lambda z, x: torch.tanh(self.linear(z)) + x, torch.zeros_like(x), args=(x,))


@pytest.mark.parametrize("solver", ["picard", {"name": "anderson", "max_steps": 5}, {"name": "rk4", "steps": 3}])
@pytest.mark.parametrize("grad", [False, True])
def test_an_exported_layer_takes_a_batch_of_any_size(solver, grad):
    torch.manual_seed(0)
    layer = Layer(solver).eval()
    with torch.set_grad_enabled(grad):
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        program = torch.export.export(layer, (torch.randn(2, 4),), dynamic_shapes=shapes, strict=False).module()
    with torch.no_grad():
        for count in (1, 2, 7):
            x = torch.randn(count, 4)
            torch.testing.assert_close(program(x), layer(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", ["broyden", "newton", "dopri5", {"name": "implicit_euler", "steps": 2}])
def test_what_decides_on_the_host_is_refused_in_words(solver):
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"cannot be traced or exported.*(solver='anderson'|'rk4')"):
        torch.export.export(Layer(solver).eval(), (torch.randn(2, 4),), strict=False)
