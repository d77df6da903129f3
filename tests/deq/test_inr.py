"""Implicit representations: the equilibrium is certain, the image is learned, PSNR is what it says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import left

import zoo
from zoo.data.signals import Photograph
from zoo.deq.inr import ImplicitField
from zoo.tasks.inr import ImplicitRepresentation


@given(st.integers(0, 99), st.floats(0.1, 50.0))
def test_any_weights_have_one_equilibrium(seed, scale):
    torch.manual_seed(seed)
    model = ImplicitField(2, 3, 6, 4, contraction=0.8).double()
    with torch.no_grad():
        model.linear.parametrizations.weight.original.mul_(scale)
        places = torch.rand(5, 2, dtype=torch.float64)
        x = model.inject(model.encode(places))
        f = lambda z, x: torch.relu(model.linear(z) + x)  # noqa: E731
        tight = {"name": "picard", "rtol": 1e-10, "atol": 1e-12, "max_steps": 500}
        one, two = (zoo.fixed_point(f, z0, tight, args=(x,)) for z0 in (torch.zeros_like(x), 9 * torch.randn_like(x)))
    assert one.result is two.result is zoo.Result.converged
    torch.testing.assert_close(one.value, two.value, rtol=1e-7, atol=1e-8)


def test_a_picture_is_learned():
    data = Photograph(side=16, batch_size=64)
    places, colors = data.split("train")
    model = zoo.create_model("test_implicit_field", bandwidth=2.0)
    first = float((model(places).detach() - colors).square().mean())
    goal = min(0.1, 0.25 * float(colors.var(0).mean()) / first)  # and far below what a constant color leaves
    assert left(lambda: (model(places) - colors).square().mean(), model, goal, steps=400) < goal
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_photograph_is_split_by_pixels():
    data = Photograph(side=16)
    assert data.sizes == {"train": 64, "val": 19, "test": 173}
    places = torch.cat([data.split(n)[0] for n in ("train", "val", "test")])
    assert len(places.unique(dim=0)) == 256 and places.min() > 0 and places.max() < 1
    image = data.image()
    x, y = data.split("val")
    row, column = (x[0] * 16).long().tolist()
    torch.testing.assert_close(image[:, row, column], y[0])
    with pytest.raises(ValueError, match="between 8 and 424"):
        Photograph(side=4)


def test_psnr_is_of_the_error_over_all_batches(monkeypatch):
    logged = {}
    monkeypatch.setattr(ImplicitRepresentation, "log", lambda self, name, value, **_: logged.__setitem__(name, value))
    task = ImplicitRepresentation(torch.nn.Identity())
    for error, rows in ((0.1, 1), (0.2, 3)):
        task.validation_step((torch.full((rows, 2), 0.5 + error), torch.full((rows, 2), 0.5)), 0)
    exact = -10 * math.log10((0.01 + 3 * 0.04) / 4)
    assert float(logged["val/psnr"].compute()) == pytest.approx(exact, rel=1e-4)


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match=r"places of shape \(B, 2\)"):
        ImplicitField()(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="a contraction in"):
        ImplicitField(contraction=1.0)
