"""iMAML and MAML against closed forms: one map, two adjoints."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

import zoo
from zoo.hypernet.compression import compression
from zoo.hypernet.maml import MetaLearner, descent

CG = {"name": "cg", "symmetric": True, "max_steps": 60, "rtol": 1e-13, "atol": 0.0}
NEUMANN = {"name": "neumann", "max_steps": 2000, "rtol": 1e-13, "atol": 0.0}
TIGHT = {"name": "picard", "max_steps": 2000, "rtol": 1e-13, "atol": 1e-14}


def ridge(seed: int = 0, tasks: int = 3, n: int = 6, d: int = 4):
    """Linear regression tasks, with support and query, in float64."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(tasks, n, k, dtype=torch.float64, generator=random) for k in (d, 1, d, 1)]


def loss(w, x, y):
    return 0.5 * (x @ w[0][..., None] - y).square().sum()


def outer(w, x, y):
    return 0.5 * (x @ w[..., None] - y).square().sum()


def closed_form(theta, prior):
    """w* = (X'X + prior I)^-1 (X'y + prior theta), and the gradient of the query loss to theta by hand."""
    x, y, qx, qy = ridge()
    a = x.mT @ x + prior * torch.eye(4, dtype=torch.float64)
    w = torch.linalg.solve(a, x.mT @ y + prior * theta[:, None])[..., 0]
    slope = (qx.mT @ (qx @ w[..., None] - qy))[..., 0]
    return w, prior * torch.linalg.solve(a, slope).sum(0)


@pytest.mark.parametrize("solver", [CG, NEUMANN], ids=lambda s: s["name"])
def test_imaml_is_the_closed_form_on_linear_regression(solver):
    x, y, qx, qy = ridge()
    theta = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    f = descent(loss, (theta,), step=0.03, prior=1.5)
    adjoint = {"name": "implicit", "solver": solver}
    found = zoo.fixed_point(f, (torch.zeros(3, 4, dtype=torch.float64),), TIGHT, adjoint, args=(x, y))
    w, gradient = closed_form(theta.detach(), 1.5)
    torch.testing.assert_close(found.value[0], w, rtol=1e-10, atol=1e-10)
    outer(found.value[0], qx, qy).backward()
    torch.testing.assert_close(theta.grad, gradient, rtol=1e-8, atol=1e-8)
    assert found.stats.converged.all() and found.stats.backward[-1].converged.all()


def test_a_converged_unrolled_gradient_is_the_implicit_one():
    x, y, qx, qy = ridge()
    theta = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    f = descent(loss, (theta,), step=0.03, prior=1.5)
    found = zoo.fixed_point(f, (theta.expand(3, 4),), TIGHT, "unroll", args=(x, y))
    outer(found.value[0], qx, qy).backward()
    torch.testing.assert_close(theta.grad, closed_form(theta.detach(), 1.5)[1], rtol=1e-8, atol=1e-8)


def test_maml_is_gradient_descent_by_hand_and_its_first_order_form_drops_the_hessian():
    x, y, qx, qy = ridge()
    theta = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    eye = torch.eye(4, dtype=torch.float64)
    for first in (False, True):
        f = descent(loss, (theta,), step=0.05, prior=0.0, first_order=first)
        steps = {"name": "picard", "max_steps": 3, "rtol": 0.0, "atol": 1e-30}
        w = zoo.fixed_point(f, (theta.expand(3, 4),), steps, "unroll", args=(x, y)).value[0]
        (got,) = torch.autograd.grad(outer(w, qx, qy), theta)
        v = theta.detach().expand(3, 4)
        for _ in range(3):
            v = v - 0.05 * (x.mT @ (x @ v[..., None] - y))[..., 0]
        torch.testing.assert_close(w, v)
        slope = qx.mT @ (qx @ v[..., None] - qy)
        jacobian = eye.expand(3, 4, 4) if first else torch.linalg.matrix_power(eye - 0.05 * x.mT @ x, 3)
        torch.testing.assert_close(got, (jacobian @ slope)[..., 0].sum(0))


def test_a_descent_past_a_saddle_returns_its_last_iterate_where_that_is_asked_for():
    f = descent(lambda w: (0.25 * (w[0].square() - 1).square()).sum(), (torch.zeros(1),), step=0.3, prior=0.0)
    start, few = (torch.full((1, 1), 0.01),), {"name": "picard", "max_steps": 8}
    best, last = (zoo.fixed_point(f, start, few, {"name": "implicit", "select": s}).value[0] for s in ("best", "last"))
    assert best.item() == pytest.approx(0.01) and last.item() == pytest.approx(0.01 * 1.3**8, rel=0.01)
    with pytest.raises(ValueError, match="selects the 'best' iterate or the 'last'; got 'least'"):
        zoo.fixed_point(f, start, few, {"name": "implicit", "select": "least"})


def episodes(tasks: int = 2, ways: int = 3, shots: int = 2, queries: int = 4):
    random = torch.Generator().manual_seed(1)
    x = torch.randn(tasks, ways * (shots + queries), 1, 8, 8, generator=random)
    y = torch.arange(ways).expand(tasks, -1)
    n = ways * shots
    return x[:, :n], y.repeat_interleave(shots, 1), x[:, n:], y.repeat_interleave(queries, 1)


def learner(adapt: str = "all", solver=None, adjoint=None, **options) -> MetaLearner:
    torch.manual_seed(0)
    model = MetaLearner(channels=8, downsample=2, adapt=adapt, **{"step": 0.05, "prior": 10.0, **options})
    inner = {"name": "cg", "symmetric": True, "max_steps": 80, "rtol": 1e-11, "atol": 1e-12}
    model.configure_implicit(
        solver or {"name": "picard", "max_steps": 100, "rtol": 1e-11, "atol": 1e-12},
        adjoint or {"name": "implicit", "select": "last", "solver": inner},
    )
    return model


@pytest.mark.parametrize("adapt", ["all", "head"])
def test_on_a_network_the_implicit_gradient_is_the_unrolled_one(adapt):
    *asked, y = episodes()
    gradients = []
    for adjoint in (None, "unroll"):
        model = learner(adapt, adjoint=adjoint, step=0.0006, prior=1000.0).double()  # near: no kink of a ReLU
        logits = model(*(t.double() if t.is_floating_point() else t for t in asked))
        (1000 * cross_entropy(logits.flatten(0, 1), y.flatten())).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert model.last.stats.converged.all()
    assert gradients[0].abs().max() > 1e-2
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("adapt", ["all", "head"])
def test_a_task_is_answered_as_in_a_batch_and_learns_its_support(adapt, norm):
    model = learner(adapt, prior=0.5, step=0.2, solver={"name": "picard", "max_steps": 30}, norm=norm).eval().double()
    x, y, q, _ = (t.double() if t.is_floating_point() else t for t in episodes())
    with torch.inference_mode():  # the inner problem takes gradients there too
        together = model(x, y, q)
        torch.testing.assert_close(model(x[:1], y[:1], q[:1]), together[:1], rtol=1e-4, atol=1e-5)
        learned = cross_entropy(model(x, y, x).flatten(0, 1), y.flatten())
    assert together.shape == (2, 12, 3) and not together.requires_grad
    assert learned < math.log(3) - 0.01  # the start gives every class the same logit


def test_the_order_of_the_classes_has_no_say_and_their_number_is_free():
    model = learner(solver={"name": "picard", "max_steps": 5})
    x, y, q, _ = episodes()
    turned = torch.tensor([1, 2, 0])
    torch.testing.assert_close(model(x, turned[y], q)[..., turned], model(x, y, q), rtol=1e-4, atol=1e-5)
    assert model(*episodes(ways=5)[:3]).shape == (2, 20, 5)


@pytest.mark.parametrize("adjoint", ["unroll", None])
def test_every_parameter_gets_a_gradient(adjoint):
    model = learner(solver={"name": "picard", "max_steps": 4, "rtol": 1e-9}, adjoint=adjoint)
    *asked, y = episodes()
    cross_entropy(model(*asked).flatten(0, 1), y.flatten()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_step_of_a_head_contracts_whatever_the_images():
    x, y, q, _ = episodes()
    model = learner("head", step=None, prior=1.0, solver={"name": "picard", "max_steps": 300, "rtol": 1e-4})
    for scale in (1e-2, 1.0, 1e3):
        model(scale * x, y, scale * q)
        assert model.last.stats.converged.all()
        trace = model.last.stats.trace  # (K, M) relative to |w|, which grows: it falls at every step
        assert (trace[1:].nan_to_num(0.0) <= trace[:-1].nan_to_num(0.0) * (1 + 1e-6)).all()


@pytest.mark.parametrize("adapt", ["all", "head"])
def test_no_generator_writes_what_a_solve_finds(adapt):
    assert compression(learner(adapt)) is None


def test_wrong_input_is_named():
    model = learner()
    x, y, q, _ = episodes()
    with pytest.raises(ValueError, match=r"must be \(tasks, images, 1, H, W\)"):
        model(x[0], y, q)
    with pytest.raises(ValueError, match="Support labels must be"):
        model(x, y[:, :2], q)
    with pytest.raises(ValueError, match="task 1 has none of 1"):
        model(x[:, :2], torch.tensor([[0, 1], [0, 0]]), q)
    with pytest.raises(ValueError, match="step above 0"):
        MetaLearner(step=0.0)
    with pytest.raises(ValueError, match="step above 0 and prior of at least 0; got None"):
        MetaLearner(step=None)
    with pytest.raises(ValueError, match="'all' or 'head'"):
        MetaLearner(adapt="body")
