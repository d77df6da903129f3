"""One contract, over every pair of ODE solver and adjoint: right gradients, or refused in words."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.adjoints import ADJOINTS
from zoo.solve import fixed_point, odeint
from zoo.solvers import SOLVERS

SEPARABLE = ["leapfrog", "yoshida4"]  # for equations of motion: see tests/solvers/test_symplectic.py
OWN = [n for n in SOLVERS.names(kind="ode") if ":" not in n and n not in SEPARABLE]
IMPLICIT = ["implicit_euler", "implicit_midpoint", "trapezoid"]
EXPLICIT = [n for n in OWN if n not in IMPLICIT]
THEIRS = ["torchdiffeq:dopri5", "torchdiffeq:rk4", "torchdiffeq:bosh3"]
PAIRS = (
    [(s, a) for s in OWN for a in ("unroll", "checkpoint")]
    + [(s, "backsolve") for s in ("dopri5", "tsit5", "dopri8", "rk4", "bosh3")]
    + [(s, a) for s in THEIRS for a in ("unroll", "backsolve")]
    + [("per_sample", a) for a in ("unroll", "checkpoint", "backsolve")]
)


def spec(name: str):
    if name == "per_sample":
        return {"name": "dopri5", "per_sample": True, "rtol": 1e-8, "atol": 1e-10}
    cls = SOLVERS[name]
    adaptive = getattr(cls, "embedded", name not in ("torchdiffeq:rk4", *IMPLICIT))
    return (
        {"name": name, "rtol": 1e-8 if name != "heun" else 1e-5, "atol": 1e-10}
        if adaptive
        else {"name": name, "steps": 24}
    )


class Linear(nn.Module):
    """dy/dt = A y + a b, solved by the matrix exponential of the augmented system."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.randn(3, 3, dtype=torch.float64) * 0.5)

    def forward(self, t, y, a):
        return y @ self.A.T + a

    def exact(self, y0, a, t):
        big = torch.zeros(6, 6, dtype=torch.float64)
        big = torch.cat([torch.cat([self.A, torch.eye(3).double()], 1), big[3:]], 0)
        return torch.cat([y0, a], 1) @ torch.linalg.matrix_exp(big * t).T[:, :3]


@pytest.mark.parametrize("solver, adjoint", PAIRS)
def test_gradients_meet_the_closed_form(solver, adjoint):
    f = Linear()
    y0, a = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ts = [0.0, 0.3, 1.0]
    leaves = (y0, a, f.A)
    solution = odeint(f, y0, ts, spec(solver), adjoint, args=(a,))
    assert solution.result.success
    weights = torch.randn(3, 2, 3, dtype=torch.float64)
    found = torch.autograd.grad((solution.value * weights).sum(), leaves)
    exact = torch.stack([y0, *(f.exact(y0, a, t) for t in ts[1:])])
    expected = torch.autograd.grad((exact * weights).sum(), leaves)
    limit = {"euler": 0.2, "implicit_euler": 0.2, "midpoint": 1e-2, "implicit_midpoint": 1e-2, "trapezoid": 1e-2}
    for g, h in zip(found, expected, strict=True):
        assert (g - h).norm() <= limit.get(solver, 2e-4) * h.norm()
    if adjoint == "backsolve":
        assert len(solution.stats.backward) == 1 and solution.stats.backward[0].nfe > 0


@pytest.mark.parametrize("solver", [*OWN, "per_sample"])
def test_checkpoint_is_unroll(solver):
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    generator = nn.Linear(2, 3).double()
    y0, a = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    leaves = (y0, a, *net.parameters(), *generator.parameters())

    def gradient(adjoint):
        w = generator(torch.ones(2, dtype=torch.float64))  # generated, captured by the closure, no leaf
        few = {"rtol": 1e-3} if solver == "heun" else {"steps": 6} if solver in IMPLICIT else {}
        solver_spec = {**spec(solver), **few}
        solution = odeint(
            lambda t, y, a: net(w * y) + a * torch.sin(t), y0, [0.0, 0.4, 1.0], solver_spec, adjoint, args=(a,)
        )
        return torch.autograd.grad(solution.value.square().sum(), leaves)

    for g, h in zip(gradient("unroll"), gradient("checkpoint"), strict=True):
        assert (g - h).abs().max() < 1e-12 and g.abs().max() > 0


@pytest.mark.parametrize("solver", ["dopri5", "rk4", "heun", "per_sample"])
def test_checkpoint_keeps_one_state_an_accepted_step(solver):
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
    y0 = torch.randn(128, 64, requires_grad=True)
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            made.extend(
                (x.data_ptr(), weakref.ref(x)) for x in [out] if isinstance(x, torch.Tensor) and x.shape == y0.shape
            )
            return out

    def kept(adjoint):
        made.clear()
        with Watch():
            options = {"rtol": 1e-4, "atol": 1e-4} if solver != "rk4" else {}
            solution = odeint(lambda t, y: net(y), y0, [0.0, 1.0], {**spec(solver), **options}, adjoint, args=())
        gc.collect()
        return solution, len({address for address, x in made if x() is not None})

    solution, states = kept("checkpoint")
    assert states <= int(solution.stats.accepted.max()) + 2
    assert kept("unroll")[1] > 1.2 * solution.stats.nfe  # what it would be: two states an evaluation
    solution.value[-1].sum().backward()  # and the saved tensors of a step go as the backward pass goes on
    assert torch.isfinite(y0.grad).all()


def test_checkpoint_refuses_a_field_that_answers_differently():
    calls = 0

    def f(t, y):
        nonlocal calls
        calls += 1
        return torch.tanh(y) if calls % 2 else y * 2

    y0 = torch.ones(1, 1, requires_grad=True)
    solution = odeint(f, y0, [0.0, 1.0], {"name": "midpoint", "steps": 3}, "checkpoint")
    with pytest.raises(RuntimeError, match="same twice"):
        solution.value.sum().backward()


@pytest.mark.parametrize("adjoint", ["unroll", "checkpoint", "backsolve"])
def test_gradcheck(adjoint):
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    y0 = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)

    def value(y0, w):
        params = (w, *net.parameters())
        tight = {"name": "dopri5", "rtol": 1e-10, "atol": 1e-12}
        return odeint(lambda t, y: net(y) @ w, y0, [0.0, 0.5, 1.0], tight, adjoint, params=params).value

    assert torch.autograd.gradcheck(value, (y0, w))


@pytest.mark.parametrize("solver", [{"name": "rk4", "steps": 3}, {"name": "dopri5", "rtol": 1e-3, "first_step": 0.3}])
def test_second_derivatives_by_unroll(solver):
    y0 = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)

    def value(y0, w):
        return odeint(lambda t, y: torch.tanh(y @ w), y0, [0.0, 1.0], {**solver, "atol": 1.0}).value[-1]

    assert torch.autograd.gradgradcheck(value, (y0, w))


@pytest.mark.parametrize(
    "solver, adjoint", [("dopri5", "checkpoint"), ("dopri5", "backsolve"), ("trapezoid", "unroll")]
)
def test_second_derivatives_are_refused_elsewhere(solver, adjoint):
    y0 = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    value = odeint(lambda t, y: torch.tanh(y), y0, [0.0, 1.0], solver, adjoint).value
    with pytest.raises(RuntimeError, match=r"unroll|rk4"):
        torch.autograd.grad(value.sum(), y0, create_graph=True)


def test_backsolve_refuses_what_it_would_miss():
    net = nn.Linear(2, 2)
    w = nn.Linear(3, 2)(torch.ones(3))
    y0 = torch.randn(2, 2, requires_grad=True)
    with pytest.raises(ValueError, match="depends on 2 tensors"):
        odeint(lambda t, y: net(y), y0, [0.0, 1.0], adjoint="backsolve")
    with pytest.raises(ValueError, match=r"depends on 2 tensors.*checkpoint"):
        odeint(lambda t, y: y * w, y0, [0.0, 1.0], adjoint="backsolve")
    with pytest.raises(ValueError, match="twice"):
        odeint(
            lambda t, y: net(y) * net.bias,
            y0,
            [0.0, 1.0],
            adjoint="backsolve",
            params=(net.weight, net.bias, net.bias * 2),
        )
    with torch.no_grad():  # nothing to miss
        odeint(lambda t, y: net(y), y0, [0.0, 1.0], adjoint="backsolve")


def test_generated_weights_get_their_gradient_from_backsolve():
    generator = nn.Linear(3, 2).double()
    y0 = torch.randn(4, 2, dtype=torch.float64)
    gradients = []
    for adjoint in ("unroll", "backsolve"):
        w = generator(torch.ones(3, dtype=torch.float64))
        tight = {"name": "dopri5", "rtol": 1e-9, "atol": 1e-10}
        value = odeint(lambda t, y, w=w: torch.tanh(y * w), y0, [0.0, 1.0], tight, adjoint, params=(w,)).value
        gradients.append(torch.autograd.grad(value.square().sum(), tuple(generator.parameters())))
    for g, h in zip(*gradients, strict=True):
        assert torch.allclose(g, h, rtol=1e-6)


def test_seminorm_needs_fewer_evaluations():
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))
    y0 = torch.randn(16, 8)

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, t, y):
            return self.net(y)

    def backward_nfe(seminorm):
        solution = odeint(Field(), y0, [0.0, 2.0], "dopri5", {"name": "backsolve", "seminorm": seminorm})
        solution.value[-1].square().sum().backward()
        return solution.stats.backward[-1].nfe

    assert backward_nfe(True) < backward_nfe(False)


def test_backsolve_does_not_go_back_along_a_failed_solve():
    y0 = torch.ones(1, 1, requires_grad=True)
    solution = odeint(lambda t, y: y, y0, [0.0, 50.0], {"name": "dopri5", "max_steps": 3}, "backsolve")
    with pytest.raises(RuntimeError, match="did not reach its end"):
        solution.value.sum().backward()


def test_wrong_pairs_name_both():
    y0 = torch.zeros(2, 2)
    for solver, adjoint, words in (
        ("dopri5", "implicit", "Implicit.*Dopri5"),
        ("dopri5", "phantom", "Phantom.*Dopri5"),
        ("anderson", "unroll", "Anderson.*Unroll"),
        ("torchdiffeq:dopri5", "checkpoint", "Checkpoint.*torchdiffeq:dopri5"),
    ):
        with pytest.raises(TypeError, match=words):
            odeint(lambda t, y: -y, y0, [0.0, 1.0], solver, adjoint)
    for solver, adjoint, words in (("anderson", "backsolve", "Backsolve.*Anderson"), ("rk4", "unroll", "RK4.*Unroll")):
        with pytest.raises(TypeError, match=words):
            fixed_point(lambda z: z / 2, y0, solver, adjoint)
    with pytest.raises(ValueError, match="outside of autograd"):
        odeint(lambda t, y: -y, y0.requires_grad_(), [0.0, 1.0], "torchdiffeq:scipy_solver")


@pytest.mark.parametrize("adjoint", ["unroll", "checkpoint"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_state_at_an_event_is_differentiated_with_its_time(adjoint, per_sample):
    g = torch.tensor(9.81, dtype=torch.float64, requires_grad=True)
    h = torch.tensor([[1.0], [2.0], [50.0]], dtype=torch.float64, requires_grad=True)

    def fall(t, y):
        return torch.cat([y[:, 1:], -g * torch.ones_like(y[:, :1])], 1)

    start = torch.cat([h, torch.zeros_like(h)], 1)
    solver = {"name": "dopri5", "per_sample": per_sample}
    solution = odeint(fall, start, [0.0, 0.5, 1.0], solver, adjoint, args=(), event=lambda t, y: y[:, 0])
    speed = solution.value[-1, :2, 1]
    to_g, to_h = torch.autograd.grad(speed.sum(), (g, h))
    assert torch.allclose(speed, -torch.sqrt(2 * g * h[:2, 0]), rtol=1e-6)
    assert torch.allclose(to_g, -torch.sqrt(h[:2] / (2 * g)).sum(), rtol=1e-5)
    assert torch.allclose(to_h[:2], -torch.sqrt(g / (2 * h[:2])), rtol=1e-5) and to_h[2] == 0


@pytest.mark.parametrize("adjoint", ["unroll", "checkpoint"])
def test_a_rejected_overflow_does_not_reach_shared_parameters(adjoint):
    theta = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[0.5], [0.01]], dtype=torch.float64)
    spec = {"name": "dopri5", "per_sample": True, "first_step": 1.0, "rtol": 1e-8}
    solution = odeint(lambda t, y: -theta * torch.sqrt(y), y0, [0.0, 0.15], spec, adjoint, args=())
    assert solution.stats.rejected[1] > 0
    gradient = torch.autograd.grad(solution.value[-1].sum(), theta)[0]
    exact = -(torch.sqrt(y0) - 0.15 / 2).sum() * 0.15  # y = (sqrt(y0) - theta t / 2)^2
    assert torch.allclose(gradient, exact, rtol=1e-5)


def test_autocast_is_recalled_in_the_backward_pass():
    net = nn.Linear(4, 4)
    y0 = torch.randn(3, 4)
    gradients = []
    for adjoint in ("unroll", "checkpoint", {"name": "backsolve"}):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            solution = odeint(
                lambda t, y: torch.tanh(net(y)), y0, [0.0, 1.0], "dopri5", adjoint, params=net.parameters()
            )
        gradients.append(torch.autograd.grad(solution.value.square().sum(), net.weight)[0])
    assert torch.equal(gradients[0], gradients[1])
    assert torch.allclose(gradients[0], gradients[2], rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", [e.name for e in ADJOINTS.entries() if e.kind in ("ode", "any")])
def test_adjoints_are_values(name):
    adjoint = ADJOINTS.build(name)
    assert copy.deepcopy(adjoint) == adjoint == pickle.loads(pickle.dumps(adjoint))


@pytest.mark.parametrize("name", SOLVERS.names(kind="ode"))
def test_solvers_are_values(name):
    solver = SOLVERS.build(name)
    assert type(copy.deepcopy(solver)) is type(solver) is type(pickle.loads(pickle.dumps(solver)))
    assert "_" not in type(solver).__name__ or ":" in type(solver).__name__
