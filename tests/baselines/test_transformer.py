from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import left
from torch import Tensor

import zoo
from zoo.baselines.transformer import TransformerLM
from zoo.hub.cards import card

SIZES: dict[str, Any] = {"vocab_size": 11, "width": 8, "heads": 2, "inner": 12, "depth": 3, "memory_length": 16}
KINDS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tied": False},
    "untied, pre-norm, shared biases": {"tied": False, "norm_first": True, "tied_biases": True},
}


def build(kind: str, **options: Any) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(**{**SIZES, **KINDS[kind], **options}).double()


def tokens(t: int = 8, b: int = 2) -> Tensor:
    return torch.randint(0, 11, (b, t), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_word_changes_nothing_before_it(kind: str) -> None:
    model = build(kind).eval()
    x = tokens()
    changed = x.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = model(x)[0], model(changed)[0]
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-12)
    assert (before[:, 5:] - after[:, 5:]).abs().amax(-1).min() > 1e-6


@pytest.mark.parametrize("kind", ["untied", "untied, pre-norm, shared biases"])
def test_two_segments_with_their_memory_are_one_long_segment(kind: str) -> None:
    """To the last bit of rounding, as every layer remembers what came into it."""
    model, x = build(kind).eval(), tokens(12)
    first, memory = model(x[:, :7])
    second, memory = model(x[:, 7:], memory)
    torch.testing.assert_close(torch.cat([first, second], 1), model(x)[0], rtol=0, atol=1e-12)
    assert len(memory) == 3 and memory[0].shape == (2, 12, 8) and not memory[0].requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient_and_one_batch_is_learned(kind: str) -> None:
    model = build(kind).float()

    def loss() -> Tensor:
        first, memory = model.loss(tokens(), tokens().roll(-1, 1))
        return (first + model.loss(tokens(), tokens().roll(-1, 1), memory)[0]).mean() / 2

    assert left(loss, model, 0.5, lr=2e-2) < 0.5
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_untied_layers_share_their_biases_where_asked() -> None:
    def biases(kind: str) -> set[int]:
        return {id(p) for n, p in build(kind).named_parameters() if n.endswith(("content_bias", "position_bias"))}

    assert len(biases("untied")) == 6 and len(biases("untied, pre-norm, shared biases")) == 2


def test_the_twins_are_as_large_or_as_deep_as_they_say() -> None:
    def count(name: str) -> int:
        return sum(p.numel() for p in zoo.create_model(name, vocab_size=65).parameters())

    equilibrium = count("deq_transformer_small")
    assert count("transformer_tied") == equilibrium
    assert abs(count("transformer_slim") - equilibrium) < 0.01 * equilibrium
    assert {card(n).model["depth"] for n in ("transformer_tied", "transformer_deep", "transformer_slim")} == {8}
    assert card("transformer_deep").model["width"] == card("deq_transformer_small").model["width"]


def test_no_layer_is_no_transformer() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        TransformerLM(**{**SIZES, "depth": 0})
