"""One contract, over every registered pair of solver and adjoint of fixed points."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import matrix

import zoo
from zoo.adjoints import ADJOINTS
from zoo.adjoints.shine import transposed_inverse
from zoo.solve import make_adjoint, make_solver
from zoo.solvers import SOLVERS
from zoo.solvers.iterate import iterate

TIGHT = {"rtol": 1e-13, "atol": 1e-14, "max_steps": 200}
UNDONE = {"rtol": 1e-11, "atol": 1e-12, "max_steps": 70, "damping": 0.2}  # steps that can be undone in float64
FORWARD = SOLVERS.names(kind="fixed_point")
LINEAR = SOLVERS.names(kind="linear")
BIASED = {"phantom", "jfb", "neumann", "shine"}
ADJOINT_NAMES = [e.name for e in ADJOINTS.entries() if e.kind in ("fixed_point", "any")]
B, N = 3, 5


def solver(name: str):
    return make_solver({"name": name, **(UNDONE if name == "reversible" else TIGHT)})


def adjoint(name: str):
    if name == "implicit":
        return make_adjoint({"name": "implicit", "solver": {"name": "gmres", **TIGHT}})
    return make_adjoint(name)


def pairs():
    for s in FORWARD:
        for a in ADJOINT_NAMES:
            if (s in ("newton", "reversible") and a == "unroll") or (s != "broyden" and a == "shine"):
                continue
            if a == "reversible" and s != a:
                continue
            yield s, a


def cell(w, x):
    return lambda z: torch.tanh(z @ w.T + x)


def leaf(*shape, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, dtype=torch.float64, generator=g)).requires_grad_()


def inputs(rate=0.6, seed=0):
    return matrix(N, rate, seed=seed).requires_grad_(), leaf(B, N, seed=seed + 3)


def state(w, x, s, a):
    return zoo.fixed_point(cell(w, x), torch.zeros_like(x), s, a)


def gradient(w, x, s, a, retain=False):
    solution = state(w, x, s, a)
    return torch.autograd.grad(solution.value.pow(3).sum(), (w, x), retain_graph=retain)


def unrolled(w, x):
    z = torch.zeros(B, N, dtype=torch.float64)
    for _ in range(300):
        z = cell(w, x)(z)
    return torch.autograd.grad(z.pow(3).sum(), (w, x))


@pytest.mark.parametrize(("s", "a"), [p for p in pairs() if p[1] not in BIASED])
def test_gradcheck(s, a):
    w, x = matrix(3, 0.6).requires_grad_(), leaf(2, 3, seed=3)  # small: each number is moved by itself
    assert torch.autograd.gradcheck(lambda w, x: state(w, x, solver(s), adjoint(a)).value, (w, x))


@pytest.mark.parametrize(("s", "a"), list(pairs()))
def test_gradient_against_the_unrolled(s, a):
    w, x = inputs()
    for own, exact in zip(gradient(w, x, solver(s), adjoint(a)), unrolled(w, x), strict=True):
        error = (own - exact).norm() / exact.norm()
        cosine = torch.cosine_similarity(own.flatten(), exact.flatten(), dim=0)
        if a in BIASED:
            assert error > 1e-6 and cosine > 0.9  # biased, and a descent direction
        else:
            assert error < (1e-4 if s == "reversible" else 1e-10)  # its steps are few, as they must be undone


@pytest.mark.parametrize("s", FORWARD + LINEAR)
def test_every_solver_serves_the_backward_pass(s):
    w, x = inputs()
    implicit = make_adjoint({"name": "implicit", "solver": {"name": s, **TIGHT}})
    for own, exact in zip(gradient(w, x, solver("anderson"), implicit), unrolled(w, x), strict=True):
        torch.testing.assert_close(own, exact, rtol=1e-9, atol=1e-10)


def test_closed_form_of_the_linear_deq():
    """z = W z + x: dL/dx = (I - W)^{-T} dL/dz, dL/dW = u z*^T."""
    w, x = inputs(0.8)
    z = zoo.fixed_point(
        lambda z: z @ w.T + x, torch.zeros(B, N, dtype=torch.float64), solver("broyden"), adjoint("implicit")
    ).value
    c = torch.randn(B, N, dtype=torch.float64)
    gw, gx = torch.autograd.grad((c * z).sum(), (w, x))
    u = torch.linalg.solve((torch.eye(N, dtype=torch.float64) - w.detach()).T, c.T).T
    torch.testing.assert_close(gx, u, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gw, u.T @ z.detach(), rtol=1e-9, atol=1e-10)


@given(n=st.integers(1, 8), rate=st.floats(0.1, 0.95), seed=st.integers(0, 2**16))
def test_linear_deq_derivative_for_random_contractions(n, rate, seed):
    w = matrix(n, rate, seed=seed)
    x = leaf(2, n, seed=seed)
    z = zoo.fixed_point(lambda z: z @ w.T + x, torch.zeros_like(x), solver("anderson"), adjoint("implicit")).value
    (gx,) = torch.autograd.grad(z.sum(), x)
    exact = torch.linalg.solve((torch.eye(n, dtype=torch.float64) - w).T, torch.ones(n, 2, dtype=torch.float64)).T
    torch.testing.assert_close(gx, exact, rtol=1e-8, atol=1e-8)


def test_refined_shine_and_many_neumann_terms_are_exact():
    w, x = inputs()
    for spec in (
        {"name": "shine", "refine": 30, "solver": {"name": "gmres", **TIGHT}},
        {"name": "neumann", "terms": 300, "rtol": 1e-14},
    ):
        for own, exact in zip(gradient(w, x, solver("broyden"), make_adjoint(spec)), unrolled(w, x), strict=True):
            torch.testing.assert_close(own, exact, rtol=1e-9, atol=1e-10)


def test_shine_is_nearer_than_the_jacobian_free_gradient():
    """In the middle of a dozen: Broyden's inverse was made for the solve, and may miss a gradient's direction."""
    ratios = []
    for seed in range(12):
        w, x = inputs(0.8, seed)
        exact = unrolled(w, x)[0]
        shine, jfb = ((gradient(w, x, solver("broyden"), adjoint(a))[0] - exact).norm() for a in ("shine", "jfb"))
        ratios.append(float(shine / jfb))
    assert sorted(ratios)[6] < 0.8


def test_shine_applies_the_transpose_of_broydens_inverse():
    """<v, -H^T b> = <-H v, b>, with H in the product form that Broyden's docstring gives."""
    w, x = matrix(N, 0.8), torch.randn(B, N, dtype=torch.float64)
    broyden = solver("broyden")
    with torch.no_grad():
        last = iterate(cell(w, x), torch.zeros_like(x), broyden, keep_state=True).state
        last = broyden.propose(last)[1]
    steps = [*last.steps.rows.unbind(dim=1), last.step * last.scale]
    b, v = torch.randn(2, B, N, dtype=torch.float64)
    forward = v
    for now, after in pairwise(steps):
        forward = forward + after * (torch.linalg.vecdot(now, forward) / torch.linalg.vecdot(now, now))[:, None]
    torch.testing.assert_close(torch.linalg.vecdot(v, transposed_inverse(last, b)), torch.linalg.vecdot(forward, b))


@pytest.mark.parametrize("a", [a for a in ADJOINT_NAMES if a != "unroll"])
def test_second_derivatives_are_refused_in_words(a):
    w, x = inputs()
    z = state(w, x, solver(a if a == "reversible" else "broyden"), adjoint(a)).value
    with pytest.raises(RuntimeError, match="first derivatives only.*'unroll'"):
        torch.autograd.grad(z.sum(), w, create_graph=True)


@pytest.mark.parametrize("s", ["picard", "anderson", "broyden"])
def test_unrolled_second_derivatives_are_right(s):
    w, x = inputs(0.3)
    spec = make_solver({"name": s, "rtol": 1e-10, "atol": 0.0, "max_steps": 60})
    assert torch.autograd.gradgradcheck(lambda x: state(w, x, spec, "unroll").value, (x,), atol=1e-4)


@pytest.mark.parametrize(("s", "a"), list(pairs()))
def test_the_gradient_reaches_a_generator(s, a):
    """Weights that another network writes, captured by the map: non-leaf tensors that no parameter list names."""
    code, writer = leaf(4, seed=5), leaf(N * N, 4, scale=0.05, seed=6)
    x = leaf(B, N)
    z = state((writer @ code).view(N, N), x, solver(s), adjoint(a)).value
    gradients = torch.autograd.grad(z.sum(), (code, writer, x))
    assert all(g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("steps", [1, 4, 12])
def test_reversible_is_the_gradient_of_its_own_iteration(steps, dtype):
    """Exact however few steps were taken, and whichever sample converged first."""
    w, x = matrix(N, 0.6, dtype).requires_grad_(), leaf(B, N, seed=3).detach().to(dtype)
    x = (x * torch.tensor([[1e-3], [1.0], [3.0]], dtype=dtype)).requires_grad_()
    spec = make_solver({"name": "reversible", "rtol": 1e-3, "atol": 1e-3, "max_steps": steps})
    own = zoo.fixed_point(cell(w, x), torch.zeros(B, N, dtype=dtype), spec, "reversible")
    plain = iterate(cell(w, x), torch.zeros(B, N, dtype=dtype), spec, select="last")
    torch.testing.assert_close(own.value, plain.value)
    tol = {"rtol": 1e-9, "atol": 1e-10} if dtype is torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    weights = torch.randn(B, N, dtype=dtype)
    for a, b in zip(
        torch.autograd.grad((weights * own.value).sum(), (w, x), retain_graph=True),
        torch.autograd.grad((weights * plain.value).sum(), (w, x)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **tol)
    again = torch.autograd.grad((weights * own.value).sum(), w)[0]  # a second backward undoes the steps again
    torch.testing.assert_close(again, torch.autograd.grad((weights * zoo.fixed_point(
        cell(w, x), torch.zeros(B, N, dtype=dtype), spec, "reversible").value).sum(), w)[0])  # fmt: skip


def test_reversible_takes_its_own_defaults():
    w, x = inputs()
    own = zoo.fixed_point(cell(w, x), torch.zeros(B, N, dtype=torch.float64), "reversible", "reversible").value
    plain = iterate(cell(w, x), torch.zeros(B, N, dtype=torch.float64), make_solver("reversible"), select="last").value
    found, exact = (torch.autograd.grad(z.pow(3).sum(), (w, x)) for z in (own, plain))
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-10)


def test_steps_that_cannot_be_undone_are_refused():
    with pytest.raises(ValueError, match="cannot be undone.*Take fewer steps"):
        zoo.fixed_point(torch.tanh, torch.zeros(1, 2), {"name": "reversible", "damping": 0.8}, "reversible")


def saved_bytes(run) -> int:
    total = 0

    def pack(t):
        nonlocal total
        total += t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run()
    return total


def budget(name: str, steps: int):
    extra = {"damping": 0.05} if name == "reversible" else {}
    return make_solver({"name": name, "max_steps": steps, "rtol": 1e-15, **extra})


def test_memory_does_not_grow_with_the_steps():
    """What autograd saves; `shine` also holds Broyden's steps, at most a window of them."""
    w, x = inputs(0.99)
    for s, a in pairs():
        if s not in ("picard", "anderson", "broyden", "reversible"):
            continue
        used = [saved_bytes(lambda k=k, s=s, a=a: state(w, x, budget(s, k), a)) for k in (5, 20, 80)]
        if a == "unroll":
            assert used[2] >= used[1] > used[0] > 0 and (s != "picard" or used[2] > 5 * used[0])
        else:
            assert used[0] == used[1] == used[2]


@pytest.mark.parametrize(("s", "a"), list(pairs()))
def test_every_call_of_the_map_is_counted_with_gradients_too(s, a):
    w, x = inputs()
    seen = []
    f = lambda z: (seen.append(len(z)), cell(w, x)(z))[1]  # noqa: E731
    solution = zoo.fixed_point(f, torch.zeros(B, N, dtype=torch.float64), solver(s), adjoint(a))
    assert solution.stats.nfe == len(seen) and solution.stats.sample_nfe == sum(seen)


@pytest.mark.parametrize(("s", "a"), list(pairs()))
def test_a_bfloat16_state_has_a_gradient(s, a):
    if s == "newton":
        pytest.skip("forward-mode products in half precision are no use to a Newton step")
    exact = unrolled(*inputs())[0]
    w, x = (v.detach().bfloat16().requires_grad_() for v in inputs())
    solution = zoo.fixed_point(cell(w, x), torch.zeros(B, N, dtype=torch.bfloat16), s, a)
    assert solution.value.dtype is torch.bfloat16
    gw, gx = torch.autograd.grad(solution.value.float().pow(3).sum(), (w, x))
    assert gw.dtype is gx.dtype is torch.bfloat16 and torch.isfinite(gx).all()
    if a in BIASED:
        assert torch.cosine_similarity(gw.double().flatten(), exact.flatten(), dim=0) > 0.9
    else:
        assert (gw.double() - exact).norm() < 0.1 * exact.norm()  # the solve ends at bfloat16's resolution, 0.8 %


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_neumann_takes_as_many_products_as_terms(terms):
    w, x = inputs()
    solution = state(w, x, solver("anderson"), make_adjoint({"name": "neumann", "terms": terms}))
    b = torch.randn(B, N, dtype=torch.float64)
    (found,) = torch.autograd.grad(solution.value, x, b)
    slope = 1 - solution.value.detach() ** 2  # of tanh
    u = v = b
    for _ in range(terms):
        v = (v * slope) @ w.detach()
        u = u + v
    torch.testing.assert_close(found, u * slope, rtol=1e-9, atol=1e-11)
    assert solution.stats.backward[0].nfe == terms


def test_neumann_leaves_out_terms_that_grow():
    """At a slope of 3 the series has no sum: its least residual is that of the gradient itself."""
    x = leaf(B, N)
    neumann = make_adjoint({"name": "neumann", "terms": 4})
    z = zoo.fixed_point(lambda z: 3 * z + x, torch.zeros(B, N, dtype=torch.float64), "newton", neumann).value
    torch.testing.assert_close(torch.autograd.grad(z.sum(), x)[0], torch.ones_like(x))


def test_work_does_not_depend_on_the_scale_of_the_loss():
    """Relative to the incoming gradient: TorchDEQ's absolute tolerance takes 15, 19 or 40 products here."""
    w, x = inputs(0.9)
    counts, directions = [], []
    for scale in (1e-6, 1.0, 1e6):
        solution = state(w, x, "anderson", "implicit")
        (g,) = torch.autograd.grad(scale * solution.value.pow(3).sum(), w)
        counts.append(solution.stats.backward[0].nfe)
        directions.append(g / scale)
    assert counts[0] == counts[1] == counts[2]
    torch.testing.assert_close(directions[0], directions[2], rtol=1e-9, atol=1e-12)


def test_backward_stats_arrive_with_the_gradient():
    w, x = inputs()
    solution = state(w, x, "anderson", "implicit")
    assert not solution.stats.backward
    solution.value.sum().backward()
    (stats,) = solution.stats.backward
    assert stats.nfe > 0 and stats.converged.all() and stats.residual.max() <= 1e-3


def test_two_solves_before_one_backward():
    w, x = inputs()
    a, b = (state(w, s * x, solver("anderson"), adjoint("implicit")).value for s in (1.0, 0.5))
    (together,) = torch.autograd.grad((a * b).sum(), w)
    c, d = (state(w, s * x, solver("picard"), adjoint("unroll")).value for s in (1.0, 0.5))
    torch.testing.assert_close(together, torch.autograd.grad((c * d).sum(), w)[0], rtol=1e-8, atol=1e-9)


def test_no_graph_where_nobody_wants_one():
    x = torch.randn(B, N, dtype=torch.float64)
    assert not zoo.fixed_point(cell(matrix(N, 0.5), x), torch.zeros_like(x)).value.requires_grad
    w, x = inputs()
    with torch.no_grad():
        solution = state(w, x, "anderson", "implicit")
    assert not solution.value.requires_grad
    with torch.inference_mode():
        state(w, x, "broyden", "phantom")


@pytest.mark.parametrize(
    ("s", "a", "match"),
    [
        ("newton", "unroll", "Unroll.*Newton"),
        ("gmres", "unroll", "Unroll.*GMRES"),
        ("anderson", "shine", "Shine.*Anderson.*broyden"),
        ("picard", "reversible", "Reversible.*Picard.*reversible as the solver"),
        ("anderson", "backsolve", "Backsolve.*a fixed point.*Anderson.*implicit"),
    ],
)
def test_wrong_pairs_are_named(s, a, match):
    with pytest.raises(TypeError, match=match):
        zoo.fixed_point(torch.tanh, torch.zeros(1, 2), s, a)


def test_options_of_adjoints_are_checked():
    with pytest.raises(KeyError, match="Did you mean 'steps'"):
        make_adjoint({"name": "phantom", "stepps": 3})
    with pytest.raises(KeyError, match="Did you mean 'gmres'"):
        make_adjoint({"name": "implicit", "solver": "gmress"})
    with pytest.raises(ValueError, match="damping"):
        make_adjoint({"name": "phantom", "damping": 2.0})
    with pytest.raises(TypeError, match="solver instance"):
        ADJOINTS["implicit"](solver=3)
