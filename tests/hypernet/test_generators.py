"""Generators: one interface, every one of the registry."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.hypernet import GENERATORS, Generator, HyperTarget
from zoo.hypernet.generators.base import TooLarge
from zoo.hypernet.target import TargetError
from zoo.registry import UnknownName

KINDS = {
    "full": "full",
    "full_hidden": {"name": "full", "hidden": [8]},
    "chunked": {"name": "chunked", "size": 100, "embedding": 6, "hidden": [16]},
    "tiles": {"name": "tiles", "outputs": 2, "inputs": 4, "embedding": 6},
    "layers": {"name": "layers", "embedding": 6, "hidden": [16]},
    "low_rank": {"name": "low_rank", "rank": 2},
    "film": "film",
}
WITH_EMBEDDING = ["chunked", "tiles", "layers"]


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, bias=False),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
        nn.Flatten(),
        nn.Linear(16, 8),
    )


def build(kind: str, code_size: int = 5, *, seed: int = 0, **options) -> tuple[HyperTarget, Generator]:
    target = HyperTarget(net(seed), "[03].weight" if kind == "tiles" else "*")
    torch.manual_seed(seed + 1)
    return target, Generator(target, code_size, KINDS[kind], **options)


class Scaled(nn.Module):
    """A linear layer and a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.gain = nn.Linear(4, 3), nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.gain * self.linear(x)


def test_every_registered_generator_is_tested_here():
    assert {k if isinstance(k, str) else k["name"] for k in KINDS.values()} == set(GENERATORS.names())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 3)])
def test_leading_axes_of_the_code_lead_the_weights(kind, lead):
    target, generator = build(kind)
    code = torch.randn(*lead, 5)
    weights = generator(code)
    assert {n: w.shape for n, w in weights.items()} == {s.name: (*lead, *s.shape) for s in target.spec}
    rows = code.reshape(-1, 5)
    for n, w in weights.items():
        for i in range(len(rows)):
            torch.testing.assert_close(w.reshape(-1, *w.shape[len(lead) :])[i], generator(rows[i])[n])


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_and_the_code_get_a_gradient_through_the_target(kind):
    target, generator = build(kind)
    code = torch.randn(3, 5, requires_grad=True)
    target.each(generator(code), torch.randn(3, 4, 6, 6)).square().sum().backward()
    for name, p in [("code", code), *generator.named_parameters(), *target.named_parameters()]:
        assert p.grad is not None and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "tiles"])
def test_a_single_number_is_a_slot_like_others(kind):
    target = HyperTarget(Scaled())
    torch.manual_seed(0)
    generator = Generator(target, 5, KINDS[kind])
    for lead in ((), (1,), (2, 3)):
        assert generator(torch.randn(*lead, 5))["gain"].shape == lead
    theta = generator(torch.randn(6, 5))
    assert theta["gain"].std() > 0  # the code has a say
    x = torch.randn(6, 4)
    linear = torch.einsum("boi,bi->bo", theta["linear.weight"], x) + theta["linear.bias"]
    torch.testing.assert_close(target.each(theta, x), theta["gain"][:, None] * linear)


def test_tiles_refuse_a_single_number_by_name():
    with pytest.raises(ValueError, match=r"'gain' \(\) does not divide into tiles"):
        Generator(HyperTarget(Scaled(), "gain"), 5, "tiles")


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_delta_the_weights_are_the_base(kind):
    target, generator = build(kind)
    theta = generator(torch.randn(5))
    assert any(not torch.equal(theta[n], target.initial[n]) for n in theta)
    with torch.no_grad():
        for p in generator.delta.parameters():
            p.zero_()
    for name, w in generator(torch.randn(2, 5)).items():
        torch.testing.assert_close(w, target.initial[name].expand_as(w))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pretrained_base_may_stay_fixed(kind):
    pretrained = {n: torch.full_like(v, 0.5) for n, v in net().state_dict().items()}
    _, generator = build(kind, base=pretrained, train_base=False, scale=0.0 if kind == "film" else None)
    assert not any(n.startswith("base") for n, _ in generator.named_parameters())
    assert any(n.startswith("base") for n in generator.state_dict())
    with torch.no_grad():
        for p in generator.delta.parameters():
            p.zero_()
    assert all(torch.equal(w, torch.full_like(w, 0.5)) for w in generator(torch.randn(5)).values())


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "film"])
def test_without_a_base_scales_of_norms_stay_around_one(kind):
    _, generator = build(kind, base="none")
    weights = {n: w.detach() for n, w in generator(torch.randn(4, 5)).items()}
    assert not any(n.startswith("base") for n, _ in generator.named_parameters())
    if kind != "tiles":
        assert 0.7 < float(weights["1.weight"].mean()) < 1.3
    assert abs(float(weights["0.weight"].mean())) < 0.1


@pytest.mark.parametrize("kind", WITH_EMBEDDING)
def test_a_static_hypernetwork_needs_no_code(kind):
    target, generator = build(kind, code_size=0)
    assert {n: w.shape for n, w in generator().items()} == {s.name: s.shape for s in target.spec}


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in WITH_EMBEDDING])
def test_a_generator_without_embeddings_needs_a_code(kind):
    with pytest.raises(ValueError, match="reads a code"):
        build(kind, code_size=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_survives_saving_and_double_precision(kind):
    target, generator = build(kind)
    code = torch.randn(2, 5)
    _, other = build(kind, seed=7)  # of another target's initial values
    other.load_state_dict(generator.state_dict())
    for name, w in generator(code).items():
        torch.testing.assert_close(other(code)[name], w)
    double = Generator(HyperTarget(target.module.double(), "*"), 5) if kind == "tiles" else generator.double()
    assert all(w.dtype == torch.float64 for w in double(code.double()).values())


def test_a_generator_inherits_the_targets_precision():
    generator = Generator(HyperTarget(nn.Linear(3, 2).double()), 4)
    assert all(p.dtype == torch.float64 for p in generator.parameters())


def test_full_is_affine_in_the_code_and_low_rank_is_of_low_rank():
    _, generator = build("full", encode="plain")
    a, b = torch.randn(2, 5)
    theta, at_a, at_b, at_0 = (generator(c) for c in (a + b, a, b, torch.zeros(5)))
    for n in theta:
        torch.testing.assert_close(theta[n] - at_0[n], (at_a[n] - at_0[n]) + (at_b[n] - at_0[n]))
    target, generator = build("low_rank")
    change = (generator(a)["3.weight"] - target.initial["3.weight"]).flatten(1)
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 2


def test_film_scales_rows_and_shifts_biases():
    target, generator = build("film")
    theta = generator(torch.randn(5))
    ratio = (theta["3.weight"] / target.initial["3.weight"]).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)
    assert not torch.equal(theta["3.bias"], target.initial["3.bias"])


def test_tiles_of_the_paper():
    """One by one, as the paper's equation 5 writes them."""
    module = nn.Conv2d(8, 4, 3, bias=False)
    generator = Generator(
        HyperTarget(module), 0, {"name": "tiles", "outputs": 2, "inputs": 4, "embedding": 6, "width": 5}, base="none"
    )
    t, kernel = generator.delta, generator()["weight"]
    with torch.no_grad():
        t.first_bias.normal_()
        t.second_bias.normal_()
    kernel = generator()["weight"]
    for o in range(2):
        for i in range(2):
            z = t.places.embedding[2 * o + i]
            for channel in range(4):
                rows = slice(5 * channel, 5 * channel + 5)
                a = t.first[rows] @ z + t.first_bias[rows]
                wanted = (t.second @ a + t.second_bias).reshape(2, 3, 3) * t.factors[0]
                torch.testing.assert_close(kernel[2 * o : 2 * o + 2, 4 * i + channel], wanted)


def test_slots_of_one_shape_share_a_head():
    deep = HyperTarget(nn.Sequential(*(nn.Linear(10, 10) for _ in range(6))))
    shallow = HyperTarget(nn.Sequential(nn.Linear(10, 10)))
    count = [sum(p.numel() for p in Generator(t, 4, "layers", base="none").parameters()) for t in (deep, shallow)]
    assert count[0] - count[1] == 10 * 16  # ten more slots, one embedding each


def test_a_generator_too_large_says_so_before_it_allocates():
    target = HyperTarget(nn.Linear(1000, 1000, bias=False))
    with pytest.raises(TooLarge, match=r"1,000,000 weights.*has 1,000,001,000,000 parameters, 4,000.0 GB.*'chunked'"):
        Generator(target, 1_000_000)
    with pytest.raises(TooLarge, match="5,000,000 parameters, 20.0 MB; the limit is 19.0 MB"):
        Generator(target, 4, limit=19_000_000)
    generator = Generator(target, 4, limit=20_000_000)
    assert sum(p.numel() for p in generator.parameters()) == 5_000_000


def test_bad_input():
    target, generator = build("full")
    with pytest.raises(ValueError, match=r"codes of shape \(..., 5\); got \(2, 4\)"):
        generator(torch.randn(2, 4))
    with pytest.raises(ValueError, match="got none"):
        generator()
    with pytest.raises(ValueError, match="floating point; got torch.int64. Take code.float()"):
        generator(torch.ones(2, 5, dtype=torch.long))
    with pytest.raises(UnknownName, match="No generator named 'fill'. Did you mean"):
        Generator(target, 5, "fill")
    with pytest.raises(UnknownName, match="No option of generator 'chunked' named 'sise'. Did you mean 'size'"):
        Generator(target, 5, {"name": "chunked", "sise": 3})
    with pytest.raises(ValueError, match="init must be one of match"):
        Generator(target, 5, init="kaiming")
    with pytest.raises(ValueError, match="no direction but its sign"):
        Generator(target, 1)
    with pytest.raises(ValueError, match="changes a base"):
        Generator(target, 5, "film", base="none")
    with pytest.raises(ValueError, match="encode must be one of"):
        Generator(target, 5, encode="sin")
    with pytest.raises(TargetError, match="base of '0.weight' is missing"):
        Generator(target, 5, base={})
    with pytest.raises(ValueError, match="does not divide into tiles.*exclude it"):
        Generator(target, 5, "tiles")
    mixed = HyperTarget(nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.Conv2d(4, 4, 1, bias=False)))
    with pytest.raises(ValueError, match="one size; give each size a target of its own"):
        Generator(mixed, 5, {"name": "tiles", "outputs": 2, "inputs": 2})
