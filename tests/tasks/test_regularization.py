"""The stability kit in training: schedules, random budgets, the loss of early answers, the contractive start."""

from __future__ import annotations

import copy
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from lightning.pytorch.callbacks import Timer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo import penalties
from zoo.callbacks.per_step_seed import PerStepSeed
from zoo.implicit import solver_budget
from zoo.tasks.classification import Classification
from zoo.tasks.regularization import StabilityConfig


class Model(zoo.ImplicitMixin, nn.Module):
    """Logits are the fixed point of ``z = scale W z + x``, which plain iteration never quite reaches."""

    num_classes = 3

    def __init__(self, scale=0.9):
        super().__init__()
        self.weight = nn.Parameter(scale * torch.eye(3))
        self.bias = nn.Parameter(torch.zeros(3))
        self.configure_implicit({"name": "picard", "max_steps": 12, "rtol": 0.0, "atol": 1e-30}, "implicit")
        self.steps: list[int] = []

    def forward(self, x):
        z = self.solve(lambda z, x: z @ self.weight.T + x + self.bias, torch.zeros_like(x), args=(x,))
        self.steps.append(int(self.last.stats.steps.max()))
        return z


def train(model, seed=0, **stability):
    data = TensorDataset(torch.randn(24, 3, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, callbacks=[PerStepSeed(seed)], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    task = Classification(model, stability=StabilityConfig(**stability))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(many workers|training batches).*")
        trainer.fit(task, DataLoader(TensorDataset(*data.tensors), batch_size=4))
    return task, trainer


def test_the_weight_of_the_penalty_follows_its_schedule():
    kit = StabilityConfig(jacobian_weight=1.0, jacobian_final=3.0, jacobian_every=2, jacobian_until=0.8)
    assert [kit.penalty(k, 10) for k in range(10)] == pytest.approx([1, 0, 1.4, 0, 1.8, 0, 2.2, 0, 0, 0])
    assert StabilityConfig(jacobian_weight=2.0).penalty(7, math.inf) == 2.0
    assert StabilityConfig(jacobian_final=1.0).penalty(5, 10) == 0.5
    assert StabilityConfig().enabled_options() == {}
    assert StabilityConfig(contract=0.9, random_budget=2).enabled_options() == {"random_budget": 2, "contract": 0.9}


def test_budgets_are_drawn_by_the_step_alone():
    first, second, other = Model(), Model(), Model()
    train(first, random_budget=5)
    torch.rand(7)  # whatever was drawn before
    train(second, random_budget=5)
    train(other, seed=1, random_budget=5)
    assert first.steps == second.steps != other.steps
    assert set(first.steps) <= set(range(7, 13)) and len(set(first.steps)) > 2
    first.eval()(torch.zeros(1, 3) + 1)
    assert first.steps[-1] == 12 and first.solver.max_steps == 12  # of training steps only


def test_solves_deepen_with_the_share_of_the_run():
    model = Model()
    train(model, depth_curriculum=[2, 5, 50])
    assert model.steps == [2] * 4 + [5] * 4 + [12] * 4  # of 12 training steps; no more than the solver has


def test_where_a_clock_ends_the_run_it_says_the_share():
    task = Classification(Model(), stability=StabilityConfig(depth_curriculum=(2, 5)))
    timer = Timer({"seconds": 100})
    timer.time_elapsed, timer.time_remaining = lambda *_: 60.0, lambda *_: 40.0
    task.trainer = SimpleNamespace(estimated_stepping_batches=math.inf, callbacks=[timer], world_size=1)
    assert task._share() == pytest.approx(0.6)
    task.trainer = SimpleNamespace(estimated_stepping_batches=math.inf, callbacks=[], world_size=1)
    assert task._share() == 0.0  # nothing ends it


def test_a_limit_is_a_scope():
    model, x = Model(), torch.ones(2, 3)
    with solver_budget(most=5):
        model(x)
        with solver_budget(less=2, adjoint="jfb"):
            model(x).sum().backward()
        with solver_budget(less=99):
            model(x)
    model(x)
    assert model.steps == [5, 3, 1, 12]
    torch.testing.assert_close(model.bias.grad, torch.full((3,), 2.0))  # of one step, not of the equilibrium


def test_early_answers_are_held_to_the_target_too_but_not_counted():
    model = Model()
    x, y = torch.randn(6, 3), torch.arange(6) % 3
    logged = {}
    task = Classification(model, stability=StabilityConfig(correction_weight=0.5, correction_steps=2))
    task.log = lambda name, value, **_: logged.__setitem__(name, value)
    loss = task.training_step((x, y), 0)
    assert model.steps == [2, 12]  # the last solve is the full one
    assert int(task.accuracy["train"].weight) == 6
    early = x * (1 + 0.9 + 0.81)  # two steps, and the one that carries the gradient
    torch.testing.assert_close(logged["train/loss_early"], F.cross_entropy(early, y))
    plain = copy.deepcopy(model)
    expected = F.cross_entropy(plain(x), y) + 0.5 * F.cross_entropy(early, y)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert model.weight.grad.abs().sum() > 0


def test_training_starts_from_a_contraction_if_asked():
    model = Model(scale=1.7)
    train(model, contract=0.5)
    x = torch.randn(4, 3)
    with torch.no_grad(), penalties.capture() as solves:
        model(x)
    assert float(penalties.spectral_radius(solves[0][1], solves[0][2]).max()) < 0.6
    with pytest.raises(ValueError, match=r"task.contract is 0.5, but Linear solves nothing"):
        linear = nn.Linear(3, 3)
        linear.num_classes = 3
        Classification(linear, stability=StabilityConfig(contract=0.5))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_part_by_flag(tmp_path, precision):
    results = zoo.train(
        "test_mdeq",
        "digits",
        task={
            "jacobian_weight": 0.1, "jacobian_final": 0.5, "jacobian_until": 0.5, "random_budget": 2,
            "correction_weight": 0.2, "contract": 5.0, "depth_curriculum": [2, 6], "map_noise": 0.01,
            "start_noise": 0.1, "update_penalty": 0.1,
        },
        trainer={
            "max_steps": 4, "max_epochs": 1, "limit_val_batches": 1, "limit_test_batches": 1,
            "enable_progress_bar": False, "precision": precision,
        },
        out=tmp_path / "run",
    )  # fmt: skip
    assert results["status"] == "finished"
    assert results["train"]["loss_early"] > 0 and results["train"]["jacobian"] > 0
