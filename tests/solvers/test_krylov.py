"""GMRES: the least residual of its space, known at every step, in single precision too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zoo.solvers.base import Affine
from zoo.solvers.iterate import iterate
from zoo.solvers.krylov import GMRES


def solve(matrix: Tensor, b: Tensor, **options: float):
    solver = GMRES(atol=0.0, **options)
    system = Affine(lambda u: torch.einsum("bij,bj->bi", matrix, u), b)
    with torch.no_grad():
        return iterate(*system.start(solver), solver)


def true_residual(matrix: Tensor, b: Tensor, u: Tensor) -> Tensor:
    matrix, b, u = matrix.double(), b.double(), u.double()
    return (b + torch.einsum("bij,bj->bi", matrix, u) - u).norm(dim=1) / b.norm(dim=1)


def least(matrix: Tensor, b: Tensor, steps: int) -> Tensor:
    """The least residual that any combination of ``b, L b, ..`` leaves, by least squares on an orthonormal basis."""
    powers = [b]
    for _ in range(steps - 1):
        powers.append(torch.einsum("bij,bj->bi", matrix, powers[-1] / powers[-1].norm(dim=1, keepdim=True)))
    basis = torch.linalg.qr(torch.stack(powers, 2))[0]
    image = basis - matrix @ basis
    y = torch.linalg.lstsq(image, b[:, :, None]).solution
    return (b[:, :, None] - image @ y)[:, :, 0].norm(dim=1) / b.norm(dim=1)


@given(n=st.integers(2, 12), steps=st.integers(1, 6), scale=st.floats(0.1, 3.0), seed=st.integers(0, 2**16))
def test_no_combination_of_the_products_leaves_less(n, steps, scale, seed):
    torch.manual_seed(seed)
    matrix, b = scale * torch.randn(3, n, n).double() / n**0.5, torch.randn(3, n).double()
    solution = solve(matrix, b, rtol=1e-12, max_steps=steps)
    taken = solution.stats.nfe
    best = least(matrix, b, min(taken, n))
    torch.testing.assert_close(true_residual(matrix, b, solution.value), best, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(solution.stats.residual, best, rtol=1e-5, atol=1e-9)


def clustered(n: int, spread: float, dtype: torch.dtype) -> Tensor:
    """``0.7 I`` and a little more: nearly all of every product lies in what is kept, so that rounding errors grow."""
    noise = torch.randn(2, n, n, dtype=torch.float64)
    return (0.7 * torch.eye(n) + spread * noise / n**0.5).to(dtype)


@pytest.mark.parametrize("spread", [0.2, 0.05, 0.01])
def test_lost_orthogonality_is_mended_before_it_counts(spread):
    torch.manual_seed(0)
    matrix, b = clustered(200, spread, torch.float32), torch.randn(2, 200)
    single = solve(matrix, b, rtol=1e-5, max_steps=60)
    double = solve(matrix.double(), b.double(), rtol=1e-5, max_steps=60)
    assert bool(single.stats.converged.all())
    assert single.stats.nfe <= double.stats.nfe + 1
    torch.testing.assert_close(
        single.stats.residual, true_residual(matrix, b, single.value), rtol=0.1, atol=1e-6, check_dtype=False
    )


@pytest.mark.parametrize("window", [3, 30])
def test_a_settled_sample_stays_as_it_is(window):
    torch.manual_seed(1)
    easy, hard = 0.1 * torch.randn(1, 20, 20).double() / 20**0.5, 0.9 * torch.randn(1, 20, 20).double() / 20**0.5
    b = torch.randn(2, 20).double()
    both = solve(torch.cat([easy, hard]), b, rtol=1e-6, max_steps=60, window=window)
    alone = solve(easy, b[:1], rtol=1e-6, max_steps=60, window=window)
    assert both.stats.nfe > alone.stats.nfe
    torch.testing.assert_close(both.value[:1], alone.value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(both.stats.residual[0], alone.stats.residual[0], rtol=1e-9, atol=0.0)


def test_one_vector_a_direction_is_kept():
    with torch.no_grad():
        state = GMRES(window=7).init(Affine(lambda u: 0.5 * u, torch.ones(2, 5)), torch.zeros(2, 5))
    assert state.basis.buffer.shape == (2, 8, 5)


def test_a_product_that_is_its_argument_is_not_written_to():
    """``J = I``: autograd may hand the very tensor back."""
    b = torch.ones(1, 4)
    solver = GMRES(max_steps=3, rtol=1e-3)
    with torch.no_grad():
        solution = iterate(*Affine(lambda u: u, b).start(solver), solver)
    assert not bool(solution.stats.converged.any())  # I - J is 0: there is no solution
    assert bool(torch.isfinite(solution.value).all())
    torch.testing.assert_close(b, torch.ones(1, 4))
