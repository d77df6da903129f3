from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zoo.hypernet.target import HyperTarget
from zoo.node.fields import LAYERS, Concat, ConvField, Hyper, MLPField, SecondOrder, time_layer
from zoo.solve import odeint


def column(t: float, like: Tensor) -> Tensor:
    """The same time for every sample, in the shape that solvers of per-sample steps give it."""
    return like.new_full((len(like),) + (1,) * (like.dim() - 1), t)


@pytest.mark.parametrize("time", LAYERS)
@pytest.mark.parametrize(("kernel", "shape"), [(0, (5, 6)), (0, (5, 3, 6)), (3, (5, 6, 4, 7))])
def test_a_time_each_and_one_time_for_all_give_the_same(time: str, kernel: int, shape: tuple[int, ...]) -> None:
    layer = time_layer(time, 6, 8, kernel).double()
    h = torch.randn(shape, dtype=torch.float64)
    one = layer(torch.tensor(0.3, dtype=torch.float64), h)
    assert one.shape == ((5, 8, 4, 7) if kernel else (*shape[:-1], 8))
    torch.testing.assert_close(layer(column(0.3, h), h), one)
    other = layer(torch.tensor(0.9, dtype=torch.float64), h)
    assert torch.equal(one, other) == (time == "plain")
    mixed = column(0.3, h)
    mixed[1] = 0.9
    out = layer(mixed, h)
    torch.testing.assert_close(out[1], other[1])
    torch.testing.assert_close(out[2:], one[2:])


@pytest.mark.parametrize("kernel", [0, 3])
def test_concat_is_a_layer_of_one_more_input(kernel: int) -> None:
    layer = Concat(4, 5, kernel).double()
    t, h = torch.tensor(0.7, dtype=torch.float64), torch.randn(3, 4, *(6, 6)[: kernel and 2], dtype=torch.float64)
    if kernel:
        weight = torch.cat([layer.base.weight, layer.weight_t], 1)
        want = torch.conv2d(torch.cat([h, t.expand(3, 1, 6, 6)], 1), weight, layer.base.bias, padding=1)
    else:
        weight = torch.cat([layer.base.weight, layer.weight_t[:, None]], 1)
        want = torch.cat([h, t.expand(3, 1)], 1) @ weight.T + layer.base.bias
    torch.testing.assert_close(layer(t, h), want)


def test_generated_weights_start_at_the_scale_of_an_ordinary_layer() -> None:
    layer, usual = Hyper(64, 64), nn.Linear(64, 64)
    for t in (0.0, 0.5, 1.0):
        weight, _ = layer.generate(torch.tensor(t))
        assert 0.8 < weight.std() / usual.weight.std() < 1.5


@pytest.mark.parametrize("kernel", [0, 3])
def test_generated_weights_are_those_that_a_hypernetwork_would_inject(kernel: int) -> None:
    """One layer, two roads: `Hyper` applies its weights by itself, `HyperTarget` fills an ordinary layer with them."""
    layer = Hyper(3, 5, kernel).double()
    h = torch.randn(4, 3, *(6, 6)[: kernel and 2], dtype=torch.float64, requires_grad=True)
    target = HyperTarget(nn.Conv2d(3, 5, kernel, padding=kernel // 2) if kernel else nn.Linear(3, 5))
    one, each = torch.tensor(0.3, dtype=torch.float64), torch.rand(4, *(1,) * (h.dim() - 1), dtype=torch.float64)
    weight, bias = layer.generate(one)
    injected = [target({"weight": weight[0], "bias": bias[0]}, h)]
    weight, bias = layer.generate(each)
    injected.append(target.each({"weight": weight, "bias": bias}, h))
    for got, want in zip((layer(one, h), layer(each, h)), injected, strict=True):
        torch.testing.assert_close(got, want)
        grads = [torch.autograd.grad(out.square().sum(), (h, *layer.parameters())) for out in (got, want)]
        torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("time", LAYERS)
@pytest.mark.parametrize("adjoint", ["unroll", "checkpoint", "backsolve"])
def test_every_parameter_gets_the_same_gradient_by_every_adjoint(time: str, adjoint: str) -> None:
    field = MLPField(3, (8,), time).double()
    y = torch.randn(4, 3, dtype=torch.float64)
    solver = {"name": "dopri5", "rtol": 1e-9, "atol": 1e-9}

    def grads(adjoint: str) -> list[Tensor]:
        field.zero_grad()
        odeint(field, y, [0.0, 1.0], solver, adjoint).value[-1].square().sum().backward()
        return [p.grad.clone() for p in field.parameters()]

    for got, want in zip(grads(adjoint), grads("unroll"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)
        assert want.abs().sum() > 0


@pytest.mark.parametrize("time", LAYERS)
def test_steps_of_each_sample_give_the_common_answer(time: str) -> None:
    field = ConvField(4, groups=2, time=time, act="tanh").double()
    y = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    spec = {"name": "dopri5", "rtol": 1e-8, "atol": 1e-8}
    together = odeint(field, y, [0.0, 1.0], spec).value[-1]
    each = odeint(field, y, [0.0, 1.0], {**spec, "per_sample": True}, args=()).value[-1]
    torch.testing.assert_close(each, together, rtol=1e-6, atol=1e-6)


def test_second_order_is_an_oscillator_and_damping_slows_it() -> None:
    class Spring(nn.Module):
        def forward(self, t: Tensor, h: Tensor) -> Tensor:
            return -4.0 * h

    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    spec = {"name": "dopri5", "rtol": 1e-9, "atol": 1e-9}
    t = 0.8
    end = odeint(SecondOrder(Spring()), start, [0.0, t], spec).value[-1]
    expected = torch.tensor([[2 * t, 2 * t]], dtype=torch.float64)
    want = torch.cat([expected[:, :1].cos(), -2 * expected[:, 1:].sin()], 1)
    torch.testing.assert_close(end, want, rtol=1e-7, atol=1e-7)
    ball = SecondOrder(Spring(), damping=2.0).double()
    nn.init.zeros_(ball.gamma)  # gamma = 2 sigmoid(0) = 1
    w = (4 - 0.25) ** 0.5
    want = torch.tensor(-t / 2).exp() * (torch.tensor(w * t).cos() + torch.tensor(w * t).sin() / (2 * w))
    end = odeint(ball, start, [0.0, t], spec).value[-1]
    torch.testing.assert_close(end[0, 0], want.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: time_layer("concatsquash", 2, 2), "Did you mean 'concat_squash'"),
        (lambda: MLPField(2, act="tahn"), "Did you mean 'tanh'"),
        (lambda: time_layer("concat", 2, 2, 4), "odd kernel"),
        (lambda: SecondOrder(nn.Identity(), damping=-1.0), "must not be negative"),
        (lambda: ConvField(4, hidden=0), "hidden must be at least 1 channel.*got 0"),
        (lambda: ConvField(4, hidden=-2), "hidden must be at least 1 channel.*got -2"),
    ],
)
def test_what_cannot_be(build, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
