from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from zoo.layers.norm import group_norm, weight_norm


def magnitude(w: torch.Tensor) -> torch.Tensor:
    return w.flatten(1).norm(dim=1)


@pytest.fixture
def layer() -> nn.Conv2d:
    torch.manual_seed(0)
    return weight_norm(nn.Conv2d(3, 4, 3, bias=False))


def test_weight_is_magnitude_times_direction(layer: nn.Conv2d) -> None:
    g, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    assert g.shape == (4, 1, 1, 1) and v.shape == (4, 3, 3, 3)
    torch.testing.assert_close(layer.weight, g * v / magnitude(v).view(4, 1, 1, 1))
    torch.testing.assert_close(magnitude(layer.weight), g.flatten().abs())


def test_wrapping_changes_no_output() -> None:
    plain = nn.Linear(5, 3)
    x = torch.randn(2, 5)
    before = plain(x)
    torch.testing.assert_close(weight_norm(plain)(x), before)


def test_no_stale_weight_after_load_state_dict(layer: nn.Conv2d) -> None:
    other = weight_norm(nn.Conv2d(3, 4, 3, bias=False))
    x = torch.randn(2, 3, 5, 5)
    layer(x)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x))


def test_no_stale_weight_after_an_optimizer_step(layer: nn.Conv2d) -> None:
    x = torch.randn(2, 3, 5, 5)
    before = layer(x)
    before.square().sum().backward()  # no "backward through the graph a second time" either
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    after = layer(x)
    after.square().sum().backward()
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_a_duplicate_is_whole_and_separate(layer: nn.Conv2d, duplicate) -> None:
    twin = duplicate(layer)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(twin(x), layer(x))
    assert list(twin.state_dict()) == list(layer.state_dict())
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(2)
    assert torch.allclose(layer(x), 2 * twin(x))
    twin(x).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())
    assert parametrize.is_parametrized(twin, "weight")
    pickle.dumps(twin)


def test_pickle_inside_a_model_keeps_frozen_parameters() -> None:
    model = nn.Sequential(weight_norm(nn.Linear(3, 3)), nn.ReLU(), nn.Linear(3, 1))
    model[0].parametrizations.weight.original0.requires_grad_(False)
    twin = pickle.loads(pickle.dumps(model))
    assert not twin[0].parametrizations.weight.original0.requires_grad
    x = torch.randn(2, 3)
    assert torch.equal(twin(x), model(x))


def test_weight_norm_refuses() -> None:
    with pytest.raises(ValueError, match=r"has no parameter 'weigth'.*weight, bias"):
        weight_norm(nn.Linear(2, 2), "weigth")
    with pytest.raises(ValueError, match="normalize it once"):
        weight_norm(weight_norm(nn.Linear(2, 2)))


def test_group_norm_names_what_fits() -> None:
    assert group_norm(4, 12).num_groups == 4
    with pytest.raises(ValueError, match=r"12 channels do not divide into 8 groups.*1, 2, 3, 4, 6, 12"):
        group_norm(8, 12)
    with pytest.raises(ValueError, match="0 groups"):
        group_norm(0, 12)
