"""The mixin, and the penalties at its fixed points."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
from problems import matrix
from torch import nn

import zoo
from zoo import penalties
from zoo.implicit import implicit_modules, record_solves, solver_budget, untracked

B, N = 3, 5


class Layer(zoo.ImplicitMixin, nn.Module):
    """The smallest implicit model: ``z = tanh(W z + x)``."""

    def __init__(self, n: int = N) -> None:
        super().__init__()
        self.linear = nn.Linear(n, n).double()
        with torch.no_grad():
            self.linear.weight.copy_(matrix(n, 0.6))
        self.configure_implicit("anderson", "implicit")

    def forward(self, x):
        return self.solve(lambda z, x: torch.tanh(self.linear(z) + x), torch.zeros_like(x), args=(x,))


def test_mixin_records_and_swaps():
    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    assert layer.last is None
    layer.configure_implicit({"name": "anderson", "rtol": 1e-9, "atol": 1e-10})
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    first = layer(x)
    assert layer.last.result is zoo.Result.converged and layer.last.stats.nfe > 1
    layer.configure_implicit({"name": "broyden", "rtol": 1e-8}, "jfb")
    assert type(layer.solver).__name__ == "Broyden" and layer.solver.max_steps == 30
    torch.testing.assert_close(layer(x), first, rtol=0, atol=1e-7)  # 1e-8 of |z|, over the 0.4 that W leaves
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    layer.configure_implicit(eval_solver={"name": "picard", "max_steps": 1})
    layer.eval()
    layer(x)
    assert layer.last.stats.steps.max() == 1
    assert [name for name, _ in implicit_modules(nn.Sequential(nn.ReLU(), layer))] == ["1"]


def test_an_unfinished_solve_says_so_or_raises_as_chosen():
    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    layer.configure_implicit({"name": "picard", "max_steps": 2, "rtol": 1e-9})
    reached = layer(x)
    assert layer.last.result is zoo.Result.max_steps
    layer.configure_implicit(throw=True)
    layer.configure_implicit(adjoint="unroll")  # what is None stays as it is
    for training in (True, False):
        with pytest.raises(zoo.SolveError, match="used all its steps") as raised:
            layer.train(training)(x)
        torch.testing.assert_close(raised.value.solution.value, reached)
        assert layer.last.result is zoo.Result.max_steps
    with solver_budget(less=0), pytest.raises(zoo.SolveError):
        layer(x)
    for scope, cut in ((solver_budget(most=1), True), (untracked(), False)):  # on purpose, or beside the answer
        with scope:
            layer(x)
        assert layer.last.cut is cut
    with solver_budget(most=2), pytest.raises(zoo.SolveError):  # as many steps as its solver has
        layer(x)
    assert not layer.last.cut
    layer.configure_implicit({"name": "anderson", "rtol": 1e-4, "max_steps": 50})
    layer(x)
    layer.configure_implicit({"name": "picard", "max_steps": 2, "rtol": 1e-9}, throw=False)
    torch.testing.assert_close(layer(x), reached)


def test_an_unfinished_integration_raises_where_that_was_chosen():
    class Decay(zoo.ImplicitMixin, nn.Module):
        problem_types = ("ode",)

        def __init__(self):
            super().__init__()
            self.configure_implicit({"name": "dopri5", "rtol": 1e-9, "atol": 1e-9, "max_steps": 1}, "unroll")

        def forward(self, y, event=None):
            return self.integrate(lambda t, y: -y, y, [0.0, 5.0], event=event)

    module, y = Decay(), torch.ones(2, 1)
    reached = module(y)
    module.configure_implicit(throw=True)
    with pytest.raises(zoo.SolveError, match="0 of 2 samples") as raised:
        module(y)
    assert torch.equal(raised.value.solution.value, reached) and module.last.result is zoo.Result.max_steps
    module.configure_implicit({"name": "dopri5", "max_steps": 200})
    module(y)
    module(y, lambda t, y: y[:, 0] - 0.5)  # an event is an end
    assert module.last.result is zoo.Result.terminated


def test_a_scope_has_every_solve_and_the_innermost_has_it_alone():
    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    with record_solves() as outer:
        layer(x)
        first = layer.last
        with record_solves() as inner:
            layer(x)
        with untracked():
            layer(x)
        layer(x)
        assert [(m, r) for m, r in outer] == [(layer, first), (layer, layer.last)]
        layer.record(layer.last, [first])  # a summary takes the place of its parts
        assert [r for _, r in outer] == [layer.last] * 2
    assert len(inner) == 1
    layer(x)
    assert len(outer) == 2


def test_gradients_in_evaluation_mode():
    layer, x = Layer().eval(), torch.randn(B, N, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.abs().sum() > 0 and layer.linear.weight.grad.abs().sum() > 0


def test_models_copy_and_pickle_after_a_solve():
    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    layer(x).sum().backward()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(x), layer(x))


def test_a_mixin_without_a_solver_says_what_to_call():
    class Bare(zoo.ImplicitMixin, nn.Module):
        def forward(self, x):
            return self.solve(torch.tanh, x)

    with pytest.raises(RuntimeError, match="configure_implicit"):
        Bare()(torch.zeros(1, 2))


def test_jacobian_penalty_is_the_norm_and_has_a_gradient():
    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    with penalties.collect(jacobian=True, samples=3000) as terms:
        z = layer(x)
    jacobian = (1 - z.detach() ** 2)[:, :, None] * layer.linear.weight
    exact = jacobian.square().sum() / (B * N)
    torch.testing.assert_close(terms["jacobian"].detach(), exact.detach(), rtol=0.1, atol=0)
    terms["jacobian"].backward()
    assert layer.linear.weight.grad.abs().sum() > 0
    with penalties.collect() as none:
        layer(x)
    assert none == {}


def test_spectral_radius_is_the_largest_eigenvalue():
    w = matrix(8, 0.9)
    with penalties.capture() as solves:
        layer = Layer()
        layer(torch.randn(B, N, dtype=torch.float64))
    assert solves[0][0] is layer
    estimate = penalties.spectral_radius(lambda z: z @ w.T, torch.zeros(2, 8, dtype=torch.float64), steps=400)
    exact = torch.linalg.eigvals(w).abs().max()
    torch.testing.assert_close(estimate, exact.expand(2), rtol=0.02, atol=0)


def test_the_graph_is_freed_with_the_answer():
    def live():
        gc.collect()
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    layer(x).sum().backward()
    before = live()
    for _ in range(3):
        layer(x).sum().backward()
        layer(x)
    assert live() <= before + 12  # `last` of the newest solve, a handful of small host tensors


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("adjoint", ["implicit", "phantom", "unroll"])
def test_gradients_do_not_depend_on_the_mode(training, adjoint):
    layer, x = Layer().train(training), torch.randn(B, N, dtype=torch.float64, requires_grad=True)
    layer.configure_implicit({"name": "picard", "rtol": 1e-9, "max_steps": 80}, adjoint)
    z = layer(x)
    found = torch.autograd.grad(z.square().sum(), [x, *layer.parameters()])
    slope = torch.diag_embed(1 - z.detach() ** 2) @ layer.linear.weight.detach()  # dz = D (W dz + dx)
    eye = torch.eye(N, dtype=torch.float64)
    if adjoint == "phantom":  # 5 steps of damping 0.5
        inverse = 0.5 * sum(torch.linalg.matrix_power(0.5 * eye + 0.5 * slope, k) for k in range(5))
    else:
        inverse = torch.linalg.inv(eye - slope)
    exact = torch.einsum("bi,bij,bj->bj", 2 * z.detach(), inverse, 1 - z.detach() ** 2)
    torch.testing.assert_close(found[0], exact, rtol=1e-2, atol=1e-3)


def test_no_grad_and_inference_mode_keep_nothing_and_spoil_nothing():
    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    expected = layer(x)
    for scope in (torch.no_grad, torch.inference_mode):
        with scope():
            z = layer(x)
        assert not z.requires_grad
        torch.testing.assert_close(z, expected.detach())
    layer(x).sum().backward()
    assert layer.linear.weight.grad.abs().sum() > 0
    layer.zero_grad()
    frozen = copy.deepcopy(layer).requires_grad_(False)
    assert not frozen(x).requires_grad


def test_copies_train_apart():
    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    layer(x).sum().backward()
    twin = copy.deepcopy(layer)
    twin.configure_implicit("picard", "jfb")
    twin.zero_grad()
    twin(x).sum().backward()
    assert type(layer.solver).__name__ == "Anderson"
    first, second = layer.linear.weight.grad, twin.linear.weight.grad
    assert (first - second).norm() > 1e-3 * first.norm()  # another adjoint, and no gradient that was added up


TRANSFORMS = {
    "grad": lambda f, p: torch.func.grad(lambda p: f(p).sum())(p),
    "vjp": lambda f, p: torch.func.vjp(f, p)[1](torch.ones(B, N, dtype=torch.float64)),
    "jvp": lambda f, p: torch.func.jvp(f, (p,), (p,)),
    "jacrev": lambda f, p: torch.func.jacrev(f)(p),
    "vmap": lambda f, p: torch.func.vmap(f)({k: torch.stack([v, v]) for k, v in p.items()}),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("adjoint", ["implicit", "phantom", "unroll"])
@pytest.mark.parametrize("solver", ["picard", "anderson", "broyden"])
def test_transforms_around_a_solve_are_refused_in_words(transform, adjoint, solver):
    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    layer.configure_implicit(solver, adjoint)
    given = {k: v.detach() for k, v in layer.named_parameters()}
    with pytest.raises(RuntimeError, match=r"cannot run inside torch.func.*Use loss.backward\(\)"):
        TRANSFORMS[transform](lambda p: torch.func.functional_call(layer, p, (x,)), given)


def test_parameters_given_by_a_functional_call_get_their_gradient():
    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    given = {k: v.detach().clone().requires_grad_() for k, v in layer.named_parameters()}
    torch.func.functional_call(layer, given, (x,)).square().sum().backward()
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(given[name].grad, parameter.grad)


def test_transforms_within_the_map_are_fine():
    w = matrix(N, 0.6).requires_grad_()
    x = torch.randn(B, N, dtype=torch.float64)
    mapped = zoo.fixed_point(lambda z: torch.func.vmap(lambda a, b: torch.tanh(w @ a + b))(z, x), torch.zeros_like(x))
    plain = zoo.fixed_point(lambda z: torch.tanh(z @ w.T + x), torch.zeros_like(x))
    gradients = [torch.autograd.grad(s.value.sum(), w)[0] for s in (mapped, plain)]
    torch.testing.assert_close(*gradients)
