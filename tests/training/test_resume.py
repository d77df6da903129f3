"""Continuing a run: what fits takes effect and is recorded, what does not is refused before anything is replaced."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import torch
import yaml

from zoo import fit
from zoo.training.train import train

SHORT = {
    "max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 1, "limit_test_batches": 1, "accelerator": "cpu",
    "devices": 1, "log_every_n_steps": 1, "enable_progress_bar": False,
}  # fmt: skip
RECORDS = ("config.yaml", "results.json", "environment.json", "metrics.csv", "training.png")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    optim = {"name": "sgd", "lr": 0.01, "schedule": "constant", "warmup": 0.0}
    train("test_cnn", "digits", optim=optim, trainer=SHORT, out=folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def records(folder):
    return {name: (folder / name).read_bytes() for name in RECORDS}


def refused(argv, folder, capsys):
    """The one sentence of a run that cannot be resumed; its records must be what they were."""
    before = records(folder)
    assert fit.main(argv) == 2
    assert records(folder) == before
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("zoo.fit: error: ")
    return lines[0]


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    ("option", "value"), [("lr", 0.1), ("weight_decay", 0.5), ("momentum", 0.1), ("schedule", "linear")]
)
def test_the_options_of_the_optimizer_take_effect(run, tmp_path, option, value, capsys):
    same = shutil.copytree(run, tmp_path / "same")
    more = ["--trainer.max_epochs", "3"]
    assert fit.main(["--resume", str(same), *more]) == 0
    assert fit.main(["--resume", str(run), *more, f"--optim.{option}", str(value)]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["optim"][option] == value
    if option in ("lr", "momentum"):
        key = "initial_lr" if option == "lr" else option
        assert all(group[key] == value for group in last(run)["optimizer_states"][0]["param_groups"])
    a, b = last(run)["state_dict"], last(same)["state_dict"]
    assert any(not torch.equal(a[k], b[k]) for k in a)
    rates = [float(r["train/lr"]) for r in rows(run) if r["train/lr"]]
    assert rates[:6] == pytest.approx([0.01] * 6)
    if option == "lr":
        assert rates[6:] == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--optim.name", "adamw"], "cannot resume with another optimizer: the run in"),
        (["--model", "test_resnet_twin"], "cannot resume with another model"),
        (["--data", "mnist"], "cannot resume with another data set"),
        (["--data.val_fraction", "0.3"], "cannot resume with another data.val_fraction"),
        (["--seed", "5"], "cannot resume with another seed: the run in"),
        (["--model.channels", "9"], "is of another model"),
    ],
)
def test_another_run_is_refused_in_a_sentence(run, flags, said, capsys):
    assert said in refused(["--resume", str(run), "--trainer.max_epochs", "3", *flags], run, capsys)
    assert fit.main(["--resume", str(run), "--trainer.max_epochs", "3"]) == 0  # nothing was lost


def damage(content, what):
    if what == "loops":
        content["loops"]["fit_loop"] = 3
    elif what == "progress":
        content["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"] = "seven"
    elif what == "callbacks":
        content["callbacks"] = {k: [1, 2] for k in content["callbacks"]}
    elif what == "state of a callback":
        content["callbacks"] = {k: {"junk": 1} for k in content["callbacks"]}
    elif what == "optimizer":
        state = content["optimizer_states"][0]["state"]
        state[0] = {"momentum_buffer": torch.zeros(4, 4)}
    elif what == "groups":
        content["optimizer_states"][0]["param_groups"][0]["params"] = [0]
    elif what == "scheduler":
        content["lr_schedulers"] = [{"last_epoch": []}]
    elif what == "version":
        del content["pytorch-lightning_version"]
    elif what == "step":
        content["global_step"] = None
    elif what == "batch":
        content["zoo_step_batch"] = "junk"
    elif what == "weights":
        content["state_dict"] = {k: v.T if v.dim() == 2 else v for k, v in content["state_dict"].items()}
    elif what == "missing weight":
        del content["state_dict"][next(iter(content["state_dict"]))]
    elif what == "no tensor":
        content["state_dict"] = dict.fromkeys(content["state_dict"])
    elif what == "keys":
        content["state_dict"] = {1: torch.zeros(1)}
    elif what == "list":
        content["state_dict"] = [1]


@pytest.mark.parametrize(
    "what",
    [
        "loops", "progress", "callbacks", "state of a callback", "optimizer", "groups", "scheduler", "version", "step",
        "batch", "weights", "missing weight", "no tensor", "keys", "list",
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_one_sentence(run, what, capsys):
    file = run / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    damage(content, what)
    torch.save(content, file)
    said = refused(["--resume", str(run), "--trainer.max_epochs", "3"], run, capsys)
    assert "cannot resume" in said


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_one_sentence(run, content, capsys):
    (run / "checkpoints" / "last.ckpt").write_bytes(content)
    assert "is no whole checkpoint" in refused(["--resume", str(run), "--trainer.max_epochs", "3"], run, capsys)


def test_a_checkpoint_is_resumed_from_its_own_folder(run, monkeypatch, capsys):
    monkeypatch.chdir(run / "checkpoints")
    assert fit.main(["--resume", "last.ckpt", "--trainer.max_epochs", "3"]) == 0
    assert json.loads((run / "results.json").read_text())["epochs"] == 3
    monkeypatch.chdir(run)
    assert fit.main(["--resume", "checkpoints/last.ckpt", "--trainer.max_epochs", "4"]) == 0
    assert json.loads((run / "results.json").read_text())["epochs"] == 4


def test_a_resumed_run_does_not_replace_a_third_one(run, finished, capsys):
    before = records(run)
    assert fit.main(["--resume", str(finished), "--out", str(run), "--trainer.max_epochs", "3"]) == 2
    assert "holds a run already" in capsys.readouterr().err and records(run) == before
