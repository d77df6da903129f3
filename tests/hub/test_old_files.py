"""Runs and model folders of November 2026 (commit 0373b74), made by the code as it was then: they load and evaluate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import zoo
from zoo.hub.trained import trained_config
from zoo.storage.checkpoint import read_checkpoint
from zoo.training.build import load_run
from zoo.training.evaluate import evaluate
from zoo.training.export import export
from zoo.training.request import resolve
from zoo.training.run import run_training

OLD = Path(__file__).parent / "old"
RUN, FOLDER = OLD / "run", OLD / "exported"


def test_an_old_run_loads_with_its_weights_solver_and_numbers():
    state = read_checkpoint(RUN / "checkpoints" / "best.ckpt")["state_dict"]
    for source in (RUN, RUN / "checkpoints" / "best.ckpt"):
        model = zoo.load(source)
        assert all(torch.equal(v, state[f"model.{k}"]) for k, v in model.state_dict().items())
    assert (model.solver.max_steps, model.adjoint.solver.rtol) == (18, 0.01)
    saved = trained_config(model)
    assert saved.name == "test_mdeq.digits"
    assert saved.metrics == json.loads((RUN / "results.json").read_text())["test"]
    assert all(torch.equal(v, state[k]) for k, v in load_run(RUN).state_dict().items() if k in state)


def test_an_old_folder_loads_the_same_weights():
    one, two = zoo.load(RUN).state_dict(), zoo.load(FOLDER).state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert zoo.predict(FOLDER, torch.zeros(8, 8)).label in "0123456789"


@pytest.mark.parametrize("source", [RUN, FOLDER], ids=["run", "folder"])
def test_the_number_of_an_old_file_holds(source):
    row = evaluate(str(source))
    assert row["holds"] is True and row["card"] == pytest.approx(row["measured"], abs=0.003)


@pytest.mark.slow
def test_an_old_run_goes_on_and_is_exported(tmp_path):
    run = Path(shutil.copytree(RUN, tmp_path / "run"))
    results = run_training(resolve(["--resume", str(run), "--trainer.max_epochs", "2"]))
    assert (results["status"], results["epochs"], results["steps"]) == ("finished", 2, 12)
    made = export(RUN, tmp_path / "made")
    theirs = json.loads((FOLDER / "config.json").read_text())["weights"]
    assert made.config.weights == theirs
