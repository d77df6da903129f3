from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from zoo.node.cnf import CNF, jvp
from zoo.node.fields import LAYERS, MLPField

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


def test_a_density_is_learned() -> None:
    torch.manual_seed(0)
    model = CNF(2, (16,), trace="hutchinson")
    model.configure_implicit({"name": "rk4", "steps": 2})
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    x = torch.randn(256, 2) * torch.tensor([0.3, 1.0]) + torch.tensor([1.0, 0.0])
    first = model.log_prob(x, "exact").mean().item()
    for _ in range(60):
        loss = -model(x).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    entropy = 1 + math.log(2 * math.pi) + math.log(0.3)  # of the truth, whose mean log-density is its negative
    last = model.log_prob(x, "exact").mean().item()
    assert first < -entropy - 0.8 and last > -entropy - 0.35


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: CNF(0), "at least one feature"),
        (lambda: CNF(act="relu"), "must be smooth"),
        (lambda: CNF(trace="hutchison"), "'exact' or 'hutchinson'"),
        (lambda: CNF()(torch.zeros(3, 4)), r"Expected samples of shape \(B, 2\); got \(3, 4\)"),
    ],
)
def test_what_cannot_be(build, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
