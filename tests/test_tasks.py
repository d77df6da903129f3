"""Tasks and their optimizer: the schedule's shape, the penalty, what is refused."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.implicit import ImplicitMixin
from zoo.tasks.classification import Classification
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig


class Model(ImplicitMixin, nn.Module):
    def __init__(self):
        super().__init__()
        self.num_classes = 2
        self.weight = nn.Parameter(torch.full((2, 2), 0.1))
        self.configure_implicit("picard", "implicit")

    def forward(self, x):
        return self.solve(lambda z: torch.tanh(z @ self.weight + x), torch.zeros_like(x))


def test_the_rate_rises_then_falls():
    optim = Optim(schedule="cosine", warmup=0.1, final=0.1)
    factors = [optim.factor(k, 100) for k in range(101)]
    assert factors[0] > 0
    assert max(factors) == pytest.approx(1.0)
    assert factors.index(max(factors)) == 10
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0.1)


def test_the_other_shapes():
    assert [Optim(schedule="constant", warmup=0).factor(k, 10) for k in (0, 5, 10)] == [1.0, 1.0, 1.0]
    assert [Optim(schedule="linear", warmup=0).factor(k, 10) for k in (0, 5, 10)] == [1.0, 0.5, 0.0]
    onecycle = [Optim(schedule="onecycle").factor(k, 100) for k in range(101)]
    assert onecycle.index(max(onecycle)) == 30
    assert Optim().factor(10**6, math.inf) == 1.0  # endless training


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": 0.0}, "lr must be above 0"),
        ({"weight_decay": -1.0}, "not be negative"),
        ({"warmup": 1.0}, r"in \[0, 1\)"),
    ],
)
def test_an_optimiser_out_of_range_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Optim(**options)


def test_the_optimiser_is_timms_and_spares_biases():
    optimizer = Optim(name="adamw", weight_decay=0.5).build(nn.Linear(2, 2))
    assert sorted(g["weight_decay"] for g in optimizer.param_groups) == [0.0, 0.5]
    with pytest.raises(ValueError, match="No optimizer named 'adamm'. Did you mean 'adam'"):
        Optim(name="adamm").build(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"jacobian_weight": -1.0}, "must not be negative"),
        ({"jacobian_every": 0}, "jacobian_every must be at least 1"),
        ({"jacobian_until": 0.0}, r"share of the run in \(0, 1\]"),
        ({"warmup_depth": 0}, "warmup_depth must be at least 1"),
        ({"random_budget": -1}, "random_budget must be at least 0"),
        ({"correction_weight": math.nan}, "must not be negative"),
    ],
)
def test_stability_out_of_range_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        StabilityConfig(**options)


def test_a_task_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"label_smoothing is a share in \[0, 1\)"):
        Classification(Model(), label_smoothing=1.0)


def test_an_explicit_model_has_no_jacobian_to_penalise():
    model = nn.Linear(2, 2)
    model.num_classes = 2
    with pytest.raises(ValueError, match="Linear solves nothing"):
        Classification(model, stability=StabilityConfig(jacobian_weight=0.1))


@pytest.fixture
def logged(monkeypatch):
    values = {}
    monkeypatch.setattr(Classification, "log", lambda self, name, value, **_: values.__setitem__(name, value))
    return values


def test_the_penalty_is_the_jacobian_at_the_fixed_point(logged):
    model = Model()
    x, y = torch.randn(64, 2), torch.zeros(64, dtype=torch.long)
    plain = Classification(model).training_step((x, y), 0)
    assert "train/jacobian" not in logged
    penalized = Classification(model, stability=StabilityConfig(jacobian_weight=2.0)).training_step((x, y), 0)
    assert float((penalized - plain).detach() / 2.0) == pytest.approx(float(logged["train/jacobian"]), rel=1e-3)
    z = model(x).detach().requires_grad_()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z, x: torch.tanh(z @ model.weight + x)))(z, x)
    exact = float(jacobian.square().sum() / z.numel())
    assert float(logged["train/jacobian"]) == pytest.approx(exact, rel=0.6)  # one random vector
    penalized.backward()
    assert torch.isfinite(model.weight.grad).all()


def test_smoothing_is_for_training_only(logged):
    x, y = 5 * torch.eye(2).repeat(4, 1), torch.arange(2).repeat(4)
    plain, smooth = Classification(Model()), Classification(Model(), label_smoothing=0.2)
    assert smooth.training_step((x, y), 0).item() > plain.training_step((x, y), 0).item()
    smooth.validation_step((x, y), 0)
    one = float(logged["val/loss"])
    plain.validation_step((x, y), 0)
    assert one == pytest.approx(float(logged["val/loss"]))
    assert float(smooth.accuracy["val"].compute()) == 1.0


def test_hyperparameters_are_plain():
    task = Classification(Model(), Optim(lr=0.5))
    assert dict(task.hparams) == {"optim": {**vars(Optim(lr=0.5))}}


class Clock(Timer):
    """A timer whose second is a step."""

    def __init__(self, seconds):
        super().__init__(timedelta(seconds=seconds))
        self.now = 0

    def time_elapsed(self, stage="train"):
        return self.now

    def on_train_batch_end(self, trainer, *args):
        self.now += 1
        super().on_train_batch_end(trainer, *args)


def test_a_run_that_the_clock_ends_anneals_by_the_clock():
    rates = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, *args):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    class Validated(Watch):
        def on_validation_end(self, trainer, *args):
            validated.append(trainer.global_step)

    validated: list[int] = []
    x, y = torch.randn(28, 2), torch.randint(2, (28,))
    loader = DataLoader(TensorDataset(x, y), batch_size=4)  # 7 steps an epoch: 20 end within the third
    task = Classification(Model(), Optim(lr=1.0, warmup=0.25, schedule="linear"))
    trainer = Trainer(
        max_epochs=-1,
        callbacks=[Clock(20), Validated()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
    )
    trainer.fit(task, loader, loader)
    assert rates[0] < 0.01  # at the start nothing is known of the number of steps
    assert max(rates) == pytest.approx(rates[5], abs=0.2) and rates[:5] == sorted(rates[:5])
    assert rates[6:] == sorted(rates[6:], reverse=True) and rates[-1] < 0.15
    assert validated[-1] == trainer.global_step  # the last weights, of an epoch that was cut short, are measured too
