from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from problems import left
from torch import Tensor

from zoo import penalties
from zoo.baselines.transformer import TransformerLM
from zoo.deq.transformer import DEQTransformerLM
from zoo.hub.factory import create_model
from zoo.reporting.counters import held_bytes

TIGHT = {"name": "anderson", "max_steps": 200, "rtol": 1e-13, "atol": 1e-14}
EXACT = {"name": "implicit", "solver": {"name": "gmres", "max_steps": 200, "rtol": 1e-13, "atol": 0.0}}
SIZES: dict[str, Any] = {"vocab_size": 11, "width": 8, "heads": 2, "inner": 12, "memory_length": 16}
STYLES: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "pre-norm": {"norm_first": True},
    "adaptive": {"cutoffs": (4, 7), "division": 2},
}


def build(**options: Any) -> DEQTransformerLM:
    """In float64, with a tight solver, and a contraction under any masks: the input outweighs the state."""
    torch.manual_seed(0)
    model = DEQTransformerLM(**{**SIZES, **options}).double()
    with torch.no_grad():
        for layer, factor in (
            (model.cell.attention.qkv, 0.2),
            (model.cell.attention.out, 5.0),
            (model.cell.feedforward.narrow, 0.2),
        ):
            layer.parametrizations.weight.original0.mul_(factor)
    model.configure_implicit(TIGHT, EXACT)
    return model


def tokens(t: int = 8, b: int = 2) -> Tensor:
    return torch.randint(0, 11, (b, t), generator=torch.Generator().manual_seed(1))


def test_as_many_parameters_as_the_released_code() -> None:
    """In its WikiText-103 configuration; the released code counts a tied projection in both of its places."""
    with torch.device("meta"):
        model = create_model("deq_transformer_wt103")
        loose = create_model("deq_transformer_wt103_prenorm", tie_projections=False)
    tied = sum(p.numel() for p in list(model.words.project)[1:])
    assert sum(p.numel() for p in model.parameters()) + tied == 97_851_488
    assert sum(p.numel() for p in loose.parameters()) == 97_851_488
    assert sum(p.numel() for p in model.cell.parameters()) == 69_753_000


@pytest.mark.parametrize("style", STYLES)
def test_shapes_and_what_is_remembered(style: str) -> None:
    model = build(**STYLES[style], memory_length=5, eval_memory_length=12)
    out, memory = model(tokens())
    assert out.shape == (2, 8, 11) and model.last.stats.converged.all()
    torch.testing.assert_close(out.exp().sum(-1), torch.ones(2, 8, dtype=torch.float64))
    assert [tuple(m.shape) for m in memory] == [(2, 5, 8), (2, 5, 24)] and not any(m.requires_grad for m in memory)
    model.eval()
    _, memory = model(tokens(), model(tokens())[1])
    assert memory[0].shape[1] == 12


@pytest.mark.parametrize("style", STYLES)
def test_a_later_word_changes_nothing_before_it(style: str) -> None:
    model = build(**STYLES[style]).eval()
    x = tokens()
    changed = x.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = model(x)[0], model(changed)[0]
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-6)
    assert (before[:, 5:] - after[:, 5:]).abs().amax(-1).min() > 1e-6


@pytest.mark.parametrize("style", STYLES)
def test_two_segments_with_their_memory_are_one_long_segment(style: str) -> None:
    model = build(**STYLES[style]).eval()
    x = tokens(12)
    whole, _ = model(x)
    first, memory = model(x[:, :7])
    second, memory = model(x[:, 7:], memory)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=1e-8)
    single, (_, memory) = [], model(x[:, :4])
    for i in range(4, 12):  # word by word, as when it is sampled from
        out, memory = model(x[:, i : i + 1], memory)
        single.append(out)
    torch.testing.assert_close(torch.cat(single, 1), whole[:, 4:], rtol=0, atol=1e-8)


def test_a_window_hides_what_lies_further_back() -> None:
    model = build(window=3).eval()
    one = build(window=1).eval()
    x = tokens()
    changed = x.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 11
    torch.testing.assert_close(one(x)[0][:, 1:], one(changed)[0][:, 1:], rtol=0, atol=1e-9)
    assert (model(x)[0][:, 2] - model(changed)[0][:, 2]).abs().max() > 1e-7


@pytest.mark.parametrize("style", STYLES)
def test_the_tied_twin_becomes_the_equilibrium(style: str) -> None:
    model = build(**STYLES[style]).eval()
    twin = TransformerLM(**SIZES, **STYLES[style], depth=400).double().eval()
    twin.load_state_dict({k.replace("cell.", "cells.0."): v for k, v in model.state_dict().items()})
    x = tokens()
    memory, other = None, None
    for _ in range(2):  # the second segment with what is remembered of the first
        want, memory = model(x, memory)
        got, other = twin(x, other)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("style", STYLES)
def test_the_implicit_gradient_is_that_of_a_long_unroll(style: str) -> None:
    grads = []
    for solver, adjoint in ((TIGHT, EXACT), ({"name": "picard", "max_steps": 400, "rtol": 1e-14, "atol": 0}, "unroll")):
        model = build(**STYLES[style], dropout=0.2, attention_dropout=0.1)
        model.configure_implicit(solver, adjoint)
        torch.manual_seed(3)  # the same masks
        _, memory = model.loss(tokens(), tokens())
        loss, _ = model.loss(tokens(), tokens().roll(-1, 1), memory)
        loss.mean().backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, unrolled in grads[1].items():
        assert unrolled.abs().sum() > 0, name
        torch.testing.assert_close(grads[0][name], unrolled, rtol=0, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("style", STYLES)
def test_a_reversible_solve_has_the_gradient_of_its_unrolled_steps(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unrolled_by_hand(self: DEQTransformerLM, f: Any, z0: Tensor, *, args: Any) -> Tensor:
        y = z = z0
        for _ in range(7):
            y = torch.lerp(y, f(z, *args), 0.5)
            z = torch.lerp(z, f(y, *args), 0.5)
        return z

    grads = []
    for by_hand in (True, False):
        model = build(**STYLES[style], dropout=0.2, attention_dropout=0.1)
        model.configure_implicit({"name": "reversible", "max_steps": 7, "rtol": 1e-30, "atol": 1e-30}, "reversible")
        with monkeypatch.context() as patch:
            if by_hand:
                patch.setattr(DEQTransformerLM, "solve", unrolled_by_hand)
            torch.manual_seed(3)  # the same masks
            model.loss(tokens(), tokens().roll(-1, 1))[0].mean().backward()
        assert by_hand or model.last.stats.steps.tolist() == [7, 7]
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, unrolled in grads[0].items():
        torch.testing.assert_close(grads[1][name], unrolled, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_bytes_kept_for_the_backward_pass_do_not_grow_with_the_iterations() -> None:
    held = []
    for steps in (5, 20, 80):
        model = DEQTransformerLM(**SIZES).double()
        model.configure_implicit({"name": "picard", "max_steps": steps, "rtol": 1e-30, "atol": 1e-30}, "implicit")
        held.append(held_bytes(lambda m=model: m.loss(tokens(), tokens())[0].mean()))
        assert model.last.stats.nfe >= steps
    assert max(held) <= 1.05 * min(held)
    twins = [TransformerLM(**SIZES, depth=depth).double() for depth in (5, 20)]
    shallow, deep = (held_bytes(lambda m=m: m.loss(tokens(), tokens())[0].mean()) for m in twins)
    assert deep > 3 * shallow


def test_one_set_of_masks_a_solve_and_another_the_next() -> None:
    model = build(dropout=0.4, attention_dropout=0.2)
    model.configure_implicit({"name": "picard", "max_steps": 5, "rtol": 1e-30})  # no sample is done before another
    seen: list[list[Tensor]] = []
    model.cell.register_forward_pre_hook(lambda cell, args: seen.append(list(args[4:])))
    model(tokens())
    calls = len(seen)
    model(tokens())
    assert calls > 3 and [tuple(m.shape) for m in seen[0]] == [(2, 1, 8), (2, 1, 12), (2, 1, 8), (2, 2, 8, 8)]
    for call in seen[1:calls]:
        assert all(torch.equal(a, b) for a, b in zip(call, seen[0], strict=True))
    assert not torch.equal(seen[-1][0], seen[0][0]) or not torch.equal(seen[-1][1], seen[0][1])
    seen.clear()
    model.eval()(tokens())
    assert all(not call for call in seen)
    assert torch.equal(model(tokens())[0], model(tokens())[0])


def test_a_sequence_is_answered_as_in_a_batch() -> None:
    model = build().eval()
    model.configure_implicit({"name": "anderson", "rtol": 1e-4, "atol": 1e-6, "max_steps": 30})
    x = tokens(b=3)
    torch.testing.assert_close(model(x[1:2])[0], model(x)[0][1:2], rtol=0, atol=1e-9)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_a_duplicate_after_training_gives_the_same(duplicate: Any) -> None:
    model = build()
    model.loss(tokens(), tokens())[0].mean().backward()
    assert torch.equal(duplicate(model).eval()(tokens())[0], model.eval()(tokens())[0])


@pytest.mark.parametrize("adjoint", ["implicit", "phantom", "jfb", "unroll"])
def test_one_batch_is_learned_with_the_penalty(adjoint: str) -> None:
    torch.manual_seed(0)
    model = DEQTransformerLM(**SIZES)
    model.configure_implicit({"name": "anderson", "max_steps": 8, "rtol": 1e-2}, adjoint)

    def loss() -> tuple[Tensor, Any]:
        with penalties.collect(jacobian=adjoint != "unroll") as terms:
            value = model.loss(tokens(), tokens().roll(-1, 1))[0].mean()
        return value, 0.1 * terms.get("jacobian", 0.0)

    assert left(loss, model, 0.5, lr=2e-2) < 0.5


def test_weight_decay_leaves_magnitudes_and_biases_alone() -> None:
    model = build()
    left = model.no_weight_decay()
    assert left <= {n for n, _ in model.named_parameters()}
    assert "cell.attention.content_bias" in left and "cell.feedforward.widen.parametrizations.weight.original0" in left


@pytest.mark.parametrize("bad", [-1, 11])
def test_a_word_out_of_the_vocabulary_is_refused(bad: int) -> None:
    x = tokens()
    x[1, 3] = bad
    with pytest.raises(ValueError, match="11 symbols"):
        build()(x)
    with pytest.raises(ValueError, match="11 symbols"):
        build().loss(tokens(), x)


def test_a_memory_of_another_batch_is_refused() -> None:
    model = build()
    _, memory = model(tokens(b=3))
    with pytest.raises(ValueError, match="holds 3 sequences, the tokens 2"):
        model(tokens(), memory)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 9}, "divisible by both"),
        ({"memory_length": -1}, "at least 0"),
        ({"window": 0}, "at least 1"),
        ({"dropout": 1.0}, "below 1"),
        ({"cutoffs": (11,)}, "must increase"),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DEQTransformerLM(**{**SIZES, **options})
