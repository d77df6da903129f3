"""Spectral normalization: exact, a function of the weight alone, and safe to copy, average, load and pickle."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import zoo
from zoo.layers import spectral
from zoo.layers.spectral import spectral_norm, spectral_norm_all


def top(weight):
    return torch.linalg.matrix_norm(weight.flatten(1).double(), 2)


def large(layer):
    with torch.no_grad():
        layer.weight.mul_(20)
    return layer


@pytest.mark.parametrize("make", [lambda: nn.Linear(7, 5), lambda: nn.Linear(5, 7), lambda: nn.Conv2d(3, 4, 3)])
def test_large_weights_are_bounded_and_small_ones_left_alone(make):
    layer = spectral_norm(large(make()), 0.8)
    torch.testing.assert_close(float(top(layer.weight)), 0.8, rtol=1e-5, atol=0)
    small = make()
    with torch.no_grad():
        small.weight.mul_(0.5 / top(small.weight))
    before = small.weight.clone()
    torch.testing.assert_close(spectral_norm(small, 0.8).weight, before, rtol=0, atol=0)


def test_the_gradient_is_exact():
    layer = spectral_norm(large(nn.Linear(4, 3).double()), 0.7)

    def bounded(w):
        return layer.parametrizations.weight[0](w)

    assert torch.autograd.gradcheck(bounded, layer.parametrizations.weight.original.detach().requires_grad_())


def test_a_large_matrix_is_iterated(monkeypatch):
    w = torch.randn(30, 20, dtype=torch.float64)
    exact = spectral.singular_vectors(w)
    monkeypatch.setattr(spectral, "EXACT", 10)
    u, v = spectral.singular_vectors(w)
    assert float(u @ w @ v) > 0.99 * float(top(w))
    torch.testing.assert_close(float(exact[0] @ w @ exact[1]), float(top(w)))


def test_every_step_of_an_optimizer_is_seen():
    layer = spectral_norm(large(nn.Linear(6, 6)), 1.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=5.0)
    for _ in range(3):
        layer(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()
        torch.testing.assert_close(float(top(layer.weight)), 1.0, rtol=1e-4, atol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_a_fused_step_is_seen_though_it_leaves_the_version_as_it_is(fused):
    layer = spectral_norm(large(nn.Linear(6, 6)), 1.0)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.5, fused=fused)
    for _ in range(3):
        layer(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()
        torch.testing.assert_close(float(top(layer.weight)), 1.0, rtol=1e-4, atol=0)


def test_writing_to_the_data_is_seen():
    layer = spectral_norm(large(nn.Linear(6, 6)), 1.0)
    layer(torch.randn(2, 6))
    layer.parametrizations.weight.original.data.copy_(9 * torch.randn(6, 6))
    torch.testing.assert_close(float(top(layer.weight)), 1.0, rtol=1e-4, atol=0)


def test_vectors_are_computed_once_for_a_weight_and_again_behind_inference_mode(monkeypatch):
    layer = spectral_norm(large(nn.Linear(6, 6)), 1.0)
    calls = []
    found = spectral.singular_vectors
    monkeypatch.setattr(spectral, "singular_vectors", lambda w: calls.append(1) or found(w))
    with torch.inference_mode():
        layer(torch.randn(2, 6))
        layer(torch.randn(2, 6))
    assert len(calls) == 1
    for _ in range(3):
        layer(torch.randn(2, 6)).sum().backward()  # no gradient may cross what inference mode made
    assert len(calls) == 2


def test_copies_averages_loading_and_pickling_need_no_reset():
    layer = spectral_norm(large(nn.Conv2d(3, 4, 3)), 0.9)
    x = torch.randn(2, 3, 6, 6)
    layer(x).sum().backward()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(x), layer(x), rtol=0, atol=0)
        assert twin.parametrizations.weight.original is not layer.parametrizations.weight.original
        with torch.no_grad():
            twin.parametrizations.weight.original.normal_()
        torch.testing.assert_close(float(top(twin.weight)), 0.9, rtol=1e-4, atol=0)
    other = spectral_norm(nn.Conv2d(3, 4, 3), 0.9)
    other(x)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
    average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average(x)
    for _ in range(2):
        with torch.no_grad():
            layer.parametrizations.weight.original.normal_()
        average.update_parameters(layer)
        average(x)
    torch.testing.assert_close(float(top(average.module.weight)), 0.9, rtol=1e-4, atol=0)


def test_weights_given_by_a_call_are_bounded_too():
    layer = spectral_norm(nn.Linear(5, 5), 0.5)
    x = torch.eye(5)
    for _ in range(4):  # temporary tensors, perhaps at the same place in memory
        given = {"parametrizations.weight.original": 9 * torch.randn(5, 5), "bias": torch.zeros(5)}
        w = torch.func.functional_call(layer, given, (x,)).T
        torch.testing.assert_close(float(top(w)), 0.5, rtol=1e-4, atol=0)
    loss = lambda w: torch.func.functional_call(  # noqa: E731
        layer, {"parametrizations.weight.original": w, "bias": torch.zeros(5)}, (x,)
    ).sum()
    w = 9 * torch.randn(5, 5)
    expected = torch.autograd.grad(loss(leaf := w.clone().requires_grad_()), leaf)[0]
    torch.testing.assert_close(torch.func.grad(loss)(w), expected)


def test_a_model_by_flag():
    model = zoo.create_model("test_mdeq", weight_norm=False, spectral_bound=0.7)
    images = torch.randn(2, 1, 8, 8)
    model(images).sum().backward()
    bounded = [m for m in model.cell.modules() if isinstance(m, nn.Conv2d)]
    assert len(bounded) > 4
    assert all(top(m.weight) < 0.7001 and m.parametrizations.weight.original.grad is not None for m in bounded)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model)).eval()(images), model.eval()(images))
    with pytest.raises(ValueError, match="weight_norm=False"):
        zoo.create_model("test_mdeq", spectral_bound=0.7)


def test_errors_say_what_is_there():
    with pytest.raises(ValueError, match="it has: weight, bias"):
        spectral_norm(nn.Linear(2, 2), 1.0, "w")
    with pytest.raises(ValueError, match="normalize it once"):
        spectral_norm_all(spectral_norm_all(nn.Sequential(nn.Linear(2, 2))))
    with pytest.raises(ValueError, match="above 0"):
        spectral_norm(nn.Linear(2, 2), 0.0)
