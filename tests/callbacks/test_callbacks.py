"""Callbacks: telemetry says what the solver says, the guard warns once an episode, the warm-up unrolls and restores."""

from __future__ import annotations

import warnings

import pytest
import torch
from lightning import LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.callbacks.console_progress import nfe_text
from zoo.callbacks.convergence_monitor import ConvergenceMonitor, SolverStopped, SolverWarning
from zoo.callbacks.missing_gradients import MissingGradients
from zoo.callbacks.per_step_seed import PerStepSeed
from zoo.callbacks.telemetry import SolverTelemetry, endings, measures
from zoo.callbacks.warmup import UnrollWarmup
from zoo.implicit import ImplicitMixin, SolveRecord, record_solves, solver_budget
from zoo.solvers.base import Result, SolveError, Stats
from zoo.tasks.classification import Classification
from zoo.tasks.regularization import StabilityConfig


class Layer(ImplicitMixin, nn.Module):
    """z = tanh(scale W z + x), a contraction for a scale below 1."""

    def __init__(self, scale=0.5):
        super().__init__()
        self.weight = nn.Parameter(scale * torch.eye(4))
        self.configure_implicit({"name": "picard", "max_steps": 40, "rtol": 1e-4}, "implicit")
        self.seen = []

    def forward(self, x):
        z = self.solve(lambda z: torch.tanh(z @ self.weight + x), torch.zeros_like(x))
        self.seen.append((type(self.solver).__name__, type(self.adjoint).__name__, self.solver.max_steps, self.last))
        return z


class Model(nn.Module):
    def __init__(self, layers=1, scale=0.5):
        super().__init__()
        self.num_classes = 3
        self.layers = nn.ModuleList(Layer(scale) for _ in range(layers))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)
        self.masks = []

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        if self.training:
            self.masks.append(self.drop(torch.ones(8)))
        return self.head(x)


class Data(LightningDataModule):
    def _loader(self):
        random = torch.Generator().manual_seed(0)
        x = torch.randn(12, 4, generator=random)
        return DataLoader(TensorDataset(x, torch.arange(12) % 3), batch_size=4)

    train_dataloader = val_dataloader = test_dataloader = _loader


def train(model, callbacks, epochs=1, **stability):
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(many workers|training batches).*")
        trainer.fit(Classification(model, stability=StabilityConfig(**stability)), datamodule=Data())
    return trainer


def test_telemetry_equals_the_solvers_own_numbers():
    model = Model()
    trainer = train(model, [SolverTelemetry(radius_every=1)])
    logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
    records = [r for *_, r in model.layers[0].seen]
    steps, val = records[:3], records[3:4] + records[5:7]  # the fifth is the estimate of the spectral radius
    assert logged["solver/nfe_forward"] == steps[-1].stats.nfe
    assert logged["solver/nfe_backward"] == steps[-1].stats.backward[-1].nfe
    assert logged["nfe"] == steps[-1].stats.nfe
    assert logged["train/nfe_forward"] == pytest.approx(sum(r.stats.nfe for r in steps) / 3)
    assert logged["train/nfe_forward_max"] == max(r.stats.nfe for r in steps)
    assert logged["val/residual"] == pytest.approx(sum(float(r.stats.residual.mean()) for r in val) / 3, rel=1e-5)
    assert logged["val/converged"] == 1.0
    assert 0 < logged["val/spectral_radius"] <= 0.51
    assert model.layers[0].last is records[-1]


def test_telemetry_says_how_the_solves_ended():
    model = Model(layers=2)
    model.layers[0].configure_implicit({"name": "picard", "max_steps": 1, "rtol": 1e-6})
    logged = {k: float(v) for k, v in train(model, [SolverTelemetry()]).callback_metrics.items()}
    for stage in ("solver", "train", "val"):
        assert logged[f"{stage}/layers.0/ended_max_steps"] == 1 and logged[f"{stage}/layers.0/ended_converged"] == 0
        assert logged[f"{stage}/layers.1/ended_converged"] == 1 and logged[f"{stage}/layers.1/ended_nonfinite"] == 0
    assert "val/layers.0/ended_stalled" not in logged  # a fixed point knows no time


def test_telemetry_counts_every_solve_of_a_step():
    class Twice(Model):
        def forward(self, x):
            return super().forward(self.layers[0](3 * x))

    model = Twice()
    logged = {k: float(v) for k, v in train(model, [SolverTelemetry(radius_every=0)]).callback_metrics.items()}
    records = [r for *_, r in model.layers[0].seen]
    pair = records[4:6]  # of the third and last step; validation follows
    assert logged["solver/nfe_forward"] == logged["nfe"] == sum(r.stats.nfe for r in pair)
    assert logged["solver/nfe_backward"] == sum(r.stats.backward[-1].nfe for r in pair)
    assert logged["solver/residual_max"] == pytest.approx(max(float(r.stats.residual.max()) for r in pair))
    assert logged["val/nfe_forward"] == pytest.approx(sum(r.stats.nfe for r in records[6:]) / 3)


def test_telemetry_leaves_out_solves_beside_the_answer():
    model = Model()
    trainer = train(model, [SolverTelemetry(radius_every=0)], correction_weight=0.5, correction_steps=1, contract=0.9)
    records = [r for *_, r in model.layers[0].seen]
    assert len(records) == 1 + 6 + 3  # the contractive start, two solves a step, validation
    logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
    assert logged["train/nfe_forward"] == pytest.approx(sum(r.stats.nfe for r in records[2:7:2]) / 3)
    assert logged["train/ended_converged"] == 1


def test_a_run_whose_solves_must_finish():
    model = Model()
    model.layers[0].configure_implicit(throw=True)
    beside = {"correction_weight": 0.5, "correction_steps": 1, "contract": 0.9, "random_budget": 39}
    telemetry = SolverTelemetry()
    train(model, [UnrollWarmup(), telemetry], epochs=2, warmup_steps=2, warmup_depth=1, **beside)
    assert model.layers[0].throw
    model.layers[0].configure_implicit({"name": "picard", "max_steps": 1})
    with pytest.raises(SolveError, match="used all its steps"):
        train(model, [telemetry])
    with record_solves() as solves:
        model.layers[0].configure_implicit(throw=False)
        model(torch.zeros(1, 4))
    assert len(solves) == 1  # the scope of the run that failed is closed


def test_several_modules_are_told_apart_by_name():
    logged = train(Model(layers=2), [SolverTelemetry(radius_every=0)]).callback_metrics
    assert {"solver/layers.0/nfe_forward", "solver/layers.1/nfe_forward"} <= set(logged)
    assert "val/spectral_radius" not in logged
    values = {k: float(v) for k, v in logged.items()}
    total = values["train/layers.0/nfe_forward"] + values["train/layers.1/nfe_forward"]
    assert nfe_text(values, "train").startswith(f"{total:.1f}")
    assert nfe_text({"train/loss": 1.0}, "train") == ""


def test_measures_of_a_solve():
    steps, residual = torch.tensor([1, 3]), torch.tensor([0.1, 0.3])
    stats = Stats(7, steps, residual, torch.tensor([True, False]), torch.zeros(3, 2))
    values = measures(stats)
    assert values["nfe_forward"] == 7
    assert values["residual"] == pytest.approx(0.2)
    assert values["residual_max"] == pytest.approx(0.3)
    assert values["converged"] == 0.5
    assert values["steps_p95"] == pytest.approx(2.9)
    assert "nfe_backward" not in values


def test_measures_of_several_solves_in_time():
    yes, none, at = torch.ones(2, dtype=torch.bool), torch.zeros(0, 2), torch.tensor
    back = Stats(40, at([6]), at([0.0]), at([True]), none, accepted=at([5]), rejected=at([1]))
    first = Stats(7, at([1, 3]), at([0.0, 0.0]), yes, none, accepted=at([1, 2]), rejected=at([0, 1]), backward=[back])
    last = Stats(9, at([4]), at([0.0]), at([False]), none, accepted=at([3]), rejected=at([1]))
    values = measures(first, last)
    assert (values["nfe_forward"], values["nfe_backward"]) == (16, 40)
    assert values["converged"] == pytest.approx(2 / 3) and values["accepted"] == 2
    assert values["rejected"] == pytest.approx(2 / 3)
    assert (values["accepted_backward"], values["rejected_backward"]) == (5, 1)
    assert not any("residual" in key for key in values)
    ended = endings([SolveRecord(Result.converged, first), SolveRecord(Result.stalled, last)])
    assert (ended["ended_converged"], ended["ended_stalled"]) == (0.5, 0.5)
    assert sum(ended.values()) == 1 and len(ended) == len(Result)


def test_the_warm_up_unrolls_then_solves_and_restores():
    model = Model()
    own = model.layers[0].solver, model.layers[0].adjoint
    train(model, [UnrollWarmup()], epochs=2, warmup_steps=2, warmup_depth=3)
    kinds = [(adjoint, steps) for _, adjoint, steps, _ in model.layers[0].seen]
    assert kinds[:2] == [("Unroll", 3)] * 2
    assert kinds[2:] == [("Implicit", 40)] * 10
    assert (model.layers[0].solver, model.layers[0].adjoint) == own


def test_the_warm_up_restores_after_an_error():
    class Stop(SolverTelemetry):
        def on_train_batch_end(self, *args):
            raise RuntimeError("stop")

    model = Model()
    with pytest.raises(RuntimeError, match="stop"):
        train(model, [UnrollWarmup(), Stop()], warmup_steps=2)
    assert type(model.layers[0].adjoint).__name__ == "Implicit"


def test_the_guard_warns_once_an_episode_and_says_what_helps():
    model = Model()
    model.layers[0].configure_implicit({"name": "picard", "max_steps": 1, "rtol": 1e-6})
    with pytest.warns(SolverWarning) as caught:
        train(model, [ConvergenceMonitor(window=2)], epochs=3)
    said = [str(w.message) for w in caught if issubclass(w.category, SolverWarning)]
    assert len(said) == 1
    assert said[0].startswith("The forward solve of 'layers.0' does not converge")
    assert "--solver.max_steps 2 (now 1)" in said[0]


class Fake:
    """What the guard asks of a Trainer; with several processes, ``others`` says which decisions another one makes."""

    is_global_zero, global_step, world_size = True, 5, 1

    def __init__(self, others=()):
        self.others, self.asked = iter(others), []
        self.lightning_module, self.strategy = Classification(Model()), self
        self.root_device = torch.device("cpu")

    def reduce_boolean_decision(self, decision, all=True):
        assert not all
        self.asked.append(decision)
        return decision or next(self.others)

    def reduce(self, tensor, reduce_op="mean"):
        assert reduce_op == "max"
        return torch.maximum(tensor, tensor.new_tensor([-0.25, 3.0]))  # the other one: a quarter converged


def feed(guard, trainer, way, *values):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for converged, residual in values:
            guard._see(("", way), converged, residual)
            guard._judge(trainer, {"": Layer()})
    return [str(w.message) for w in caught]


def test_the_guard_watches_the_backward_solve_and_starts_anew():
    guard, trainer = ConvergenceMonitor(window=2), Fake()
    assert feed(guard, trainer, "backward", (0.0, 1.0)) == []  # not yet a window
    assert "--adjoint phantom" in feed(guard, trainer, "backward", (0.0, 1.0))[0]
    assert feed(guard, trainer, "backward", (0.0, 1.0)) == []  # the same episode
    assert feed(guard, trainer, "backward", (1.0, 1e-5), (1.0, 1e-5)) == []  # over
    assert len(feed(guard, trainer, "backward", (0.0, float("nan")), (0.0, float("nan")))) == 1


def test_an_episode_of_one_process_is_one_of_all():
    guard, trainer = ConvergenceMonitor(window=1), Fake()
    trainer.world_size, trainer.others = 2, iter([False, True, True, False])
    assert feed(guard, trainer, "forward", (1.0, 1e-5)) == []  # nobody: one question, and no more
    assert trainer.asked == [False]
    (text,) = feed(guard, trainer, "forward", (1.0, 1e-5))  # this one is well; the numbers are the other one's
    assert "25% of the samples met their tolerance and the mean relative residual was 3." in text
    assert trainer.asked == [False, False, False, False]  # anything, forward, backward


def test_the_guard_raises_the_budget_and_falls_back():
    model = Model()
    layer = model.layers[0]
    layer.configure_implicit({"name": "anderson", "max_steps": 1, "rtol": 0.0, "atol": 1e-30})  # cannot be met
    guard = ConvergenceMonitor(window=2, residual=0.0)
    with pytest.warns(SolverWarning) as caught:
        train(model, [guard], epochs=3, guard="adapt")
    said = [str(w.message) for w in caught if "forward" in str(w.message)]
    assert "may take 2 steps" in said[0] and "may take 4 steps" in said[1] and "damping of 0.5" in said[2]
    assert type(layer.solver).__name__ == "Picard" and layer.solver.damping == 0.5
    again, resumed = ConvergenceMonitor(window=2), Model()
    resumed.layers[0].configure_implicit({"name": "anderson", "max_steps": 1})
    again.load_state_dict(guard.state_dict())
    again.on_fit_start(None, Classification(resumed))
    assert resumed.layers[0].solver.damping == 0.5


def test_the_guard_stops_where_that_was_asked():
    model = Model()
    model.layers[0].configure_implicit({"name": "picard", "max_steps": 1, "rtol": 1e-6})
    with pytest.raises(SolverStopped, match="does not converge"):
        train(model, [ConvergenceMonitor(window=2)], epochs=3, guard="stop")


def test_the_guard_is_silent_where_all_is_well_or_warming_up():
    with warnings.catch_warnings():
        warnings.simplefilter("error", SolverWarning)
        train(Model(), [ConvergenceMonitor(window=2)])
        cut = Model()
        cut.layers[0].configure_implicit({"name": "picard", "max_steps": 1, "rtol": 1e-6})
        train(cut, [ConvergenceMonitor(window=2)], warmup_steps=10)


def test_the_guard_is_silent_where_a_budget_cuts_the_solves():
    class Cut(Layer):
        def forward(self, x):
            with solver_budget(most=1):
                return super().forward(x)

    model = Model(scale=0.9)
    model.layers[0] = Cut(scale=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SolverWarning)
        train(model, [ConvergenceMonitor(window=2, residual=0.0)])
    assert all(last.cut for *_, last in model.layers[0].seen)


def test_a_parameter_without_a_gradient_is_named_once():
    model = Model()
    model.forgotten = nn.Linear(2, 2)
    with pytest.warns(SolverWarning) as caught:
        train(model, [MissingGradients()], epochs=2)
    said = [str(w.message) for w in caught if issubclass(w.category, SolverWarning)]
    assert len(said) == 1 and "model.forgotten.weight, model.forgotten.bias" in said[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SolverWarning)
        train(Model(), [MissingGradients()])


def test_randomness_depends_on_the_step_alone():
    first, second = Model(), Model()
    train(first, [PerStepSeed(3)])
    torch.rand(5)  # whatever was drawn before
    train(second, [PerStepSeed(3)])
    assert all(torch.equal(a, b) for a, b in zip(first.masks, second.masks, strict=True))
    assert len({tuple(m.tolist()) for m in first.masks}) > 1
    other = Model()
    train(other, [PerStepSeed(4)])
    assert any(not torch.equal(a, b) for a, b in zip(first.masks, other.masks, strict=True))
