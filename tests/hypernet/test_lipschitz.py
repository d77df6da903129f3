"""Norms of batches of generated weights: against singular values, and as a bound on maps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.hypernet.lipschitz import constrain, gram_bound, lipschitz, power_norm

F64 = torch.float64


def batch(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), steps=st.integers(0, 8), seed=st.integers(0, 999),
       scale=st.sampled_from([1e-30, 1.0, 1e30]))  # fmt: skip
def test_gram_bounds_from_above_and_tightly(rows, columns, steps, seed, scale):
    w = scale * batch(3, rows, columns, seed=seed)
    exact, bound = torch.linalg.matrix_norm(w, 2), gram_bound(w, steps)
    assert (bound >= exact * (1 - 1e-12)).all()
    assert (bound <= exact * min(rows, columns) ** (0.5 ** (steps + 1)) * (1 + 1e-12)).all()


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 999))
def test_power_estimates_from_below(rows, columns, seed):
    w = batch(3, rows, columns, seed=seed)
    exact = torch.linalg.matrix_norm(w, 2)
    assert (power_norm(w, 3) <= exact * (1 + 1e-12)).all()
    assert (power_norm(w, 3) >= 0.5 * exact).all()
    assert (power_norm(w, 300) >= 0.99 * exact).all()


@pytest.mark.parametrize("norm", [lambda w: gram_bound(w, 20), lambda w: power_norm(w, 500)], ids=["gram", "power"])
def test_the_derivative_is_that_of_the_spectral_norm(norm):
    w = batch(2, 4, 6).requires_grad_()
    ours = torch.autograd.grad(norm(w).sum(), w)[0]
    exact = torch.autograd.grad(torch.linalg.matrix_norm(w, 2).sum(), w)[0]
    torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(lambda w: gram_bound(w, 3), w)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_extreme_weights_have_finite_norms(dtype):
    w = torch.stack([torch.zeros(3, 4), 1e15 * torch.ones(3, 4), 1e-15 * torch.ones(3, 4)]).to(dtype).requires_grad_()
    bound = gram_bound(w, 6)
    torch.testing.assert_close(bound, torch.tensor([0, 1e15, 1e-15], dtype=dtype) * 12**0.5, rtol=1e-4, atol=0)
    grad = torch.autograd.grad(constrain(w, 2, 0.9).sum(), w)[0]
    assert torch.isfinite(grad).all()


def test_every_weight_of_a_batch_is_scaled_by_itself():
    w = torch.stack([batch(5, 5), 1e-3 * batch(5, 5)])
    out = constrain(w, 2, 0.9, steps=8)
    norms = torch.linalg.matrix_norm(out, 2)
    assert 0.88 < norms[0] <= 0.9 + 1e-12
    torch.testing.assert_close(out[1], w[1], rtol=0, atol=0)
    torch.testing.assert_close(constrain(w[:1], 2, 0.9, steps=8)[0], out[0])
    torch.testing.assert_close(constrain(w[0], 2, 0.9, steps=8), out[0])  # without a batch


@pytest.mark.parametrize("method", ["gram", "power"])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_constrained_convolution_contracts(kernel, method):
    w = constrain(batch(4, 3, 3, kernel, kernel), 4, 0.9, method, steps=20)
    a, b = batch(2, 3, 7, 7, seed=1), batch(2, 3, 7, 7, seed=2)
    for kernel_of_sample in w:
        f = lambda z: torch.nn.functional.conv2d(z, kernel_of_sample, padding=kernel // 2)  # noqa: B023, E731
        assert (f(a) - f(b)).norm() < 0.9 * (a - b).norm()
    constant = torch.ones(1, 1, 64, 64, dtype=F64)  # the kernel that meets the bound, but for the image's edge
    mean = constrain(torch.ones(1, 1, kernel, kernel, dtype=F64), 4, 0.9, method)
    out = torch.nn.functional.conv2d(constant, mean)
    torch.testing.assert_close(out, torch.full_like(out, 0.9), rtol=1e-6, atol=0)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="one of gram, power; got 'svd'"):
        lipschitz(batch(3, 3), 2, "svd")
    with pytest.raises(ValueError, match="weights of 4 axes"):
        lipschitz(batch(3, 3), 4)
    with pytest.raises(ValueError, match="above 0; got 0"):
        constrain(batch(3, 3), 2, 0)
