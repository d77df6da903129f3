"""A contractive start: the spectral radius falls below its target, or the weights stay and the error says why."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo import penalties
from zoo.tasks.contractive_start import contract


class Layer(zoo.ImplicitMixin, nn.Module):
    """``z = tanh(W z + x)`` with weights far from a contraction."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        with torch.no_grad():
            self.linear.weight.copy_(-4 * torch.eye(6) + 0.5 * torch.randn(6, 6))
        self.configure_implicit({"name": "newton", "max_steps": 30}, "implicit")

    def forward(self, x):
        return self.solve(lambda z, x: torch.tanh(self.linear(z) + x), torch.zeros_like(x), args=(x,))


def radius(model, x):
    with torch.no_grad(), penalties.capture() as solves:
        model(x)
    return max(float(penalties.spectral_radius(f, z, steps=200).max()) for _, f, z in solves)


def test_the_radius_falls_below_the_target():
    model, x = nn.Sequential(Layer(), Layer()), 0.1 * torch.randn(5, 6)
    biases = model[0].linear.bias.clone()
    assert radius(model, x) > 1
    left = contract(lambda: model(x), 0.8)
    assert left < 0.8 and radius(model, x) < 0.85
    assert torch.equal(model[0].linear.bias, biases)
    weights = model[0].linear.weight.clone()
    contract(lambda: model(x), 0.8)  # nothing is left to do
    assert torch.equal(model[0].linear.weight, weights)


def test_ranks_agree_on_the_largest():
    model, x = Layer(), 0.1 * torch.randn(5, 6)
    seen = []

    def agree(radius):
        seen.append(float(radius))
        return radius if len(seen) > 3 else torch.tensor(9.0)  # another process is not there yet

    contract(lambda: model(x), 5.0, agree=agree)
    assert len(seen) >= 4


def test_where_no_scale_helps_the_weights_stay():
    class Stubborn(Layer):
        def forward(self, x):
            return self.solve(lambda z, x: 1.5 * z + 0 * self.linear(z) + x, torch.zeros_like(x), args=(x,))

    model, x = Stubborn(), torch.randn(2, 6)
    weights = model.linear.weight.clone()
    model.configure_implicit({"name": "picard", "max_steps": 3})
    with pytest.raises(ValueError, match="no scale brings it below"):
        contract(lambda: model(x), 0.8)
    assert torch.equal(model.linear.weight, weights)
    with pytest.raises(ValueError, match="above 0"):
        contract(lambda: model(x), 0.0)


@pytest.mark.parametrize("name", ["test_mdeq", "test_deq_transformer"])
def test_a_normalisation_that_undoes_the_scale_is_said_soon(name):
    model = zoo.create_model(name, solver={"name": "picard", "max_steps": 3}).eval()
    x = torch.randn(1, 1, 4, 4) if name == "test_mdeq" else torch.randint(0, 9, (1, 4))
    before, calls = [p.clone() for p in model.parameters()], []
    with pytest.raises(ValueError, match="A normalization after the weights undoes their scale, as in MDEQ"):
        contract(lambda: calls.append(1) or model(x), 0.05)
    assert len(calls) < 25
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
