"""Starting a run from trained weights: ``--pretrained``."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.hub.finetune import transfer
from zoo.registry import UnknownName
from zoo.storage.model_folder import WeightsError
from zoo.training.build import build_run, load_run
from zoo.training.options import Options
from zoo.training.request import resolve
from zoo.training.train import train

ONE_STEP = {
    "max_steps": 1, "max_epochs": 1, "limit_val_batches": 1, "limit_test_batches": 1, "accelerator": "cpu",
    "devices": 1, "enable_progress_bar": False,
}  # fmt: skip


def built(*argv):
    options = Options(resolve(argv))
    return build_run(options, 0)[0].model


def test_the_weights_are_those_of_the_name():
    model, trained = built("--model", "mdeq_tiny.digits", "--pretrained"), zoo.load("mdeq_tiny.digits")
    for key, value in trained.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=0, atol=0)


@pytest.mark.slow
def test_a_run_says_where_it_started_and_can_be_repeated(tmp_path, capsys):
    out = tmp_path / "run"
    results = train("mdeq_tiny", "digits", pretrained="mdeq_tiny.digits", out=out, trainer=ONE_STEP, optim={"lr": 1e-9})
    assert "It starts from the weights of mdeq_tiny.digits" in capsys.readouterr().out
    assert results["test"]["accuracy"] > 0.95  # untrained: a tenth
    assert resolve(["-c", str(out / "config.yaml")]).pretrained == "mdeq_tiny.digits"


def test_a_run_of_ones_own_is_a_source(tmp_path):
    train("test_mdeq", "digits", out=tmp_path / "first", trainer=ONE_STEP)
    model, trained = (
        built("--model", "test_mdeq", "--pretrained", str(tmp_path / "first")),
        zoo.load(tmp_path / "first"),
    )
    for key, value in trained.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=0, atol=0)


@pytest.mark.slow
def test_a_run_goes_on_without_the_weights_it_started_from(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    train("test_mdeq", "digits", out=first, trainer=ONE_STEP)
    train("test_mdeq", "digits", pretrained=first, out=second, trainer=ONE_STEP)
    first.rename(tmp_path / "elsewhere")
    assert load_run(second)
    assert train("test_mdeq", resume=second, trainer=ONE_STEP | {"max_steps": 2, "max_epochs": 2})["steps"] == 2


def test_other_classes_get_a_new_classifier():
    model = zoo.create_model("mdeq_tiny.digits", num_classes=4, in_chans=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fresh = transfer(model, "mdeq_tiny.digits", data="mnist")
    trained = zoo.load("mdeq_tiny.digits").state_dict()
    assert fresh and all(k.rpartition(".")[2] in ("weight", "bias") for k in fresh)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key] if key in fresh else trained[key], rtol=0, atol=0)


def test_weights_of_another_architecture_are_refused_whole():
    model = zoo.create_model("resnet_tiny.digits", in_chans=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(WeightsError, match="do not fit"):
        transfer(model, "mdeq_tiny.digits", data="digits")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_model_without_weights_says_which_have_some():
    with pytest.raises(UnknownName, match="no trained weights"):
        resolve(["--model", "test_mdeq", "--pretrained"])
