"""Hypergradients: against the closed form of ridge regression, finite differences, and the unrolled descent."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

import zoo
from zoo.hypernet.hyperparameters import minimise

N, D = 30, 6
TIGHT = {"name": "anderson", "window": 10, "rtol": 1e-14, "atol": 1e-15, "max_steps": 300}
EXACT = {"name": "implicit", "solver": {"name": "cg", "symmetric": True, "rtol": 1e-13, "atol": 0.0, "max_steps": 100}}
F64 = torch.float64


def data(seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, dtype=F64, generator=g)
    return x, x @ torch.randn(D, dtype=F64, generator=torch.Generator().manual_seed(9)) + torch.randn(
        N, dtype=F64, generator=g
    )


def ridge(x, y, penalty):
    return lambda w: (x @ w[0] - y).square().mean() / 2 + (penalty * w[0].square()).sum() / 2


def validation(w):
    x, y = data(1)
    return (x @ w - y).square().mean()


@pytest.mark.parametrize(
    "adjoint",
    [EXACT, {"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-13, "atol": 0.0}},
     {"name": "neumann", "terms": 400, "rtol": 1e-15}],
    ids=["cg", "gmres", "neumann"],
)  # fmt: skip
def test_the_hypergradient_of_ridge_regression_is_exact(adjoint):
    x, y = data()
    penalty = torch.linspace(0.05, 1.0, D, dtype=F64).requires_grad_()
    solution = minimise(ridge(x, y, penalty), (torch.zeros(D, dtype=F64),), step=0.6, solver=TIGHT, adjoint=adjoint)
    exact = torch.linalg.solve(x.T @ x / N + torch.diag(penalty), x.T @ y / N)
    torch.testing.assert_close(solution.value[0], exact, rtol=1e-10, atol=1e-10)
    ours = torch.autograd.grad(validation(solution.value[0]), penalty)[0]
    closed = torch.autograd.grad(validation(exact), penalty)[0]
    assert closed.abs().min() > 1e-4
    assert (ours - closed).abs().max() < 1e-8


def network(w, x):
    return torch.tanh(x @ w[0].T + w[1]) @ w[2].T


def test_a_network_against_finite_differences_and_unrolling():
    """Two layers, a penalty for each weight tensor and a weight for each example."""
    x, y = data()
    labels = (y > 0).long()
    g = torch.Generator().manual_seed(3)
    start = tuple(0.5 * torch.randn(s, dtype=F64, generator=g) for s in ((4, D), (4,), (2, 4)))
    decay = torch.tensor([-1.0, -1.0, -1.2], dtype=F64, requires_grad=True)
    weight = torch.linspace(0.5, 1.5, N, dtype=F64).requires_grad_()
    picard = {"name": "picard", "rtol": 1e-14, "atol": 1e-15, "max_steps": 500}

    def energy_of(decay, weight):
        def energy(w):
            losses = cross_entropy(network(w, x), labels, reduction="none")
            return (weight * losses).mean() + sum(d.exp() * v.square().sum() for d, v in zip(decay, w, strict=True)) / 2

        return energy

    def outer(decay, weight, adjoint=EXACT, solver=TIGHT):
        w = minimise(
            energy_of(decay, weight), start, step=0.8, solver=solver, adjoint=adjoint, throw=adjoint is EXACT
        ).value
        xv, yv = data(1)
        return cross_entropy(network(w, xv), (yv > 0).long())

    with torch.no_grad():  # of several minima, all that follows is about the one that plain descent finds
        start = minimise(energy_of(decay, weight), start, step=0.8, solver=picard).value
    ours = torch.autograd.grad(outer(decay, weight), (decay, weight))
    always = picard | {"rtol": 1e-30, "atol": 1e-30}  # all its steps, though the start is where they end
    unrolled = torch.autograd.grad(outer(decay, weight, "unroll", always), (decay, weight))
    for a, b in zip(ours, unrolled, strict=True):
        assert a.abs().max() > 1e-5
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    with torch.no_grad():
        for i, h in enumerate((decay, weight)):
            for k in (0, 2):
                shift = torch.zeros_like(h)
                shift[k] = 1e-4
                up, down = ([h + s * shift if j == i else o for j, o in enumerate((decay, weight))] for s in (1, -1))
                slope = (outer(*up) - outer(*down)) / 2e-4
                torch.testing.assert_close(ours[i][k], slope, rtol=1e-5, atol=1e-8)


def test_few_terms_of_neumann_point_downhill():
    x, y = data()
    penalty = torch.full((D,), 0.3, dtype=F64, requires_grad=True)
    grads = []
    for adjoint in (EXACT, {"name": "neumann", "terms": 3}):
        w = minimise(ridge(x, y, penalty), (torch.zeros(D, dtype=F64),), step=0.6, solver=TIGHT, adjoint=adjoint).value
        grads.append(torch.autograd.grad(validation(w[0]), penalty)[0])
    assert torch.nn.functional.cosine_similarity(*grads, dim=0) > 0.9
    assert not torch.allclose(*grads, rtol=1e-3)


def test_a_warm_start_saves_the_descent():
    x, y = data()
    energy = ridge(x, y, torch.full((D,), 0.3, dtype=F64))
    with torch.no_grad():
        cold = minimise(energy, (torch.zeros(D, dtype=F64),), step=0.6)
        warm = minimise(energy, cold.value, step=0.6)
    assert warm.stats.nfe < cold.stats.nfe and cold.result is zoo.Result.converged


def test_bad_input_is_named():
    energy = ridge(*data(), torch.ones(D, dtype=F64))
    start = (torch.zeros(D, dtype=F64),)
    with pytest.raises(ValueError, match="step must be above 0; got 0"):
        minimise(energy, start, step=0)
    with pytest.raises(ValueError, match="at least one tensor"):
        minimise(energy, (), step=1.0)
    with pytest.raises(ValueError, match=r"single number; got a tensor of shape \(6,\)"):
        minimise(lambda w: w[0], start, step=1.0)
    with pytest.raises(zoo.SolveError):
        minimise(energy, start, step=0.1, solver={"name": "picard", "max_steps": 1}, throw=True)
