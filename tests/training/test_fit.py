"""Training from end to end: the run folder, exact resuming, Ctrl-C, bad numbers."""

from __future__ import annotations

import csv
import json
import os
import signal
import warnings

import pytest
import torch
import yaml
from lightning import Callback

from zoo import fit
from zoo.callbacks.checkpointing import Interrupted
from zoo.tasks.base import NonFiniteError
from zoo.training import run
from zoo.training.build import load_run
from zoo.training.metrics_log import read_metrics
from zoo.training.request import resolve
from zoo.training.run import run_training
from zoo.training.train import train

QUICK = {
    "trainer": {
        "max_epochs": 2,
        "limit_train_batches": 4,
        "limit_val_batches": 1,
        "limit_test_batches": 1,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "devices": 1,
    },
    "optim": {"lr": 0.01},
    "solver": {"name": "picard", "max_steps": 3},
    "adjoint": "phantom",
}


def quick(out):
    return train("test_mdeq", "digits", out=out, **QUICK)


def weights(folder, which="last"):
    return torch.load(folder / "checkpoints" / f"{which}.ckpt", weights_only=True)["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def table(folder):
    """The rows of ``metrics.csv`` as text, without the time that they took."""
    with (folder / "metrics.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


class At(Callback):
    """Do something to the batch of a certain step, before it runs."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.act(batch)


def ctrl_c(batch):
    os.kill(os.getpid(), signal.SIGINT)


def ctrl_c_twice(batch):
    ctrl_c(batch)
    ctrl_c(batch)


def poison(batch):
    batch[0][0] = float("nan")


@pytest.fixture
def at(monkeypatch):
    """Have the next runs do something at a step; None: nothing any more."""
    trainer = run.make_trainer
    box = {}

    def with_callback(*args):
        made = trainer(*args)
        made.callbacks[:0] = [At(step, act) for step, act in box.items()]
        return made

    def choose(step, act=None):
        box.clear()
        if step is not None:
            box[step] = act

    monkeypatch.setattr(run, "make_trainer", with_callback)
    return choose


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The models are tiny; and sums are only equal to the last bit with equally many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, _one_thread):
    """A short run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    return folder, quick(folder)


def test_the_run_folder_is_complete(straight):
    folder, results = straight
    for name in ("results.json", "config.yaml", "metrics.csv", "training.png", "environment.json"):
        assert (folder / name).stat().st_size > 0, name
    assert json.loads((folder / "results.json").read_text()) == results.results
    assert results["status"] == "finished"
    assert (results["epochs"], results["steps"], results["seed"]) == (2, 8, 0)
    assert 0 <= results["test"]["accuracy"] <= 1
    assert results["train"]["nfe_forward"] > 0
    assert len(results["data_sha256"]) == 64
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(r["step"]) for r in rows if r["train/loss"]] == list(range(8))
    assert sum(bool(r["val/accuracy"]) for r in rows) == 2
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]


def test_checkpoints_load_as_plain_data_and_rebuild_the_task_by_name(straight):
    folder, _ = straight
    saved = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["config"]["model"]["name"] == "test_mdeq"
    task = load_run(folder, "last")
    assert same(task.state_dict(), weights(folder))
    assert not task.training
    assert task.model.solver.max_steps == 3


def test_the_saved_config_repeats_the_run(straight, tmp_path):
    folder, results = straight
    again = run_training(resolve(["-c", str(folder / "config.yaml"), "--out", str(tmp_path / "again")]))
    assert again["test"] == results["test"]
    assert same(weights(tmp_path / "again"), weights(folder))
    assert (tmp_path / "again" / "config.yaml").read_text() == (folder / "config.yaml").read_text()


@pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), 5]
)  # within the first epoch, at its end, within the second
def test_a_resumed_run_equals_an_uninterrupted_one(straight, tmp_path, at, step, capsys):
    folder, results = straight
    out = tmp_path / "run"
    at(step, ctrl_c)
    with pytest.raises(Interrupted):
        quick(out)
    at(None)
    assert json.loads((out / "results.json").read_text())["status"] == "interrupted"
    assert torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step + 1
    assert f"--resume {out}" in capsys.readouterr().out
    resumed = run_training(resolve(["--resume", str(out)]))
    assert same(weights(out), weights(folder))
    assert resumed["test"] == results["test"]
    assert table(out) == table(folder)  # every number of every step and epoch


def test_ctrl_c_twice_stops_at_once_and_keeps_the_epoch(tmp_path, at):
    at(5, ctrl_c_twice)
    with pytest.raises(Interrupted) as stop:
        quick(tmp_path / "run")
    assert stop.value.signum == signal.SIGINT
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_ctrl_c_ends_the_command_with_130(tmp_path, at):
    at(1, ctrl_c)
    argv = ["--model", "test_mdeq", "--out", str(tmp_path / "run"), "--solver", "picard", "--solver.max_steps", "2"]
    assert fit.main([*argv, "--trainer.limit_train_batches", "3", "--trainer.accelerator", "cpu"]) == 130


@pytest.mark.slow
def test_sigterm_saves_and_ends_with_143(straight, tmp_path, at):
    folder, _ = straight
    at(1, lambda batch: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as stop:
        quick(tmp_path / "run")
    assert stop.value.signum == signal.SIGTERM
    at(None)
    run_training(resolve(["--resume", str(tmp_path / "run")]))
    assert same(weights(tmp_path / "run"), weights(folder))


def test_resuming_further_continues(straight, tmp_path):
    folder, _ = straight
    argv = ["--resume", str(folder), "--out", str(tmp_path / "more"), "--trainer.max_epochs", "3"]
    results = run_training(resolve(argv))
    assert (results["epochs"], results["steps"]) == (3, 12)
    assert yaml.safe_load((tmp_path / "more" / "config.yaml").read_text())["optim"]["lr"] == 0.01


def test_nan_in_the_data_is_named_and_nothing_is_lost(straight, tmp_path, at):
    folder, _ = straight
    out = tmp_path / "run"
    at(5, poison)
    with pytest.raises(NonFiniteError, match=r"step 5 \(epoch 2\): the input holds NaN"):
        quick(out)
    assert json.loads((out / "results.json").read_text())["status"] == "failed"
    last = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 5
    assert all(torch.isfinite(v).all() for v in last["state_dict"].values())
    at(None)
    run_training(resolve(["--resume", str(out)]))  # the data were cleaned: nothing else is different
    assert same(weights(out), weights(folder))


def test_a_step_with_nan_can_be_left_out(straight, tmp_path, at):
    at(5, poison)
    results = train("test_mdeq", "digits", out=tmp_path / "run", task={"nonfinite": "skip"}, **QUICK)
    assert results["status"] == "finished" and results["steps"] == 8
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [r["train/skipped"] for r in rows if "train/skipped" in r] == [0.0, 0.25]
    assert all(torch.isfinite(v).all() for v in weights(tmp_path / "run").values())


def test_a_diverging_run_says_what_to_do(tmp_path, capsys):
    argv = ["--model", "test_mdeq", "--out", str(tmp_path / "run"), "--optim.name", "sgd", "--optim.lr", "1e30"]
    argv += ["--solver", "picard", "--solver.max_steps", "2", "--trainer.limit_train_batches", "6"]
    assert fit.main([*argv, "--trainer.accelerator", "cpu", "--optim.warmup", "0"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("zoo.fit: error:")
    assert (tmp_path / "run" / "error.txt").is_file()


@pytest.mark.slow
def test_no_warning_of_lightning_reaches_the_user(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quick(tmp_path / "run")
    assert [str(w.message) for w in caught if "lightning" in str(w.filename)] == []
