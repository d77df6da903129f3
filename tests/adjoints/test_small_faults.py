"""The adjoints, number by number: inverse estimates, damped steps, undone steps, norms of the backward solve."""

from __future__ import annotations

import pytest
import torch
from problems import matrix
from torch import Tensor

import zoo
from zoo.adjoints import ADJOINTS
from zoo.adjoints.rng import RNGState
from zoo.adjoints.shine import transposed_inverse
from zoo.solve import make_adjoint, odeint
from zoo.solvers import SOLVERS
from zoo.solvers.iterate import iterate
from zoo.solvers.ode.integrate import integrate
from zoo.solvers.ode.runge_kutta import Dopri5, Euler, Heun

D = torch.float64
W = matrix(4, 0.7)
X = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.1, 0.2, -0.3, 0.4]], dtype=D)


@pytest.mark.parametrize("rtol", [0.3, 1e-2, 1e-5])
def test_shine_is_the_transposed_inverse_estimate(rtol):
    """The estimate of the textbook, ``H`` with a rank-one update a step, and its transpose."""
    f = lambda z: z @ W.T + X[:1]  # noqa: E731
    with torch.no_grad():
        solver = SOLVERS["broyden"](max_steps=60, rtol=rtol, atol=0.0)
        solution = iterate(f, torch.zeros(1, 4, dtype=D), solver, keep_state=True)
        _, state = solver.propose(solution.state)
    z, h = torch.zeros(4, dtype=D), -torch.eye(4, dtype=D)
    g = f(z[None])[0]
    for _ in range(int(solution.stats.steps)):
        s = -h @ g
        z = z + s
        new = f(z[None])[0] - z
        y = new - g
        h, g = h + torch.outer(s - h @ y, s @ h) / (s @ h @ y), new
    assert (h + torch.eye(4, dtype=D)).abs().max() > 0.1
    for b in torch.eye(4, dtype=D):
        torch.testing.assert_close(transposed_inverse(state, b[None])[0], -h.T @ b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("steps", "damping"), [(1, 1.0), (1, 0.5), (3, 0.25), (2, 1.0)])
def test_phantom_is_its_damped_steps(steps, damping):
    """On ``z = W z + x`` the gradient to x is a sum of powers of ``(1 - d) I + d W``."""
    x = X.clone().requires_grad_()
    adjoint = ADJOINTS.build({"name": "phantom", "steps": steps, "damping": damping})
    s = zoo.fixed_point(lambda z: z @ W.T + x, torch.zeros_like(X), {"name": "anderson", "rtol": 1e-12}, adjoint)
    v = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, -1.0]], dtype=D)
    (found,) = torch.autograd.grad((s.value * v).sum(), x)
    one = (1 - damping) * torch.eye(4, dtype=D) + damping * W
    total = damping * sum(torch.linalg.matrix_power(one, k) for k in range(steps))
    torch.testing.assert_close(found, v @ total, rtol=1e-10, atol=0)
    calls = []
    zoo.fixed_point(lambda z: (calls.append(len(z)), z @ W.T + x)[1], torch.zeros_like(X), "anderson", adjoint)
    again = zoo.fixed_point(lambda z: z @ W.T + x, torch.zeros_like(X), "anderson", adjoint).stats
    assert again.nfe == len(calls) and again.sample_nfe == sum(calls)


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_the_neumann_adjoint_is_its_terms(terms):
    x = X.clone().requires_grad_()
    adjoint = {"name": "neumann", "terms": terms, "rtol": 1e-14}
    s = zoo.fixed_point(lambda z: z @ W.T + x, torch.zeros_like(X), {"name": "anderson", "rtol": 1e-12}, adjoint)
    (found,) = torch.autograd.grad(s.value.sum(), x)
    v = torch.ones_like(X)
    torch.testing.assert_close(found, v @ sum(torch.linalg.matrix_power(W, k) for k in range(terms + 1)))
    assert s.stats.backward[0].nfe == terms


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_the_work_of_a_backward_solve_does_not_depend_on_the_loss(scale):
    x = X.clone().requires_grad_()
    s = zoo.fixed_point(lambda z: z @ W.T + x, torch.zeros_like(X), {"name": "anderson", "rtol": 1e-12})
    v = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0] * 4], dtype=D) * scale
    (found,) = torch.autograd.grad(s.value, x, v)
    exact = v @ torch.linalg.inv(torch.eye(4, dtype=D) - W)
    assert (found - exact).norm() <= 5e-3 * exact.norm() and not found[1].any()
    assert s.stats.backward[0].steps[1] == 0 and s.stats.backward[0].steps[0] in (3, 4)


@pytest.mark.parametrize(("damping", "steps"), [(0.5, 6), (0.3, 9), (0.2, 1)])
def test_reversible_is_the_gradient_of_its_steps(damping, steps):
    def unrolled(x: Tensor, w: Tensor) -> Tensor:
        y = z = torch.zeros_like(x)
        for _ in range(steps):
            y = (1 - damping) * y + damping * torch.tanh(z @ w.T + x)
            z = (1 - damping) * z + damping * torch.tanh(y @ w.T + x)
        return z

    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    v = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, -1.0]], dtype=D)
    solver = {"name": "reversible", "damping": damping, "max_steps": steps, "rtol": 1e-14, "atol": 0.0}
    s = zoo.fixed_point(lambda z: torch.tanh(z @ w.T + x), torch.zeros_like(X), solver, "reversible")
    torch.testing.assert_close(s.value, unrolled(x, w), rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad((z * v).sum(), (x, w)) for z in (s.value, unrolled(x, w)))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert s.stats.nfe == 2 * steps + 1


def test_more_steps_than_can_be_undone_are_refused():
    """``(1 - d)^(-2 k) eps <= 1e-2``: at d = 0.5, ``4^k <= 4.5e13``, which is 22 steps."""
    x = X.clone().requires_grad_()
    for steps, fits in ((22, True), (23, False)):
        solver = {"name": "reversible", "max_steps": steps}
        if fits:
            zoo.fixed_point(lambda z: torch.tanh(z @ W.T + x), torch.zeros_like(X), solver, "reversible")
            continue
        with pytest.raises(ValueError, match="cannot be undone"):
            zoo.fixed_point(lambda z: torch.tanh(z @ W.T + x), torch.zeros_like(X), solver, "reversible")


def test_random_numbers_are_drawn_again_and_the_generator_goes_on():
    state = RNGState(torch.device("cpu"))
    first = torch.rand(3)
    assert state.close() is True
    after = torch.get_rng_state()
    for _ in range(2):
        with state.again():
            assert torch.equal(torch.rand(3), first)
        assert torch.equal(torch.get_rng_state(), after)
    quiet = RNGState(torch.device("cpu"))
    assert quiet.close() is False and quiet.states == []
    with quiet.again():
        drawn = torch.rand(1)
    assert not torch.equal(torch.rand(1), drawn)  # where nothing was drawn, nothing is put back


@pytest.mark.parametrize("seminorm", [True, False])
def test_backsolve_controls_the_error_that_it_says(seminorm):
    """``y' = w`` with a loss of a thousand: only the parameters' gradient is hard, and only the full norm sees it."""
    nfe = []
    for rate in (1.0, 60.0):
        w = torch.tensor([1.0], dtype=D, requires_grad=True)
        y0 = torch.zeros(2, 1, dtype=D)
        field = lambda t, y, rate=rate: w * torch.sin(rate * t).expand_as(y) * 1e-3  # noqa: E731, B023
        solver = {"name": "dopri5", "rtol": 0.0, "atol": 1e-3}
        s = odeint(field, y0, [0.0, 3.0], solver, make_adjoint({"name": "backsolve", "seminorm": seminorm}), params=[w])
        (s.value[-1].sum() * 1e4).backward()
        exact = 1e-3 * 1e4 * 2 * (1 - torch.cos(torch.tensor(3.0 * rate, dtype=D))) / rate
        if not seminorm:
            assert w.grad.item() == pytest.approx(exact.item(), abs=5e-2)
        nfe.append(s.stats.backward[0].nfe)
    assert (nfe[1] > 2 * nfe[0]) is not seminorm


def test_a_backward_solver_of_fixed_steps_keeps_their_size():
    solver_of = ADJOINTS.build("backsolve")._backward_solver
    assert solver_of(Euler(), [0.0, 1.0, 4.0]) == Euler(step_size=0.125)
    assert solver_of(Euler(steps=8), [4.0, 1.0, 0.0]) == Euler(step_size=0.5)
    assert solver_of(Euler(step_size=0.3), [0.0, 1.0]) == Euler(step_size=0.3)
    mine = Heun(rtol=1e-3, per_sample=True, norm="max", first_step=0.5, compile=True)
    assert solver_of(mine, [0.0, 1.0]) == Heun(rtol=1e-3)
    assert solver_of(Heun(norm="mean"), [0.0, 1.0]) == Heun()
    own = make_adjoint({"name": "backsolve", "solver": {"name": "euler", "steps": 3}})
    assert own._backward_solver(Dopri5(), [0.0, 3.0]) == Euler(step_size=1.0)


def test_backsolve_sums_what_its_solves_took():
    w = torch.tensor([0.5], dtype=D, requires_grad=True)
    y0 = torch.ones(3, 2, dtype=D, requires_grad=True)
    s = odeint(lambda t, y: -w * y, y0, [0.0, 1.0, 3.0], {"name": "euler", "steps": 6}, "backsolve", params=[w])
    forward = integrate(lambda t, y: -0.5 * y, torch.ones(3, 2, dtype=D), [0.0, 1.0, 3.0], Euler(steps=6)).stats
    assert s.stats.nfe == forward.nfe + 1 and s.stats.sample_nfe == forward.sample_nfe + 3
    s.value.sum().backward()
    (back,) = s.stats.backward
    assert back.nfe == 6 and back.accepted.tolist() == [6] and back.rejected.tolist() == [0] and back.steps.item() == 6
    a = torch.ones(3, 2, dtype=D)
    for steps in (4, 2):  # backwards by Euler's method from each stored state, a' = w a
        for _ in range(steps):
            a = a - 0.5 * a * 0.5
        a = a + 1
    torch.testing.assert_close(y0.grad, a, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["unroll", "checkpoint", "backsolve"])
def test_an_adjoint_by_itself_keeps_no_dense_output(name):
    adjoint = ADJOINTS.build(name)
    for needs in (False, True):
        s = adjoint.integrate(lambda t, y: -y, torch.ones(1, 1, requires_grad=needs), [0.0, 1.0], Dopri5())
        assert s.interpolant is None
        with torch.no_grad():
            s = adjoint.integrate(lambda t, y: -y, torch.ones(1, 1, requires_grad=needs), [0.0, 1.0], Dopri5())
        assert s.interpolant is None and not s.value.requires_grad


def test_shine_has_its_estimate_at_the_end_of_the_budget():
    """A solve that used its whole budget has an estimate of the inverse, not the identity, which is JFB's."""
    A, x = 0.4 * torch.randn(4, 4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    solver = {"name": "broyden", "max_steps": 5, "rtol": 0.0, "atol": 1e-30}
    grads = {}
    for name in ("shine", "jfb"):
        solution = zoo.fixed_point(lambda z: z @ A.T + x, torch.zeros(1, 4, dtype=torch.float64), solver, name)
        assert not solution.stats.converged.any()
        (grads[name],) = torch.autograd.grad(solution.value.sum(), x)
    assert (grads["shine"] - grads["jfb"]).norm() > 1e-3 * grads["jfb"].norm()
