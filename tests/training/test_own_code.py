"""Models and data of the user's own by their import paths, card files, and entry points of other packages."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import yaml

import zoo
from zoo.data import DATA
from zoo.data import registry as data_registry
from zoo.data.registry import DataSets
from zoo.hub import cards
from zoo.registry import Entry, UnknownName
from zoo.training.request import resolve
from zoo.training.run import run_training

CODE = """
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.deq import DEQ


class Net(nn.Module):
    def __init__(self, features: int = 4, num_classes: int = 2, width: int = 8):
        super().__init__()
        self.num_classes = num_classes
        self.inject, self.out = nn.Linear(features, width), nn.Linear(width, num_classes)

    def forward(self, x):
        return self.out(torch.relu(self.inject(x)))


class Data(L.LightningDataModule):
    kind = "classification"
    features, num_classes = 4, 3

    def __init__(self, batch_size: int = 8, count: int = 48):
        super().__init__()
        self.batch_size, self.count = batch_size, count

    def loader(self):
        x = torch.randn(self.count, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), self.batch_size)

    train_dataloader = val_dataloader = test_dataloader = loader


class NoData:
    pass
"""
CARD = """
family: mine
class: own_things.parts:Net
task: zoo.tasks.classification:Classification
summary: my own network
data: [breast_cancer]
variants: {card_of_mine: {model: {width: 5}}}
"""
NET, DATA_PATH = "own_things.parts:Net", "own_things.parts:Data"
QUICK = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "own_things").mkdir()
    (tmp_path / "own_things" / "__init__.py").write_text("")
    (tmp_path / "own_things" / "parts.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(cards, "_cards", dict(cards.all_cards()))
    monkeypatch.setattr(DATA, "_entries", dict(DATA._entries))
    monkeypatch.setattr(DATA, "_objects", {})
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] == "own_things"]:
        del sys.modules[name]


def test_a_model_and_data_train_resume_and_load(package, capsys):
    words = ["--model", NET, "--data", DATA_PATH, "--model.width", "6", "--data.count", "40"]
    run = run_training(resolve([*words, *QUICK, "--out", str(package / "run")]))
    said = capsys.readouterr().out
    assert run["status"] == "finished" and run.model.inject.out_features == 6 and run.model.num_classes == 3
    assert f"--model {NET} --data {DATA_PATH} --trainer.max_epochs 2" in said and "zoo.compare" not in said
    config = yaml.safe_load((package / "run" / "config.yaml").read_text())
    assert config["model"]["name"] == "own:own_things/parts:Net" and config["data"]["name"] == DATA_PATH
    assert zoo.load(package / "run").inject.out_features == 6
    again = run_training(resolve(["--resume", str(package / "run"), "--model", NET, "--data", DATA_PATH,
                                  "--trainer.max_epochs", "2"]))  # fmt: skip
    assert again["epochs"] == 2


def test_a_file_alone_imports_nothing(package, monkeypatch):
    file = package / "c.yaml"
    file.write_text("model: own:own_things/parts:Net\ndata: own_things.parts:Data\n")
    with pytest.raises(
        UnknownName, match="code of your own, which is imported only where you name it: --model own_things"
    ):
        resolve(["-c", str(file)])
    file.write_text("data: own_things.parts:Data\n")
    with pytest.raises(UnknownName, match="own_things.parts:Data is code of your own.*--allow-import own_things"):
        resolve(["--model", "mlp", "-c", str(file)])
    assert "own_things.parts" not in sys.modules
    assert (
        resolve(["--model", "mlp", "-c", str(file), "--allow-import", "own_things"]).config["data"]["name"] == DATA_PATH
    )


def test_the_task_follows_the_data_or_is_named(package):
    request = resolve(["--model", NET, "--data", "diabetes"])
    assert cards.card(request.config["model"]["name"]).task == "zoo.tasks.regression:Regression"
    request = resolve(["--model", NET, "--data", "table", "--task.name", "regression", "--data.path", "t.csv"])
    assert request.config["data"]["aim"] == "regression"
    assert zoo.register_model(NET, "density").task == "zoo.tasks.density:Density"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", NET], "--data NAME is missing"),
        (["--model", "own_things.parts:Nat", "--data", "digits"], "cannot import 'own_things.parts:Nat'"),
        (["--model", "mlp", "--data", "own_things.parts:Data2"], "it cannot be imported"),
        (["--model", "mlp", "--data", "own_things.parts:NoData"], "is no LightningDataModule"),
        (["--model", "mdeq_segmentation", "--data", DATA_PATH], "is for classification; mdeq_segmentation"),
    ],
)
def test_paths_that_lead_nowhere(package, words, said):
    with pytest.raises((UnknownName, ValueError), match=said):
        resolve(words)


def test_a_card_file_is_named_on_the_command_line(package):
    file = package / "my.yaml"
    file.write_text(CARD)
    assert resolve(["--card", str(file)]).config["model"] == {"name": "card_of_mine", "width": 5}
    assert resolve(["--card", str(file), "--model", "mlp"]).config["model"]["name"] == "mlp"
    with pytest.raises(cards.CardError, match="cannot be read"):
        resolve(["--card", str(package / "none.yaml")])


def test_another_package_brings_data_sets(package, monkeypatch):
    point = SimpleNamespace(name="theirs", value=DATA_PATH, dist=SimpleNamespace(name="their-package"))
    taken = SimpleNamespace(name="digits", value="own_things.parts:NoData", dist=None)
    monkeypatch.setattr(data_registry, "entry_points", lambda group: [point, taken] if group == "zoo.data" else [])
    table = DataSets("data set", Entry("digits", "zoo.data.vision:Digits", "", "classification"))
    assert table.names() == ["digits", "theirs"] and "own_things.parts" not in sys.modules
    assert table.entry("theirs").kind == "classification" and table["theirs"].features == 4
    assert table.entry("digits").path == "zoo.data.vision:Digits"
