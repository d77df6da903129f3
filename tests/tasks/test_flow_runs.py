"""Flows and motions by the command line's own path: a run is repeated to the bit by a resumed one."""

from __future__ import annotations

import pytest
import torch

from zoo.callbacks.checkpointing import Interrupted
from zoo.tasks.density import Density
from zoo.tasks.motion import Motion
from zoo.training.build import load_run
from zoo.training.request import resolve
from zoo.training.run import run_training

RUNS = {
    "likelihood": (Density, "test_cnf", {"count": 128, "batch_size": 32}, {"steer": 0.2}),
    "flow_matching": (Density, "test_cnf", {"count": 128, "batch_size": 32}, {"objective": "flow_matching"}),
    "motion": (Motion, "test_hamiltonian", {"count": 128, "batch_size": 32}, {}),
}
QUICK = {"max_epochs": 2, "limit_val_batches": 1, "limit_test_batches": 1, "accelerator": "cpu",
         "enable_progress_bar": False, "logger": False}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_resumed_run_equals_an_uninterrupted_one(kind, tmp_path, monkeypatch):
    task, model, data, options = RUNS[kind]
    name = "two_moons" if task is Density else "ideal_pendulum"
    argv = [f"--{s}.{k}={v}" for s, o in (("data", data), ("task", options), ("trainer", QUICK)) for k, v in o.items()]
    argv += [f"--model={model}", f"--data={name}"]
    results = run_training(resolve([*argv, f"--out={tmp_path / 'whole'}"]))
    key = task.monitor.partition("/")[2]
    assert results["steps"] == 8 and results["test"][key] == pytest.approx(results["test"]["loss"], rel=1e-5)
    if task is Motion:
        assert results["test"]["energy_drift"] > 0

    score, calls = task.score, []

    def stop(self, batch, stage):
        calls.append(stage)
        if calls.count("train") == 6:
            raise KeyboardInterrupt
        return score(self, batch, stage)

    monkeypatch.setattr(task, "score", stop)
    with pytest.raises(Interrupted):
        run_training(resolve([*argv, f"--out={tmp_path / 'part'}"]))
    monkeypatch.undo()
    run_training(resolve(["--resume", str(tmp_path / "part")]))
    whole, part = (load_run(tmp_path / n, "last").state_dict() for n in ("whole", "part"))
    assert all(torch.equal(v, part[k]) for k, v in whole.items() if k.startswith("model."))
