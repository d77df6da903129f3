"""Training from Python: names, mappings and objects go the same way as a command line, and a run comes back."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning import Callback, LightningDataModule
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.data.vision import Digits
from zoo.registry import UnknownName
from zoo.solvers.anderson import Anderson
from zoo.tasks.base import Scored, Task
from zoo.tasks.classification import Classification
from zoo.tasks.optim import Optim
from zoo.training.errors import UsageError
from zoo.training.options import Options
from zoo.training.request import request_of, resolve

SHORT = {
    "max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1, "accelerator": "cpu",
    "devices": 1, "log_every_n_steps": 1, "enable_progress_bar": False,
}  # fmt: skip


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def loader(count=32):
    """Points in the plane of images 2x2, whose class is the place of their largest number."""
    x = torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, x.flatten(1)[:, :3].argmax(1)), batch_size=8)


class Mine(Callback):
    """Counts the batches that it saw."""

    seen = 0

    def on_train_batch_end(self, *args):
        self.seen += 1


def config(*argv):
    return Options(resolve(list(argv))).config()


def test_sections_and_words_make_the_same_configuration():
    sections = {
        "model": "test_mdeq",
        "data": {"name": "digits", "batch_size": 32},
        "solver": {"name": "anderson", "rtol": 1e-4},
        "adjoint": {"name": "implicit", "solver": "bicgstab"},
        "optim": {"lr": 0.5},
        "trainer": {"max_epochs": 2},
    }
    words = ["--model", "test_mdeq", "--data", "digits", "--data.batch_size=32", "--solver", "anderson"]
    words += ["--solver.rtol=1e-4", "--adjoint", "implicit", "--adjoint.solver=bicgstab", "--optim.lr=0.5"]
    assert Options(request_of(sections)).config() == config(*words, "--trainer.max_epochs=2")


@pytest.mark.parametrize(
    ("section", "given", "option", "value"),
    [
        ("trainer", {"max_epochs": np.int64(3)}, "max_epochs", 3),
        ("optim", {"lr": np.float64(0.25)}, "lr", 0.25),
        ("optim", {"lr": torch.tensor(0.25)}, "lr", 0.25),
        ("optim", Optim(lr=0.25), "lr", 0.25),
        ("data", {"root": Path("somewhere")}, "root", "somewhere"),
        ("solver", Anderson(rtol=0.25), "rtol", 0.25),
        ("model", {"name": "test_mdeq", "channels": (4, np.int32(4))}, "channels", [4, 4]),
    ],
)
def test_values_may_be_those_of_numpy_torch_and_paths(section, given, option, value):
    found = Options(request_of({"model": "test_mdeq", section: given})).config()[section][option]
    assert found == value and type(found) is type(value)


def test_a_model_by_name_comes_back_as_a_run(tmp_path):
    run = zoo.train("test_mdeq", "digits", trainer=SHORT, out=tmp_path / "run")
    assert run.folder == tmp_path / "run" and run["status"] == "finished"
    assert json.loads((run.folder / "results.json").read_text()) == dict(run)
    assert run.metrics == run["test"] and 0 <= run.metrics["accuracy"] <= 1
    best = torch.load(run.folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(v, best[f"model.{k}"]) for k, v in run.model.state_dict().items())
    assert not run.model.training and run.model is run.model
    assert repr(run).startswith("Run(test_mdeq on digits, finished, test accuracy")


def test_a_network_and_loaders_of_ones_own_are_trained(tmp_path):
    net, before = network(), loader()
    trainer = {**SHORT, "max_epochs": 30, "limit_train_batches": 4, "limit_test_batches": 4}
    run = zoo.train(
        net, (before, before, before), task="classification", optim={"lr": 0.1, "weight_decay": 0.0}, trainer=trainer,
        out=tmp_path / "run",
    )  # fmt: skip
    x, y = before.dataset.tensors
    assert run.task.model is net
    share = (run.model(x).argmax(1) == y).float().mean().item()
    assert run.metrics["accuracy"] == pytest.approx(share) and share > 0.8  # a linear map can tell all of them
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["objects"] == {"model": "torch.nn.modules.container.Sequential", "data": "builtins.tuple"}


def test_one_loader_is_enough(tmp_path):
    run = zoo.train(network(), loader(), task="classification", trainer=SHORT, out=tmp_path / "run")
    assert run["test"] == {} and run["val"] == {} and run["steps"] == 2
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
    run = zoo.train(network(), loader(), task="classification", trainer={**SHORT, "max_epochs": 3}, out=tmp_path / "b")
    assert run["best"]["epoch"] == 3  # nothing tells which is best: the last one is kept


class Lines(LightningDataModule):
    num_classes = 3

    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return loader(8)


class Own(Classification):
    def score(self, batch, stage):
        return super().score(batch, stage)._replace(loss=self.model(batch[0]).square().mean())


def test_a_data_module_and_a_task_of_ones_own_are_trained(tmp_path):
    task = Own(network(), Optim(lr=0.1, schedule="constant", warmup=0.0))
    run = zoo.train(task, Lines(), trainer={**SHORT, "max_epochs": 40}, out=tmp_path / "run")
    assert run.task is task and run["val"]["loss"] < 0.05  # its own loss was minimized
    assert run["model"] == "Sequential" and run["data"] == "Lines"


def test_the_zoos_data_modules_say_the_task(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    run = zoo.train(net, Digits(batch_size=16), trainer=SHORT, out=tmp_path / "run")
    assert isinstance(run.task, Classification)
    with pytest.raises(UsageError, match="the data are for classification; test_lstm is trained for language"):
        request_of({"model": "test_lstm", "data": Digits()})


def test_callbacks_and_loggers_stand_beside_the_zoos_own(tmp_path):
    mine = Mine()
    trainer = {**SHORT, "callbacks": [mine], "logger": CSVLogger(tmp_path / "logs", name="", version="")}
    run = zoo.train("test_cnn", trainer=trainer, out=tmp_path / "run")
    assert mine.seen == 2
    for file in ("metrics.csv", "training.png", "tensorboard", "results.json"):
        assert (run.folder / file).exists(), file
    assert "train/lr" in (run.folder / "metrics.csv").read_text().splitlines()[0]
    assert "train/lr" in (tmp_path / "logs" / "metrics.csv").read_text()
    told = yaml.safe_load((tmp_path / "logs" / "hparams.yaml").read_text())
    assert told["optim.lr"] > 0 and told["model.name"] == "test_cnn" and told["data.name"] == "digits"
    with pytest.raises(UsageError, match=r"trainer\.callbacks was an object .*Mine.*give it again from Python"):
        resolve(["--resume", str(run.folder)])
    more = zoo.train("test_cnn", trainer={**trainer, "max_epochs": 2}, resume=run.folder)
    assert more["epochs"] == 2 and mine.seen == 4


def test_a_run_in_a_thread_leaves_signals_and_the_backend_alone(tmp_path):
    before, found = signal.getsignal(signal.SIGINT), []

    def work():
        found.append(zoo.train("test_cnn", trainer=SHORT, out=tmp_path / "run")["status"])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["finished"] and signal.getsignal(signal.SIGINT) is before


class Plain(nn.Module):
    pass


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": network(), "data": [loader()]}, "Name the task: task='classification'"),
        ({"model": network(), "task": "classification"}, "data is missing: give a name, a LightningDataModule"),
        ({"model": network(), "data": [loader()], "task": "clasification"}, "No task named 'clasification'. Did you"),
        ({"model": network(), "data": "digits", "solver": "picard"}, "Sequential is an explicit model"),
        ({"model": "test_cnn", "data": 3}, "data takes a name, a LightningDataModule, or DataLoaders"),
        ({"model": 3, "data": "digits"}, "model takes a name, a mapping of options, or a torch.nn.Module; got 3"),
        ({"model": "test_cnn", "solver": 3}, "solver takes a name, a mapping of a name and options, or an instance"),
        ({"model": "test_cnn", "trainer": 3}, "trainer takes a mapping of options; got 3"),
        (
            {"model": "test_cnn", "trainer": {"max_epochs": 2.5}},
            "--trainer.max_epochs: expected int or null; got '2.5'",
        ),
        ({"model": "test_cnn", "trainr": {}}, "No section of options named 'trainr'. Did you mean 'trainer'?"),
        ({"task": Classification(network()), "data": "digits", "optim": {"lr": 1}}, "leave optim out"),
        ({"model": "test_cnn", "task": "segmentation"}, "test_cnn is trained for classification"),
    ],
)
def test_what_does_not_fit_is_one_sentence(sections, said):
    from zoo.training.build import build_run

    with pytest.raises((UsageError, UnknownName, ValueError)) as error:
        build_run(Options(request_of(sections)), 0)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_task_of_another_package_needs_no_name():
    class Alone(Task):
        def score(self, batch, stage):
            return Scored(self.model(batch[0]).sum(), {}, 1)

    request = request_of({"task": Alone(network()), "data": [loader()]})
    assert Options(request).names == {"task": "Alone", "data": "own data", "model": "Sequential"}


def test_the_last_lines_name_files_that_are_there(tmp_path, capsys):
    zoo.train("test_cnn", trainer={**SHORT, "max_epochs": 0}, out=tmp_path / "run")
    (said,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("run folder"))
    names = said[said.rindex("(") + 1 : -1].split(", ")
    assert "results.json" in names and all((tmp_path / "run" / name).exists() for name in names), said
