"""The size of generated weights at the start: activations as large as those of a target initialized directly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from zoo.hypernet import Generator, HyperTarget
from zoo.hypernet.generators.initialization import deviations, encode, head, trunk

KINDS = {
    "full": "full",
    "full_hidden": {"name": "full", "hidden": [32]},
    "chunked": {"name": "chunked", "size": 256, "hidden": [64]},
    "tiles": {"name": "tiles", "outputs": 8, "inputs": 8, "embedding": 64},
    "layers": {"name": "layers", "hidden": [32]},
    "low_rank": {"name": "low_rank", "rank": 16},
    "film": "film",
}
CODE = 16


def mlp(depth: int, width: int = 64, bias: bool = True) -> nn.Sequential:
    """A ReLU network with the weights of He et al., which keep the scale of its activations; its output is linear."""
    net = nn.Sequential()
    for _ in range(depth):
        net.extend([nn.Linear(width, width, bias=bias), nn.ReLU()])
        nn.init.normal_(net[-2].weight, std=math.sqrt(2 / width))
        if bias:
            nn.init.zeros_(net[-2].bias)
    return net[:-1]


def growth(depth: int, kind: str, bias: bool, draws: int = 8, **options) -> float:
    """How much larger a layer leaves the activations with generated weights than with those of a direct initialization.

    The geometric mean over layers and draws: through twelve random layers the size itself varies by a factor of two.
    """
    logs = []
    for seed in range(draws):
        torch.manual_seed(seed)
        net, x = mlp(depth, bias=bias), torch.randn(64, 64)
        with torch.no_grad():
            direct = float(net(x).square().mean())
            target = HyperTarget(net)
            codes = torch.randn(64, CODE)
            generator = Generator(target, CODE, KINDS[kind], **options)
            logs.append(math.log(float(target.each(generator(codes), x).square().mean()) / direct) / 2 / depth)
    return math.exp(sum(logs) / draws)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [2, 12])
def test_activations_are_as_large_as_directly_initialized(kind, depth):
    """On a base, a tenth of its size is added: ``sqrt(1 + 0.1^2)`` a layer."""
    assert growth(depth, kind, bias=kind != "tiles") == pytest.approx(math.sqrt(1.01), abs=0.01)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "film"])
@pytest.mark.parametrize("depth", [2, 12])
@pytest.mark.parametrize("init", ["match", "hyperfan_in", "hyperfan_out"])
def test_and_so_without_a_base(kind, depth, init):
    """The delta alone makes the weights. Without biases: hyperfan gives them half of the variance, see below."""
    assert growth(depth, kind, bias=False, base="none", init=init) == pytest.approx(1, abs=0.1)


def test_a_default_head_would_explode():
    """What the rule is for: torch's own initialization of the head, in the same place."""
    torch.manual_seed(0)
    net, x = mlp(12, bias=False), torch.randn(64, 64)
    direct = float(net(x).detach().square().mean().sqrt())
    target = HyperTarget(net)
    weights = {s.name: nn.Linear(CODE, s.numel)(torch.randn(CODE)).reshape(s.shape) for s in target.spec}
    assert float(target(weights, x).detach().square().mean().sqrt()) > 1000 * direct


def test_the_deviations_of_each_law():
    module = nn.Sequential(nn.Linear(50, 20), nn.Conv2d(4, 8, 3, bias=False), nn.LayerNorm(6))
    nn.init.constant_(module[0].bias, 0.5)
    target = HyperTarget(module)
    std = deviations(target.spec, target.initial, "match")
    assert std["0.weight"] == pytest.approx(float(target.initial["0.weight"].std()), rel=1e-2)
    assert std["0.bias"] == std["2.weight"] == 0.02  # constant ones start small, and learn
    std = deviations(target.spec, target.initial, "hyperfan_in")
    assert std["0.weight"] == pytest.approx(math.sqrt(2 / 50 / 2))  # half and half with its bias
    assert std["0.bias"] == pytest.approx(1.0)
    assert std["1.weight"] == pytest.approx(math.sqrt(2 / 36))
    std = deviations(target.spec, target.initial, "hyperfan_out", gain=1.0)
    assert std["1.weight"] == pytest.approx(math.sqrt(1 / 72))


def test_a_generated_bias_shares_the_variance_with_its_weight():
    """ReLU layers on inputs of mean square 1 keep mean square 1: half of it from the weights, half from the bias."""
    total = 0.0
    for seed in range(20):
        torch.manual_seed(seed)
        target = HyperTarget(mlp(1, width=128))
        generator = Generator(target, CODE, base="none", init="hyperfan_in")
        total += float(
            target.each(generator(torch.randn(64, CODE)), torch.randn(64, 128)).relu().detach().square().mean()
        )
    assert total / 20 == pytest.approx(1.0, rel=0.1)


def test_heads_and_trunks_keep_the_mean_square():
    torch.manual_seed(0)
    x = torch.randn(4000, 32)
    h = trunk(32, (256, 256, 256))(x).detach()
    assert float(h.square().mean()) == pytest.approx(1.0, abs=0.15)
    assert abs(float(h.mean())) < 0.15
    out = h @ head(500, 256, 0.3).detach().T
    assert float(out.std()) == pytest.approx(0.3, rel=0.15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_size_of_a_code_is_no_matter(kind, size):
    torch.manual_seed(0)
    target = HyperTarget(mlp(4, bias=False))
    generator = Generator(target, CODE, KINDS[kind])
    code = torch.randn(CODE)
    for name, w in generator(code).items():
        torch.testing.assert_close(generator(size * code)[name], w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-8])
def test_a_code_of_zeros_is_the_base_with_a_gradient_of_ordinary_size(size):
    torch.manual_seed(0)
    target = HyperTarget(nn.Linear(3, 2))
    generator = Generator(target, CODE)
    code = torch.full((CODE,), size, requires_grad=True)
    weights = generator(code)
    for name, w in weights.items():
        torch.testing.assert_close(w, generator.base[name].detach(), rtol=0, atol=1e-7)
    sum(w.sum() for w in weights.values()).backward()
    slope = sum(h.sum(0) for h in generator.delta.heads).detach()  # the weights are linear in the features
    torch.testing.assert_close(code.grad, slope)


def test_a_small_code_has_the_gradient_of_its_direction():
    code = torch.tensor([3e-4, 4e-4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: encode(c, "unit"), code, eps=1e-9, atol=1e-2)
    torch.testing.assert_close(encode(code, "unit"), 2**0.5 * torch.tensor([0.6, 0.8], dtype=torch.float64))


def test_without_the_encoding_it_is():
    target = HyperTarget(mlp(4, bias=False))
    x, code = torch.randn(16, 64), torch.randn(CODE)
    generator = Generator(target, CODE, "full", encode="plain")
    with torch.no_grad():
        assert float(target(generator(1e3 * code), x).norm()) > 100 * float(target(generator(code), x).norm())


@pytest.mark.parametrize("kind", KINDS)
def test_scalar_codes_between_0_and_1_by_cosine_and_sine(kind):
    features = encode(torch.rand(100, 3), "cos_sin")
    assert features.shape == (100, 6)
    torch.testing.assert_close(features.norm(dim=-1), torch.full((100,), math.sqrt(6)))
    target = HyperTarget(mlp(6, bias=False))
    x = torch.randn(64, 64)
    direct = target(target.initial, x).square().mean().sqrt()
    generator = Generator(target, 1, KINDS[kind], encode="cos_sin")
    for value in (0.0, 0.5, 1.0):
        got = target(generator(torch.tensor([value])), x).square().mean().sqrt()
        assert 0.5 < float((got / direct).detach()) < 2
