"""States on the way to an equilibrium: their values, their gradients, and the record of the solve."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo.deq import DEQ, trajectory


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4).double()
        with torch.no_grad():
            self.linear.weight.mul_(0.5 / torch.linalg.matrix_norm(self.linear.weight, 2))

    def forward(self, z, x):
        return torch.tanh(self.linear(z) + x)


class Two(Cell):
    def forward(self, z, x):
        a, b = z
        return torch.tanh(self.linear(b) + x), 0.5 * a


def picard(cell, x, steps):
    z = torch.zeros_like(x)
    for _ in range(steps):
        z = cell(z, x)
    return z


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(3, 4, dtype=torch.float64)


def layer(adjoint="implicit", solver="picard", cell=None):
    torch.manual_seed(1)
    return DEQ(cell or Cell(), {"name": solver, "rtol": 1e-11, "atol": 1e-12, "max_steps": 60}, adjoint)


@pytest.mark.parametrize("adjoint", ["implicit", "jfb", "phantom", "neumann", "unroll"])
def test_the_states_are_those_of_the_iteration(adjoint, x):
    deq = layer(adjoint)
    *states, end = trajectory(deq, x, at=[1, 3, 7])
    assert deq.last.result is zoo.Result.converged and deq.last.stats.nfe > 7
    for state, steps in zip(states, [1, 3, 7], strict=True):
        torch.testing.assert_close(state, picard(deq.cell, x, steps), rtol=0, atol=1e-14)
        assert state.requires_grad
    torch.testing.assert_close(end, deq(x), rtol=0, atol=1e-10)


def test_unrolled_states_have_the_gradient_of_their_steps(x):
    deq = layer("unroll")
    state, _ = trajectory(deq, x, at=[3])
    (mine,) = torch.autograd.grad(state.sum(), deq.cell.linear.weight)
    (exact,) = torch.autograd.grad(picard(deq.cell, x, 3).sum(), deq.cell.linear.weight)
    torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-14)


def test_a_late_state_has_the_gradient_of_the_equilibrium(x):
    deq = layer({"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-12, "atol": 0.0, "max_steps": 30}})
    late, end = trajectory(deq, x, at=[12])
    assert not torch.equal(late, end)
    (mine,) = torch.autograd.grad(late.sum(), deq.cell.linear.weight)
    (exact,) = torch.autograd.grad(end.sum(), deq.cell.linear.weight)
    torch.testing.assert_close(mine, exact, rtol=1e-2, atol=1e-3)


def test_a_solve_that_ends_sooner_gives_its_end(x):
    deq = layer(solver="anderson")
    states = trajectory(deq, x, at=[2, 59])
    torch.testing.assert_close(states[1], states[2], rtol=0, atol=0)
    assert not torch.allclose(states[0], states[2], atol=1e-6)


def test_states_are_spread_over_the_budget_and_cost_one_solve(x):
    deq = layer()
    deq.configure_implicit({"name": "picard", "max_steps": 12, "rtol": 1e-15, "atol": 0.0})
    with torch.no_grad():
        calls = []
        deq.cell.register_forward_hook(lambda *_: calls.append(1))
        a, b, c, _ = trajectory(deq, x, at=3)
        assert len(calls) == deq.last.stats.nfe <= 13
    for state, steps in zip((a, b, c), (3, 6, 9), strict=True):
        torch.testing.assert_close(state, picard(deq.cell, x, steps), rtol=0, atol=1e-14)


def test_a_state_of_two_parts(x):
    deq = layer(cell=Two())
    z0 = (torch.zeros_like(x), torch.zeros_like(x))
    first, end = trajectory(deq, x, at=[1], z0=z0)
    torch.testing.assert_close(first[0], torch.tanh(deq.cell.linear(z0[1]) + x), rtol=0, atol=1e-14)
    torch.testing.assert_close(end[1], 0.5 * end[0], rtol=0, atol=1e-9)
    first[0].sum().backward()
    assert deq.cell.linear.weight.grad.abs().max() > 0


@pytest.mark.parametrize("at", [[0], [], -1, 60])
def test_numbers_that_cannot_be(at, x):
    with pytest.raises(ValueError, match="at counts evaluations from 1|states do not fit the solver's budget of 60"):
        trajectory(layer(), x, at=at)
