"""Least squares as a layer: exact answers, bounds, gradients, statuses."""

from __future__ import annotations

import pytest
import torch

from zoo.deq.optimization import LeastSquares, Status

F64 = torch.float64


def decay(x, t, y):
    return x[:, :1] * torch.exp(-x[:, 1:] * t) - y


def curves(batch=3, noise=0.0):
    t = torch.linspace(0, 2, 12, dtype=F64).expand(batch, 12)
    true = torch.tensor([[2.0, 0.5]], dtype=F64) + torch.rand(batch, 2, dtype=F64)
    y = true[:, :1] * torch.exp(-true[:, 1:] * t)
    return t, y + noise * torch.randn(batch, 12, dtype=F64), true


def test_what_made_the_curves_is_found():
    t, y, true = curves()
    layer = LeastSquares(decay)
    torch.testing.assert_close(layer(torch.ones(3, 2, dtype=F64), t, y), true, atol=1e-5, rtol=1e-5)
    assert layer.program.solved and layer.program.steps.max() < 30


def test_a_linear_problem_is_the_normal_equations():
    A, b = torch.randn(4, 9, 3, dtype=F64), torch.randn(4, 9, dtype=F64)
    x = LeastSquares(lambda x, A, b: (A @ x[..., None])[..., 0] - b)(torch.zeros(4, 3, dtype=F64), A, b)
    torch.testing.assert_close(x, torch.linalg.lstsq(A, b[..., None]).solution[..., 0], atol=1e-6, rtol=1e-6)


def test_the_gradient_is_that_of_the_stationary_point():
    t, y, _ = curves(2, noise=0.1)  # a residual remains, so that its second derivatives count
    layer = LeastSquares(decay, {"name": "picard", "rtol": 1e-10, "atol": 1e-12, "max_steps": 200})
    assert torch.autograd.gradcheck(lambda y: layer(torch.ones(2, 2, dtype=F64), t, y), y.requires_grad_(), atol=1e-5)
    weight = torch.tensor(1.5, dtype=F64, requires_grad=True)

    def weighted(x, t, y):
        return decay(x, t, y) * torch.where(t > 1, weight, 1.0)

    captured = LeastSquares(weighted, {"name": "picard", "rtol": 1e-10, "atol": 1e-12, "max_steps": 200})

    def of_weight(w):
        with torch.no_grad():
            weight.copy_(w)
        return captured(torch.ones(2, 2, dtype=F64), t, y.detach()).sum()

    (g,) = torch.autograd.grad(of_weight(1.5), weight)
    assert g.item() == pytest.approx((of_weight(1.5 + 1e-4) - of_weight(1.5 - 1e-4)).item() / 2e-4, rel=1e-4)


def test_bounds_hold_and_their_gradient_is_zero():
    target = torch.tensor([[2.0, -3.0], [0.2, 0.3]], dtype=F64, requires_grad=True)
    layer = LeastSquares(lambda x, y: torch.cat([x - y, 0.5 * (x[:, :1] - y[:, :1])], 1), lower=-1.0, upper=1.0)
    x = layer(torch.zeros(2, 2, dtype=F64), target)
    torch.testing.assert_close(x, target.clamp(-1, 1), atol=1e-6, rtol=0)
    x.sum().backward()
    torch.testing.assert_close(target.grad, torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=F64), atol=1e-6, rtol=0)


def test_an_answer_does_not_depend_on_its_batch_mates():
    t, y, _ = curves(4, noise=0.05)
    whole = LeastSquares(decay)(torch.ones(4, 2, dtype=F64), t, y)
    alone = torch.cat([LeastSquares(decay)(torch.ones(1, 2, dtype=F64), t[i : i + 1], y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, whole, atol=1e-9, rtol=1e-9)


def test_what_fails_says_so():
    layer = LeastSquares(lambda x, y: torch.log(x) - y)
    x = layer(torch.tensor([[-1.0], [1.0]], dtype=F64), torch.ones(2, 1, dtype=F64))
    assert layer.program.status == (Status.nonfinite, Status.solved)
    assert x[0].isnan().all() and x[1].item() == pytest.approx(torch.e)
    few = LeastSquares(decay, {"name": "picard", "max_steps": 1})
    t, y, _ = curves(1)
    few(torch.ones(1, 2, dtype=F64), t, y)
    assert few.program.status == (Status.max_steps,)
    with pytest.raises(ValueError, match="starts from"):
        layer(torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match="must return"):
        LeastSquares(lambda x: x.sum())(torch.ones(2, 1))
