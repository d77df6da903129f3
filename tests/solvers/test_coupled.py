"""Samples that depend on one another: the status, the state and the gradient are right, or say that they are not."""

from __future__ import annotations

import warnings

import pytest
import torch
from problems import matrix
from torch import nn

import zoo
from zoo.deq import DEQ
from zoo.solvers.base import Result

TIGHT = {"rtol": 1e-10, "atol": 1e-13, "max_steps": 300}
GMRES = {"name": "implicit", "solver": {"name": "gmres", **TIGHT}}


@pytest.fixture
def graph():
    """One graph whose nodes are the rows; its fixed point, and the exact gradient of the first node's sum."""
    n, d = 12, 4
    a = torch.rand(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = a / a.sum(1, keepdim=True)
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    w = (1.2 * matrix(d, 1.0)).requires_grad_()

    def f(z):
        return torch.tanh(0.8 * a @ z @ w + x)

    z = torch.zeros(n, d, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(1000):
            z = f(z)
    jacobian = torch.autograd.functional.jacobian(lambda q: f(q.view(n, d)).reshape(-1), z.reshape(-1)).detach()
    seed = torch.zeros(n, d, dtype=torch.float64)
    seed[0] = 1
    u = torch.linalg.solve(torch.eye(n * d, dtype=torch.float64) - jacobian.T, seed.reshape(-1)).view(n, d)
    return f, w, z, torch.autograd.grad(f(z), w, u)[0]


PAIRS = [
    ("anderson", GMRES, 1e-7),
    ("anderson", {"name": "implicit", "solver": {"name": "picard", **TIGHT}}, 1e-7),
    ("picard", {"name": "implicit", "solver": {"name": "bicgstab", **TIGHT}}, 1e-7),
    ("newton", {"name": "implicit", "solver": {"name": "cg", **TIGHT}}, 1e-7),
    ("anderson", {"name": "neumann", "terms": 300, "rtol": 1e-10}, 1e-7),
    ("broyden", {"name": "shine", "refine": 100, "solver": {"name": "gmres", **TIGHT}}, 1e-7),
    ("anderson", {"name": "phantom", "steps": 100}, 1e-7),
    ("anderson", "unroll", 1e-5),
    ("broyden", "unroll", 1e-5),
    ("picard", "unroll", 1e-5),
]


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize(("solver", "adjoint", "within"), PAIRS)
def test_the_nodes_of_a_graph_get_their_gradient(graph, solver, adjoint, within, coupled):
    f, w, z, exact = graph
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solution = zoo.fixed_point(f, torch.zeros_like(z), {"name": solver, **TIGHT}, adjoint, coupled=coupled)
        # shine lets settled samples move on, and may say so
        assert solution.result is Result.converged or (adjoint["name"] == "shine" and not coupled)
        torch.testing.assert_close(solution.value, z, rtol=0, atol=1e-8)
        found = torch.autograd.grad(solution.value[0].sum(), w)[0]
    assert (found - exact).norm() <= within * exact.norm()
    assert all(b.converged.all() for b in solution.stats.backward)


def test_a_solve_that_settles_at_once_finds_the_coupling_on_the_way_back(graph):
    """From the fixed point itself no sample moves, so that only a product of the adjoint system can tell."""
    f, w, z, exact = graph
    solution = zoo.fixed_point(f, z, {"name": "anderson", **TIGHT}, GMRES)
    assert solution.stats.coupled is None
    with pytest.warns(UserWarning, match="depend on one another"):
        found = torch.autograd.grad(solution.value[0].sum(), w)[0]
    torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-9)
    assert solution.stats.backward[0].converged.all() and solution.stats.backward[0].coupled


class Normalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, z, x):
        return torch.tanh(self.norm(0.3 * self.linear(z)) * 0.3 + x)


def normalized(batch=16):
    torch.manual_seed(0)
    cell = Normalized().double().train()
    x = torch.randn(batch, 8, dtype=torch.float64) * torch.logspace(-2, 0.7, batch, dtype=torch.float64)[:, None]
    z = torch.zeros_like(x)
    with torch.no_grad():
        for _ in range(300):
            z = cell(z, x)
    return cell, x, z


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("solver", ["anderson", "broyden", "picard", "newton"])
def test_batch_normalization_in_training_is_solved_honestly(solver, grad):
    cell, x, z = normalized()
    layer = DEQ(cell, {"name": solver, "rtol": 1e-6, "atol": 1e-9, "max_steps": 100})
    with torch.set_grad_enabled(grad):
        y = layer(x)
    true = (cell(y, x) - y).norm(dim=1) / y.norm(dim=1)
    assert layer.last.result is Result.converged
    assert (true <= 1.01 * layer.last.stats.residual + 1e-12).all() and true.max() <= 1.01e-6
    torch.testing.assert_close(y.detach(), z, rtol=0, atol=1e-5)


def test_batch_normalization_has_its_gradient_by_itself_and_as_one_system():
    cell, x, _ = normalized()
    weight = torch.randn(16, 8, dtype=torch.float64)
    found = []
    for options in ({}, {"coupled": True}, {"adjoint": "unroll", "coupled": True}, {"adjoint": "unroll"}):
        adjoint = options.pop("adjoint", GMRES)
        layer = DEQ(cell, {"name": "picard", "rtol": 1e-9, "atol": 1e-12, "max_steps": 100}, adjoint, **options)
        cell.zero_grad()
        (layer(x) * weight).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in cell.parameters()]))
    for other in found[1:]:
        assert (other - found[0]).norm() <= 1e-4 * found[0].norm()


def test_an_unstable_coupling_is_not_called_converged():
    """Rows that meet their tolerance while the others still move away."""

    def f(z, x):
        return 0.5 * z + x + 3 * (z.mean(0, keepdim=True) - z.mean(0, keepdim=True).tanh())

    x = torch.linspace(0, 4, 12, dtype=torch.float64).view(6, 2)
    for args in ((x,), None):
        with torch.no_grad():
            solution = zoo.fixed_point(
                f if args else lambda z: f(z, x), torch.zeros_like(x), {"name": "picard", "rtol": 1e-6}, args=args
            )
            true = (f(solution.value, x) - solution.value).norm(dim=1)
            bound = 1e-6 * 2**0.5 + 1e-6 * solution.value.norm(dim=1)
        assert solution.result is not Result.converged
        assert not (solution.stats.converged & (true > bound)).any()


def test_a_map_that_draws_at_random_is_not_called_converged():
    torch.manual_seed(0)
    w, x = matrix(8, 0.5), torch.randn(6, 8, dtype=torch.float64)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            solution = zoo.fixed_point(
                lambda z: torch.tanh(nn.functional.dropout(z, 0.1) @ w.T + x),
                torch.zeros_like(x),
                {"name": "picard", "rtol": 1e-3, "max_steps": 20},
            )
        assert solution.result in (Result.max_steps, Result.dependent)


def test_samples_that_are_independent_are_seen_to_be():
    rate = torch.linspace(0.1, 0.9, 16, dtype=torch.float64)[:, None]
    x, w = torch.randn(16, 8, dtype=torch.float64), matrix(8, 1.0).requires_grad_()
    for args in ((x, rate), None):
        f = lambda z, x=x, rate=rate: torch.tanh(rate * (z @ w.T) + x)  # noqa: E731
        solution = zoo.fixed_point(f, torch.zeros_like(x), args=args)
        solution.value.sum().backward()
        assert solution.stats.coupled is False and not solution.stats.whole
        # no product is spent on the question
        assert solution.stats.backward[0].nfe == len(solution.stats.backward[0].trace) - 1


class Masked(nn.Module):
    """Keeps something for each sample: a mask, the drop pattern of another package."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(8, 8), []

    def forward(self, z, x):
        self.calls.append(len(z))
        return torch.tanh(0.9 * self.linear(z) * self.mask + x)


@pytest.mark.parametrize("adjoint", ["implicit", "unroll", "phantom"])
def test_a_cell_that_keeps_something_of_each_sample_gets_whole_batches(adjoint):
    torch.manual_seed(0)
    cell = Masked()
    cell.mask = torch.ones(16, 8).bernoulli_(0.7)
    x = torch.cat([torch.zeros(10, 8), torch.randn(6, 8)])
    layer = DEQ(cell, {"name": "picard", "rtol": 1e-5, "max_steps": 200}, adjoint)
    y = layer(x)
    assert layer.last.result is Result.converged and layer.whole_batch
    plain = DEQ(cell, {"name": "picard", "rtol": 1e-5, "max_steps": 200}, adjoint, whole_batch=True)
    torch.testing.assert_close(y, plain(x), rtol=1e-3, atol=1e-4)
    cell.calls.clear()
    layer(x)
    assert set(cell.calls) == {16}


def test_a_cell_that_cuts_its_mask_by_itself_is_found_out():
    """A part of the batch would get the mask of other samples, without any error."""

    class Cutting(Masked):
        def forward(self, z, x):
            return torch.tanh(0.9 * self.linear(z) * self.mask[: len(z)] + x)

    torch.manual_seed(1)
    cell = Cutting()
    cell.mask = torch.ones(16, 8).bernoulli_(0.5)
    x = torch.cat([torch.randn(4, 8), 1e-4 * torch.randn(12, 8)])
    layer = DEQ(cell, {"name": "picard", "rtol": 1e-4, "max_steps": 200})
    with torch.no_grad():
        y = layer(x)
        true = (cell(y, x) - y).norm(dim=1) / y.norm(dim=1)
    assert layer.last.result is Result.converged and true.max() < 1e-3


def test_whole_batches_take_inputs_that_are_no_batch():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, z, x, mask, scale):
            return torch.tanh(0.3 * scale * mask @ self.linear(z) + x)

    x, mask = torch.randn(4, 5, 8), torch.eye(5)
    cell = Attention()
    with pytest.raises(ValueError, match="captured by f"):
        DEQ(cell)(x, mask, 1.0)
    assert DEQ(cell, whole_batch=True)(x, mask, 1.0).shape == x.shape


def test_words_for_inputs_that_are_no_state():
    with pytest.raises(TypeError, match="comma"):
        zoo.fixed_point(lambda z, x: 0.5 * z + x, torch.zeros(2, 3), args=torch.zeros(2, 3))
    with pytest.raises(TypeError, match="z0="):
        DEQ(nn.Identity())(torch.zeros(2, 3, dtype=torch.long))


def test_backward_refuses_what_it_cannot_solve_again(graph):
    """``loss.backward()`` brings the product by itself, too late to solve again: it must not end in silence."""
    f, w, z, exact = graph
    solution = zoo.fixed_point(f, z, {"name": "anderson", **TIGHT}, GMRES)
    with pytest.raises(RuntimeError, match="coupled=True"):
        solution.value[0].sum().backward()
    solution = zoo.fixed_point(f, z, {"name": "anderson", **TIGHT}, GMRES, coupled=True)
    w.grad = None
    solution.value[0].sum().backward()
    torch.testing.assert_close(w.grad, exact, rtol=1e-7, atol=1e-9)


def test_backward_checks_independent_samples_without_a_product():
    x, w = torch.ones(4, 3, dtype=torch.float64), matrix(3, 0.5).requires_grad_()
    solution = zoo.fixed_point(lambda z: torch.tanh(z @ w.T + x), torch.zeros_like(x), {"name": "picard", "rtol": 1e-8})
    assert solution.stats.coupled is None
    solution.value.sum().backward(retain_graph=True)
    first = w.grad.clone()
    solution.value.sum().backward()
    torch.testing.assert_close(w.grad, 2 * first)
    again = torch.autograd.grad(
        zoo.fixed_point(
            lambda z: torch.tanh(z @ w.T + x), torch.zeros_like(x), {"name": "picard", "rtol": 1e-8}
        ).value.sum(),
        w,
    )[0]
    torch.testing.assert_close(again, first)
    assert all(b.nfe == len(b.trace) - 1 for b in solution.stats.backward)
