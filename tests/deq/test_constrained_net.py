"""A network that projects its answers: feasible at any weights; its family of problems; its twins."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo.data.quadratic import NonconvexPrograms, QuadraticPrograms
from zoo.layers.quadratic import QuadraticFamily

SMALL = dict(variables=6, equalities=2, inequalities=3, count=48, batch_size=8)


def test_the_guess_is_feasible_and_the_optimum_better_than_it():
    data = QuadraticPrograms(**SMALL)
    x, best = data.split("test")
    family = data.family
    guess = family.guess(x.double())
    assert family.violation(x.double(), guess).max() < 1e-12
    assert (family.objective(guess) > best[:, 0]).all()
    assert data.sizes == {"train": 40, "val": 4, "test": 4} and data.model_arguments() == {
        "features": 2,
        "variables": 6,
        "inequalities": 3,
        "convex": True,
    }


def test_the_optimum_is_below_every_feasible_point():
    data = QuadraticPrograms(**SMALL)
    x, best = (t.double() for t in data.split("val"))
    model = zoo.create_model("test_constrained_net", features=2).double()
    for _ in range(20):
        for p in model.parameters():
            nn.init.normal_(p)
        y = model(x)
        assert data.family.violation(x, y).max() < 1e-7
        assert (data.family.objective(y) > best[:, 0] - 1e-8).all()


def test_answers_are_feasible_whatever_the_weights():
    model = zoo.create_model("constrained_net").double()
    x = 2 * torch.rand(8, 50, dtype=torch.float64) - 1
    for scale in (0.0, 1.0, 30.0):
        with torch.no_grad():
            for p in model.parameters():
                p.normal_().mul_(scale / p.shape[-1] ** 0.5)
            assert model.family.violation(x, model(x)).max() < 1e-6
            assert model.projection.program.solved


def test_the_nonconvex_family_has_a_sine():
    family, other = QuadraticFamily(6, 2, 3), QuadraticFamily(6, 2, 3, convex=False)
    y = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(family.objective(y) - other.objective(y), (y - y.sin()) @ family.p)
    assert torch.equal(NonconvexPrograms(**SMALL).split("test")[1], torch.zeros(4, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="more variables than equalities"):
        QuadraticFamily(2, 2, 1)


def test_the_completed_twin_keeps_the_equalities():
    model = zoo.create_model("test_penalty_net", features=2, completed=True).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    assert model.family.violation(x, model(x))[:, :2].max() < 1e-12
