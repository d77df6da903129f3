"""What holds of every solve, over random cases: maps, shapes, dtypes, solvers, adjoints, tolerances of any size."""

from __future__ import annotations

import gc
import random
import warnings

import pytest
import torch
from problems import matrix

import zoo
from zoo.solvers.base import Result

MAPS = {
    "linear": lambda z, w, x: 0.8 * z @ w.T + x,
    "tanh": lambda z, w, x: torch.tanh(1.5 * z @ w.T + x),
    "expanding": lambda z, w, x: 1.5 * z @ w.T + x,
    "exploding": lambda z, w, x: torch.exp(z @ w.T + x),
    "root": lambda z, w, x: torch.sqrt(z @ w.T + x),
    "tiny": lambda z, w, x: 1e-25 * torch.tanh(1e25 * (0.5 * z @ w.T) + x),
    "denormal": lambda z, w, x: 1e-42 * x + 0.5 * z,
    "huge": lambda z, w, x: 1e25 * torch.tanh(1e-25 * (0.5 * z @ w.T) + x),
    "rectified": lambda z, w, x: torch.relu(z @ w.T - x.abs()),
    "jumping": lambda z, w, x: torch.where(z > 0.3, -z, 0.5 * z + x),
    "identity": lambda z, w, x: z,
    "turning": lambda z, w, x: torch.roll(z, 1, dims=1) * 0.99 + 0 * x,
    "coupled": lambda z, w, x: 0.4 * z @ w.T + 0.5 * z.mean(0, keepdim=True) + x,
    "failing": lambda z, w, x: torch.where(z.abs() > 0.7, torch.nan, torch.tanh(z @ w.T + x)),
}
SOLVERS = {
    "picard": {"damping": [1.0, 0.5, 0.1]},
    "anderson": {"window": [1, 2, 5, 20], "ridge": [None, 0.0], "damping": [1.0, 0.5]},
    "broyden": {"window": [1, 5, 60]},
    "newton": {"halvings": [0, 3, 10]},
    "reversible": {"damping": [0.5, 0.2]},
    "learned": {},
}
ADJOINTS = {
    "picard": ["implicit", "phantom", "jfb", "neumann", "unroll"],
    "anderson": ["implicit", "phantom", "jfb", "neumann", "unroll"],
    "broyden": ["implicit", {"name": "shine", "refine": 0}, {"name": "shine", "refine": 3}, "unroll"],
    "newton": ["implicit", "jfb", {"name": "implicit", "solver": {"name": "bicgstab", "rtol": 1e-2}}],
    "reversible": ["reversible", "implicit"],
    "learned": ["implicit", "jfb"],
}


def case(seed):
    """A random case: the map, its weight, its input, the solver's and the adjoint's options."""
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    name, solver = draw.choice(list(MAPS)), draw.choice(list(SOLVERS))
    dtype = draw.choice([torch.float32, torch.float32, torch.float64])
    batch, n = draw.choice([1, 2, 3, 8, 17]), draw.choice([1, 2, 5, 16])
    options = {k: draw.choice(v) for k, v in SOLVERS[solver].items()}
    options |= {
        "name": solver,
        "rtol": draw.choice([1e-12, 1e-8, 1e-5, 1e-3, 1e-1, 1.0, 1e6]),
        "atol": draw.choice([0.0, 1e-300, 1e-12, 1e-6, 1e-2, 1e6]),
        "max_steps": draw.choice([1, 2, 3, 10, 20]),
    }
    x = torch.randn(batch, n, generator=generator, dtype=torch.float64).to(dtype)
    w = matrix(n, draw.choice([0.5, 1.0]), dtype=dtype, seed=seed).requires_grad_()
    return MAPS[name], w, x, options, draw.choice(ADJOINTS[solver]), draw.random() < 0.5, draw.random() < 0.6


def bind(f, w, x):
    """The map of its state and its input, or of its state alone."""
    return (lambda z, x: f(z, w, x)) if x is None else (lambda z: f(z, w, x))


def norms(x):
    """Euclidean norms of the rows, whatever their size."""
    x = x.double()
    most = x.abs().amax(1, keepdim=True).clamp_min(1e-320)
    return (x / most).norm(dim=1) * most[:, 0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", range(5))
def test_a_status_claims_no_more_than_holds(block):
    for seed in range(1000 + 40 * block, 1040 + 40 * block):
        f, w, x, options, adjoint, bound, grad = case(seed)
        where = f"seed {seed}: {options} {adjoint}"
        map_of = bind(f, w, None if bound else x)
        with torch.set_grad_enabled(grad):
            solution = zoo.fixed_point(map_of, torch.zeros_like(x), options, adjoint, args=(x,) if bound else None)
        value, stats = solution.value.detach(), solution.stats
        with torch.no_grad():
            rest, scale = norms(f(value, w, x) - value), norms(value)
        floor = torch.finfo(x.dtype).eps
        limit = options["atol"] * x.shape[1] ** 0.5 + max(options["rtol"], floor) * scale
        lost = stats.lost if stats.lost is not None else torch.zeros_like(stats.converged)
        assert torch.isfinite(value).all() or solution.result is Result.nonfinite, where
        assert (solution.result is Result.converged) == bool(stats.converged.all() and not lost.any()), where
        if adjoint in ("unroll", "phantom", "jfb", "reversible") and grad:
            continue  # the value is an iterate after the one that was measured, or float64 within
        met = rest <= limit * (1 + 1e-4) + 100 * floor * scale + 1e-44
        assert (met | ~stats.converged).all(), f"{where}\n{rest}\n{limit}\n{stats}"
        told = stats.residual * torch.where(scale > 0, scale, torch.where(rest > 0, rest, torch.ones_like(rest)))
        near = rest <= told * (1 + 1e-4) + 100 * floor * scale + 1e-44
        assert (near | lost | ~torch.isfinite(rest)).all(), f"{where}\n{rest}\n{told}\n{stats}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", range(5))
def test_a_gradient_is_finite_or_its_status_says_otherwise(block):
    for seed in range(2000 + 30 * block, 2030 + 30 * block):
        f, w, x, options, adjoint, bound, _ = case(seed)
        if adjoint in ("unroll", "reversible"):
            continue  # the exact gradient of the steps: it may overflow as it is
        where = f"seed {seed}: {options} {adjoint}"
        map_of = bind(f, w, None if bound else x)
        solution = zoo.fixed_point(map_of, torch.zeros_like(x), options, adjoint, args=(x,) if bound else None)
        if not solution.value.requires_grad:
            continue
        (found,) = torch.autograd.grad(solution.value.sum(), w, allow_unused=True, materialize_grads=True)
        said = [s.lost.any() for s in solution.stats.backward if s.lost is not None]
        assert torch.isfinite(found).all() or solution.result is not Result.converged or any(said), where


@pytest.mark.parametrize("rtol", [1e-3, 1.0, 1e6])
def test_what_met_its_tolerance_is_what_is_returned(rtol):
    """The least residual may lie at the start, where the bound, a share of the state, was not met."""
    w = torch.full((1,), 3.0, dtype=torch.float64)
    with torch.no_grad():
        solution = zoo.fixed_point(
            lambda z: w * z + 1, torch.zeros(2, 3, dtype=torch.float64), {"name": "picard", "rtol": rtol, "atol": 0.0}
        )
    if solution.result is Result.converged:
        z = solution.value
        assert ((w * z + 1 - z).norm(dim=1) <= rtol * z.norm(dim=1)).all()
    assert (solution.result is Result.converged) == (rtol >= 1e6)


@pytest.mark.parametrize("scale", [1e-30, 1e-42, 1e25])
def test_a_residual_is_told_at_any_scale(scale):
    solver = {"name": "picard", "rtol": 1e-12, "atol": 0.0, "max_steps": 1}
    with torch.no_grad():
        solution = zoo.fixed_point(lambda z: torch.full_like(z, scale) - z, torch.zeros(2, 3), solver)
    assert solution.result is Result.max_steps and (solution.stats.residual >= 0.9).all()


def test_a_newton_step_does_not_depend_on_the_other_samples():
    turn = 3 * matrix(8, 1.0)  # expands, so that the steps are needed, and is regular
    x = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[4] = 0
    solver = {"name": "newton", "rtol": 1e-8, "max_steps": 2, "halvings": 10}
    f = lambda z, x: z @ turn.T + x  # noqa: E731
    with torch.no_grad():
        batch = zoo.fixed_point(f, torch.zeros_like(x), solver, args=(x,))
        for i in range(8):
            alone = zoo.fixed_point(f, torch.zeros(1, 8, dtype=torch.float64), solver, args=(x[i : i + 1],))
            torch.testing.assert_close(batch.value[i], alone.value[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [
        ("anderson", "implicit"),
        ("broyden", "shine"),
        ("picard", "phantom"),
        ("anderson", "unroll"),
        ("newton", "implicit"),
        ("reversible", "reversible"),
    ],
)
def test_a_solve_frees_what_it_made_without_the_collector(solver, adjoint):
    layer = torch.nn.Linear(4, 4)

    def solve(backward):
        f = lambda z, x: torch.tanh(0.3 * layer(z) + x)  # noqa: E731
        value = zoo.fixed_point(f, torch.zeros(3, 4), solver, adjoint, args=(torch.ones(3, 4),)).value
        if backward:
            value.sum().backward()

    def live():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    solve(True)
    gc.collect()
    gc.disable()
    try:
        before = live()
        for _ in range(3):
            solve(True)
            solve(False)
        assert live() <= before
    finally:
        gc.enable()
