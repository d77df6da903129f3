from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from zoo.node.cnf import CNF
from zoo.node.derivatives import gradient, jvp
from zoo.node.fields import LAYERS, MLPField
from zoo.solve import make_solver, odeint
from zoo.solvers.ode.runge_kutta import local_error

TIGHT = {"name": "dopri5", "rtol": 1e-8, "atol": 1e-9}


def small(features: int = 2, **options) -> CNF:
    torch.manual_seed(0)
    model = CNF(features, (12,), **options).double()
    model.configure_implicit(TIGHT)
    return model


def test_a_linear_flow_has_the_density_of_its_matrix() -> None:
    model = CNF(3, (), "plain").double()
    model.configure_implicit(TIGHT)
    layer = model.field.field.layers[0].base
    nn.init.zeros_(layer.bias)
    a, x = layer.weight.detach(), torch.randn(5, 3, dtype=torch.float64)
    z = x @ torch.linalg.matrix_exp(a).T
    want = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + a.trace()
    torch.testing.assert_close(model.log_prob(x), want, rtol=1e-6, atol=1e-6)
    flow = model.flow(x)
    torch.testing.assert_close(flow.jacobian, a.square().sum().expand(5), rtol=1e-6, atol=1e-6)


def test_the_density_integrates_to_one() -> None:
    model = small()
    ticks = torch.linspace(-7, 7, 121, dtype=torch.float64)
    with torch.no_grad():
        total = model.log_prob(torch.cartesian_prod(ticks, ticks)).exp().sum() * (ticks[1] - ticks[0]) ** 2
    assert abs(total - 1) < 1e-3


def test_samples_flow_back_to_where_they_came_from() -> None:
    model = small()
    x = model.sample(7, torch.Generator().manual_seed(3))
    z = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model.flow(x).z, z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("time", ["concat", "concat_squash"])
def test_back_and_forth_is_the_identity(time: str) -> None:
    model = small(3, time=time)
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(model.inverse(model.flow(x).z), x, rtol=1e-6, atol=1e-6)


def test_evaluation_by_lightning_is_evaluation() -> None:
    # Lightning tests in inference mode, where forward derivatives vanish without a word
    model, x = small().eval(), torch.randn(5, 2, dtype=torch.float64)
    with torch.no_grad():
        want = model(x)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), want)
        torch.testing.assert_close(model(x.clone()), want)  # made there
    assert not model(x).isclose(model.flow(x).log_prob - model.flow(x).trace).any()  # the trace is not nothing


def test_gradients_of_energies_in_every_mode() -> None:
    y = torch.randn(4, 2, dtype=torch.float64)

    def energy(y: Tensor) -> Tensor:
        return (y**3).sum(1)

    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            found = gradient(energy, y.clone())
        torch.testing.assert_close(found, 3 * y**2)
        assert not found.requires_grad or mode is torch.enable_grad
    leaf = y.clone().requires_grad_()
    (second,) = torch.autograd.grad(gradient(energy, leaf).sum(), leaf)
    torch.testing.assert_close(second, 6 * y)


class Turn(nn.Module):
    """``dz/dt = rate [-z_2, z_1]``: the path of z has the kinetic energy ``rate^2 |z|^2 T``."""

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return 2.0 * torch.stack([-z[:, 1], z[:, 0]], 1)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_integrals_of_a_known_field(trace: str) -> None:
    model = small()
    model.field.field = Turn()
    x = torch.randn(6, 2, dtype=torch.float64)
    flow = model.flow(x, trace, end=1.5)
    torch.testing.assert_close(flow.kinetic, 4 * x.square().sum(1) * 1.5, rtol=1e-6, atol=1e-6)
    angle = torch.tensor(3.0, dtype=torch.float64)
    c, s = angle.cos(), angle.sin()
    torch.testing.assert_close(flow.z, x @ torch.stack([torch.stack([c, s]), torch.stack([-s, c])]))
    torch.testing.assert_close(flow.trace, torch.zeros_like(flow.trace), rtol=0, atol=1e-9)
    if trace == "exact":  # |2 J|_F^2 = 8, and |2 J e|^2 = 4 |e|^2 is that on average
        torch.testing.assert_close(flow.jacobian, torch.full_like(flow.jacobian, 8 * 1.5))


def test_the_error_estimate_is_that_of_a_step_and_carries_a_gradient() -> None:
    model = small()
    x = torch.randn(4, 2, dtype=torch.float64)
    field, y = model.field.field, x
    solver = make_solver("dopri5")
    found = local_error(solver, field, 0.3, 0.2, y)
    half = odeint(field, y, [0.3, 0.5], {"name": "dopri5", "steps": 1, "rtol": 1.0, "atol": 0.0}).value[-1]
    exact = odeint(field, y, [0.3, 0.5], {"name": "dopri8", "rtol": 1e-11, "atol": 1e-12}).value[-1]
    true = (half - exact).square().mean(1).sqrt()
    assert (found > true).all() and (found < 1e4 * true).all()  # of the lower order: larger than the step's own error
    assert (local_error(solver, field, 0.3, 0.1, y) < found / 2**4).all()  # and of order 5
    grads = torch.autograd.grad(found.sum(), tuple(field.parameters()))
    assert all(torch.isfinite(g).all() for g in grads) and any(g.abs().sum() > 0 for g in grads)
    model.configure_implicit({"name": "dopri5", "rtol": 1e-3, "atol": 1e-3})
    flow = model.flow(x, error=True)
    assert (flow.error > 0).all() and not model.flow(x).error.any()
    torch.testing.assert_close(flow.log_prob, model.log_prob(x), rtol=1e-2, atol=1e-2)


def test_a_linear_field_has_no_error_and_no_nan() -> None:
    model = CNF(2, (), "plain")
    for p in model.parameters():
        nn.init.zeros_(p)
    model.flow(torch.randn(3, 2), error=True).error.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("time", LAYERS)
def test_products_in_forward_mode_are_those_of_the_jacobian(time: str) -> None:
    field = MLPField(3, (5,), time).double()
    t, z, v = torch.tensor(0.4, dtype=torch.float64), *torch.randn(2, 4, 3, dtype=torch.float64)
    f, along = jvp(field, t, z, v)
    torch.testing.assert_close(f, field(t, z))
    for i in range(4):
        whole = torch.autograd.functional.jacobian(lambda y: field(t, y[None])[0], z[i])
        torch.testing.assert_close(along[i], whole @ v[i])


def test_hutchinson_is_right_on_average() -> None:
    model = small(3)
    x = torch.randn(1, 3, dtype=torch.float64)
    with torch.no_grad():
        exact = model.flow(x, "exact")
        many = model.flow(x.expand(6000, 3), "hutchinson")
    for name in ("trace", "jacobian"):
        found, want = getattr(many, name), getattr(exact, name)
        assert abs(found.mean() - want) < 5 * found.std() / math.sqrt(6000)
    torch.testing.assert_close(many.z[:1], exact.z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve"])
def test_gradients_by_every_adjoint(adjoint: str, trace: str) -> None:
    x = torch.randn(6, 2, dtype=torch.float64)
    grads: list[list[Tensor]] = []
    for how in ("unroll", adjoint):
        model = small(trace=trace)
        model.configure_implicit(TIGHT, how)
        torch.manual_seed(5)  # the same noise
        model(x).mean().backward()
        grads.append([p.grad for p in model.parameters()])
    for got, want in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_samples_that_step_by_themselves() -> None:
    model = small()
    x = torch.randn(4, 2, dtype=torch.float64)
    together = model.log_prob(x)
    model.configure_implicit({**TIGHT, "per_sample": True})
    torch.testing.assert_close(model.log_prob(x), together, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_density_is_learned() -> None:
    torch.manual_seed(0)
    model = CNF(2, (16,), trace="hutchinson")
    model.configure_implicit({"name": "rk4", "steps": 2})
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    x = torch.randn(256, 2) * torch.tensor([0.3, 1.0]) + torch.tensor([1.5, 0.0])
    first = model.log_prob(x, "exact").mean().item()
    for _ in range(60):
        loss = -model(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    entropy = 1 + math.log(2 * math.pi) + math.log(0.3)  # of the truth, whose mean log-density is its negative
    last = model.log_prob(x, "exact").mean().item()
    assert first < -entropy - 0.8 and last > -entropy - 0.35


def fixed_steps() -> CNF:
    model = CNF()
    model.configure_implicit("rk4")
    return model


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: CNF(0), "at least one feature"),
        (lambda: CNF(act="relu"), "must be smooth"),
        (lambda: CNF(trace="hutchison"), "'exact' or 'hutchinson'"),
        (lambda: CNF()(torch.zeros(3, 4)), r"Expected samples of shape \(B, 2\); got \(3, 4\)"),
        (lambda: CNF()(torch.tensor([[0.0, 1.0], [math.nan, 0.0]])), r"not finite in samples \[1\]"),
        (lambda: CNF()(torch.zeros(0, 2)), "at least one sample"),
        (lambda: CNF().flow_matching_loss(torch.zeros(3)), r"got \(3,\)"),
        (lambda: CNF().flow_matching_loss(torch.zeros(0, 2)), r"at least one sample; got a batch of shape \(0, 2\)"),
        (lambda: CNF().flow_matching_loss(torch.tensor([[0.0, 1.0], [math.nan, 0.0]])), r"not finite in samples \[1\]"),
        (
            lambda: CNF().flow_matching_loss(torch.full((3, 2), math.inf), "optimal"),
            r"not finite in samples \[0, 1, 2\]",
        ),
        (lambda: CNF().inverse(torch.zeros(3, 1)), r"got \(3, 1\)"),
        (lambda: CNF().sample(0), "at least 1; got 0"),
        (lambda: CNF().flow(torch.zeros(3, 2), end=0.0), "must be above 0"),
        (lambda: fixed_steps().flow(torch.zeros(3, 2), error=True), "ClassicRK4 estimates no error"),
    ],
)
def test_what_cannot_be(build, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
