"""One contract, over the tiny ``test_*`` variant of every family of language models; see `tests/test_models.py`."""

from __future__ import annotations

import copy

import pytest
import torch
from problems import contract, left

import zoo
from zoo.hub import cards
from zoo.implicit import implicit_modules

MODELS = [n for n in zoo.list_models("test_*") if "language" in cards.card(n).task]
SYMBOLS = 11


def build(name: str):
    torch.manual_seed(0)
    model = zoo.create_model(name, vocab_size=SYMBOLS)
    contract(model)
    for _, module in implicit_modules(model):
        solver = {"name": type(module.solver).__name__.lower(), "rtol": 1e-5, "atol": 1e-6, "max_steps": 200}
        module.configure_implicit(solver)
    return model


def text(batch: int = 3, length: int = 8) -> torch.Tensor:
    return torch.randint(SYMBOLS, (batch, length + 1), generator=torch.Generator().manual_seed(1))


def flat(memory) -> list[torch.Tensor]:
    return [memory] if isinstance(memory, torch.Tensor) else [t for part in memory or () for t in flat(part)]


def test_there_are_language_models():
    assert {"test_lstm", "test_hyperlstm"} <= set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_logits_losses_and_memory(name):
    model, tokens = build(name).eval(), text()
    assert model.vocab_size == SYMBOLS
    logits, memory = model(tokens[:, :-1])
    assert logits.shape == (3, 8, SYMBOLS)
    losses, after = model.loss(tokens[:, :-1], tokens[:, 1:])
    expected = -logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    assert losses.shape == (3, 8)
    assert not any(t.requires_grad for t in flat(memory) + flat(after)), "the memory is detached"


@pytest.mark.parametrize("name", MODELS)
def test_no_symbol_is_seen_before_its_time(name):
    model, tokens = build(name).eval(), text()[:, :-1]
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % SYMBOLS
    before, after = model(tokens)[0], model(changed)[0]
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=1e-3, atol=1e-3)
    assert (before[:, 5:] - after[:, 5:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_the_memory_is_taken_up(name):
    model, tokens = build(name).eval(), text()[:, :-1]
    memory = model(tokens[:, :4])[1]
    if flat(memory):
        with_it, without = model(tokens[:, 4:], memory)[0], model(tokens[:, 4:])[0]
        whole = model(tokens)[0][:, 4:]
        assert (with_it - whole).norm() < 0.5 * (without - whole).norm()


@pytest.mark.parametrize("name", MODELS)
def test_a_sequence_is_read_as_in_a_batch(name):
    model, tokens = build(name).eval(), text()[:, :-1]
    torch.testing.assert_close(model(tokens[:1])[0], model(tokens)[0][:1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name):
    model, tokens = build(name), text(8, 24)
    with torch.no_grad():  # a first step away from zeros that would hide what lies behind them
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.05)
    _, memory = model(tokens[:, :12])
    model.loss(tokens[:, 12:-1], tokens[:, 13:], memory)[0].mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_round_trip_and_copies(name):
    model, tokens = build(name), text()[:, :-1]
    other = build(name)
    torch.nn.init.normal_(next(other.parameters()))
    other.load_state_dict(model.state_dict())
    expected = model.eval()(tokens)[0]
    torch.testing.assert_close(other.eval()(tokens)[0], expected)
    torch.testing.assert_close(copy.deepcopy(model)(tokens)[0], expected)


@pytest.mark.parametrize("name", MODELS)
def test_one_batch_is_learned(name):
    model, tokens = build(name), text()
    assert left(lambda: model.loss(tokens[:, :-1], tokens[:, 1:])[0].mean(), model, 0.5, lr=2e-2) < 0.5
