from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from zoo.node.cnf import CNF
from zoo.node.flow_matching import flow_matching_loss, ot_pairing

MEAN, SPREAD = torch.tensor([1.0, -0.5], dtype=torch.float64), 0.3


def exact(t: Tensor, y: Tensor) -> Tensor:
    """``E[z - x | y_t = y]`` for x ~ N(MEAN, SPREAD^2 I), z ~ N(0, I): all are jointly normal."""
    variance = (1 - t) ** 2 * SPREAD**2 + t**2
    with_y = t - (1 - t) * SPREAD**2  # covariance of z - x with y, an entry of the diagonal
    return -MEAN + with_y / variance * (y - (1 - t) * MEAN)


def batch(n: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, n, 2, generator=g, dtype=torch.float64)
    return MEAN + SPREAD * x, z, torch.rand(n, 1, generator=g, dtype=torch.float64)


def test_no_field_is_better_than_the_exact_one() -> None:
    x, z, t = batch(400_000)
    best = flow_matching_loss(exact, x, z=z, t=t)
    changes = {
        "offset": lambda t, y: torch.full_like(y, 0.2),
        "time": lambda t, y: 0.2 * torch.cos(3 * t).expand_as(y),
        "stretch": lambda t, y: 0.1 * y,
        "turn": lambda t, y: 0.1 * y.flip(1),
    }
    for name, change in changes.items():
        for sign in (1, -1):
            found = flow_matching_loss(lambda t, y, c=change, s=sign: exact(t, y) + s * c(t, y), x, z=z, t=t)
            y = torch.lerp(x, z, t)
            distance = change(t, y).square().mean()  # L(v* + d) = L(v*) + E|d|^2, the product being 0 on average
            assert found > best, name
            assert abs((found - best) / distance - 1) < 0.15, name


def test_its_flow_carries_the_data_to_the_normal_distribution() -> None:
    model = CNF(2, (4,)).double().eval()
    model.configure_implicit({"name": "dopri5", "rtol": 1e-9, "atol": 1e-10})

    class Exact(torch.nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return exact(t, y)

    model.field.field = Exact()
    x = MEAN + SPREAD * torch.randn(20, 2, dtype=torch.float64)
    want = torch.distributions.Normal(MEAN, SPREAD).log_prob(x).sum(1)
    torch.testing.assert_close(model.log_prob(x), want, rtol=1e-6, atol=1e-6)


def test_the_end_time_scales_the_velocity() -> None:
    x, z, t = batch(64)
    long = flow_matching_loss(lambda t, y: exact(t / 4, y) / 4, x, end=4.0, z=z, t=4 * t)
    torch.testing.assert_close(16 * long, flow_matching_loss(exact, x, z=z, t=t))


def test_the_pairs_are_the_shortest() -> None:
    g = torch.Generator().manual_seed(2)
    x, z = torch.randn(2, 6, 3, generator=g)

    def cost(order: Tensor) -> float:
        return float((x - order).square().sum())

    every = min(cost(z[list(p)]) for p in itertools.permutations(range(6)))
    assert cost(ot_pairing(x, z)) == pytest.approx(every)
    assert torch.equal(ot_pairing(x, z).sort(0).values, z.sort(0).values)  # each noise once


def test_optimal_pairs_cost_less_and_are_learned_from() -> None:
    torch.manual_seed(0)
    model = CNF(2, (16,))
    x = torch.randn(128, 2)
    zero = lambda t, y: torch.zeros_like(y)  # noqa: E731
    z = torch.randn(128, 2)
    assert flow_matching_loss(zero, x, z=z, coupling="optimal") < 0.2 * flow_matching_loss(zero, x, z=z)
    for coupling in ("independent", "optimal"):
        model.zero_grad()
        model.flow_matching_loss(x, coupling).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
        assert model.last is None  # nothing was solved


def test_the_drawn_times_are_spread_evenly() -> None:
    seen = []
    flow_matching_loss(lambda t, y: (seen.append(t), y)[1], torch.zeros(50, 1), end=2.0)
    cells = (seen[0].flatten() / 2 * 50).floor().sort().values
    assert torch.equal(cells, torch.arange(50.0))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ot_pairing(torch.zeros(1, 2), torch.zeros(1, 2)), "at least 2 samples to choose from; got 1"),
        (lambda: ot_pairing(torch.zeros(3, 2), torch.zeros(4, 2)), r"got \(3, 2\) and \(4, 2\)"),
        (lambda: ot_pairing(torch.full((3, 2), math.nan), torch.zeros(3, 2)), "NaN or infinity"),
        (lambda: flow_matching_loss(exact, torch.zeros(3, 2), coupling="best"), "'independent' or 'optimal'"),
    ],
)
def test_what_cannot_be(build, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
