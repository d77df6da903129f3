"""The task of time series: loss and metrics against closed forms, training from end to end, what it refuses."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import zoo
from zoo.data.series import Series, Spirals
from zoo.layers.series import Outcome
from zoo.tasks.base import NonFiniteError
from zoo.tasks.series import TimeSeries, thinned, with_seen
from zoo.training.train import train

TRAINER = {
    "max_epochs": 1,
    "limit_train_batches": 2,
    "limit_val_batches": 1,
    "limit_test_batches": 1,
    "log_every_n_steps": 1,
    "accelerator": "cpu",
    "devices": 1,
}


class Fixed(nn.Module):
    """Answers with what it was given at birth, and keeps what it was asked."""

    def __init__(self, outcome: Outcome, num_classes: int = 0, latent: int = 0) -> None:
        super().__init__()
        self.outcome, self.num_classes, self.latent = outcome, num_classes, latent
        self.asked = None

    def forward(self, times, values, mask, query=None):
        self.asked = query
        return self.outcome


def batch(count: int = 6) -> Series:
    make = torch.Generator().manual_seed(0)
    s = Spirals().split("val").rows(torch.arange(count))
    return s._replace(label=torch.randint(0, 2, (count,), generator=make))


def test_the_loss_is_the_mean_negative_log_likelihood_of_what_was_asked():
    s = batch()
    found = torch.randn_like(s.target)
    task = TimeSeries(Fixed(Outcome(values=found)), noise=0.3)
    scored = task.score(s, "val")
    likelihood = torch.distributions.Normal(found, 0.3).log_prob(s.target)[s.target_mask]
    torch.testing.assert_close(scored.loss, -likelihood.mean())
    error = (found - s.target)[s.target_mask].square().mean()
    torch.testing.assert_close(scored.metrics["mse"].compute(), error)
    torch.testing.assert_close(scored.metrics["nll"].compute(), -likelihood.mean())
    assert (task.monitor, task.maximise) == ("val/mse", False)
    assert math.isclose(
        float(error) ** 0.5, float((found - s.target)[s.target_mask].square().mean().sqrt()), rel_tol=1e-6
    )


def test_what_was_not_asked_has_no_part_in_it():
    s = batch()
    found = torch.randn_like(s.target)
    other = torch.where(s.target_mask, found, float("nan"))
    spoilt = s._replace(target=torch.where(s.target_mask, s.target, 1e9))
    first = TimeSeries(Fixed(Outcome(values=found))).score(s, "val").loss
    torch.testing.assert_close(TimeSeries(Fixed(Outcome(values=other))).score(spoilt, "val").loss, first)


def test_the_divergence_is_annealed_in_training_only():
    s = batch()
    kl = torch.full((len(s.times),), 7.0)
    task = TimeSeries(Fixed(Outcome(values=s.target, kl=kl)), anneal=10)
    bare = TimeSeries(Fixed(Outcome(values=s.target))).score(s, "val").loss
    share = 7.0 * len(s.times) / int(s.target_mask.sum())
    torch.testing.assert_close(task.score(s, "train").loss, bare)  # beta = 0 at step 0
    torch.testing.assert_close(task.score(s, "val").loss, bare + share)
    task.anneal = 0
    torch.testing.assert_close(task.score(s, "train").loss, bare + share)


def test_classes_are_measured_by_cross_entropy_accuracy_and_area():
    s = batch(40)
    logits = torch.randn(40, 2)
    task = TimeSeries(Fixed(Outcome(logits=logits), num_classes=2))
    scored = task.score(s, "test")
    torch.testing.assert_close(scored.loss, nn.functional.cross_entropy(logits, s.label))
    area = roc_auc_score(s.label.numpy(), logits.softmax(1)[:, 1].numpy())
    assert float(scored.metrics["auc"].compute()) == pytest.approx(area, abs=1e-6)
    accuracy = (logits.argmax(1) == s.label).float().mean()
    torch.testing.assert_close(scored.metrics["accuracy"].compute(), accuracy)
    assert (task.monitor, task.maximise) == ("val/auc", True)


@pytest.mark.parametrize("aim", ["extrapolation", "interpolation"])
def test_a_latent_model_also_rebuilds_what_it_saw_in_training(aim):
    s = Spirals(aim=aim).split("val").rows(torch.arange(6))
    both = with_seen(s)
    assert (both.query.diff(dim=1) >= 0).all()
    assert int(both.target_mask.sum()) == int(s.mask.sum() + s.target_mask.sum())
    seen = {(float(t), *v.tolist()) for t, v, m in zip(s.times[0], s.values[0], s.mask[0], strict=True) if m.all()}
    asked = {(float(t), *v.tolist()) for t, v, m in zip(s.query[0], s.target[0], s.target_mask[0], strict=True) if m[0]}
    joined = zip(both.query[0], both.target[0], both.target_mask[0], strict=True)
    assert {(float(t), *v.tolist()) for t, v, m in joined if m.all()} == seen | asked
    model = Fixed(Outcome(values=both.target, kl=torch.zeros(6)), latent=3)
    TimeSeries(model).train().score(s, "train")
    assert torch.equal(model.asked, both.query)
    for task in (TimeSeries(model).eval(), TimeSeries(model, reconstruction=0.0).train(), TimeSeries(Fixed(Outcome()))):
        with pytest.raises((RuntimeError, TypeError)):  # the answer given at birth does not fit what is asked now
            task.score(s, "train")
        assert torch.equal(task.model.asked, s.query)


def test_a_latent_model_that_classifies_also_rebuilds_what_it_saw():
    s = batch()
    model = Fixed(Outcome(values=s.values, logits=torch.zeros(6, 2), kl=torch.zeros(6)), num_classes=2, latent=3)
    task = TimeSeries(model, noise=0.3, reconstruction=2.0).train()
    loss = task.score(s, "train").loss
    assert torch.equal(model.asked, s.times)
    rebuilt = math.log(0.3) + 0.5 * math.log(2 * math.pi)
    assert float(loss) == pytest.approx(math.log(2) + 2 * rebuilt, abs=1e-5)
    task.eval().ask(s)
    assert model.asked is None


def test_rows_and_cuts_keep_the_batch_a_series():
    task, s = TimeSeries(zoo.create_model("test_ode_rnn")), batch()
    part = task.cut(s, 2)
    assert isinstance(part, Series) and task.rows(part) == 2 and task.rows(s) == 6
    assert task.answer(part).shape == (2, part.query.shape[1], 2)


def test_batches_that_cannot_be_used_are_refused():
    s = batch()
    task = TimeSeries(zoo.create_model("test_ode_rnn"))
    with pytest.raises(ValueError, match="asks for nothing"):
        task.score(s._replace(target_mask=torch.zeros_like(s.target_mask)), "val")
    spoilt = s._replace(values=torch.full_like(s.values, float("nan")))
    with pytest.raises(NonFiniteError, match="NaN or infinity where they were seen"):
        task._refuse_nan_input(spoilt)
    unseen = s._replace(values=torch.where(s.mask, s.values, float("nan")))
    task._refuse_nan_input(unseen)
    with pytest.raises(ValueError, match="the data have no labels"):
        TimeSeries(zoo.create_model("test_ode_rnn", num_classes=2)).score(s._replace(label=s.label * 0 - 1), "val")
    for wrong in ({"noise": 0.0}, {"anneal": -1}, {"reconstruction": -1.0}):
        with pytest.raises(ValueError, match=r"task\.noise must be above 0"):
            TimeSeries(zoo.create_model("test_ode_rnn"), **wrong)


@pytest.mark.parametrize(
    ("name", "aim"),
    [("test_neural_cde", "direction"), pytest.param("test_ode_rnn", "interpolation", marks=pytest.mark.slow)],
)
def test_a_model_trains_by_name_and_its_solves_are_measured(tmp_path, name, aim):
    """The default aim is under the contract of `tests/test_every_task.py`."""
    data = {"name": "spirals", "aim": aim, "batch_size": 8}
    results = train(name, data, trainer=TRAINER, out=tmp_path / "run")
    assert results["status"] == "finished"
    assert ("auc" if aim == "direction" else "mse") in results["test"]
    with (tmp_path / "run" / "metrics.csv").open() as stream:
        row = next(csv.DictReader(stream))
    assert float(row["solver/nfe_forward"]) > 0 and float(row["solver/accepted"]) > 0


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    options = {"data": {"name": "spirals", "batch_size": 8}, "optim": {"schedule": "constant", "warmup": 0}}
    both = {**TRAINER, "max_epochs": 2}
    whole = train("test_gru", trainer=both, out=tmp_path / "whole", **options)
    train("test_gru", trainer=TRAINER, out=tmp_path / "part", **options)
    resumed = train("test_gru", trainer=both, resume=tmp_path / "part", **options)
    assert whole["steps"] == resumed["steps"] == 4 and whole["test"] == resumed["test"]


def test_thinning_hides_rows_of_what_is_seen_and_nothing_else():
    torch.manual_seed(0)
    batch = Spirals(train_size=256).split("train")
    thin = thinned(batch, 0.6)
    assert not bool((thin.mask & ~batch.mask).any())
    torch.testing.assert_close(thin.mask[:, 0], batch.mask[:, 0])
    share = 1 - thin.mask.float().sum((1, 2)) / batch.mask.float().sum((1, 2))
    assert 0.2 < float(share.mean()) < 0.4 and float(share.max()) > 0.5 and float(share.min()) < 0.1
    assert all(a is b for a, b in zip(thin[3:], batch[3:], strict=True))  # what is asked for
    blank = batch._replace(mask=torch.zeros_like(batch.mask).index_fill_(1, torch.tensor([1]), True))
    assert bool(thinned(blank, 0.99).mask.any(2).any(1).all())  # nothing seen in the first row: never left empty


def test_thinning_is_for_training_alone():
    task = TimeSeries(zoo.create_model("test_gru"), thin=0.9)
    seen = []
    task.ask = lambda batch, ask=task.ask: (seen.append(int(batch.mask.sum())), ask(batch))[1]
    batch = Spirals(train_size=64).split("train")
    task.train().score(batch, "train")
    task.eval().score(batch, "val")
    assert seen[0] < 0.8 * seen[1] and seen[1] == int(batch.mask.sum())
    with pytest.raises(ValueError, match="thin"):
        TimeSeries(zoo.create_model("test_gru"), thin=1.0)
