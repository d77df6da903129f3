"""What a batch of episodes must be: every other one is named before it is computed with."""

from __future__ import annotations

import pytest
import torch

from zoo.hypernet.hyper_fewshot import HyperClassifier
from zoo.layers.fewshot_checks import check_episode


def images(tasks: int, count: int) -> torch.Tensor:
    return torch.randn(tasks, count, 1, 8, 8)


def check(labels: torch.Tensor) -> int:
    x = images(*labels.shape)
    return check_episode(x, labels, x, 1)


@pytest.mark.parametrize(
    ("labels", "ways"),
    [
        ([[0]], 1),
        ([[0, 1], [1, 0]], 2),
        ([[2, 0, 1, 0], [1, 1, 2, 0]], 3),  # in any order, classes of any size
    ],
)
def test_the_number_of_ways(labels, ways):
    assert check(torch.tensor(labels)) == ways


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (torch.tensor([[0, 1], [0, 2]]), "class from 0 to 2.*task 0 has none of 2. Number the classes"),
        (torch.tensor([[0, 1, 2, 3], [0, 3, 3, 0]]), "task 1 has none of 1, 2"),
        (torch.tensor([[1, 2]]), "task 0 has none of 0"),
        (torch.tensor([[0, -1], [0, 1]]), "count from 0; got -1"),
        (torch.zeros(2, 0, dtype=torch.long), r"support is empty, \(2, 0\)"),
        (torch.zeros(0, 2, dtype=torch.long), r"support is empty, \(0, 2\)"),
        (torch.tensor([[0.0, 1.0]]), "must be torch.int64; got torch.float32"),
        (torch.tensor([[False, True]]), "must be torch.int64; got torch.bool"),
    ],
)
def test_labels_that_cannot_be_are_named(labels, says):
    with pytest.raises(ValueError, match=says):
        check(labels)


def test_a_class_without_support_is_no_silent_nan():
    model = HyperClassifier(channels=8, downsample=2, hidden=0)
    with pytest.raises(ValueError, match="task 0 has none of 2"):
        model(images(2, 2), torch.tensor([[0, 1], [0, 2]]), images(2, 3))
