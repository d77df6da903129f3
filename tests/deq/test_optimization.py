"""Optimization layers: exact answers, optimality conditions, gradients to every argument, a status for what fails."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from zoo.deq.optimization import QP, Projection, Status

F64 = torch.float64


def program(seed, batch=3, n=5, equal=2, below=4):
    """A feasible, strictly convex program with data of each sample's own."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=F64)

    L, x = draw(batch, n, n), draw(batch, n)
    A, G = draw(batch, equal, n), draw(batch, below, n)
    slack = torch.rand(batch, below, generator=g, dtype=F64)
    Q = L @ L.transpose(1, 2) / n + 0.1 * torch.eye(n, dtype=F64)
    return Q, draw(batch, n), A, (A @ x[..., None])[..., 0], G, (G @ x[..., None])[..., 0] + slack


def simplex(p):
    """The projection onto the simplex by sorting (Held, Wolfe and Crowder, 1974)."""
    s = p.sort(1, descending=True).values
    k = torch.arange(1, p.shape[1] + 1, dtype=p.dtype)
    shift = (s.cumsum(1) - 1) / k
    count = (s > shift).sum(1, keepdim=True)
    return (p - shift.gather(1, count - 1)).clamp_min(0)


def test_projections_with_a_closed_form():
    p = torch.randn(20, 6, dtype=F64)
    torch.testing.assert_close(Projection(A=torch.ones(1, 6), b=torch.ones(1), lower=0.0)(p), simplex(p))
    torch.testing.assert_close(Projection(lower=-0.5, upper=torch.linspace(0, 1, 6))(p),
                               p.clamp(min=-0.5).minimum(torch.linspace(0, 1, 6, dtype=F64)))  # fmt: skip
    a = torch.randn(1, 6, dtype=F64)
    over = (p @ a.T - 0.3).clamp_min(0) / a.square().sum()
    torch.testing.assert_close(Projection(G=a, h=torch.tensor([0.3]))(p), p - over * a, atol=1e-8, rtol=1e-8)


@given(seed=st.integers(0, 10_000), equal=st.integers(0, 2), below=st.integers(0, 8))
def test_the_optimality_conditions_hold(seed, equal, below):
    Q, q, A, b, G, h = program(seed, equal=equal, below=below)
    layer = QP()
    x = layer(Q, q, A, b, G, h)
    record = layer.program
    assert record.solved and set(record.status) == {Status.solved}
    y, z = record.y.split([equal, below], 1)
    stationary = (Q @ x[..., None] + A.transpose(1, 2) @ y[..., None] + G.transpose(1, 2) @ z[..., None])[..., 0] + q
    slack = h - (G @ x[..., None])[..., 0]
    scale = 1 + x.abs().max() + q.abs().max() + record.y.abs().max() if record.y.numel() else 1 + x.abs().max()
    assert stationary.abs().max() < 1e-6 * scale
    if equal:
        assert ((A @ x[..., None])[..., 0] - b).abs().max() < 1e-6 * scale
    if below:
        assert slack.min() > -1e-6 * scale and z.min() > -1e-6 * scale and (z * slack).abs().max() < 1e-5 * scale**2


def test_gradients_reach_every_argument():
    data = [t.requires_grad_() for t in program(1, batch=2, n=4, equal=1, below=3)]
    layer = QP()

    def solve(L, *rest):
        return layer((L + L.transpose(1, 2)) / 2, *rest)

    assert torch.autograd.gradcheck(solve, data, atol=1e-5)
    assert (layer.program.y[:, 1:] > 1e-3).any(), "the problem was to have an active inequality"


def test_the_registrys_adjoint_gives_the_same_gradient():
    data = [t.requires_grad_() for t in program(7)]
    direct = torch.autograd.grad(QP()(*data).square().sum(), data)
    gmres = {"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-12, "atol": 0.0, "max_steps": 200}}
    layer = QP(adjoint=gmres)
    for one, other in zip(torch.autograd.grad(layer(*data).square().sum(), data), direct, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-7)
    assert layer.last.result.success and layer.last.stats.nfe > 1 and len(layer.last.stats.backward) == 1
    with pytest.raises(ValueError, match="is not unrolled"):
        QP(adjoint="unroll")(*data)


def test_a_linear_program_moves_with_its_active_constraints():
    """max x + 2y with x + y <= h0, y <= h1, x >= 0: the vertex (h0 - h1, h1)."""
    G = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=F64)
    h = torch.tensor([[3.0, 1.0], [5.0, 2.0]], dtype=F64, requires_grad=True)
    layer = QP()
    x = layer(torch.zeros(2, 2, dtype=F64), -torch.tensor([[1.0, 2.0]], dtype=F64), G=G, h=h, lower=0.0)
    torch.testing.assert_close(x, torch.stack([h[:, 0] - h[:, 1], h[:, 1]], 1), atol=1e-6, rtol=1e-6)
    (g,) = torch.autograd.grad(x[:, 0].sum(), h)
    torch.testing.assert_close(g, torch.tensor([[1.0, -1.0]], dtype=F64).expand(2, 2), atol=1e-5, rtol=1e-5)


def test_second_derivatives_are_refused():
    Q, q, *rest = program(2)
    (g,) = torch.autograd.grad(QP()(Q, q.requires_grad_(), *rest).sum(), q, retain_graph=True)
    assert g.isfinite().all()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(QP()(Q, q, *rest).sum(), q, create_graph=True)


def test_shared_data_and_repeated_data_have_one_answer():
    Q, q, A, b, G, h = program(3, batch=1)
    q = torch.randn(6, 5, dtype=F64)
    shared = QP()(Q[0], q, A[0], b[0], G[0], h[0])
    own = QP()(*(t.expand(6, *t.shape[1:]) for t in (Q,)), q, *(t.expand(6, *t.shape[1:]) for t in (A, b, G, h)))
    torch.testing.assert_close(shared, own, atol=1e-7, rtol=1e-7)


def test_an_answer_does_not_depend_on_its_batch_mates():
    data = program(4, batch=6)
    whole = QP()(*data)
    for i in range(6):
        torch.testing.assert_close(QP()(*(t[i : i + 1] for t in data)), whole[i : i + 1], atol=1e-7, rtol=1e-7)


def test_what_has_no_solution_says_so_and_harms_nobody():
    layer = QP()
    G = torch.tensor([[1.0], [-1.0]])
    h = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])  # x <= -1 and x >= 1; |x| <= 1
    q = torch.tensor([[1.0]]).expand(2, 1).clone().requires_grad_()
    x = layer(torch.eye(1), q, G=G, h=h)
    assert layer.program.status == (Status.infeasible, Status.solved)
    assert x[0].isnan().all() and x[1].item() == pytest.approx(-1)
    x[1].sum().backward()
    assert q.grad.isfinite().all()
    layer(torch.zeros(2, 2), torch.tensor([[-1.0, 0.0], [1.0, 1.0]]), lower=0.0)
    assert layer.program.status == (Status.unbounded, Status.solved)
    layer.configure_implicit(throw=True)
    with pytest.raises(ValueError, match="falls without end"):
        layer(torch.zeros(2, 2), torch.tensor([[-1.0, 0.0]]), lower=0.0)


def test_rows_that_say_the_same_change_nothing():
    Q, q, A, b, G, h = program(5)
    x = QP()(Q, q, A, b, G, h)
    layer, b2 = QP(), torch.cat([b, b], 1).requires_grad_()
    twice = layer(Q, q, torch.cat([A, A], 1), b2, torch.cat([G, G], 1), torch.cat([h, h], 1))
    assert layer.program.solved
    torch.testing.assert_close(twice, x, atol=1e-6, rtol=1e-6)
    twice.sum().backward()
    (g,) = torch.autograd.grad(QP()(Q, q, A, b.requires_grad_(), G, h).sum(), b)
    torch.testing.assert_close(b2.grad[:, :2] + b2.grad[:, 2:], g, atol=1e-5, rtol=1e-5)


def test_a_warm_start_takes_fewer_steps():
    Q, q, A, b, G, h = program(6, n=20, equal=5, below=15)
    cold, warm = QP(), QP()
    x = cold(Q, q, A, b, G, h)
    moved = warm(Q, q + 1e-4, A, b, G, h, start=(x, cold.program.y))
    assert warm.program.solved and warm.program.steps.sum() < cold.program.steps.sum() / 2
    torch.testing.assert_close(moved, QP()(Q, q + 1e-4, A, b, G, h), atol=1e-7, rtol=1e-7)


def test_a_network_may_write_the_constraints():
    net = nn.Linear(3, 1, dtype=F64)
    context, p = torch.randn(8, 3, dtype=F64), torch.randn(8, 4, dtype=F64)
    projection = Projection(lower=0.0)
    x = projection(p, A=torch.ones(1, 4, dtype=F64), b=net(context).exp())
    torch.testing.assert_close(x.sum(1, keepdim=True), net(context).exp(), atol=1e-7, rtol=1e-7)
    x.square().sum().backward()
    assert net.weight.grad.abs().min() > 0


def test_the_answer_has_the_dtype_of_the_question():
    assert Projection(lower=0.0)(torch.randn(2, 3)).dtype == torch.float32


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(Q=-torch.eye(2)), "not positive semidefinite"),
        (dict(Q=torch.tensor([[1.0, 1.0], [0.0, 1.0]])), "not symmetric"),
        (dict(Q=torch.eye(3)), r"Q must be \(N, N\)"),
        (dict(q=torch.tensor([[0.0, torch.nan]])), "q holds NaN"),
        (dict(A=torch.ones(1, 2)), "A and b come together"),
        (dict(A=torch.ones(1, 3), b=torch.ones(1)), "A must have 2 columns"),
        (dict(lower=1.0, upper=0.0), "lower is above upper"),
        (dict(G=torch.ones(3, 1, 2), h=torch.ones(2, 1)), "different batches"),
    ],
)
def test_bad_programs_are_refused_in_words(change, message):
    with pytest.raises(ValueError, match=message):
        QP()(**{"Q": torch.eye(2), "q": torch.zeros(1, 2), **change})
    with pytest.raises(ValueError, match="takes the constraints"):
        Projection()(torch.zeros(1, 2), C=torch.ones(1, 2))


def test_the_dual_form_and_the_whole_system_agree():
    from zoo.deq.optimization.equations import Equations
    from zoo.deq.optimization.program import assemble, check_convex
    from zoo.deq.optimization.splitting import DualForm

    p, equal = assemble(*program(11), None, None)
    form = DualForm.of(p, check_convex(p))
    assert form is not None
    active = equal | (torch.arange(equal.shape[1]) == 3)
    r, s = torch.randn_like(p.q), torch.randn_like(p.l)
    for one, other in zip(Equations(p, active, form).least(r, s), Equations(p, active, None).least(r, s), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_an_ill_conditioned_objective_is_solved_as_well():
    """No dual form for it: the pivots of Q differ too much."""
    Q, q, *rest = program(4)
    Q = Q + 1e8 * torch.diag_embed(torch.tensor([1.0, 0, 0, 0, 0], dtype=F64))
    layer = QP()
    x = layer(Q, q, *rest)
    assert layer.program.solved
    y = layer.program.y
    C = torch.cat([rest[0], rest[2]], 1)
    left = (Q @ x[..., None] + C.transpose(1, 2) @ y[..., None])[..., 0] + q
    assert left.abs().max() < 1e-5 * (Q @ x[..., None]).abs().max().clamp_min(1)


def test_second_order_cones_have_their_closed_forms():
    """The ball |x| <= 1, the cone |x_1..| <= x_0, and a ball of each sample's own radius that carries a gradient."""
    p = 2 * torch.randn(12, 4, dtype=F64)
    eye, zero = torch.eye(4, dtype=F64), torch.zeros(1, 4, dtype=F64)
    ball = Projection(cones=[(torch.cat([zero, eye]), torch.tensor([1.0, 0, 0, 0, 0], dtype=F64))])
    length = p.norm(dim=1, keepdim=True)
    torch.testing.assert_close(ball(p), p / length.clamp_min(1), rtol=1e-6, atol=1e-6)
    assert ball.program.solved and ball.qp.last.result.success
    t, x = p[:, :1], p[:, 1:].norm(dim=1, keepdim=True)
    edge = (t + x) / 2 * torch.cat([torch.ones_like(t), p[:, 1:] / x], 1)
    expected = torch.where(x <= t, p, torch.where(x <= -t, 0.0, edge))
    torch.testing.assert_close(Projection(cones=[(eye, torch.zeros(4))])(p), expected, rtol=1e-6, atol=1e-6)

    radius = torch.linspace(0.5, 1.5, 12, dtype=F64).requires_grad_()
    f = torch.cat([radius[:, None], torch.zeros(12, 4, dtype=F64)], 1)
    point = (3 * p / length).requires_grad_()  # outside of every ball
    x = QP()(eye, -point, cones=[(torch.cat([zero, eye]), f)])
    weight = torch.randn_like(x)
    found = torch.autograd.grad((x * weight).sum(), (radius, point))
    exact = torch.autograd.grad((radius[:, None] * point / point.norm(dim=1, keepdim=True) * weight).sum(),
                                (radius, point))  # fmt: skip
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_cone_that_no_point_reaches_is_infeasible():
    eye, zero = torch.eye(2, dtype=F64), torch.zeros(1, 2, dtype=F64)
    unit = [(torch.cat([zero, eye]), torch.tensor([1.0, 0, 0], dtype=F64))]
    layer = QP()
    x = layer(eye, torch.zeros(2, 2, dtype=F64), A=torch.ones(1, 2, dtype=F64),
              b=torch.tensor([[1.0], [3.0]], dtype=F64), cones=unit)  # fmt: skip
    torch.testing.assert_close(x[0], torch.full((2,), 0.5, dtype=F64), rtol=1e-6, atol=1e-6)
    assert [s.name for s in layer.program.status] == ["solved", "infeasible"] and x[1].isnan().all()


def test_sparse_matrices_are_taken():
    Q, q, A, b, G, h = program(5, batch=1)
    x = QP()(Q[0].to_sparse(), q, A[0].to_sparse(), b, G[0].to_sparse(), h)
    torch.testing.assert_close(x, QP()(Q[0], q, A[0], b, G[0], h))


def test_the_simplex_has_a_name():
    p = torch.randn(5, 4, dtype=F64)
    torch.testing.assert_close(Projection(simplex=2.0)(p), 2 * simplex(p / 2))
    with pytest.raises(ValueError, match="takes the place of A, b and lower"):
        Projection(simplex=1.0, lower=0.0)
