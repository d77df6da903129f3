"""The average of the weights: its formula, that it is what is evaluated and kept, and that a run resumes exactly."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from lightning import Callback
from torch import nn

import zoo
from zoo import fit
from zoo.callbacks.checkpointing import Interrupted
from zoo.callbacks.weight_ema import CURRENT, WeightEMA, averaged
from zoo.training.train import train

SHORT = {
    "max_epochs": 2, "limit_train_batches": 4, "limit_val_batches": 1, "limit_test_batches": 1, "accelerator": "cpu",
    "devices": 1, "enable_progress_bar": False, "logger": False,
}  # fmt: skip
FLAGS = [f"--trainer.{k}={v}" for k, v in SHORT.items() if k != "logger"]
OPTIM = {"name": "sgd", "lr": 0.1, "schedule": "constant", "warmup": 0.0}


class Watch(Callback):
    """Keep the weights after each step, and those of each validation; stop the run at one step."""

    def __init__(self, stop=None):
        self.stop, self.steps, self.validated = stop, [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append({k: v.detach().clone() for k, v in averaged(pl_module).items()})
        if trainer.global_step == self.stop:
            os.kill(os.getpid(), signal.SIGINT)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated.append({k: v.detach().clone() for k, v in averaged(pl_module).items()})


def averaged_run(model, out, decay=0.9, watch=None, resume=None, **trainer):
    trainer = {**SHORT, "callbacks": [watch or Watch()], **trainer}
    return train(model, "digits", ema=decay, optim=OPTIM, trainer=trainer, out=out, resume=resume, seed=3)


def saved(folder, which="last"):
    return torch.load(folder / "checkpoints" / f"{which}.ckpt", weights_only=True)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module", params=["test_mdeq", "test_timm"])  # without batch normalization, and with it
def run(request, tmp_path_factory):
    watch = Watch()
    return averaged_run(request.param, tmp_path_factory.mktemp("ema") / "run", watch=watch), watch


def test_the_average_follows_its_formula_and_is_what_is_validated_and_saved(run):
    done, watch = run
    expected, after = {k: v.double() for k, v in watch.steps[0].items()}, []
    for t, weights in enumerate(watch.steps):
        share = min(0.9, (1 + t) / (10 + t)) if t else 0.0
        expected = {k: share * v + (1 - share) * weights[k].double() for k, v in expected.items()}
        after.append(expected)
    content = saved(done.folder)
    for kept, wanted in (
        (watch.validated[0], after[3]),
        (watch.validated[1], after[7]),
        (content["state_dict"], after[7]),
    ):
        for name, value in wanted.items():
            torch.testing.assert_close(kept[name].double(), value, rtol=1e-5, atol=1e-7)
    assert same({k: content[CURRENT][k] for k in expected}, watch.steps[-1])
    assert any(not torch.equal(content[CURRENT][k], content["state_dict"][k]) for k in expected)


def test_a_run_with_an_average_loads_and_measures_as_any_other(run):
    done, _ = run
    best = saved(done.folder, "best")["state_dict"]
    loaded = {f"model.{k}": v for k, v in zoo.load(done.folder).state_dict().items()}
    assert same(loaded, {k: v for k, v in best.items() if k.startswith("model.")})
    assert same(done.model.state_dict(), zoo.load(done.folder).state_dict())
    assert same(done.task.state_dict(), best)  # the test at the end was of the best averages


@pytest.mark.parametrize("step", [2, 4])  # within an epoch, and at its end
def test_a_resumed_run_ends_with_the_averages_of_an_uninterrupted_one(run, tmp_path, step):
    done, _ = run
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        averaged_run(done["model"], out, watch=Watch(stop=step))
    assert saved(out)["global_step"] == step
    averaged_run(done["model"], out, resume=out)
    for key in ("state_dict", CURRENT):
        assert same(saved(out)[key], saved(done.folder)[key])


def test_an_average_is_neither_begun_nor_left_off_within_a_run(tmp_path, capsys):
    more = ["--trainer.max_epochs", "3", "--trainer.accelerator", "cpu"]
    fit.main(["--model", "test_cnn", "--data", "digits", "--ema.decay", "0.9", "--out", str(tmp_path / "with"), *FLAGS])
    assert fit.main(["--resume", str(tmp_path / "with"), "--ema.decay", "0", *more]) == 2
    assert "has an average of the weights, but now ema.decay is 0.0" in capsys.readouterr().err
    fit.main(["--model", "test_cnn", "--data", "digits", "--out", str(tmp_path / "without"), *FLAGS])
    assert CURRENT not in saved(tmp_path / "without")
    assert fit.main(["--resume", str(tmp_path / "without"), "--ema.decay", "0.9", *more]) == 2
    assert "has no average of the weights" in capsys.readouterr().err


def test_steps_are_counted_not_batches(tmp_path):
    watch = Watch()
    averaged_run("test_cnn", tmp_path / "run", watch=watch, accumulate_grad_batches=2)
    state = saved(tmp_path / "run")["callbacks"]
    assert next(v for k, v in state.items() if k.startswith("WeightEMA")) == {"steps": 4, "step": 4}


def test_tied_weights_have_one_average_under_each_name():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    names = averaged(model)
    assert set(names) == {"0.weight", "1.weight"} and names["0.weight"] is names["1.weight"]


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_is_a_share(decay):
    with pytest.raises(ValueError, match=r"ema.decay is a share in \[0, 1\)"):
        WeightEMA(decay)


def test_a_decay_out_of_range_is_one_sentence(tmp_path, capsys):
    assert fit.main(["--model", "test_cnn", "--ema.decay", "1.5", "--out", str(tmp_path / "run")]) == 2
    assert "ema.decay is a share" in capsys.readouterr().err and not (tmp_path / "run").exists()
