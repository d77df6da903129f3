"""A target: what it selects, what it refuses, and that a batch of weights is the loop over its sets."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from zoo.hypernet import HyperTarget
from zoo.hypernet.target import NotBatchable, TargetError


class Net(nn.Module):
    """One layer of each kind that the fans differ for, on images (B, 2, 6, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, groups=2)
        self.norm = nn.GroupNorm(2, 4)
        self.up = nn.ConvTranspose2d(4, 3, 2)
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(self.up(self.norm(self.conv(x)).relu()).mean((2, 3)))


def batch(target, n):
    torch.manual_seed(1)
    return {k: v + 0.1 * torch.randn(n, *v.shape) for k, v in target.initial.items()}


def test_the_specification_of_each_kind_of_layer():
    spec = {s.name: (s.shape, s.fan_in, s.fan_out, s.role, s.layer) for s in HyperTarget(Net()).spec}
    assert spec["conv.weight"] == ((4, 1, 3, 3), 9, 18, "weight", "Conv2d")
    assert spec["conv.bias"] == ((4,), 9, 18, "bias", "Conv2d")
    assert spec["norm.weight"] == ((4,), 1, 1, "norm_scale", "GroupNorm")
    assert spec["norm.bias"] == ((4,), 1, 1, "norm_shift", "GroupNorm")
    assert spec["up.weight"] == ((4, 3, 2, 2), 16, 12, "weight", "ConvTranspose2d")
    assert spec["fc.weight"] == ((5, 3), 3, 5, "weight", "Linear")


def test_the_attention_weights_and_embeddings():
    spec = {s.name: s for s in HyperTarget(nn.MultiheadAttention(4, 2)).spec}
    assert (spec["in_proj_weight"].fan_in, spec["in_proj_weight"].role) == (4, "weight")
    assert (spec["in_proj_bias"].fan_in, spec["in_proj_bias"].role) == (4, "bias")
    assert HyperTarget(nn.Embedding(7, 3)).spec[0].role == "embedding"


@pytest.mark.parametrize(
    ("select", "exclude", "names"),
    [
        ("*.weight", (), ["conv.weight", "norm.weight", "up.weight", "fc.weight"]),
        (nn.Linear, (), ["fc.weight", "fc.bias"]),
        (["conv.*", nn.Linear], "*.bias", ["conv.weight", "fc.weight"]),
        ("*", [nn.GroupNorm, nn.ConvTranspose2d], ["conv.weight", "conv.bias", "fc.weight", "fc.bias"]),
    ],
)
def test_selection_by_pattern_and_type(select, exclude, names):
    module = Net()
    everything = {n for n, _ in module.named_parameters()}
    target = HyperTarget(module, select, exclude)
    assert [s.name for s in target.spec] == names
    assert {n for n, _ in target.module.named_parameters()} == everything - set(names)


def test_the_initial_weights_give_the_module_back():
    module = Net()
    twin, x = copy.deepcopy(module), torch.randn(3, 2, 6, 6)
    target = HyperTarget(module)
    torch.testing.assert_close(target(target.initial, x), twin(x))
    assert not list(target.parameters()) and not target.state_dict()
    with pytest.raises(TypeError):
        target.module(x)  # without weights it fails rather than use stale ones


@pytest.mark.parametrize("n", [1, 3])
def test_a_batch_of_weights_is_the_loop_over_its_sets(n):
    target = HyperTarget(Net())
    weights = {k: v.requires_grad_() for k, v in batch(target, n).items()}
    x = torch.randn(n, 4, 2, 6, 6, requires_grad=True)
    got = target(weights, x, batched=True)
    loop = torch.stack([target({k: v[i] for k, v in weights.items()}, x[i]) for i in range(n)])
    assert got.shape == (n, 4, 5)
    torch.testing.assert_close(got, loop)
    leaves = [*weights.values(), x]
    for a, b in zip(
        torch.autograd.grad(got.square().sum(), leaves), torch.autograd.grad(loop.square().sum(), leaves), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 3])
def test_each_sample_meets_its_own_weights(n):
    target = HyperTarget(Net())
    weights, x = batch(target, n), torch.randn(n, 2, 6, 6)
    got = target.each(weights, x)
    assert got.shape == (n, 5)
    for i in range(n):
        torch.testing.assert_close(got[i], target({k: v[i] for k, v in weights.items()}, x[i : i + 1])[0])


def test_what_is_no_tensor_goes_to_every_set_as_it_is():
    class Shifted(nn.Linear):
        def forward(self, x, shift, sign):
            y = super().forward(x) if shift is None else super().forward(x) + shift
            return -y if sign == "minus" else y

    target = HyperTarget(Shifted(3, 2))
    weights, x, shift = batch(target, 4), torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    expected = torch.einsum("boi,bni->bno", weights["weight"], x) + weights["bias"][:, None]
    torch.testing.assert_close(target(weights, x, None, "minus", batched=True), -expected)
    torch.testing.assert_close(target(weights, x, shift, "plus", batched=True), expected + shift)


def test_parameters_that_are_not_selected_still_train():
    target = HyperTarget(Net(), nn.Linear)
    weights = {k: v.requires_grad_() for k, v in batch(target, 2).items()}
    target.each(weights, torch.randn(2, 2, 6, 6)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (target.module.conv.weight, weights["fc.weight"]))


def test_an_exception_in_the_module_leaves_it_as_it_was():
    target = HyperTarget(Net())
    with pytest.raises(RuntimeError):
        target(target.initial, torch.randn(1, 7, 6, 6))
    with pytest.raises(RuntimeError):
        target(batch(target, 2), torch.randn(2, 1, 7, 6, 6), batched=True)
    assert not list(target.module.parameters())
    assert target(target.initial, torch.randn(1, 2, 6, 6)).shape == (1, 5)


def test_running_statistics_stay_with_the_module():
    target = HyperTarget(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    target(target.initial, torch.randn(8, 3) + 5)
    assert target.module[1].running_mean.abs().sum() > 0
    with pytest.raises(NotBatchable, match=r"1 \(BatchNorm1d\): running statistics are updated.*nn.GroupNorm"):
        target(batch(target, 2), torch.randn(2, 8, 3), batched=True)
    target.eval()
    assert target(batch(target, 2), torch.randn(2, 8, 3), batched=True).shape == (2, 8, 4)


@pytest.mark.parametrize(
    ("module", "x", "says"),
    [
        (nn.LSTM(3, 4), (2, 5, 3), "write the cell with nn.Linear"),
        (nn.GRU(3, 4), (2, 5, 3), "write the cell with nn.Linear"),
        (nn.LSTMCell(3, 4), (2, 3), "write the cell with nn.Linear"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), (2, 3), "bound the generated weights"),
        (nn.InstanceNorm1d(3, affine=True, track_running_stats=True), (2, 3, 5), "running statistics"),
    ],
)
def test_the_preflight_names_the_replacement(module, x, says):
    target = HyperTarget(module)
    target(target.initial, torch.randn(x))  # one set works
    assert any(says in line for line in target.preflight())
    with pytest.raises(NotBatchable, match=says):
        target(batch(target, 2), torch.randn(2, *x), batched=True)


def test_obstacles_of_one_kind_are_one_sentence():
    target = HyperTarget(nn.Sequential(*(nn.BatchNorm1d(3) for _ in range(5)), nn.LSTM(3, 3)))
    statistics, fused = target.preflight()
    assert statistics.startswith("0 (BatchNorm1d) and 4 more: running statistics")
    assert fused.startswith("5 (LSTM): a fused kernel")


def test_what_only_vmap_can_know_is_told_in_the_same_words():
    class Reads(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum().item() > 0 else x

    target = HyperTarget(Reads(3, 3))
    with pytest.raises(NotBatchable, match="Reads cannot take a batch of weights.*without reading numbers"):
        target(batch(target, 2), torch.ones(2, 1, 3), batched=True)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_vision_transformer_that_knows_nothing_of_it():
    import timm

    module = timm.create_model("test_vit", num_classes=5, img_size=32).eval()
    twin, x = copy.deepcopy(module), torch.randn(2, 3, 32, 32)
    target = HyperTarget(module)
    weights = {k: torch.stack([v, 0.9 * v]) for k, v in target.initial.items()}
    got = target.each(weights, x)
    torch.testing.assert_close(got[0], twin(x[:1])[0], rtol=1e-4, atol=1e-5)
    twin.load_state_dict({k: v[1] for k, v in weights.items()})
    torch.testing.assert_close(got[1], twin(x[1:])[0], rtol=1e-4, atol=1e-5)


def test_dropout_differs_between_sets():
    target = HyperTarget(nn.Sequential(nn.Linear(50, 50), nn.Dropout(0.5)))
    weights = {k: v.expand(2, *v.shape) for k, v in target.initial.items()}
    a, b = target(weights, torch.ones(2, 1, 50), batched=True)
    assert not torch.equal(a, b)


def test_bad_selections():
    with pytest.raises(TargetError, match="'con.weight' matches none.*Did you mean 'conv.weight'"):
        HyperTarget(Net(), "con.weight")
    with pytest.raises(TargetError, match="LSTM matches none: Net has parameters in Conv2d, ConvTranspose2d"):
        HyperTarget(Net(), nn.LSTM)
    with pytest.raises(TargetError, match="leaves nothing"):
        HyperTarget(Net(), "fc.*", exclude=nn.Linear)
    with pytest.raises(TargetError, match="takes patterns of names and classes"):
        HyperTarget(Net(), 3)
    with pytest.raises(TargetError, match="ReLU has no parameters"):
        HyperTarget(nn.ReLU())
    with pytest.raises(TargetError, match="has no shape yet"):
        HyperTarget(nn.LazyLinear(3))


def test_a_failed_selection_leaves_the_module_alone():
    module = Net()
    with pytest.raises(TargetError):
        HyperTarget(module, ["*", "nothing"])
    assert len(list(module.parameters())) == 8


def test_shared_parameters_are_refused_by_name_unless_left_out():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    with pytest.raises(TargetError, match=r"0.weight and 2.weight are one shared parameter.*exclude="):
        HyperTarget(module)
    target = HyperTarget(module, exclude=["0.weight", "2.weight"])
    assert [s.name for s in target.spec] == ["0.bias", "1.weight", "1.bias", "2.bias"]


def test_a_module_used_twice_is_a_shared_parameter():
    one = nn.Linear(3, 3)
    with pytest.raises(TargetError, match="one shared parameter"):
        HyperTarget(nn.Sequential(one, nn.ReLU(), one))


def test_bad_weights():
    target = HyperTarget(nn.Linear(3, 2))
    good, x = batch(target, 4), torch.randn(4, 5, 3)
    with pytest.raises(TargetError, match="lack bias"):
        target({"weight": good["weight"]}, x, batched=True)
    with pytest.raises(TargetError, match="No slot named 'wieght'. Did you mean 'weight'"):
        target({**good, "wieght": x}, x, batched=True)
    with pytest.raises(TargetError, match=r"'weight' has shape \(4, 2, 3\); expected \(2, 3\). Say batched=True"):
        target(good, x)
    with pytest.raises(TargetError, match=r"'bias' has shape \(3, 2\); expected \(B, 2\)|expected \(B, 2\)"):
        target({**good, "bias": good["bias"][:3]}, x, batched=True)
    with pytest.raises(TargetError, match="must be 4"):
        target(good, x[:3], batched=True)
