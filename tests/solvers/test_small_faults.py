"""The fixed-point methods, number by number: statistics, budgets, windows, breakdowns, untrained networks."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from problems import linear, matrix
from torch import Tensor

import zoo
from zoo.solvers import SOLVERS
from zoo.solvers.base import Affine, Result
from zoo.solvers.history import History, write, write_cross
from zoo.solvers.iterate import iterate
from zoo.solvers.krylov import CG, GMRES, BiCGStab, Neumann
from zoo.solvers.learned import First, Learned, Proposer, Residual
from zoo.solvers.newton import Newton
from zoo.solvers.picard import Picard
from zoo.solvers.profiler import profile_scope
from zoo.solvers.train_learned import Solved, loss, train

D = torch.float64


# Statistics


def halving(z: Tensor) -> Tensor:
    return z / 2


def test_picard_is_measured_step_by_step():
    """``z <- z / 2``: the residual relative to the state is always 1, the absolute one halves."""
    z0 = torch.tensor([[4.0, 3.0], [0.4, 0.3], [40.0, 30.0]], dtype=D)
    solver = Picard(rtol=1e-300, atol=1.0, max_steps=10)
    s = iterate(halving, z0, solver)
    # |f - z| = |z0| / 2^(k+1) <= atol sqrt(2): k = 1, 0, 5
    assert s.stats.steps.tolist() == [1, 0, 5] and s.result is Result.converged
    assert s.stats.nfe == 6 and s.stats.sample_nfe == 18
    assert s.stats.trace.shape == (6, 3) and torch.allclose(s.stats.trace[:, 2], torch.full((6,), 0.5, dtype=D))
    assert s.stats.residual.tolist() == pytest.approx([0.5] * 3)
    assert torch.equal(s.value, z0 * torch.tensor([[0.5], [1.0], [2.0**-5]], dtype=D))
    assert not s.stats.lost.any()
    for size in (1, 9):  # atol is a root mean square
        z = torch.full((1, size), 4.0, dtype=D)
        assert iterate(halving, z, Picard(rtol=0.0, atol=1.0)).stats.steps.tolist() == [1]
        assert iterate(halving, z, Picard(rtol=0.0, atol=0.99)).stats.steps.tolist() == [2]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_steps_of_a_budget_that_runs_out(most):
    z0 = torch.ones(2, 3, dtype=D)
    solver = Picard(rtol=1e-9, atol=0.0, max_steps=most)
    for select, calls, power in (("best", most + 1, most), ("last", most + 1, most), ("next", most, most),
                                 ("ahead", most, most)):  # fmt: skip
        s = iterate(lambda z: z / 2 + 1, z0, solver, select=select)
        assert s.stats.steps.tolist() == [most] * 2 and s.stats.nfe == calls and s.result is Result.max_steps
        assert torch.equal(s.value, 2 - z0 * 2.0**-power)
        assert len(s.stats.trace) == calls and not s.stats.converged.any()


def test_the_least_residual_is_kept_and_the_last_where_asked():
    seen = iter([3.0, 1.0, 7.0, 9.0])

    def f(z: Tensor) -> Tensor:
        return z + next(seen)

    s = iterate(f, torch.zeros(1, 1, dtype=D), Picard(rtol=0.0, atol=1e-3, max_steps=3))
    assert s.value.item() == 3.0 and s.stats.residual.item() == pytest.approx(1 / 3)
    seen = iter([3.0, 1.0, 7.0, 9.0])
    assert iterate(f, torch.zeros(1, 1, dtype=D), Picard(rtol=0.0, atol=1e-3, max_steps=3), select="last").value == 11.0


def test_damped_picard_goes_a_part_of_the_way():
    for damping in (0.25, 0.75, 1.0):
        s = iterate(lambda z: z / 2 + 3, torch.zeros(1, 2, dtype=D), Picard(damping=damping, max_steps=2, rtol=1e-9))
        first = 3 * damping
        assert s.value[0].tolist() == pytest.approx([first + damping * (3 - first / 2)] * 2, rel=1e-14)


def test_a_zero_state_is_measured_by_its_residual():
    s = iterate(lambda z: z + 1, torch.zeros(1, 4), Picard(max_steps=1))
    assert s.stats.trace[0].item() == 1.0  # |z| = 0: relative to itself
    s = iterate(lambda z: z, torch.zeros(1, 4), Picard(max_steps=1))
    assert s.stats.trace[0].item() == 0.0 and s.result is Result.converged and s.stats.steps.item() == 0


def test_tolerances_stop_at_the_dtype():
    seen = []
    for dtype in (torch.float32, D):
        s = iterate(lambda z: z / 2 + 1, torch.ones(1, 1, dtype=dtype), Picard(rtol=1e-300, atol=0.0, max_steps=90))
        seen.append(s.stats.steps.item())
    assert seen == [22, 51]  # 2^-(k+1) <= eps (2 - 2^-k)
    s = iterate(lambda z: z / 2 + 1, torch.ones(1, 1), Picard(rtol=1e-300, atol=0.0, max_steps=90), floor=0.01)
    assert s.stats.steps.item() == 5


def test_newton_halves_a_step_that_makes_it_worse():
    """``f = z - arctan z``: from 3 the whole step goes to -9.5; a quarter of it is taken."""
    calls = []

    def f(z: Tensor) -> Tensor:
        calls.append(float(z.detach()[0, 0]) if not torch._C._functorch.is_gradtrackingtensor(z) else 0.0)
        return z - torch.arctan(z)

    z0 = torch.full((1, 1), 3.0, dtype=D)
    whole = -np.arctan(3.0) * 10
    for halvings in (0, 1, 2, 3):
        s = iterate(f, z0, Newton(rtol=1e-12, atol=0.0, max_steps=1, halvings=halvings), select="last")
        sizes = [2.0**-i for i in range(halvings + 1)]
        fall = [x for x in sizes if abs(np.arctan(3 + x * whole)) < np.arctan(3)]
        assert s.value.item() == pytest.approx(3 + (fall[0] if fall else sizes[-1]) * whole, rel=1e-9)


@pytest.mark.parametrize("method", [GMRES, BiCGStab, CG, Neumann])
def test_linear_systems_to_the_last_digit(method):
    w = matrix(6, 0.6)
    b = torch.randn(3, 6, dtype=D, generator=torch.Generator().manual_seed(5)) * torch.tensor([[1.0], [1e-6], [1e6]])
    system = Affine(lambda u: u @ w.T, b, lambda u: u @ w)
    exact = torch.linalg.solve(torch.eye(6, dtype=D) - w, b.T).T
    s = iterate(*system.start(method(rtol=1e-13, atol=0.0, max_steps=80)), method(rtol=1e-13, atol=0.0, max_steps=80))
    assert s.result is Result.converged and ((s.value - exact).norm(dim=1) / exact.norm(dim=1)).max() < 1e-11
    true = (b + s.value @ w.T - s.value).norm(dim=1) / b.norm(dim=1)
    assert true.max() < 5e-13
    if method is GMRES:
        assert s.stats.nfe <= 6 and (s.stats.trace.diff(dim=0).nan_to_num() <= 1e-12).all()
        for k in range(1, 6):  # the residual that is told, that of the answer, and the least over the Krylov space
            part = iterate(
                *system.start(GMRES(max_steps=k, rtol=1e-14, atol=0.0)), GMRES(max_steps=k, rtol=1e-14, atol=0.0)
            )
            power = [torch.linalg.matrix_power(w, i) for i in range(k)]
            for row, value, told in zip(b, part.value, part.stats.residual, strict=True):
                space = torch.stack([p @ row for p in power], 1)
                image = space - w @ space
                best = row - image @ torch.linalg.lstsq(image, row[:, None]).solution[:, 0]
                assert told.item() == pytest.approx((best.norm() / row.norm()).item(), rel=1e-7)
                assert (row + w @ value - value).norm().item() == pytest.approx(best.norm().item(), rel=1e-7)


def test_gmres_orthogonalizes_again_where_rounding_asks_for_it():
    """``I - L`` close to singular in many directions: the classical process alone loses what it has gained."""
    n = 24
    q = torch.linalg.qr(torch.randn(n, n, dtype=D, generator=torch.Generator().manual_seed(2)))[0]
    values = torch.cat(
        [torch.linspace(0.9, 0.9 + 1e-9, n // 2, dtype=D), torch.logspace(-8, -0.5, n - n // 2, dtype=D)]
    )
    w = q * values @ q.T
    b = torch.randn(2, n, dtype=D, generator=torch.Generator().manual_seed(3))
    system = Affine(lambda u: u @ w, b)
    solver = GMRES(rtol=1e-12, atol=0.0, max_steps=n, window=n)
    s = iterate(*system.start(solver), solver)
    true = (b + s.value @ w - s.value).norm(dim=1) / b.norm(dim=1)
    assert s.result is Result.converged and true.max() < 2e-12
    assert torch.allclose(true, s.stats.residual, rtol=0.2, atol=1e-13)


@pytest.mark.parametrize("method", [GMRES, BiCGStab, CG])
def test_a_zero_right_hand_side_and_an_easy_one_beside_a_hard_one(method):
    w = torch.diag(torch.tensor([0.5, 0.8, -0.9], dtype=D))
    b = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 2.0, 3.0]], dtype=D)
    solver = method(rtol=1e-12, atol=1e-300, max_steps=30)
    system = Affine(lambda u: u @ w, b, lambda u: u @ w)
    s = iterate(*system.start(solver), solver)
    assert s.result is Result.converged and s.stats.steps[:2].tolist() == [0, 1] and s.stats.steps[2] >= 2
    torch.testing.assert_close(s.value, b / (1 - w.diagonal()), rtol=1e-11, atol=0)


def test_a_neumann_series_is_its_sum():
    w, b = matrix(4, 0.5), torch.ones(1, 4, dtype=D)
    s = iterate(Affine(lambda u: u @ w.T, b), b, Neumann(max_steps=3, rtol=1e-12, atol=0.0), select="ahead")
    total = sum(b @ torch.linalg.matrix_power(w.T, k) for k in range(4))
    torch.testing.assert_close(s.value, total, rtol=1e-14, atol=0)
    assert s.stats.nfe == 3


# Anderson, Broyden


def test_anderson_minimizes_over_its_window():
    w, b = matrix(5, 0.9), torch.randn(1, 5, dtype=D, generator=torch.Generator().manual_seed(4))
    for window, damping in ((1, 1.0), (2, 1.0), (3, 0.6), (5, 1.0)):
        zs, fs = [torch.zeros(5, dtype=D)], []
        for _ in range(6):
            fs.append(w @ zs[-1] + b[0])
            z, f = torch.stack(zs[-window:], 1), torch.stack(fs[-window:], 1)
            g = f - z
            a = torch.ones(1, dtype=D)
            if g.shape[1] > 1:
                y = torch.linalg.lstsq(g[:, 1:] - g[:, :1], g[:, 0]).solution
                a = torch.cat([(1 + y.sum())[None], -y])
            zs.append(z @ a + damping * (g @ a))
        solver = SOLVERS["anderson"](window=window, damping=damping, ridge=0.0, rtol=1e-15, atol=0.0, max_steps=5)
        seen = []
        iterate(lambda z, seen=seen: (seen.append(z.clone()[0]), z @ w.T + b)[1], torch.zeros(1, 5, dtype=D), solver)
        for mine, theirs in zip(seen, zs, strict=False):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("window", [2, 3, 60])
def test_broyden_is_its_formula(window):
    """The textbook form: a matrix ``H`` that starts at -I, and anew when the window is full."""
    w, b = matrix(5, 0.9), torch.randn(5, dtype=D, generator=torch.Generator().manual_seed(4))
    z, h, count, expected = torch.zeros(5, dtype=D), -torch.eye(5, dtype=D), 0, []
    g = w @ z + b - z
    for _ in range(7):
        if count == window:
            h, count = -torch.eye(5, dtype=D), 0
        s = -h @ g
        z = z + s
        expected.append(z)
        new = w @ z + b - z
        y = new - g
        h = h + torch.outer(s - h @ y, s @ h) / (s @ h @ y)
        g, count = new, count + 1
    seen = []
    solver = SOLVERS["broyden"](window=window, rtol=1e-15, atol=0.0, max_steps=7)
    iterate(lambda z: (seen.append(z.clone()[0]), z @ w.T + b)[1], torch.zeros(1, 5, dtype=D), solver)
    for mine, theirs in zip(seen[1:], expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


# History


@pytest.mark.parametrize("recorded", [False, True])
def test_a_ring_keeps_the_last_vectors(recorded):
    with contextlib.nullcontext() if recorded else torch.no_grad():
        ring, one = History.empty(torch.zeros(2, 3, dtype=D), 3), torch.ones(2, 3, dtype=D)
        assert ring.used == 0
        for i in range(1, 8):
            ring = ring.push(one * i) if i % 3 == 0 else (
                ring.push(one * (i + 5), minus=5 * one) if i % 3 == 1 else ring.push(one * i / 4, times=4 * one[:, :1])
            )  # fmt: skip
            kept = {j % 3: float(j + 1) for j in range(max(0, i - 3), i)}
            assert ring.used == min(i, 3) and ring.slot == (i - 1) % 3
            assert ring.newest[0, 0] == i and ring.rows.shape == (2, min(i, 3), 3)
            assert [kept[s] for s in range(ring.used)] == ring.rows[1, :, 2].tolist()
            assert torch.equal(ring.dot(2 * one)[0], 6 * ring.rows[0, :, 0])
            assert torch.equal(ring.mix(torch.ones(2, ring.used))[0, 0], ring.rows[0, :, 0].sum())
        gram = torch.zeros(1, 3, 3, dtype=D)
        out = write_cross(gram, 1, torch.tensor([[4.0, 5.0]], dtype=D), diagonal=torch.tensor([9.0], dtype=D))
        assert out.tolist() == [[[0, 4, 0], [4, 9, 0], [0, 0, 0]]] and (out is gram) is not recorded
        out = write(gram, (slice(None), 2), 1.0)
        assert out[0, 2].tolist() == [1, 1, 1] and (gram[0, 2, 0] == 0) == recorded


# Networks that know nothing


@pytest.mark.parametrize("shapes", [[(6,)], [(2, 2, 2), (4,)], [(1, 4, 4), (2, 2, 2), (3,)]])
def test_an_untrained_network_changes_nothing(shapes):
    n = sum(int(np.prod(s)) for s in shapes)
    w, x = matrix(n, 0.9), torch.randn(2, n, dtype=D, generator=torch.Generator().manual_seed(8))
    network = Proposer(shapes, window=4, residual=True)
    for part in (First(shapes, 3), Residual(shapes, 3)):
        values = (torch.randn(2, n),) * (1 if isinstance(part, First) else 2)
        assert part(*values).shape == (2, n) and not part(*values).any()
        for layer in part.leave:
            torch.nn.init.ones_(layer.weight)
        assert part(*values).abs().sum() > 0
    options = {"rtol": 1e-6, "max_steps": 12}
    plain = iterate(lambda z: torch.tanh(z @ w.T + x), torch.zeros_like(x), SOLVERS["anderson"](window=4, **options))
    learned = iterate(lambda z: torch.tanh(z @ w.T + x), torch.zeros_like(x), Learned(network=network, **options))
    assert torch.equal(plain.value, learned.value) and torch.equal(plain.stats.trace, learned.stats.trace)


def test_the_loss_of_a_learned_solver_is_a_mean_of_logarithms():
    """A constant map is solved by its first proposal: the distance is resolved to 1e-6, and no further."""
    exact = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=D)
    network = Proposer(window=2)
    for steps in (1, 2):
        at = loss(network, Solved(lambda z: exact + 0 * z, exact), steps).item()
        assert at == pytest.approx(np.log(1e-6))
    assert loss(network, Solved(lambda z: exact + 0 * z, exact), 1, 1e-2).item() == pytest.approx(np.log(1e-2))
    # z_1 = x, of z* = 2 x: half of it is left
    at = loss(network, Solved(lambda z: z / 2 + exact / 2, exact), 1).item()
    assert at == pytest.approx(np.log(0.5), rel=1e-9)


def test_training_reports_every_update_and_lets_go_of_the_network():
    exact = torch.ones(2, 3)
    network, seen = Proposer([(3,)], window=2, hidden=2, width=2), []
    batches = [Solved(lambda z: z / 2 + exact / 2, exact)] * 2
    before = [p.clone() for p in network.parameters()]
    made = train(network, batches, updates=5, steps=1, lr=0.05, report=lambda i, x: seen.append((i, x)))
    assert made is network and [i for i, _ in seen] == [0, 1, 2, 3, 4] and min(x for _, x in seen) < seen[0][1] - 0.01
    assert not any(p.requires_grad for p in network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    with pytest.raises(ValueError, match="at least one batch"):
        train(network, [])


# What is told and written elsewhere


def test_scopes_are_named_while_a_profiler_is_on_only():
    assert isinstance(profile_scope("evaluation"), contextlib.nullcontext)
    problem = linear(batch=2)
    with torch.autograd.profiler.profile() as seen:
        assert not isinstance(profile_scope("evaluation"), contextlib.nullcontext)
        zoo.fixed_point(lambda z: problem.f(z, problem.x), torch.zeros_like(problem.x), "picard")
    names = {e.name for e in seen.function_events}
    assert {"zoo: evaluation", "zoo: solve by Picard"} <= names
