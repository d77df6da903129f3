"""Continual learning: what is held, what is measured, and that both survive a resume."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo.data.continual import SplitDigits
from zoo.tasks.continual import Continual, TaskMean


class Shift(nn.Module):
    """Two tasks; the weights of task t are one number, ``c_t + s``, added to the second logit."""

    tasks = 2

    def __init__(self):
        super().__init__()
        self.own, self.shared = nn.Parameter(torch.zeros(2, 1)), nn.Parameter(torch.zeros(1))

    def weights(self, task):
        return self.own[task] + self.shared

    def run(self, weights, x):
        return torch.stack([torch.zeros_like(x), x + weights], 1)

    def forward(self, x, task):
        return self.run(self.weights(task)[:, 0], x)


def batch(task: int):
    x = torch.tensor([1.0, 2.0, -1.0, -2.0])
    return x, (x > 0).long(), torch.full((4,), task)


def test_the_weights_of_a_task_are_kept_when_the_next_one_comes():
    model = Shift()
    task = Continual(model, strength=2.0)
    plain = task.score(batch(0), "train").loss
    assert not task.done.any() and float(task.present) == 0
    with torch.no_grad():
        model.own[0] = 0.5
    task.score(batch(1), "train")
    assert task.done.tolist() == [True, False] and task.learned[0].item() == 0.5
    with torch.no_grad():
        model.shared += 3.0  # task 0 now runs with 3.5
        model.own[1] = -3.0  # task 1 as at first
    loss = task.score(batch(1), "train").loss
    torch.testing.assert_close(loss, plain + 2.0 * 3.0**2)
    loss.backward()
    assert model.own.grad[0].item() == pytest.approx(2.0 * 2 * 3.0)  # the penalty alone pulls task 0 back


def test_forgetting_is_the_accuracy_then_less_the_accuracy_now():
    model = Shift()
    task = Continual(model)
    for t in (0, 1):
        task.score(batch(t), "train")
    with torch.no_grad():
        model.shared += 1.5  # x = -1 is now answered wrongly in both tasks
    for t in (0, 1):
        scored = task.score(batch(t), "test")
    assert float(scored.metrics["accuracy"].compute()) == 0.75
    assert float(scored.metrics["forgetting"].compute()) == 0.25  # of task 0; task 1 is not done


def test_the_mean_over_tasks_does_not_weigh_them_by_size():
    mean = TaskMean(3)
    mean.update(torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0, 0, 0, 2]))
    assert float(mean.compute()) == 0.5
    none = TaskMean(3)
    none.update(torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert float(none.compute()) == 0.0  # nothing is done yet: nothing is forgotten


def run(out, name="test_continual", **options):
    data = {"name": "split_digits", "epochs_per_task": 1, "batch_size": 64}
    trainer = {"max_epochs": 5, "enable_progress_bar": False, **options.pop("trainer", {})}
    return zoo.train(name, data, trainer=trainer, out=out, **options)


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "a", trainer={"max_steps": 2 * len(SplitDigits(batch_size=64).train_dataloader())})  # two tasks
    assert last(tmp_path / "a")["done"].tolist() == [True] + [False] * 4
    run(tmp_path / "b", resume=tmp_path / "a", trainer={"max_steps": -1})
    torch.testing.assert_close(last(tmp_path / "b"), last(tmp_path / "whole"), rtol=0, atol=0)
    assert last(tmp_path / "b")["done"].tolist() == [True] * 4 + [False]
    assert whole["best"]["epoch"] == 5  # the last weights, whether they were the best or not
    assert 0 <= whole["test"]["accuracy"] <= 1 and abs(whole["test"]["forgetting"]) <= 1


def test_the_twin_trains_and_answers_each_task_with_its_own_head(tmp_path):
    assert run(tmp_path / "twin", "test_multihead")["status"] == "finished"
    model = zoo.create_model("test_multihead", features=64)
    tasks = torch.tensor([0, 3, 3, 1])
    x = torch.randn(4, 1, 8, 8)
    expected = torch.stack([model.heads[t](model.body(v[None]))[0] for t, v in zip(tasks, x, strict=True)])
    torch.testing.assert_close(model(x, tasks), expected)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="strength must not be negative"):
        Continual(Shift(), strength=-1.0)
