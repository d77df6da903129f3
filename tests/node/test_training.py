"""Neural ODEs from end to end: trained by name, measured by the common callback, refused in words."""

from __future__ import annotations

import csv
import subprocess
import sys
import warnings

import pytest

from zoo.callbacks.convergence_monitor import ConvergenceMonitor, SolverWarning
from zoo.tasks.classification import Classification
from zoo.training.errors import UsageError
from zoo.training.train import train

TRAINER = {
    "max_epochs": 1,
    "limit_train_batches": 3,
    "limit_val_batches": 1,
    "limit_test_batches": 1,
    "log_every_n_steps": 1,
    "accelerator": "cpu",
    "devices": 1,
}


@pytest.mark.parametrize(
    ("solver", "adjoint"), [("dopri5", None), ({"name": "rk4", "steps": 2}, "checkpoint"), ("tsit5", "backsolve")]
)
def test_an_ode_net_trains_and_its_solves_are_measured(tmp_path, solver, adjoint):
    results = train("test_odenet", "digits", solver=solver, adjoint=adjoint, trainer=TRAINER, out=tmp_path / "run")
    assert results["status"] == "finished"
    for stage in ("train", "val", "test"):
        assert results[stage]["nfe_forward"] > 0 and results[stage]["accepted"] > 0
        assert results[stage]["rejected"] >= 0 and results[stage]["converged"] == 1
        assert "residual" not in results[stage]
        ended = "ended_converged" if isinstance(solver, str) else "ended_fixed_steps"
        assert results[stage][ended] == 1 and results[stage]["ended_stalled"] == 0
    back = {"nfe_backward", "accepted_backward", "rejected_backward", "converged_backward"}
    assert back & set(results["train"]) == (back if adjoint == "backsolve" else set())
    with (tmp_path / "run" / "metrics.csv").open() as stream:
        row = next(csv.DictReader(stream))
    assert float(row["solver/nfe_forward"]) > 0 and float(row["solver/accepted"]) > 0


def test_what_to_try_next_is_another_ode_solver(tmp_path, capsys):
    train("test_odenet", "digits", trainer=TRAINER, out=tmp_path / "run")
    said = capsys.readouterr().out
    assert "100% of the samples reached the last time" in said
    assert "--data digits --solver tsit5" in said


@pytest.mark.parametrize("solver", ["anderson", "dopri5"])
def test_the_bridge_trains_as_either(tmp_path, solver):
    results = train("test_steady", "digits", solver=solver, trainer=TRAINER, out=tmp_path / "run")
    assert results["train"]["nfe_forward"] > 0 and results["train"]["nfe_backward"] > 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"solver": "anderson"}, "poses ODEs; the solver Anderson is for fixed points. Use one such as dopri5"),
        ({"adjoint": "implicit"}, "Use unroll, checkpoint or backsolve"),
        ({"task": {"jacobian_weight": 1.0}}, "solves ODEs, no fixed points"),
        ({"task": {"warmup_steps": 3}}, "solves ODEs, no fixed points"),
    ],
)
def test_what_does_not_fit_an_ode_is_refused_before_training(tmp_path, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        train("test_odenet", "digits", trainer=TRAINER, out=tmp_path / "run", **options)


def test_an_ode_solver_for_a_fixed_point_is_refused(tmp_path):
    with pytest.raises(UsageError, match="poses fixed points; the solver Dopri5 is for ODEs. Use one such as anderson"):
        train("test_mdeq", "digits", solver="dopri5", trainer=TRAINER, out=tmp_path / "run")


@pytest.mark.slow
def test_the_command_line_says_it_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "zoo.fit", "--model", "test_odenet", "--solver", "picard"]
    done = subprocess.run([*command, "--out", str(tmp_path / "run")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("zoo.fit: error: ODEBlock poses ODEs; the solver Picard is for fixed points.")
    assert "Traceback" not in done.stderr


def test_a_budget_that_ends_before_the_last_time_is_warned_of():
    import torch
    from lightning import Trainer

    from zoo.hub.factory import create_model

    model = create_model("test_odenet", solver={"name": "dopri5", "rtol": 1e-9, "atol": 1e-9, "max_steps": 2})
    data = torch.utils.data.TensorDataset(torch.randn(12, 1, 8, 8), torch.arange(12) % 4)
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, callbacks=[ConvergenceMonitor(window=2)], **options
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.fit(Classification(model), loader)
    text = [str(w.message) for w in said if issubclass(w.category, SolverWarning)]
    assert len(text) == 1 and "'blocks.0' does not reach its last time" in text[0]
    assert "--solver.max_steps 4" in text[0]
