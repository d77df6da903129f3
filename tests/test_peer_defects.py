"""Defects measured in TorchDEQ 0.1.0, each with a test that they are not ours. The numbers are those of our list.

Where a contract elsewhere already covers one, it is named here so that the list stays whole:

 7  anderson with a budget of 2 returns its start: `test_a_small_budget_still_moves` in solvers/test_fixed_point.py
 9  backward tolerance depends on the loss's scale: `test_work_does_not_depend_on_the_scale_of_the_loss`
 4  second derivatives silently wrong: `test_second_derivatives_are_refused_in_words`, both in test_adjoints.py
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from problems import matrix
from torch import nn

import zoo
from zoo.layers.dropout import dropout_mask
from zoo.layers.norm import weight_norm


class Layer(zoo.ImplicitMixin, nn.Module):
    def __init__(self, n: int = 6, normalized: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(n, n)
        with torch.no_grad():
            self.linear.weight.copy_(matrix(n, 0.7, torch.float32))
        if normalized:
            self.linear = weight_norm(self.linear)
        self.configure_implicit("anderson", "implicit")

    def forward(self, x):
        return self.solve(lambda z, x: torch.tanh(self.linear(z) + x), torch.zeros_like(x), args=(x,))


def test_1_two_calls_before_one_backward_do_not_hang():
    layer = Layer()
    a, b = layer(torch.randn(2, 6)), layer(torch.randn(2, 6))
    (a * b).sum().backward()
    assert layer.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("solver", ["picard", "anderson", "broyden"])
@pytest.mark.parametrize("adjoint", ["implicit", "phantom", "jfb", "unroll"])
def test_2_backward_under_autocast(solver, adjoint):
    layer, x = Layer(), torch.randn(4, 6)
    layer.configure_implicit(solver, adjoint)
    layer(x).sum().backward()
    exact = layer.linear.weight.grad.clone()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        z = layer(x)
    z.float().sum().backward()
    assert (layer.linear.weight.grad - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("solver", ["picard", "anderson", "broyden"])
def test_3_bfloat16_state(solver):
    w, x = matrix(6, 0.7, torch.bfloat16), torch.randn(4, 6, dtype=torch.bfloat16)
    solution = zoo.fixed_point(lambda z: torch.tanh(z @ w.T + x), torch.zeros_like(x), solver)
    assert solution.result is zoo.Result.converged and solution.value.dtype is torch.bfloat16


def test_5_early_convergence_keeps_the_chosen_gradient():
    """A start at the fixed point converges at once; the gradient is still the implicit one."""
    w = matrix(6, 0.7).requires_grad_()
    x = torch.randn(2, 6, dtype=torch.float64)
    f = lambda z: torch.tanh(z @ w.T + x)  # noqa: E731
    cold = zoo.fixed_point(f, torch.zeros_like(x), {"name": "anderson", "rtol": 1e-12, "atol": 1e-12})
    warm = zoo.fixed_point(f, cold.value.detach(), "anderson")
    assert warm.stats.steps.max() == 0
    a, b = (torch.autograd.grad(s.value.sum(), w)[0] for s in (cold, warm))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("solver", ["picard", "anderson", "broyden", "newton", "gmres", "bicgstab", "neumann"])
def test_6_a_finite_iterate_survives_a_later_nan(solver):
    calls = []

    def f(z):
        calls.append(1)
        return 0.5 * z + 1 if len(calls) < 4 else torch.full_like(z, torch.nan)

    solution = zoo.fixed_point(f, torch.zeros(2, 3), {"name": solver, "rtol": 1e-7, "atol": 0.0})
    assert torch.isfinite(solution.value).all()


def test_8_steps_are_counted_from_zero_to_the_budget():
    solution = zoo.fixed_point(lambda z: 0.99 * z + 1, torch.zeros(1, 2), {"name": "picard", "max_steps": 10})
    assert solution.stats.steps.tolist() == [10] and len(solution.stats.trace) == 11


def test_10_weight_norm_survives_copies_and_loading():
    layer, x = Layer(normalized=True), torch.randn(3, 6)
    layer(x).sum().backward()
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(twin(x), layer(x))
    other = Layer(normalized=True)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    other(x)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x))  # no weight of before the loading is left over
    for _ in range(2):
        layer(x).sum().backward()  # nor a graph of the first call


def test_11_pickling():
    layer, x = Layer(), torch.randn(3, 6)
    layer(x).sum().backward()
    torch.testing.assert_close(pickle.loads(pickle.dumps(layer))(x), layer(x))


def test_12_tolerances_can_be_given_at_any_time():
    layer, x = Layer(), torch.randn(3, 6)
    layer.configure_implicit({"name": "anderson", "rtol": 1e-6})
    layer(x)
    assert layer.last.stats.residual.max() <= 1e-5
    layer.configure_implicit(adjoint={"name": "implicit", "solver": {"name": "broyden", "rtol": 1e-6, "window": 9}})
    assert layer.adjoint.solver.window == 9  # and every option of the backward solver too


def test_14_penalties_are_scalars_on_the_right_device():
    layer, x = Layer(), torch.randn(3, 6)
    with zoo.penalties.collect(jacobian=True) as terms:
        layer(x)
    assert terms["jacobian"].shape == () and terms["jacobian"].device == x.device


def test_16_unknown_options_are_errors():
    with pytest.raises(KeyError, match="No option of solver 'anderson' named 'f_max_itr'"):
        Layer().configure_implicit({"name": "anderson", "f_max_itr": 3})
    with pytest.raises(KeyError, match="Did you mean 'rtol'"):
        Layer().configure_implicit({"name": "anderson", "rtoll": 3})


def test_an_options_mapping_is_not_changed():
    spec = {"name": "anderson", "rtol": 1e-5}
    Layer().configure_implicit(spec)
    assert spec == {"name": "anderson", "rtol": 1e-5}


def test_13_dropout_masks_lie_where_the_state_lies():
    assert dropout_mask(torch.empty(2, 3, 4, 4, device="meta"), 0.5, 2, 3, 1, 1).device.type == "meta"


@pytest.mark.slow
def test_15_a_compiled_cell_has_the_eager_gradient():
    layer, x = Layer(), torch.randn(3, 6)
    layer(x).sum().backward()
    exact = layer.linear.weight.grad.clone()
    layer.zero_grad()
    layer.linear.compile(backend="aot_eager")
    layer(x).sum().backward()
    torch.testing.assert_close(layer.linear.weight.grad, exact)
