"""Input that no solver can work with is refused in words; what goes wrong inside of the map is reported."""

from __future__ import annotations

import pytest
import torch
from problems import matrix

import zoo
from zoo.solve import make_solver
from zoo.solvers import SOLVERS
from zoo.solvers.base import Affine, Result, Solver
from zoo.solvers.iterate import iterate

LINEAR = SOLVERS.names(kind="linear")
EVERY = SOLVERS.names(kind="fixed_point") + LINEAR
PAIR = (torch.zeros(2, 3), torch.zeros(2, 4))


def build(name: str, **options: object) -> Solver:
    return make_solver({"name": name, **options})


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("option", [{"rtol": -1.0}, {"atol": -1e-3}, {"max_steps": 0}, {"rtol": 0.0, "atol": 0.0}])
def test_options_out_of_range_are_refused(name, option):
    with pytest.raises(ValueError, match="must|both 0"):
        build(name, **option)


def test_names_and_options_are_checked():
    z = torch.zeros(1, 2)
    with pytest.raises(KeyError, match="Did you mean 'anderson'"):
        zoo.fixed_point(torch.tanh, z, "andersen")
    with pytest.raises(KeyError, match="option of solver 'anderson' named 'f_max_itr'"):
        zoo.fixed_point(torch.tanh, z, {"name": "anderson", "f_max_itr": 3})
    with pytest.raises(KeyError, match="Did you mean 'max_steps'"):
        zoo.fixed_point(torch.tanh, z, {"name": "anderson", "max_step": 3})
    with pytest.raises(KeyError, match="Did you mean 'implicit'"):
        zoo.fixed_point(torch.tanh, z, "picard", "implicite")


@pytest.mark.parametrize(
    ("z0", "f", "error", "match"),
    [
        (torch.zeros(0, 3), torch.tanh, ValueError, "at least one sample"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tanh, TypeError, "floating dtype"),
        (torch.full((2, 3), torch.nan), torch.tanh, ValueError, "not finite in samples 0, 1"),
        (torch.zeros(2, 3), lambda z: z[:, :2], ValueError, "shaped like the one it was given"),
        (torch.zeros(2, 3), lambda z: z.double(), ValueError, "given torch.float32, it returned torch.float64"),
        ([], torch.tanh, TypeError, "tuple of tensors"),
        (None, torch.tanh, TypeError, "tuple of tensors; got NoneType"),
        ((torch.zeros(2, 3), None), torch.tanh, TypeError, r"tuple of tensors; got \(a tensor.*, NoneType\)"),
        (torch.zeros(2, 3), lambda z: None, TypeError, "must return a tensor, .*; it returned NoneType"),
        (PAIR, lambda z: None, TypeError, "must return a tuple of 2 tensors, .*; it returned NoneType"),
        (PAIR, lambda z: (z[0], None), TypeError, r"a tuple of 2 tensors, .*; it returned \(a tensor.*, NoneType\)"),
        (PAIR, lambda z: z[0], ValueError, "shaped like the one it was given"),
        (PAIR, lambda z: (z[0], z[1][:1]), ValueError, "shaped like the one it was given"),
        (PAIR, lambda z: (z[0], z[1].double()), ValueError, "returned torch.float64 as tensor 1"),
        (torch.zeros(2), lambda z: z.sum(), ValueError, "shaped like the one it was given"),
        ((torch.zeros(2, 3), torch.zeros(3, 3)), lambda z: z, ValueError, "share batch size"),
    ],
)
def test_bad_input_is_refused_before_the_loop(z0, f, error, match):
    with pytest.raises(error, match=match):
        zoo.fixed_point(f, z0)


@pytest.mark.parametrize("name", EVERY)
def test_a_start_that_is_not_finite_is_refused(name):
    """By every method; but not where the system's own b is not finite, as a gradient under a `GradScaler` may be."""
    w, b = matrix(3, 0.5), torch.ones(2, 3, dtype=torch.float64)
    start = torch.tensor([[0.0] * 3, [0.0, torch.nan, torch.inf]], dtype=torch.float64)
    with torch.no_grad():
        for f in (Affine(lambda u: u @ w.T, b, lambda u: u @ w), lambda u: u @ w.T + b):
            if name == "cg" and not isinstance(f, Affine):
                continue  # needs products with the transpose
            with pytest.raises(ValueError, match="The start is not finite in samples 1; check the input"):
                iterate(f, start, build(name))
        overflowed = torch.where(start == 0, b, start)
        solution = iterate(Affine(lambda u: u @ w.T, overflowed, lambda u: u @ w), overflowed, build(name))
    assert solution.result is Result.nonfinite and solution.stats.converged.tolist() == [True, False]


@pytest.mark.parametrize("finite", [0, 1, 3, 6])
@pytest.mark.parametrize("name", EVERY)
def test_nan_inside_the_map_is_reported(name, finite):
    """Whenever it comes, the last finite answer is the one whose residual is told."""
    w, b, seen = matrix(8, 0.9), torch.ones(2, 8, dtype=torch.float64), []

    def product(u):
        seen.append(1)
        return u @ w.T if len(seen) <= finite else u @ w.T * torch.tensor([[torch.nan], [1.0]])

    with torch.no_grad():
        options = {"rtol": 1e-12, "atol": 0.0, "max_steps": 60}
        f = Affine(product, b, lambda u: u @ w) if name in LINEAR else lambda u: product(u) + b
        solution = iterate(f, torch.zeros_like(b), build(name, **options))
    assert solution.result is Result.nonfinite and solution.stats.lost.tolist() == [True, False]
    assert torch.isfinite(solution.value).all()
    residual = (solution.value @ w.T + b - solution.value).norm(dim=1)
    scale = b.norm(dim=1) if name in LINEAR else solution.value.norm(dim=1)
    told = solution.stats.residual
    torch.testing.assert_close(told[1:], (residual / scale)[1:], rtol=1e-2, atol=1e-12)
    if torch.isfinite(told[0]):
        torch.testing.assert_close(told[0], (residual / torch.where(scale > 0, scale, residual))[0])
