"""A sample that is settled, or lost to infinity or NaN, does nothing to the gradient of its neighbors."""

from __future__ import annotations

import pytest
import torch
from problems import matrix

import zoo
from zoo.solvers.base import Result, freeze
from zoo.solvers.iterate import iterate
from zoo.solvers.learned import Learned, Proposer

UNROLLABLE = ["picard", "anderson", "broyden"]
PAIRS = [
    *((s, a) for a in ("unroll", "phantom", "jfb", "implicit") for s in UNROLLABLE),
    ("learned", "unroll"),
    ("reversible", "reversible"),
]
N = 6


def explode(z, w, x, scale):
    """Contracts where ``scale < 1``; elsewhere it overflows, having saved an infinity: 0 * NaN in the backward pass."""
    y = z @ w.T
    return torch.where(scale > 1, torch.exp(y.abs() + scale) @ w.T, scale * torch.tanh(y) + x)


def grow(z, w, x, scale):
    """Affine: the first sample grows until its square overflows."""
    return scale * (z @ w.T + x)


@pytest.mark.filterwarnings("ignore:1 of 4 samples grew so much")
@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("f", [explode, grow])
@pytest.mark.parametrize(("s", "a"), PAIRS)
def test_the_gradient_of_the_others_is_as_without_it(s, a, f, bound):
    scale = torch.tensor([[50.0], [0.5], [0.3], [0.7]], dtype=torch.float64)
    x = torch.linspace(0.1, 0.6, 4 * N, dtype=torch.float64).view(4, N)

    def run(rows):
        w, own = matrix(N, 0.9).requires_grad_(), x[rows].clone().requires_grad_()
        steps = 20 if s == "reversible" else 200
        given = {"args": (own, scale[rows])} if bound else {}
        solution = zoo.fixed_point(
            (lambda z, *args: f(z, w, *args)) if bound else lambda z: f(z, w, own, scale[rows]),
            torch.zeros_like(own), {"name": s, "max_steps": steps, "rtol": 1e-6}, a, **given,
        )  # fmt: skip
        return solution, torch.autograd.grad(solution.value[-3:].pow(3).sum(), (w, own))

    (together, found), (alone, exact) = run([0, 1, 2, 3]), run([1, 2, 3])
    assert torch.isfinite(together.value).all()
    torch.testing.assert_close(together.value[1:], alone.value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[0], exact[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[1][1:], exact[1], rtol=1e-9, atol=1e-12)
    if f is explode:
        assert together.result is Result.nonfinite and together.stats.lost.tolist() == [True, False, False, False]
        assert not alone.stats.lost.any()


@pytest.mark.parametrize(("s", "a"), [p for p in PAIRS if p[1] != "implicit"])
def test_a_lost_sample_gives_no_gradient(s, a):
    """Though the loss asks for it, and even where nothing else is in the batch."""
    for scale in (torch.full((1, 1), 50.0), torch.tensor([[50.0], [0.5]])):
        w, x = matrix(N, 0.9, torch.float32).requires_grad_(), torch.full((len(scale), N), 0.1).requires_grad_()
        f = lambda z: torch.where(scale > 1, 10 * z * z + 1 + x, scale * torch.tanh(z @ w.T) + x)  # noqa: E731, B023
        steps = 20 if s == "reversible" else 30
        value = zoo.fixed_point(f, torch.zeros_like(x), {"name": s, "max_steps": steps}, a).value
        gw, gx = torch.autograd.grad(value.sum(), (w, x))
        assert torch.isfinite(gw).all() and (gx[0] == 0).all()
        assert len(scale) == 1 or (gx[1] != 0).all()


@pytest.mark.parametrize("scale", [[40.0], [40.0, 0.5]])
def test_reversible_steps_that_cannot_be_undone_give_no_gradient(scale):
    """They are finite; but what undoing them gives is rounding error, enlarged."""
    scale = torch.tensor(scale)[:, None]
    w, x = matrix(N, 0.9, torch.float32).requires_grad_(), torch.full((len(scale), N), 0.1).requires_grad_()
    with pytest.warns(UserWarning, match="1 of . samples grew so much.*give no gradient"):
        solution = zoo.fixed_point(
            lambda z: scale * (z @ w.T + x), torch.zeros_like(x), {"name": "reversible", "max_steps": 12}, "reversible"
        )
    assert solution.value.isfinite().all() and solution.value[0].abs().max() > 1e15
    gw, gx = torch.autograd.grad(solution.value.sum(), (w, x))
    assert torch.isfinite(gw).all() and (gx[0] == 0).all()
    assert len(scale) == 1 or (gx[1] != 0).all()


FIXED = ["euler", "midpoint", "heun", "rk4", "leapfrog", "yoshida4"]


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("adjoint", ["unroll", "checkpoint"])
@pytest.mark.parametrize("solver", FIXED)
def test_fixed_steps_that_overflow_leave_the_others_their_gradient(solver, adjoint, bound):
    """The first sample overflows at once, the second after the second requested time."""
    rate = torch.tensor([[30.0], [3.0], [0.3], [0.1]])

    def field(t, y, rate, w):
        q, p = y.chunk(2, 1)
        return torch.cat([p @ w, -rate * q * torch.exp(rate * q * q)], 1)

    def run(rows):
        w, own = torch.eye(1).requires_grad_(), rate[rows].clone().requires_grad_()
        y0 = torch.tensor([2.0, 0.5]).expand(len(rows), 2).contiguous().requires_grad_()
        given = {"args": (own,)} if bound else {}
        f = (lambda t, y, *a: field(t, y, *a, w)) if bound else lambda t, y: field(t, y, own, w)
        solution = zoo.odeint(f, y0, [0.0, 0.01, 1.0], {"name": solver, "steps": 40}, adjoint, **given)
        return solution, torch.autograd.grad(solution.value[:, -2:].square().sum(), (w, own, y0))

    (together, found), (alone, exact) = run([0, 1, 2, 3]), run([2, 3])
    assert together.result is Result.nonfinite and alone.result is Result.fixed_steps
    assert torch.isfinite(together.value).all()
    assert together.stats.reached[0] == 0 and together.stats.reached[-1] == 1
    assert together.stats.converged.tolist() == [False, False, True, True]
    torch.testing.assert_close(together.value[:, 2:], alone.value)
    torch.testing.assert_close(found[0], exact[0])
    torch.testing.assert_close(found[1][2:], exact[1])
    torch.testing.assert_close(found[2][2:], exact[2])
    assert (found[2][:2] == 0).all()
    if bound:  # what the field only captures is its own: its answer there is infinite at every state
        assert (found[1][:2] == 0).all()


@pytest.mark.parametrize("solver", FIXED)
def test_fixed_steps_of_a_batch_that_is_lost_give_zero(solver):
    w, y0 = torch.ones(()).requires_grad_(), torch.full((2, 2), 1e3).requires_grad_()
    f = lambda t, y: torch.cat([w * y[:, 1:], -(y[:, :1] ** 9)], 1)  # noqa: E731
    solution = zoo.odeint(f, y0, [0.0, 10.0], {"name": solver, "steps": 32})
    assert solution.result is Result.nonfinite
    (g,) = torch.autograd.grad(solution.value.sum(), y0)
    torch.testing.assert_close(g, torch.full_like(y0, 2.0))  # of the start, which both rows repeat


def test_phantom_holds_what_its_own_iterations_lose():
    """The solver ran out of steps in time; one step more of the map overflows."""
    w, x = matrix(N, 0.9).requires_grad_(), torch.full((2, N), 0.1, dtype=torch.float64)
    scale, seen = torch.tensor([[6.0], [0.5]], dtype=torch.float64), []
    f = lambda z: (seen.append(1), explode(z, w, x, scale))[1]  # noqa: E731
    solution = zoo.fixed_point(f, torch.zeros_like(x), {"name": "picard", "max_steps": 1}, "phantom")
    assert not solution.stats.lost.any() and torch.isfinite(solution.value).all()
    assert solution.stats.nfe == len(seen)
    assert torch.isfinite(torch.autograd.grad(solution.value.sum(), w)[0]).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("s", UNROLLABLE)
def test_a_residual_of_zero_has_a_gradient(s, dtype):
    """Without an injection the state 0 is the fixed point, exactly, from the start: Anderson's Gram matrix is 0."""
    w, x = matrix(N, 0.7, dtype).requires_grad_(), torch.randn(3, N, dtype=dtype)
    x[1] = 0
    x.requires_grad_()
    solution = zoo.fixed_point(lambda z: torch.tanh(z @ w.T + x), torch.zeros_like(x), s, "unroll")
    assert solution.result is Result.converged
    gw, gx = torch.autograd.grad(solution.value.sum(), (w, x))
    assert torch.isfinite(gw).all() and torch.isfinite(gx).all()


def test_a_residual_of_zero_does_not_reach_a_solvers_network():
    w, x = matrix(N, 0.7), torch.randn(3, N, dtype=torch.float64)
    x[1] = 0
    network = Proposer([(N,)], hidden=4).double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    solver = Learned(network=network, max_steps=6)
    value = iterate(lambda z: torch.tanh(z @ w.T + x), torch.zeros_like(x), solver, select="next").value
    value.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("s", UNROLLABLE)
def test_a_settled_sample_stays_where_it_settled(s):
    """f sees its answer again and again, and no iterate after it."""
    rate, seen = torch.tensor([[0.01], [0.95]], dtype=torch.float64), []
    own = torch.ones(2, N, dtype=torch.float64, requires_grad=True)

    def f(z):
        seen.append(z.detach().clone())
        return rate * torch.tanh(z) + own

    solution = zoo.fixed_point(f, torch.zeros_like(own), {"name": s, "max_steps": 60}, "unroll")
    settled = int(solution.stats.steps[0])
    assert settled < len(seen) - 2
    assert all(torch.equal(z[0], solution.value[0].detach()) for z in seen[settled:])


def test_holding_cuts_the_gradient_of_whole_rows():
    x = torch.randn(2, 3, requires_grad=True)
    held = freeze((x / torch.tensor([[0.0], [1.0]]), (x[:, 0],), 7), torch.tensor([False, True]))
    (g,) = torch.autograd.grad(held[0][1].sum() + held[0][0].sum() + held[1][0].sum(), x)
    torch.testing.assert_close(g, torch.tensor([[torch.nan] * 3, [2.0, 1.0, 1.0]]), equal_nan=True)
