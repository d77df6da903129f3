"""Segments of streams: each continues the one before, every prediction of an evaluation is made once, on any rank."""

from __future__ import annotations

import warnings

import pytest
import torch

from zoo.data.stream import FILLED, Segments


def segments(n=103, batch_size=3, length=7, rank=0, ranks=1, **options) -> Segments:
    return Segments(torch.arange(n), batch_size=batch_size, length=length, ranks=lambda: (rank, ranks), **options)


def same(a, b) -> bool:
    pairs = zip(a, b, strict=True)
    return all(torch.equal(x.tokens, y.tokens) and torch.equal(x.targets, y.targets) for x, y in pairs)


@pytest.mark.parametrize("train", [True, False])
def test_a_target_is_what_follows(train):
    for tokens, targets, _ in segments(train=train):
        counted = targets != FILLED
        assert torch.equal((tokens + 1)[counted], targets[counted])


@pytest.mark.parametrize("train", [True, False])
def test_each_segment_continues_the_one_before(train):
    before = None
    for number, (tokens, targets, counted) in enumerate(segments(train=train)):
        assert counted == number
        if before is not None:
            inside = targets[:, 0] != FILLED
            assert torch.equal(tokens[inside, 0], before[inside])
        before = targets[:, -1]


@pytest.mark.parametrize("n", [2, 5, 22, 23, 64, 103])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 7, 200])
def test_an_evaluation_makes_every_prediction_once(n, ranks, length):
    if n - 1 < ranks:
        with pytest.raises(ValueError, match=f"cannot be shared by {ranks} processes"):
            len(segments(n=n, ranks=ranks))
        return
    seen, steps = [], set()
    for rank in range(ranks):
        loader = segments(n=n, length=length, rank=rank, ranks=ranks)
        batches = list(loader)
        assert len(batches) == len(loader)
        steps.add(len(batches))
        for batch in batches:
            seen += batch.targets[batch.targets != FILLED].tolist()
    assert sorted(seen) == list(range(1, n))
    assert len(steps) == 1, "every rank makes as many steps"


@pytest.mark.parametrize("order", ["streams", "random"])
def test_a_training_pass_reads_no_token_twice_on_any_rank(order):
    seen = []
    for rank in range(2):
        for tokens, _, number in segments(rank=rank, ranks=2, train=True, order=order):
            assert tokens.shape == (3, 7)
            assert order == "streams" or number == 0, "nothing continues another where the order is random"
            seen += tokens.flatten().tolist()
    assert len(set(seen)) == len(seen) == 2 * 3 * 7 * 2


@pytest.mark.parametrize("order", ["streams", "random"])
def test_a_pass_depends_on_seed_and_epoch_alone(order):
    def passes(seed):
        loader = segments(train=True, order=order, seed=seed)
        return [list(loader) for _ in range(3)]

    first, again, other = passes(0), passes(0), passes(1)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not same(first[0], first[1]) or not same(first[1], first[2])
    assert not all(same(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("order", ["streams", "random"])
def test_a_pass_that_is_taken_up_again_goes_on_with_the_same_segments(order):
    whole = list(segments(n=400, train=True, order=order, where=lambda: (2, 0)))
    rest = list(segments(n=400, train=True, order=order, where=lambda: (2, 3)))
    assert same(whole[3:], rest) and [s.number for s in whole[3:]] == [s.number for s in rest]


def test_a_text_of_just_one_step_is_enough_and_less_is_refused():
    assert len(segments(n=22, train=True)) == 1
    assert next(iter(segments(n=22, train=True))).targets[-1, -1] == 21
    with pytest.raises(ValueError, match="21 tokens is too short for 3 streams x 1 processes x 7 tokens"):
        len(segments(n=21, train=True))


def test_a_changed_run_is_warned_about():
    state = segments(train=True).state_dict()
    with pytest.warns(UserWarning, match="made with length=7, now it is 5"):
        segments(length=5, train=True).load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segments(train=True).load_state_dict(state)
