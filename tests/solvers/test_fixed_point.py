"""One contract, over every registered fixed-point and linear solver."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import PROBLEMS, linear, matrix, tanh

import zoo
from zoo.solve import make_solver
from zoo.solvers import SOLVERS
from zoo.solvers.base import Affine, FixedPointSolver, Result, Solver
from zoo.solvers.iterate import iterate

NONLINEAR = SOLVERS.names(kind="fixed_point")
LINEAR = SOLVERS.names(kind="linear")
EVERY = NONLINEAR + LINEAR


def build(name: str, **options: object) -> Solver:
    if name == "cg":
        options = {"symmetric": False, **options}
    return make_solver({"name": name, **options})


def solve(name: str, problem, *, args=None, **options):
    """The problem's solution by the named solver, through the public entry point."""
    f = problem.f if args is not None else lambda z: problem.f(z, problem.x)
    return zoo.fixed_point(f, torch.zeros_like(problem.x), build(name, **options), "implicit", args=args)


def solvable(name: str, problem) -> bool:
    return name != "cg" and (problem.affine or name in NONLINEAR)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", EVERY)
def test_finds_the_exact_fixed_point(name, problem, dtype):
    problem = PROBLEMS[problem](dtype=dtype)
    if not solvable(name, problem):
        pytest.skip("a linear solver solves affine maps; cg needs products with the transpose")
    tol = 1e-11 if dtype is torch.float64 else 1e-6
    solution = solve(name, problem, rtol=tol, atol=tol, max_steps=200)
    assert solution.result is Result.converged
    assert solution.stats.converged.all()
    error = (solution.value - problem.exact).norm(dim=1) / problem.exact.norm(dim=1)
    assert error.max() < 30 * tol
    assert solution.stats.residual.max() < 5 * tol


@pytest.mark.parametrize("name", EVERY)
def test_linear_system_with_both_products(name):
    """An `Affine` map offers the transpose too, so that conjugate gradients takes part."""
    w, b = matrix(10, 0.8), torch.randn(3, 10, dtype=torch.float64)
    system = Affine(lambda u: u @ w.T, b, lambda u: u @ w)
    with torch.no_grad():
        solution = iterate(system, b, build(name, rtol=1e-10, atol=0.0, max_steps=200))
    exact = torch.linalg.solve(torch.eye(10, dtype=torch.float64) - w, b.T).T
    torch.testing.assert_close(solution.value, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("symmetric", [True, False])
def test_cg_on_a_symmetric_matrix(symmetric):
    w = matrix(10, 0.4)
    w = w + w.T
    b = torch.randn(3, 10, dtype=torch.float64)
    with torch.no_grad():
        solver = build("cg", symmetric=symmetric, rtol=1e-10, atol=0.0)
        solution = iterate(Affine(lambda u: u @ w, b, lambda u: u @ w), b, solver)
    exact = torch.linalg.solve(torch.eye(10, dtype=torch.float64) - w, b.T).T
    torch.testing.assert_close(solution.value, exact, rtol=1e-8, atol=1e-8)
    assert (solution.stats.nfe <= 12) == symmetric  # one product a step, not two


def test_cg_says_what_it_needs():
    with pytest.raises(TypeError, match="transpose.*gmres"):
        solve("cg", linear())


@pytest.mark.parametrize("name", NONLINEAR)
def test_an_exhausted_budget_is_said_and_the_best_iterate_kept(name):
    problem = tanh()
    solution = solve(name, problem, rtol=1e-14, atol=0.0, max_steps=2)
    assert solution.result is Result.max_steps
    assert not solution.stats.converged.all()
    trace = solution.stats.trace
    measured = problem.f(solution.value, problem.x) - solution.value
    relative = measured.norm(dim=1) / solution.value.norm(dim=1)
    torch.testing.assert_close(solution.stats.residual, relative, rtol=1e-6, atol=1e-12)
    assert (solution.stats.residual <= trace[0]).all()


@pytest.mark.parametrize("budget", [1, 2])
@pytest.mark.parametrize("name", NONLINEAR)
def test_a_small_budget_still_moves(name, budget):
    problem = tanh()
    solution = solve(name, problem, max_steps=budget)
    start = (problem.f(torch.zeros_like(problem.x), problem.x)).norm(dim=1)
    assert (problem.f(solution.value, problem.x) - solution.value).norm(dim=1).lt(start).all()
    assert solution.stats.steps.max() <= budget


@pytest.mark.parametrize("name", ["picard", "anderson", "broyden"])
def test_evaluations_are_counted_and_bounded(name):
    problem, seen = tanh(), []
    with torch.no_grad():
        f = lambda z: (seen.append(1), problem.f(z, problem.x))[1]  # noqa: E731
        solution = zoo.fixed_point(f, torch.zeros_like(problem.x), build(name, max_steps=7, rtol=1e-14))
    assert solution.stats.nfe == len(seen) <= 8
    assert solution.stats.sample_nfe == len(seen) * len(problem.x)
    assert len(solution.stats.trace) == len(seen)


@pytest.mark.parametrize("name", EVERY)
def test_every_call_of_the_map_is_counted(name):
    if name == "cg":
        pytest.skip("needs products with the transpose")
    problem, seen = linear(), []
    with torch.no_grad():
        f = lambda z: (seen.append(1), problem.f(z, problem.x))[1]  # noqa: E731
        assert zoo.fixed_point(f, torch.zeros_like(problem.x), build(name)).stats.nfe == len(seen)


@pytest.mark.parametrize("name", NONLINEAR)
def test_divergence_is_reported_with_a_finite_value(name):
    solution = zoo.fixed_point(
        lambda z: z * z * 1e3 + 1e30, torch.ones(2, 3), build(name, max_steps=30, rtol=1e-6), "implicit"
    )
    # the second value overflows; Newton's method, whose system does, stays where it is
    assert solution.result is (Result.max_steps if name == "newton" else Result.nonfinite)
    assert torch.isfinite(solution.value).all()


@pytest.mark.parametrize("inner", ["bicgstab", "neumann", "anderson", "broyden"])
def test_newton_with_other_solvers_of_its_linear_systems(inner):
    problem = tanh()
    own = {"name": inner, "rtol": 1e-2, "atol": 0.0, "max_steps": 100}
    solution = solve("newton", problem, rtol=1e-11, atol=1e-11, linear_solver=make_solver(own))
    assert solution.result is Result.converged
    torch.testing.assert_close(solution.value, problem.exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("args", [True, False])
@pytest.mark.parametrize("name", NONLINEAR)
def test_a_diverging_sample_does_not_disturb_its_neighbours(name, args):
    scale = torch.tensor([[0.5], [50.0], [0.3]], dtype=torch.float64)
    x = torch.linspace(0.1, 0.6, 12, dtype=torch.float64).view(3, 4)

    def f(z, x, scale):
        return torch.where(scale > 1, z.abs() * scale + 1e300, torch.tanh(z) * scale + x)

    def run(rows):
        inputs = (x[rows], scale[rows])
        bound = {"f": f, "args": inputs} if args else {"f": lambda z: f(z, *inputs)}
        return zoo.fixed_point(z0=torch.zeros_like(x[rows]), solver=build(name, max_steps=40), **bound)

    together, alone = run([0, 1, 2]), run([0, 2])
    assert together.stats.converged.tolist() == [True, False, True]
    torch.testing.assert_close(together.value[[0, 2]], alone.value, rtol=1e-12, atol=1e-12)
    assert torch.isfinite(together.value).all()


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("name", NONLINEAR)
def test_an_answer_does_not_depend_on_its_batch_mates(name, compact):
    """Samples of very different difficulty, together and one by one."""
    n = 8
    rates = torch.tensor([0.05, 0.3, 0.6, 0.9, 0.97], dtype=torch.float64)[:, None]
    w, x = matrix(n, 1.0), torch.randn(5, n, dtype=torch.float64)
    f = lambda z, x, rate: rate * (z @ w.T) + x  # noqa: E731
    options = {"rtol": 1e-4, "atol": 0.0, "max_steps": 100}

    def run(rows):
        own = (x[rows], rates[rows])
        if compact:
            return zoo.fixed_point(f, torch.zeros_like(x[rows]), build(name, **options), args=own)
        return zoo.fixed_point(lambda z: f(z, *own), torch.zeros_like(x[rows]), build(name, **options))

    together = run(slice(0, 5))
    for i in range(5):
        alone = run(slice(i, i + 1))
        torch.testing.assert_close(together.value[i : i + 1], alone.value, rtol=1e-10, atol=1e-12)
        assert together.stats.steps[i] == alone.stats.steps[0]
    whole = together.stats.nfe * 5
    assert (together.stats.sample_nfe <= whole) if compact else (together.stats.sample_nfe == whole)


def test_finished_samples_leave_the_batch_and_the_trace_says_so():
    rate = torch.tensor([[0.01]] * 7 + [[0.95]], dtype=torch.float64)
    sizes = []

    def f(z, rate):
        sizes.append(len(z))
        return rate * z + 1

    solution = zoo.fixed_point(f, torch.zeros(8, 2, dtype=torch.float64), "picard", args=(rate,))
    assert sizes[0] == 8 and sizes[-2] == 1  # the last call is the one that carries the gradient
    assert solution.stats.trace[-1].isnan().sum() == 7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NONLINEAR)
def test_low_precision_states_converge_to_their_resolution(name, dtype):
    if name == "newton":
        pytest.skip("forward-mode products in half precision are no use to a Newton step")
    problem = tanh(dtype=dtype)
    solution = solve(name, problem, rtol=1e-6, max_steps=40)
    assert solution.value.dtype is dtype
    assert solution.result is Result.converged
    assert (solution.value - problem.exact).float().norm(dim=1).max() < 0.1


@pytest.mark.parametrize("name", ["picard", "anderson", "broyden"])
def test_autocast_does_not_drive_the_solver_to_its_cap(name):
    torch.manual_seed(0)
    cell = torch.nn.Linear(32, 32)
    with torch.no_grad():
        cell.weight.copy_(matrix(32, 0.8, torch.float32))
    x = torch.randn(4, 32)
    f = lambda z: torch.tanh(cell(z) + x)  # noqa: E731
    full = zoo.fixed_point(f, torch.zeros_like(x), build(name, rtol=1e-3, max_steps=60))
    with torch.autocast("cpu", torch.bfloat16):
        low = zoo.fixed_point(f, torch.zeros_like(x), build(name, rtol=1e-3, max_steps=60))
    assert low.result is Result.converged
    assert low.value.dtype is torch.float32
    assert low.stats.nfe <= 1.3 * full.stats.nfe
    low.value.sum().backward()
    assert low.stats.backward[0].converged.all()


def test_tuples_of_tensors_are_states():
    w = matrix(5, 0.5)
    f = lambda z: (0.5 * z[1].mean(dim=1)[:, :3] + 1, torch.tanh(z[1] @ w + z[0].sum(1)[:, None, None] / 9))  # noqa: E731
    z0 = (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 4, 5, dtype=torch.float64))
    a, b = zoo.fixed_point(f, z0, {"name": "anderson", "rtol": 1e-10, "atol": 1e-12}).value
    torch.testing.assert_close(f((a, b))[0], a, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(f((a, b))[1], b, rtol=1e-8, atol=1e-8)


def test_warm_start_saves_steps():
    problem = tanh(rate=0.95)
    f = lambda z: problem.f(z, problem.x)  # noqa: E731
    cold = zoo.fixed_point(f, torch.zeros_like(problem.x), "anderson")
    warm = zoo.fixed_point(f, cold.value.detach(), "anderson")
    assert warm.stats.steps.max() <= 1 < cold.stats.steps.max()


def test_throw_raises_with_the_solution():
    problem = tanh()
    with pytest.raises(zoo.SolveError, match="0 of 4 samples converged") as error:
        zoo.fixed_point(
            lambda z: problem.f(z, problem.x),
            torch.zeros_like(problem.x),
            {"name": "picard", "max_steps": 1, "rtol": 1e-9},
            throw=True,
        )
    assert error.value.solution.value.shape == problem.x.shape


@given(n=st.integers(1, 12), rate=st.floats(0.05, 0.95), seed=st.integers(0, 2**16))
def test_banach_rate(n, rate, seed):
    """Picard on a contraction of rate L: the error falls by at least L a step (Banach's theorem)."""
    w = matrix(n, rate, seed=seed)
    x = torch.randn(2, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    exact = torch.linalg.solve(torch.eye(n, dtype=torch.float64) - w, x.T).T
    steps = 10
    z = zoo.fixed_point(
        lambda z: z @ w.T + x, torch.zeros_like(x), build("picard", max_steps=steps, rtol=1e-300, atol=0.0), "unroll"
    ).value
    assert ((z - exact).norm(dim=1) <= rate**steps * exact.norm(dim=1) * (1 + 1e-9) + 1e-12).all()


@given(n=st.integers(1, 10), rate=st.floats(0.05, 0.9), seed=st.integers(0, 2**16), name=st.sampled_from(NONLINEAR))
def test_every_contraction_is_solved(n, rate, seed, name):
    w = matrix(n, rate, seed=seed)
    x = torch.randn(3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    solution = zoo.fixed_point(
        lambda z: torch.tanh(z @ w.T + x), torch.zeros_like(x), build(name, rtol=1e-8, max_steps=300)
    )
    assert solution.result is Result.converged
    residual = (torch.tanh(solution.value @ w.T + x) - solution.value).norm(dim=1)
    # |z - z*| <= residual / (1 - L), again by Banach
    assert (residual <= 1e-8 * solution.value.norm(dim=1) + 1e-6 * n**0.5).all()


@pytest.mark.parametrize("name", EVERY)
def test_a_solver_is_a_frozen_value(name):
    solver = build(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        solver.rtol = 1.0
    assert solver == build(name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedStep(FixedPointSolver):
    """A solver may hold a module with weights of its own: here damped Picard with a learned damping."""

    network: torch.nn.Module

    def start(self, z, fz):
        from zoo.solvers.picard import State

        return State(z, torch.linalg.vector_norm(fz - z, dim=1), fz)

    def propose(self, state):
        return torch.lerp(state.z, state.fz, self.network.weight[0]), state

    def absorb(self, state, z, fz):
        return self.start(z, fz)


def test_a_solver_can_hold_a_module():
    problem = tanh()
    network = torch.nn.Linear(1, 1).double()
    torch.nn.init.constant_(network.weight, 0.9)
    solver = LearnedStep(network=network, rtol=1e-6, max_steps=100)
    solution = zoo.fixed_point(lambda z: problem.f(z, problem.x), torch.zeros_like(problem.x), solver)
    torch.testing.assert_close(solution.value, problem.exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gmres", "bicgstab", "cg"])
def test_a_krylov_method_begins_at_zero_and_takes_no_product_for_it(name):
    """From zero the search space holds the one from ``b`` with as many products, so the residual is never larger."""
    w, b = matrix(40, 0.9), torch.randn(5, 40, dtype=torch.float64)
    system = Affine(lambda u: u @ w.T, b, lambda u: u @ w)
    with torch.no_grad():
        solver = build(name, rtol=1e-14, atol=0.0, max_steps=6)
        zero = iterate(*system.start(solver), solver)
        plain = iterate(system, b, solver)
    assert zero.stats.nfe == plain.stats.nfe - 1  # by as many steps
    torch.testing.assert_close(zero.stats.trace[0], torch.ones(5, dtype=torch.float64))
    true = (b + zero.value @ w.T - zero.value).norm(dim=1) / b.norm(dim=1)
    torch.testing.assert_close(zero.stats.residual, true)
    if name == "gmres":  # one step more of it costs as many products
        with torch.no_grad():
            solver = build(name, rtol=1e-14, atol=0.0, max_steps=7)
            equal = iterate(*system.start(solver), solver)
        assert equal.stats.nfe == plain.stats.nfe
        assert (equal.stats.residual <= plain.stats.residual + 1e-12).all()


def test_other_methods_begin_at_b():
    system = Affine(lambda u: 0.5 * u, torch.ones(2, 3))
    for name in ("neumann", "picard", "anderson", "broyden"):
        assert system.start(build(name))[1] is system.offset
