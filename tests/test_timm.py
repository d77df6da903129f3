"""The models in timm's registry, made by timm's own factory."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg

import zoo
import zoo.timm as registered
from zoo.hub import cards

SHIPPED = [n for n in cards.list_models(pretrained=True) if f"zoo_{n.partition('.')[0]}" in registered.names]
SMALL = [n for n in registered.names if "imagenet" not in n and "large" not in n and "odenet_resnet" not in n]


def test_timm_lists_them():
    assert set(registered.names) <= set(timm.list_models("zoo_*"))
    assert {f"zoo_{n}" for n in SHIPPED} == set(timm.list_pretrained("zoo_*"))
    assert not any("test_" in n for n in registered.names)
    assert timm.is_model("zoo_mdeq_tiny")


@pytest.mark.parametrize("name", SHIPPED)
def test_timm_makes_the_trained_model(name):
    model = timm.create_model(f"zoo_{name}", pretrained=True).eval()
    own = zoo.load(name)
    x = torch.randn(2, *get_pretrained_cfg(f"zoo_{name}").input_size)
    torch.testing.assert_close(model(x), own(x))
    config = timm.data.resolve_data_config(model=model)
    assert config["mean"] == tuple(own.pretrained.preprocessing["mean"])
    assert config["input_size"] == (own.in_chans, *[own.pretrained.preprocessing["size"]] * 2)


@pytest.mark.parametrize("name", SHIPPED)
def test_timm_adapts_the_head_and_the_stem(name):
    model = timm.create_model(f"zoo_{name}", pretrained=True, num_classes=3, in_chans=2).eval()
    own = zoo.load(name)
    side = own.pretrained.preprocessing["size"]
    assert model(torch.randn(2, 2, side, side)).shape == (2, 3)
    ends = (own.first_conv, "classifier")
    between = [k for k in own.state_dict() if not k.startswith(ends)]
    assert between and all(torch.equal(model.state_dict()[k], own.state_dict()[k]) for k in between)
    assert not torch.equal(model.classifier.weight, own.classifier.weight[:3])
    first, before = model.get_submodule(model.first_conv).weight, own.get_submodule(own.first_conv).weight
    torch.testing.assert_close(first.sum(1), before.sum(1))  # as timm does: the same answer to grey in more channels


@pytest.mark.parametrize("name", SHIPPED)
def test_features_are_those_of_the_equilibrium(name):
    own = zoo.load(name)
    if not hasattr(own, "feature_info"):
        with pytest.raises(ValueError, match="has no feature maps to choose from"):
            timm.create_model(f"zoo_{name}", features_only=True)
        return
    wrapped = timm.create_model(f"zoo_{name}", pretrained=True, features_only=True).eval()
    x = torch.randn(5, own.in_chans, 8, 8)
    maps = wrapped(x)
    assert [m.shape[1] for m in maps] == wrapped.feature_info.channels()
    assert all(len(m) == 5 for m in maps)
    last = timm.create_model(f"zoo_{name}", pretrained=True, features_only=True, out_indices=[-1]).eval()(x)
    torch.testing.assert_close(last[0], maps[-1])
    if hasattr(own, "cell"):
        z = own.equilibrium(x)
        torch.testing.assert_close(maps, list(z))
    maps[-1].sum().backward()
    with pytest.raises(ValueError, match="out_indices \\(7,\\)"):
        timm.create_model(f"zoo_{name}", features_only=True, out_indices=[7])


def test_arguments_of_timm_and_of_the_model():
    model = timm.create_model("zoo_mdeq_tiny", drop_rate=0.3, drop_path_rate=0.1, solver="anderson", expansion=2)
    assert model.dropout == 0.3
    assert type(model.solver).__name__ == "Anderson"
    assert model.pretrained_cfg["architecture"] == "zoo_mdeq_tiny"
    with pytest.raises(KeyError, match="Did you mean 'channels'"):
        timm.create_model("zoo_mdeq_tiny", chanels=(8, 8))


def test_changed_weights_are_refused(monkeypatch):
    card = cards.card("mdeq_tiny")
    monkeypatch.setitem(card.weights["digits"], "sha256", "0" * 64)
    with pytest.raises(ValueError, match="damaged or was changed"):
        timm.create_model("zoo_mdeq_tiny.digits", pretrained=True)


def test_what_timms_scripts_ask_of_a_model():
    from timm.optim import create_optimizer_v2

    model = timm.create_model("zoo_mdeq_tiny.digits", pretrained=True)
    assert model.get_classifier() is model.classifier
    groups = create_optimizer_v2(model, opt="adamw", weight_decay=0.1, layer_decay=0.5).param_groups
    assert len({g["lr_scale"] for g in groups}) > 1


@pytest.mark.parametrize("name", SMALL)
def test_every_registered_model_is_built_with_the_names_timm_adapts(name):
    model = timm.create_model(name)
    assert model.num_features
    config = model.pretrained_cfg
    assert isinstance(model.get_submodule(config["first_conv"]), torch.nn.Conv2d)
    assert model.get_submodule(config["classifier"]) is model.get_classifier()
