"""The few-shot task: loss, accuracy and its interval."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import zoo
from zoo.tasks.fewshot import FewShot, Interval


class Nearest(nn.Module):
    """Logits by the distance to each support sample of one number; one shot."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, support_x, support_y, query_x):
        return -self.scale * (query_x - support_x.mT).square()


def batch():
    support = torch.tensor([[[0.0], [1.0]], [[0.0], [1.0]]])
    query = torch.tensor([[[0.1], [0.9]], [[0.1], [0.2]]])
    y = torch.tensor([[0, 1], [0, 1]])
    return support, y, query, y


def test_accuracy_is_counted_by_episode():
    task = FewShot(Nearest())
    scored = task.score(batch(), "test")
    logits = task.answer(batch())
    assert float(scored.metrics["accuracy"].compute()) == 0.75 and scored.size == 2
    assert float(scored.metrics["interval"].compute()) == pytest.approx(1.96 * 0.125**0.5 / 2**0.5)
    expected = nn.functional.cross_entropy(logits.reshape(-1, 2), torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(scored.loss, expected)
    assert task.answer(task.cut(batch(), 1)).shape == (1, 2, 2) and task.rows(batch()) == 2


def test_the_interval_adds_up_over_batches():
    values = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, parts = Interval(), Interval()
    one.update(values)
    for part in values.split(30):
        parts.update(part)
    expected = 1.96 * float(values.std()) / math.sqrt(100)
    assert float(one.compute()) == pytest.approx(expected) == pytest.approx(float(parts.compute()))


@pytest.mark.parametrize(
    "name", ["test_hyper_fewshot", *(pytest.param(n, marks=pytest.mark.slow) for n in ("test_imaml", "test_maml"))]
)
def test_a_model_trains_by_its_card(name, tmp_path):
    small = {"train_episodes": 4, "val_episodes": 2, "test_episodes": 4, "batch_size": 2, "queries": 3}
    quiet = {"max_epochs": 1, "enable_progress_bar": False}
    found = zoo.train(name, {"name": "digit_episodes", **small}, trainer=quiet, out=tmp_path / "run")
    assert found["status"] == "finished" and 0 <= found["test"]["accuracy"] <= 1 and "interval" in found["test"]
