"""Generated fields: the solution of each sample's own equation, and gradients into the generator by every adjoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import left
from torch import nn

from zoo.data.systems import Pendulums, pendulum
from zoo.hypernet.hyper_ode import CONDITIONS, HyperODE, HyperODEForecast

B, D, C = 4, 3, 2
TS = [0.0, 0.4, 1.0]
TIGHT = {"name": "dopri5", "rtol": 1e-10, "atol": 1e-12, "max_steps": 2000}


class Linear(nn.Module):
    """``dy/dt = A y``: solved by the matrix exponential."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D, bias=False)

    def forward(self, t, y):
        return self.linear(y)


class Driven(nn.Module):
    """A field that needs its time, and one parameter that is not generated."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.strength = nn.Parameter(torch.tensor(0.7))

    def forward(self, t, y):
        return torch.tanh(self.linear(y)) + self.strength * torch.cos(3 * t).expand_as(y)


def layer(field=Driven, select="linear.*", **options) -> HyperODE:
    torch.manual_seed(0)
    return HyperODE(field(), C, **{"select": select, "solver": TIGHT, **options}).double()


def data():
    g = torch.Generator().manual_seed(1)
    return (
        torch.randn(B, D, dtype=torch.float64, generator=g),
        torch.randn(B, C, dtype=torch.float64, generator=g),
    )


def gradients(made: HyperODE, y0, code, ts=TS) -> dict[str, torch.Tensor]:
    y0, code = y0.clone().requires_grad_(), code.clone().requires_grad_()
    made.zero_grad()
    made(y0, code, ts)[1:].square().sum().backward()
    return {"y0": y0.grad, "code": code.grad, **{n: p.grad.clone() for n, p in made.named_parameters()}}


def test_every_sample_follows_its_own_field():
    made, (y0, code) = layer(Linear, select="*"), data()
    states = made(y0, code, TS)
    a = made.weights(code)["linear.weight"]
    for i, t in enumerate(TS):
        exact = torch.einsum("bij,bj->bi", torch.linalg.matrix_exp(t * a), y0)
        torch.testing.assert_close(states[i], exact, rtol=1e-8, atol=1e-8)
    one = made(y0, code[0], TS)
    torch.testing.assert_close(one[-1], y0 @ torch.linalg.matrix_exp(a[0]).T, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("generator", ["full", "low_rank", "chunked"])
def test_gradients_reach_the_generator_by_every_adjoint(adjoint, shared, generator):
    made, (y0, code) = layer(generator=generator), data()
    code = code[0] if shared else code
    made.configure_implicit(adjoint="unroll")
    unrolled = gradients(made, y0, code)
    assert all(g.abs().max() > 1e-8 for g in unrolled.values())
    made.configure_implicit(adjoint=adjoint)
    other = gradients(made, y0, code)
    for name, grad in unrolled.items():
        torch.testing.assert_close(other[name], grad, rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_an_adjoint_of_fixed_points_is_refused_in_words():
    with pytest.raises(ValueError, match="HyperODE poses ODEs; the adjoint Implicit cannot differentiate them"):
        layer(adjoint="implicit")


@pytest.mark.parametrize("per_sample", [False, True])
def test_samples_do_not_depend_on_one_another(per_sample):
    made, (y0, code) = layer(solver={**TIGHT, "per_sample": per_sample}), data()
    together = made(y0, code, TS)
    torch.testing.assert_close(made(y0[1:2], code[1:2], TS), together[:, 1:2], rtol=1e-7, atol=1e-7)
    if per_sample:  # times of each sample's own
        ts = torch.tensor(TS, dtype=torch.float64)[None] * torch.tensor(
            [[1.0], [0.5], [0.7], [0.9]], dtype=torch.float64
        )
        own = made(y0, code, ts)
        torch.testing.assert_close(own[:, :1], together[:, :1], rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(own[:, 1:2], made(y0[1:2], code[1:2], ts[1]), rtol=1e-7, atol=1e-7)


def test_a_limit_bounds_how_fast_trajectories_part():
    made, (y0, code) = layer(Linear, select="*", limit=0.5), data()
    with torch.no_grad():
        for p in made.generator.parameters():
            p.mul_(1e3)
        near = y0 + 1e-3 * torch.ones_like(y0)
        a, b = made(y0, code, TS)[-1], made(near, code, TS)[-1]
    assert ((a - b).norm(dim=1) <= np.exp(0.5) * (y0 - near).norm(dim=1) * (1 + 1e-6)).all()


def test_the_pendulums_obey_their_law():
    """Without friction the energy is kept; the period of a small swing is ``2 pi / sqrt(k)``; sets do not change."""
    k, none = np.array([4.0, 9.0]), np.zeros(2)
    start = np.array([[2.0, 0.5], [1e-4, 0.0]])
    path = pendulum(start, np.linspace(0, 2 * np.pi / 3, 30), k, none)
    energy = path[..., 1] ** 2 / 2 - k[:, None] * np.cos(path[..., 0])
    np.testing.assert_allclose(energy, energy[:, :1].repeat(30, 1), rtol=1e-6)
    np.testing.assert_allclose(path[1, -1], start[1], atol=1e-9)
    one, two = Pendulums(train_size=4), Pendulums(train_size=4, seed=3)
    assert one.fingerprint() == two.fingerprint() and one.sizes == {"test": 512, "val": 256, "train": 4}
    batch = next(iter(one.train_dataloader()))
    batch = batch[0] if isinstance(batch, list) else batch
    assert batch.values.shape == batch.target.shape == (4, 20, 2) and (batch.query[:, 0] > 1).all()
    with pytest.raises(ValueError, match="train_size at least 1; got -1, 0"):
        Pendulums(noise=-1, train_size=0)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_forecast_learns_and_uses_what_it_saw(condition):
    torch.manual_seed(0)
    model = HyperODEForecast(width=8, code_size=3, hidden=[8], condition=condition)
    model.configure_implicit({"name": "midpoint", "step_size": 0.1})
    batch = Pendulums(train_size=8).split("train")
    inputs = (batch.times, batch.values, batch.mask, batch.query)
    assert model(*inputs).values.shape == (8, 20, 2)
    assert left(lambda: (model(*inputs).values - batch.target).square().mean(), model, 0.4, lr=2e-2) < 0.4
    assert [n for n, p in model.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_padding_rows_and_unseen_channels_are_no_observations():
    torch.manual_seed(0)
    model = HyperODEForecast(width=8, code_size=3, hidden=[8]).eval()
    batch = Pendulums(train_size=2).split("train")
    expected = model(batch.times, batch.values, batch.mask, batch.query).values
    pad = lambda x, fill: torch.cat([x, fill], 1)  # noqa: E731
    padded = model(
        pad(batch.times, batch.times[:, -1:]), pad(batch.values, torch.full((2, 1, 2), torch.nan)),
        pad(batch.mask, torch.zeros(2, 1, 2, dtype=torch.bool)), batch.query,
    ).values  # fmt: skip
    torch.testing.assert_close(padded, expected)


def test_bad_input_is_named():
    made, (y0, code) = layer(), data()
    with pytest.raises(ValueError, match=r"4 samples need a code each.*got \(2, 2\)"):
        made(y0, code[:2], TS)
    with pytest.raises(ValueError, match="limit must be above 0"):
        layer(limit=-1.0)
    with pytest.raises(ValueError, match="one of weights, input, none"):
        HyperODEForecast(condition="film")
    model, batch = HyperODEForecast(width=4, hidden=[4]), Pendulums(train_size=2).split("train")
    with pytest.raises(ValueError, match="give the times to predict at"):
        model(batch.times, batch.values, batch.mask)
    with pytest.raises(ValueError, match="lie after the last observation"):
        model(batch.times, batch.values, batch.mask, batch.query - 1)
