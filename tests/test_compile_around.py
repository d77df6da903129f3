"""`torch.compile` of a model with a solve inside: the answer and the gradient are those without it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo.deq import DEQ


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, z, x):
        return torch.tanh(0.4 * self.linear(z) + x)


class Around(nn.Module):
    """Solves by the functions themselves."""

    def __init__(self):
        super().__init__()
        self.cell = Cell()

    def forward(self, x):
        z = zoo.fixed_point(lambda z: self.cell(z, x), torch.zeros_like(x)).value
        return zoo.odeint(lambda t, y: self.cell(y, x) - y, z + 1, [0.0, 1.0]).value[-1]


def models():
    yield "layer", lambda: nn.Sequential(nn.Linear(8, 8), DEQ(Cell()), nn.ReLU()), (3, 8)
    yield "functions", Around, (3, 8)
    yield "mdeq", lambda: zoo.create_model("test_mdeq"), None
    yield "odenet", lambda: zoo.create_model("test_odenet"), None


@pytest.mark.slow
@pytest.mark.parametrize(("make", "shape"), [m[1:] for m in models()], ids=[m[0] for m in models()])
def test_a_compiled_model_computes_what_the_model_does(make, shape):
    torch.manual_seed(0)
    model = make()
    x = torch.randn(shape or (2, 1, 8, 8))
    compiled = torch.compile(model, backend="eager")
    found = []
    for run in (model, compiled, compiled):
        model.zero_grad()
        torch.manual_seed(1)
        out = run(x)
        out.square().mean().backward()
        found.append([out, *(p.grad.clone() for p in model.parameters())])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)
