"""Tasks in turn: what each epoch holds, and what a resumed run sees."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from zoo.data.continual import SplitDigits


def kinds(loader) -> list[set[int]]:
    return [set(task.tolist()) for _, _, task in loader]


def test_the_tasks_come_in_turn_and_the_last_one_stays():
    data = SplitDigits(batch_size=32, epochs_per_task=2)
    loader = data.train_dataloader()
    seen = [set().union(*kinds(loader)) for _ in range(11)]
    assert seen == [{0}, {0}, {1}, {1}, {2}, {2}, {3}, {3}, {4}, {4}, {4}]
    assert (data.tasks, data.num_classes, data.features) == (5, 2, 64)


def test_a_label_counts_within_its_task():
    data = SplitDigits(batch_size=16)
    x, y = data.split("test")
    found = [torch.cat(part) for part in zip(*data.test_dataloader(), strict=True)]
    assert len(found[0]) == len(y) == data.sizes["test"]
    assert sorted((2 * found[2] + found[1]).tolist()) == sorted(y.tolist())
    order = torch.cat([torch.nonzero(y // 2 == t)[:, 0] for t in range(5)])
    torch.testing.assert_close(found[0], data.transform(x[order]))
    assert all(len(k) == 1 for k in kinds(data.test_dataloader()))  # one task a batch


def test_a_resumed_pass_sees_the_rest_of_the_batches():
    whole = SplitDigits(batch_size=32).train_dataloader()
    whole.set_epoch(3)
    batches = list(whole)
    assert len(batches) == len(whole)
    data = SplitDigits(batch_size=32)
    data.position = lambda: (3, 4)
    rest = list(data.train_dataloader())
    torch.testing.assert_close(rest, batches[4:], rtol=0, atol=0)


def test_a_run_too_short_for_all_tasks_is_refused():
    data = SplitDigits(epochs_per_task=2)
    data.trainer = SimpleNamespace(max_epochs=9)
    with pytest.raises(ValueError, match="5 tasks of 2 epochs take 10 epochs; the run has 9"):
        data.train_dataloader()
    with pytest.raises(ValueError, match="epochs_per_task must be at least 1"):
        SplitDigits(epochs_per_task=0)
