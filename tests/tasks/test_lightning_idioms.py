"""What Lightning's own users do with a task: load it from a checkpoint, predict, train by a plain Trainer."""

from __future__ import annotations

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.tasks.classification import Classification
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig
from zoo.tasks.segmentation import Segmentation
from zoo.training.train import train

SHORT = {
    "max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1, "accelerator": "cpu",
    "devices": 1, "enable_progress_bar": False,
}  # fmt: skip
PLAIN = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False,
         "enable_model_summary": False, "max_epochs": 1}  # fmt: skip


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def loader(labels=True):
    x = torch.randn(20, 1, 2, 2)
    return DataLoader(TensorDataset(x, torch.randint(3, (20,))) if labels else TensorDataset(x), batch_size=8)


def test_a_task_loads_from_its_checkpoint(tmp_path):
    run = train("test_cnn", "digits", trainer=SHORT, optim={"lr": 0.125}, out=tmp_path / "run")
    file = run.folder / "checkpoints" / "last.ckpt"
    task = Classification.load_from_checkpoint(file, model=zoo.create_model("test_cnn"))
    assert task.optim.lr == 0.125
    for key, value in run.task.state_dict().items():
        assert torch.equal(task.state_dict()[key], value)


def test_a_checkpoint_without_its_model_leads_to_zoo_load():
    with pytest.raises(TypeError, match=r"needs the model .*model=zoo.create_model\(NAME\).*zoo.load\('a.ckpt'\)"):
        Classification.load_from_checkpoint("a.ckpt")


def test_a_plain_trainer_saves_and_loads_every_option(tmp_path):
    model = zoo.create_model("test_mdeq")
    task = Classification(model, Optim(lr=0.25), StabilityConfig(jacobian_weight=0.5))
    x = torch.randn(8, 1, 8, 8)
    trainer = Trainer(**PLAIN, limit_train_batches=1, default_root_dir=tmp_path)
    trainer.fit(task, DataLoader(TensorDataset(x, torch.zeros(8, dtype=torch.long)), batch_size=8))
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    again = Classification.load_from_checkpoint(tmp_path / "plain.ckpt", model=zoo.create_model("test_mdeq"))
    assert again.optim == task.optim and again.stability == task.stability


@pytest.mark.parametrize("batches", ["with labels", "without labels", "bare tensors"])
def test_a_trainer_predicts(batches):
    task = Classification(network())
    data = loader(batches == "with labels")
    x = data.dataset.tensors[0]
    if batches == "bare tensors":
        data = DataLoader(x, batch_size=8)
    answers = Trainer(**PLAIN).predict(task, data)
    torch.testing.assert_close(torch.cat(answers), task.model.eval()(x).detach())


def test_options_may_be_mappings():
    task = Classification(network(), {"lr": 0.5}, {"nonfinite": "skip"})
    assert task.optim == Optim(lr=0.5) and task.stability.nonfinite == "skip"
    with pytest.raises(TypeError, match="rate"):
        Classification(network(), {"rate": 0.5})


def test_a_task_says_what_its_model_lacks():
    with pytest.raises(ValueError, match="must know num_classes of its model; Sequential has none. Set model.num_clas"):
        Segmentation(network())


def test_accuracy_is_the_share_of_right_answers():
    task = Classification(network())
    data = loader()
    x, y = data.dataset.tensors
    (found,) = Trainer(**PLAIN).test(task, data, verbose=False)
    assert found["test/accuracy"] == pytest.approx((task.model(x).argmax(1) == y).float().mean().item())
