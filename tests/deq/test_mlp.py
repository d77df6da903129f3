"""The equilibrium MLP: its equilibrium, its twin, and vectors that are none."""

from __future__ import annotations

import pytest
import torch

from zoo.deq.mlp import EquilibriumMLP, UnrolledMLP


def test_the_hidden_layer_is_at_equilibrium():
    model = EquilibriumMLP(5, num_classes=3, width=7).double()
    model.configure_implicit({"name": "anderson", "rtol": 1e-10, "max_steps": 200}, "implicit")
    x = torch.randn(6, 5, dtype=torch.float64)
    logits = model(x)
    injected, z = model.inject(x), torch.zeros(6, 7, dtype=torch.float64)
    for _ in range(500):
        z = model.cell(z, injected)
    torch.testing.assert_close(logits, model.out(z), rtol=1e-7, atol=1e-8)
    assert bool(model.last.stats.converged.all())


def test_the_twin_becomes_the_equilibrium_with_its_depth():
    model, twin = EquilibriumMLP(5, targets=2, width=7).double(), UnrolledMLP(5, targets=2, width=7, depth=400).double()
    model.configure_implicit({"name": "anderson", "rtol": 1e-10, "max_steps": 200}, "implicit")
    twin.load_state_dict(model.state_dict())
    x = torch.randn(6, 5, dtype=torch.float64)
    torch.testing.assert_close(model(x), twin(x), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", [EquilibriumMLP, UnrolledMLP])
def test_sizes_and_vectors_that_are_none(kind):
    with pytest.raises(ValueError, match="classes or targets; got num_classes=2 and targets=1"):
        kind(4, num_classes=2, targets=1)
    with pytest.raises(ValueError, match="contraction in"):
        kind(4, num_classes=2, contraction=1.0)
    model = kind(4, num_classes=2)
    assert model(torch.zeros(3, 2, 2)).shape == (3, 2)
    with pytest.raises(ValueError, match=r"Expected vectors of shape \(B, 4\); got \(3, 5\)"):
        model(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="NaN"):
        model(torch.full((3, 4), torch.nan))
