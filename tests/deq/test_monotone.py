"""Cells whose equilibrium is certain: it is found for any weights, from any start, and its gradient is exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import zoo
from zoo.deq.concave import ConcaveConv, ConcaveNet
from zoo.deq.monotone import MonotoneConv, MonotoneNet, apply

SPLITTINGS = ("peaceman_rachford", "forward_backward")
EXACT = {"name": "gmres", "rtol": 1e-11, "atol": 1e-14, "max_steps": 400}
TIGHT = {"name": "picard", "rtol": 1e-10, "atol": 1e-12, "max_steps": 20_000}


def monotone(seed, scale, margin, channels=3):
    """A cell with weights of any size, in float64."""
    torch.manual_seed(seed)
    cell = MonotoneConv(channels, margin).double()
    with torch.no_grad():
        for p in cell.parameters():
            p.mul_(scale)
    return cell


@given(st.integers(0, 99), st.floats(0.01, 2.0), st.floats(0.2, 1.5), st.sampled_from(SPLITTINGS))
def test_plain_iteration_reaches_the_unique_equilibrium_at_the_rate_that_is_known(seed, scale, margin, splitting):
    cell = monotone(seed, scale, margin)
    f, _, rate = cell.map(4, 5, splitting)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    a, b = (10 * torch.randn_like(x) for _ in range(2))
    with torch.no_grad():
        for _ in range(10):
            fa, fb = f(a, x), f(b, x)
            assert (fa - fb).norm() <= rate * (a - b).norm() * (1 + 1e-9) + 1e-13  # rounding, once they have met
            a, b = fa, fb
        if rate > 0.995:  # thousands of steps
            return
        one = zoo.fixed_point(f, torch.zeros_like(x), TIGHT, args=(x,))
        two = zoo.fixed_point(f, 100 * torch.randn_like(x), TIGHT, args=(x,))
    assert one.result is two.result is zoo.Result.converged
    torch.testing.assert_close(one.value, two.value, rtol=1e-6, atol=1e-6)
    z = torch.relu(one.value)
    torch.testing.assert_close(z, torch.relu(apply(cell.operator(4, 5), z) + x), rtol=1e-6, atol=1e-6)


def test_the_operator_is_what_it_says():
    cell = monotone(0, 1.0, 0.5)
    w = cell.operator(4, 5)
    n = 3 * 4 * 5
    dense = apply(w.detach(), torch.eye(n, dtype=torch.float64).view(n, 3, 4, 5)).view(n, n).T
    kernel = torch.zeros(3, 3, 4, 5, dtype=torch.float64)
    kernel[:, :, :3, :3] = cell.symmetric.detach()
    shifted = kernel.roll((-1, -1), (2, 3))
    a = torch.zeros(3, 4, 5, 3, 4, 5, dtype=torch.float64)  # the circular convolution, place by place
    for i in range(4):
        for j in range(5):
            a[:, :, :, :, i, j] = shifted.roll((i, j), (2, 3)).permute(0, 2, 3, 1)
    a = a.view(n, n)
    skew = dense - (0.5 * torch.eye(n, dtype=torch.float64) - a.T @ a)
    torch.testing.assert_close(skew, -skew.T)  # what is left is B - B^T
    smallest = torch.linalg.eigvalsh(torch.eye(n, dtype=torch.float64) - (dense + dense.T) / 2)[0]
    assert smallest >= 0.5 - 1e-9
    with pytest.raises(ValueError, match="at least 3 pixels"):
        cell.operator(2, 5)


@pytest.mark.parametrize("splitting", SPLITTINGS)
def test_the_implicit_gradient_is_that_of_the_iteration(splitting):
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    found = []
    for adjoint in (
        {"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-11, "atol": 1e-14, "max_steps": 60}},
        "unroll",
    ):
        cell = monotone(1, 0.3, 1.0)  # small enough that 400 steps of either splitting are the limit
        f, _, _ = cell.map(4, 4, splitting)
        solution = zoo.fixed_point(f, torch.zeros_like(x), {**TIGHT, "max_steps": 400}, adjoint, args=(x,))
        z = torch.relu(solution.value)
        found.append((z, *torch.autograd.grad(z.square().sum(), [x, *cell.parameters()])))
    for implicit, unrolled in zip(*found, strict=True):
        torch.testing.assert_close(implicit, unrolled, rtol=1e-6, atol=1e-8)


def test_both_splittings_find_the_same_with_the_same_gradient():
    found = []
    for splitting in SPLITTINGS:
        torch.manual_seed(3)
        model = MonotoneNet(num_classes=3, channels=4, groups=2, splitting=splitting).double()
        model.configure_implicit({**TIGHT, "rtol": 1e-13}, {"name": "implicit", "solver": EXACT})
        logits = model(torch.ones(2, 1, 8, 8, dtype=torch.float64).cumsum(3))
        found.append((logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="peaceman_rachford"):
        MonotoneNet(splitting="douglas")


@given(st.integers(0, 99), st.floats(0.05, 60.0))
def test_a_positive_concave_map_converges_whatever_its_weights(seed, gain):
    torch.manual_seed(seed)
    cell = ConcaveConv(3, gain).double()
    b = 1e-2 + torch.rand(2, 3, 4, 4, dtype=torch.float64)

    def distance(u, v):
        return (u.log() - v.log()).abs().max()

    with torch.no_grad():
        low, high = cell(torch.zeros_like(b), b), cell(torch.full_like(b, 1e3), b)
        before = distance(low, high)
        for _ in range(5):
            low, high = cell(low, b), cell(high, b)
            after = distance(low, high)
            assert after < before or after < 1e-12
            before = after
        one = zoo.fixed_point(cell, torch.zeros_like(b), TIGHT, args=(b,))
        two = zoo.fixed_point(cell, 50 * torch.rand_like(b), TIGHT, args=(b,))
    assert one.result is two.result is zoo.Result.converged
    torch.testing.assert_close(one.value, two.value, rtol=1e-6, atol=1e-8)


def test_the_concave_cells_gradient_and_weights():
    cell = ConcaveConv(2, 4.0).double()
    torch.testing.assert_close(cell.weight.mean() * 18, torch.tensor(4.0, dtype=torch.float64), rtol=0.5, atol=0)
    assert cell.weight.min() > 0
    b = (0.1 + torch.rand(1, 2, 3, 3, dtype=torch.float64)).requires_grad_()

    def equilibrium(b, raw):
        f = lambda z, b: torch.func.functional_call(cell, {"raw": raw}, (z, b))  # noqa: E731
        adjoint = {"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-12, "atol": 1e-14}}
        return zoo.fixed_point(f, torch.zeros_like(b), TIGHT, adjoint, args=(b,)).value

    assert gradcheck(equilibrium, (b, cell.raw), eps=1e-6, atol=1e-5, nondet_tol=1e-8)


def test_errors_say_what_was_expected():
    for wrong in (lambda: MonotoneConv(3, 0.0), lambda: ConcaveConv(3, 0.0), lambda: ConcaveNet(floor=0.0)):
        with pytest.raises(ValueError, match="must be above 0"):
            wrong()
    with pytest.raises(ValueError, match="at least one channel"):
        MonotoneNet(channels=0)


@pytest.mark.parametrize("name", ["test_monotone", "test_concave"])
def test_under_autocast(name):
    model = zoo.create_model(name)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 1, 8, 8))
    logits.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
