"""One contract, over the tiny ``test_*`` variant of every family: what any model of the zoo must do.

Named apart from a family's own tests: a new card is under this contract without a line of test.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

import zoo
from zoo.hub import cards
from zoo.implicit import implicit_modules
from zoo.solvers import SOLVERS

CLASSIFIERS = [n for n in zoo.list_models("test_*") if ".classification:" in cards.card(n).task]
IMPLICIT = [n for n in CLASSIFIERS if cards.card(n).solver]  # the others are explicit baselines


def build(name: str, **options):
    torch.manual_seed(0)
    return zoo.create_model(name, num_classes=4, in_chans=1, **options)


def images(batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def other_solver(name: str) -> str:
    """Another solver of the kind that the model uses."""
    now = type(implicit_modules(build(name))[0][1].solver).__name__.lower()
    if now in {n.lower() for n in SOLVERS.names(kind="ode")}:
        return "tsit5" if now != "tsit5" else "dopri5"
    return "anderson" if now != "anderson" else "broyden"


def test_every_family_has_a_variant_for_the_tests():
    families = {cards.card(n).family for n in zoo.list_models()}
    assert families == {cards.card(n).family for n in zoo.list_models("test_*")}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_shapes_and_what_the_solve_left(name):
    model = build(name)
    assert model(images()).shape == (4, 4)
    for _, module in implicit_modules(model):
        assert module.last.stats.nfe > 0 and len(module.last.stats.steps) == 4


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_parameter_gets_a_gradient(name):
    model = build(name)
    cross_entropy(model(images()), torch.arange(4)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_state_dict_round_trip_and_copies(name):
    model, other = build(name), zoo.create_model(name, num_classes=4, in_chans=1)
    model(images())  # batch statistics move, so that buffers matter
    other.load_state_dict(model.state_dict())
    model.eval(), other.eval()
    expected = model(images())
    torch.testing.assert_close(other(images()), expected)
    torch.testing.assert_close(copy.deepcopy(model)(images()), expected)


@pytest.mark.parametrize("name", IMPLICIT)
def test_a_swapped_solver_keeps_the_weights(name):
    tight = {"rtol": 1e-5, "atol": 1e-6, "max_steps": 500}
    model = build(name).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for _, module in implicit_modules(model):
        module.configure_implicit({"name": type(module.solver).__name__.lower(), **tight})
    first = model(images())
    for _, module in implicit_modules(model):
        module.configure_implicit({"name": other_solver(name), **tight})
    torch.testing.assert_close(model(images()), first, rtol=1e-2, atol=1e-2)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_one_sample_is_answered_as_in_a_batch(name):
    model = build(name).eval()
    for _, module in implicit_modules(model):
        module.configure_implicit({"name": type(module.solver).__name__.lower(), "rtol": 1e-5, "max_steps": 500})
    together = model(images())
    torch.testing.assert_close(model(images()[:1]), together[:1], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_timm_conventions(name):
    model = build(name)
    assert (model.num_classes, model.in_chans) == (4, 1)
    features = model.forward_features(images())
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (4, model.num_features)
    torch.testing.assert_close(model.eval().forward_head(model.forward_features(images())), model(images()))
    assert sum(p.numel() for p in model.get_classifier().parameters()) > 0
    model.reset_classifier(7)
    assert model(images()).shape == (4, 7)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_one_batch_is_learned(name):
    model, target = build(name), torch.arange(4)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = cross_entropy(model(images()), target)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_card_says_what_it_must(name):
    card = cards.card(name)
    assert card.summary and card.licence and card.data
    assert card.paper["year"] and card.paper["url"].startswith("https://")
