"""The models in timm's registry, made by timm's own factory."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models import FeatureInfo, get_pretrained_cfg

import zoo
import zoo.timm as registered
from zoo.deq.mdeq import Multiscale
from zoo.hub import cards

SHIPPED = [n for n in cards.list_models(pretrained=True) if f"zoo_{n.partition('.')[0]}" in registered.names]
LARGE = ("imagenet", "large", "odenet_resnet")  # seconds each
EVERY = [pytest.param(n, marks=[pytest.mark.slow] * any(k in n for k in LARGE)) for n in registered.names]


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
    torch.testing.assert_close(first.sum(1), before.sum(1))  # as timm does: the same answer to gray in more channels


@pytest.mark.parametrize("name", SHIPPED)
def test_features_are_those_of_the_equilibrium(name):
    own = zoo.load(name)
    wrapped = timm.create_model(f"zoo_{name}", pretrained=True, features_only=True).eval()
    x = torch.randn(5, own.in_chans, 8, 8)
    maps = wrapped(x)
    assert [m.shape[1] for m in maps] == wrapped.feature_info.channels()
    assert all(len(m) == 5 for m in maps)
    last = timm.create_model(f"zoo_{name}", pretrained=True, features_only=True, out_indices=[-1]).eval()(x)
    torch.testing.assert_close(last[0], maps[-1])
    if isinstance(own, Multiscale):
        torch.testing.assert_close(maps, list(own.equilibrium(x)))
    maps[-1].sum().backward()
    with pytest.raises(ValueError, match=r"feature maps \(7,\) were asked for"):
        timm.create_model(f"zoo_{name}", features_only=True, out_indices=[7])
    with pytest.raises(ValueError, match="feature_cls='getter'"):
        timm.create_model(f"zoo_{name}", features_only=True, feature_cls="hook")


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


# What timm's own tests/test_models.py asks of its models, of every model here. Small pictures where the size is free.


def picture(model, batch: int = 1):
    """The size that a model is registered with, or a smaller one that its halvings still divide."""
    channels, side, _ = model.default_cfg["input_size"]
    return torch.randn(batch, channels, 64 if side > 64 else side, 64 if side > 64 else side)


@pytest.mark.parametrize("name", EVERY)
def test_default_configuration(name):
    model = timm.create_model(name).eval()
    config, state = model.default_cfg, model.state_dict()
    assert f"{config['classifier']}.weight" in state and f"{config['first_conv']}.weight" in state
    assert model.get_submodule(config["classifier"]) is model.get_classifier()
    assert config["pool_size"] == timm.get_pretrained_cfg(name).pool_size
    full = max(config["input_size"]) <= 64
    x = picture(model)
    with torch.no_grad():
        features = model.forward_features(x)
        if full:
            assert tuple(features.shape[-2:]) == config["pool_size"]
        assert features.shape[1] == model.num_features
        torch.testing.assert_close(model.forward_head(features), model(x))
        model.reset_classifier(0)
        assert model(x).shape == (1, model.head_hidden_size)
        model.reset_classifier(0, "")
        torch.testing.assert_close(model(x), features)
        again = timm.create_model(name, num_classes=0, global_pool="").eval()
        assert again(x).shape == features.shape
    model.reset_classifier(7, "max")
    assert model.eval()(x).shape == (1, 7) and model.num_classes == 7


@pytest.mark.parametrize("name", EVERY)
def test_intermediates(name):
    model = timm.create_model(name).eval()
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    x = picture(model, 2)
    with torch.no_grad():
        features, maps = model.forward_intermediates(x)
        torch.testing.assert_close(features, model.forward_features(x))
        assert [m.shape[1] for m in maps] == info.channels()
        for reduction, m in zip(info.reduction(), maps, strict=True):
            assert m.shape[-1] == m.shape[-2] <= -(-x.shape[-1] // reduction)
            assert m.isfinite().all() and m.abs().max() > 0
        last = model.forward_intermediates(x, 1, stop_early=True, intermediates_only=True)
        first = model.forward_intermediates(x, [0], output_fmt="NHWC", intermediates_only=True, stop_early=True)
        torch.testing.assert_close(last, maps[-1:])
        torch.testing.assert_close(first[0], maps[0].movedim(1, -1))
        getter = timm.create_model(name, features_only=True, feature_cls="getter").eval()
        assert [m.shape for m in getter(x)] == [m.shape for m in maps]
        assert getter.feature_info.channels() == info.channels()
    with pytest.raises(ValueError, match="output_fmt must be"):
        model.forward_intermediates(x, output_fmt="NLC")
    with pytest.raises(ValueError, match="The last 9 feature maps were asked for"):
        model.forward_intermediates(x, 9)


@pytest.mark.parametrize("name", EVERY)
def test_backward(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=42).train()
    out = model(picture(model, 2))
    assert out.shape == (2, 42) and out.isfinite().all()
    out.mean().backward()
    lacking = [n for n, p in model.named_parameters() if p.grad is None]
    assert not lacking


@pytest.mark.parametrize("name", EVERY)
def test_parameters_by_name(name):
    from timm.models import group_parameters

    model = timm.create_model(name)
    named = {n for n, _ in model.named_parameters()}
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    assert exempt <= named
    groups = group_parameters(model, model.group_matcher(coarse=False))
    members = [n for group in groups.values() for n in group]
    assert len(groups) >= 3 and sorted(members) == sorted(named)  # stem, layers, head
    assert f"{model.first_conv}.weight" in groups[0] and "classifier.weight" in groups[max(groups)]


@pytest.mark.parametrize("name", ["zoo_resnet_tiny", "zoo_odenet_slim"])
def test_gradient_checkpointing_saves_activations_and_changes_no_gradient(name):
    found, kept, statistics = [], [], []
    for enable in (False, True):
        torch.manual_seed(0)
        model = timm.create_model(name, adjoint="unroll") if "odenet" in name else timm.create_model(name)
        model.set_grad_checkpointing(enable)
        size = 0

        def pack(t):
            nonlocal size
            size += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = model.train()(torch.randn(4, model.in_chans, 16, 16)).square().sum()
        kept.append(size)
        loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
        statistics.append({n: b.clone() for n, b in model.named_buffers()})
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(statistics[1], statistics[0], rtol=0, atol=0)  # updated once
    assert kept[1] < 0.6 * kept[0]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("zoo_mdeq_tiny", "keeps no steps of the solve"),
        ("zoo_hyper_wrn_40_1", "kernels of HyperWideResNet are generated"),
        ("zoo_cnn", "has no blocks that can be run again"),
    ],
)
def test_gradient_checkpointing_says_where_it_changes_nothing(name, why):
    model = timm.create_model(name)
    with pytest.warns(UserWarning, match=why):
        model.set_grad_checkpointing()
    model.set_grad_checkpointing(False)


def test_models_for_imagenet_see_imagenets_pictures():
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg("zoo_mdeq_imagenet_small").to_dict())
    assert config["input_size"] == (3, 224, 224)
    assert config["mean"] == timm.data.IMAGENET_DEFAULT_MEAN and config["std"] == timm.data.IMAGENET_DEFAULT_STD
    assert config["crop_pct"] == 0.875


def test_each_model_is_a_function_of_the_module():
    assert registered.zoo_mdeq_tiny(num_classes=3).num_classes == 3
    with pytest.raises(AttributeError, match="zoo.timm"):
        _ = registered.zoo_mdeq_tin
