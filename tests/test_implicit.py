"""The mixin, and the penalties at its fixed points."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
from problems import matrix
from torch import nn

import zoo
from zoo import penalties
from zoo.implicit import implicit_modules

B, N = 3, 5


class Layer(zoo.ImplicitMixin, nn.Module):
    """The smallest implicit model: ``z = tanh(W z + x)``."""

    def __init__(self, n: int = N) -> None:
        super().__init__()
        self.linear = nn.Linear(n, n).double()
        with torch.no_grad():
            self.linear.weight.copy_(matrix(n, 0.6))
        self.configure_implicit("anderson", "implicit")

    def forward(self, x):
        return self.solve(lambda z, x: torch.tanh(self.linear(z) + x), torch.zeros_like(x), args=(x,))


def test_mixin_records_and_swaps():
    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    assert layer.last is None
    first = layer(x)
    assert layer.last.result is zoo.Result.converged and layer.last.stats.nfe > 1
    layer.configure_implicit({"name": "broyden", "rtol": 1e-5}, "jfb")
    assert type(layer.solver).__name__ == "Broyden" and layer.solver.max_steps == 30
    torch.testing.assert_close(layer(x), first, rtol=1e-2, atol=1e-2)
    layer.configure_implicit(eval_solver={"name": "picard", "max_steps": 1})
    layer.eval()
    layer(x)
    assert layer.last.stats.steps.max() == 1
    assert [name for name, _ in implicit_modules(nn.Sequential(nn.ReLU(), layer))] == ["1"]


def test_gradients_in_evaluation_mode():
    layer, x = Layer().eval(), torch.randn(B, N, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.abs().sum() > 0 and layer.linear.weight.grad.abs().sum() > 0


def test_models_copy_and_pickle_after_a_solve():
    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    layer(x).sum().backward()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(x), layer(x))


def test_a_mixin_without_a_solver_says_what_to_call():
    class Bare(zoo.ImplicitMixin, nn.Module):
        def forward(self, x):
            return self.solve(torch.tanh, x)

    with pytest.raises(RuntimeError, match="configure_implicit"):
        Bare()(torch.zeros(1, 2))


def test_jacobian_penalty_is_the_norm_and_has_a_gradient():
    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    with penalties.collect(jacobian=True, samples=3000) as terms:
        z = layer(x)
    jacobian = (1 - z.detach() ** 2)[:, :, None] * layer.linear.weight
    exact = jacobian.square().sum() / (B * N)
    torch.testing.assert_close(terms["jacobian"].detach(), exact.detach(), rtol=0.1, atol=0)
    terms["jacobian"].backward()
    assert layer.linear.weight.grad.abs().sum() > 0
    with penalties.collect() as none:
        layer(x)
    assert none == {}


def test_spectral_radius_is_the_largest_eigenvalue():
    w = matrix(8, 0.9)
    with penalties.capture() as solves:
        layer = Layer()
        layer(torch.randn(B, N, dtype=torch.float64))
    assert solves[0][0] is layer
    estimate = penalties.spectral_radius(lambda z: z @ w.T, torch.zeros(2, 8, dtype=torch.float64), steps=400)
    exact = torch.linalg.eigvals(w).abs().max()
    torch.testing.assert_close(estimate, exact.expand(2), rtol=0.02, atol=0)


def test_the_graph_is_freed_with_the_answer():
    def live():
        gc.collect()
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    layer, x = Layer(), torch.randn(B, N, dtype=torch.float64)
    layer(x).sum().backward()
    before = live()
    for _ in range(3):
        layer(x).sum().backward()
        layer(x)
    assert live() <= before + 12  # `last` of the newest solve, a handful of small host tensors
