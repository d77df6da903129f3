"""The segmentation task: what counts, what the metrics are, and what is refused before a run."""

from __future__ import annotations

import pytest
import torch
from lightning import Trainer
from torch import nn

import zoo
from zoo.data.shapes import Shapes, scenes
from zoo.tasks.segmentation import Segmentation


class PerPixel(nn.Module):
    """Scores are the image's channels."""

    num_classes, unit = 3, 4

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        assert x.shape[-1] % 4 == 0
        return self.scale * x


@pytest.fixture
def logged(monkeypatch):
    values = {}
    monkeypatch.setattr(Segmentation, "log", lambda self, name, value, **_: values.__setitem__(name, value))
    return values


def case():
    """Ten pixels in one row of 16 (six are ignored) over two images: guesses and labels by hand."""
    guess = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 0, 1])
    label = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0, 0, 1])
    y = torch.full((1, 4, 4), 255)
    y.view(-1)[:10] = label
    x = torch.zeros(1, 3, 4, 4)
    x.view(3, 16)[guess, torch.arange(10)] = 5.0
    return x, y


@pytest.mark.parametrize("window", [0, 4])
def test_iou_and_loss_over_the_pixels_that_count(logged, window):
    task = Segmentation(PerPixel(), window=window)
    x, y = case()
    task.validation_step((x, y), 0)
    # class 0: 3 of 5, class 1: 3 of 4, class 2: 2 of 3
    assert float(logged["val/miou"].compute()) == pytest.approx((3 / 5 + 3 / 4 + 2 / 3) / 3)
    assert float(logged["val/accuracy"].compute()) == pytest.approx(0.8)
    wrong, right = 5 + torch.log1p(2 * torch.exp(torch.tensor(-5.0))), torch.log1p(2 * torch.exp(torch.tensor(-5.0)))
    torch.testing.assert_close(logged["val/loss"], (2 * wrong + 8 * right) / 10)


def test_the_metric_adds_up_over_batches_and_ignores_absent_classes(logged):
    task = Segmentation(PerPixel())
    x, y = case()
    for part in (slice(0, 2), slice(2, 4)):
        masked = torch.full_like(y, 255)
        masked[:, part] = y[:, part]
        task.test_step((x, masked), 0)
    assert float(logged["test/miou"].compute()) == pytest.approx((3 / 5 + 3 / 4 + 2 / 3) / 3)
    lonely = Segmentation(PerPixel())
    lonely.validation_step((5 * torch.eye(3)[0].view(1, 3, 1, 1).expand(1, 3, 4, 4), torch.zeros(1, 4, 4).long()), 0)
    assert float(logged["val/miou"].compute()) == 1.0


def test_a_crop_of_ignored_pixels_only_has_no_loss_and_no_nan(logged):
    loss = Segmentation(PerPixel()).training_step((torch.randn(1, 3, 4, 4), torch.full((1, 4, 4), 255)), 0)
    assert float(loss.detach()) == 0.0


def test_evaluation_takes_any_size(logged):
    task = Segmentation(PerPixel())
    assert task.answer((torch.randn(2, 3, 7, 9),)).shape == (2, 3, 7, 9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": 6}, "0 or a multiple of 4"),
        ({"overlap": 1.0}, r"task.overlap in \[0, 1\)"),
        ({"ignore_index": 2}, r"no class of 0\.\.2"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Segmentation(PerPixel(), **options)


def test_masks_of_another_size_are_refused(logged):
    with pytest.raises(ValueError, match=r"as large as their images; got \(1, 4, 3\)"):
        Segmentation(PerPixel()).training_step((torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 3).long()), 0)


@pytest.mark.parametrize("stage", ["training_step", "validation_step"])
def test_labels_that_are_no_class_are_named(logged, stage):
    y = torch.zeros(1, 4, 4).long()
    y[0, 0, :3] = torch.tensor([7, -1, 255])
    with pytest.raises(ValueError, match=r"labels -1, 7, but the model has 3 classes, 0 to 2; only 255 is left out"):
        getattr(Segmentation(PerPixel()), stage)((torch.zeros(1, 3, 4, 4), y), 0)


def trainer():
    return Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*number of training batches")
def test_crops_that_the_model_cannot_halve_are_refused_before_the_first_step(monkeypatch):
    monkeypatch.setattr("zoo.data.shapes.scenes", lambda n, seed: scenes(n // 40, seed))
    model = zoo.create_model("test_mdeq_segmentation", num_classes=5)
    with pytest.raises(ValueError, match=r"divide by 4; the crops are 30x30. Set --data.crop 32"):
        trainer().fit(Segmentation(model), datamodule=Shapes(crop=30))
    with pytest.raises(ValueError, match=r"the crops are 16x30. Set --data.crop \[16,32\]"):
        trainer().fit(Segmentation(model), datamodule=Shapes(crop=(16, 30)))
    assert model.last is None
    task = Segmentation(model)
    run = trainer()
    run.fit(task, datamodule=Shapes(batch_size=12))
    found = run.test(task, datamodule=Shapes(batch_size=12), verbose=False)[0]
    assert 0 <= found["test/miou"] <= 1 and found["test/loss"] > 0
