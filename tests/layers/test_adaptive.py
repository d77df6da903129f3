from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.layers.adaptive import AdaptiveVocabulary

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "narrow rows": {"embed_width": 6},
    "clusters": {"cutoffs": (5, 9, 14), "division": 2},
    "clusters, untied": {"cutoffs": (5, 9), "division": 2, "tie_projections": False},
    "equal rows": {"cutoffs": (5, 9), "division": 1},
}


def build(case: str) -> AdaptiveVocabulary:
    torch.manual_seed(0)
    words = AdaptiveVocabulary(20, 8, **CASES[case]).double()
    for p in words.parameters():  # biases of the clusters too, which are 0 before training
        torch.nn.init.normal_(p, std=0.5)
    return words


def by_hand(words: AdaptiveVocabulary, h: Tensor) -> Tensor:
    """Every probability by the definition, word by word."""
    out = torch.zeros(*h.shape[:-1], words.vocab_size, dtype=h.dtype)
    into = [
        (list(words.unproject) + list(words.project)[len(words.unproject) :])[c] if len(words.project) else None
        for c in range(len(words.rows))
    ]

    def score(row: Tensor, c: int) -> Tensor:
        return h @ (row if into[c] is None else into[c] @ row)

    first = [score(words.rows[0][w], 0) + words.bias[0][w] for w in range(words.edges[1])]
    if words.cluster is not None:
        first += [score(words.cluster[c], 0) + words.cluster_bias[c] for c in range(len(words.cluster))]
    first = torch.stack(first, -1).exp()
    first = first / first.sum(-1, keepdim=True)
    out[..., : words.edges[1]] = first[..., : words.edges[1]]
    for c in range(1, len(words.rows)):
        tail = torch.stack([score(r, c) + b for r, b in zip(words.rows[c], words.bias[c], strict=True)], -1).exp()
        share = first[..., words.edges[1] + c - 1, None]
        out[..., words.edges[c] : words.edges[c + 1]] = share * tail / tail.sum(-1, keepdim=True)
    return out


@pytest.mark.parametrize("case", CASES)
def test_probabilities_are_those_of_the_definition(case: str) -> None:
    words, h = build(case), torch.randn(2, 3, 8, dtype=torch.float64)
    got = words.log_probabilities(h)
    torch.testing.assert_close(got.exp(), by_hand(words, h))
    torch.testing.assert_close(got.exp().sum(-1), torch.ones(2, 3, dtype=torch.float64))


def test_without_clusters_it_is_the_log_softmax_of_the_whole_matrix() -> None:
    words, h = build("plain"), torch.randn(2, 3, 8, dtype=torch.float64)
    want = torch.log_softmax(h @ words.rows[0].T + words.bias[0], -1)
    torch.testing.assert_close(words.log_probabilities(h), want)


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_read_off_the_probabilities_and_so_is_its_gradient(case: str) -> None:
    words = build(case)
    h = torch.randn(4, 10, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.arange(40).view(4, 10) % 20  # every word
    grads = []
    for loss in (words.nll(h, targets), -words.log_probabilities(h).gather(2, targets[..., None])[..., 0]):
        assert loss.shape == (4, 10)
        scored = [h, *words.rows, *words.bias, *words.unproject]
        grads.append((loss.detach(), *torch.autograd.grad(loss.square().sum(), scored, retain_graph=True)))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("case", CASES)
def test_a_loss_without_some_clusters(case: str) -> None:
    words, h = build(case), torch.randn(1, 3, 8, dtype=torch.float64)
    targets = torch.tensor([[0, 1, 2]])
    torch.testing.assert_close(words.nll(h, targets)[0, 1], -words.log_probabilities(h)[0, 1, 1])


@pytest.mark.parametrize("case", CASES)
def test_words_are_embedded_by_their_own_row_and_projection(case: str) -> None:
    words = build(case)
    got = words.embed(torch.arange(20).view(2, 10)).view(20, 8)
    for w in range(20):
        c = max(i for i, edge in enumerate(words.edges[:-1]) if w >= edge)
        row = words.rows[c][w - words.edges[c]]
        want = math.sqrt(8) * (words.project[c] @ row if len(words.project) else row)
        torch.testing.assert_close(got[w], want)


def test_rows_get_gradients_from_both_directions() -> None:
    words = build("clusters")
    tokens = torch.arange(20).view(2, 10)
    words.nll(words.embed(tokens), tokens).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in words.parameters())
    assert len(words.unproject) == 1 and len(words.project) == 4


@pytest.mark.parametrize("case", CASES)
def test_an_embedded_word_starts_at_a_mean_square_of_one(case: str) -> None:
    torch.manual_seed(0)
    options = {k: v for k, v in CASES[case].items() if k in ("division", "tie_projections")}
    cutoffs = (100, 300) if "cutoffs" in CASES[case] else ()
    words = AdaptiveVocabulary(1000, 64, cutoffs, **options)
    assert 0.5 < words.embed(torch.arange(1000)[None]).square().mean() < 2


@pytest.mark.parametrize("case", CASES)
def test_halves_of_autocast_are_embedded_and_scored(case: str) -> None:
    words, tokens = build(case).float(), torch.arange(20).view(2, 10)
    h = torch.randn(2, 10, 8, requires_grad=True)
    want = words.nll(h, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        embedded, loss, scores = words.embed(tokens), words.nll(h, tokens), words.log_probabilities(h)
    assert loss.dtype is scores.dtype is torch.float32
    torch.testing.assert_close(embedded.float(), words.embed(tokens), rtol=0.02, atol=0.05)
    torch.testing.assert_close(loss, want, rtol=0.02, atol=0.05)
    (loss.sum() + embedded.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (h, *words.parameters()))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_whole_numbers_of_any_type_are_words(dtype: torch.dtype) -> None:
    words, tokens = build("clusters"), torch.arange(20).view(2, 10)
    h = torch.randn(2, 10, 8, dtype=torch.float64)
    assert torch.equal(words.nll(h, tokens.to(dtype)), words.nll(h, tokens))
    assert torch.equal(words.embed(tokens.to(dtype)), words.embed(tokens))


@pytest.mark.parametrize("bad", [-1, 20, 1000])
def test_a_word_out_of_the_vocabulary_is_refused(bad: int) -> None:
    words = build("clusters")
    tokens = torch.tensor([[0, bad]])
    with pytest.raises(ValueError, match=f"{bad}.*20 symbols"):
        words.embed(tokens)
    with pytest.raises(ValueError, match="20 symbols"):
        words.nll(torch.zeros(1, 2, 8, dtype=torch.float64), tokens)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cutoffs": (5, 5)}, "must increase"),
        ({"cutoffs": (5, 20)}, "must increase"),
        ({"cutoffs": (0, 3)}, "must increase"),
        ({"cutoffs": (5, 9), "division": 4, "embed_width": 8}, "at least one number"),
        ({"division": 0}, "at least one number"),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        AdaptiveVocabulary(20, 8, **options)
