"""Pictures with masks of the user's own: numbers and colors, parts, and masks that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.files import DataError
from zoo.data.own.mask_folder import MaskFolder
from zoo.training.train import train

QUICK = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1,
         "accelerator": "cpu", "enable_progress_bar": False}  # fmt: skip
COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)


def make(root, count=10, size=(32, 32), form="index"):
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(count):
        mask = random.integers(0, 3, size).astype(np.uint8)
        picture = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
        picture.save(root / "images" / f"{i}.jpg")
        if form == "palette":
            image = Image.fromarray(mask, "P")
            image.putpalette(COLORS.flatten().tolist())
        else:
            image = Image.fromarray(mask if form == "index" else COLORS[mask])
        image.save(root / "masks" / f"{i}.png")
    return root


def batch(data):
    return next(iter(data.test_dataloader()))


def test_numbers_palettes_and_colors_give_the_same_masks(tmp_path):
    options = {"rgb": {"palette": ["000000", "#ff0000", "0000ff"]}}
    found = [batch(MaskFolder(str(make(tmp_path / form, form=form)), **options.get(form, {})))[1]
             for form in ("index", "palette", "rgb")]  # fmt: skip
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    data = MaskFolder(str(tmp_path / "index"))
    assert data.sizes == {"train": 8, "val": 1, "test": 1}
    assert data.model_arguments() == {"num_classes": 3, "in_chans": 3}


def test_folders_of_parts(tmp_path):
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        make(tmp_path / part, count)
    assert MaskFolder(str(tmp_path)).sizes == {"train": 6, "val": 2, "test": 3}


def test_masks_that_do_not_fit(tmp_path):
    make(tmp_path)
    with pytest.raises(DataError, match=r"the label 2 is out of range; classes go from 0 to 1"):
        list(MaskFolder(str(tmp_path), num_classes=2, augment=False).train_dataloader())
    with pytest.raises(DataError, match=r"2.png is 8x8, and its picture 2.jpg is 32x32; they must be alike"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "masks" / "2.png")
        MaskFolder(str(tmp_path)).setup()
    (tmp_path / "masks" / "2.png").unlink()
    with pytest.raises(DataError, match=r"images/2.jpg has no mask"):
        MaskFolder(str(tmp_path)).setup()
    with pytest.raises(DataError, match=r"Expected images/ and masks/ in DIR"):
        MaskFolder(str(tmp_path / "masks")).setup()


def test_colors_outside_of_the_palette_are_named(tmp_path):
    make(tmp_path, form="rgb")
    with pytest.raises(DataError, match=r"the color 0000ff is none of the palette \(000000, ff0000\)"):
        list(MaskFolder(str(tmp_path), palette=["000000", "ff0000"]).test_dataloader())
    with pytest.raises(DataError, match=r"a mask of uint8 \(32, 32, 3\).*--data.palette"):
        MaskFolder(str(tmp_path)).setup()
    with pytest.raises(ValueError, match="palette is a list of colors"):
        MaskFolder(str(tmp_path), palette=["red"])


@pytest.mark.slow
def test_a_model_of_masks_trains(tmp_path):
    data = {"name": "mask_folder", "root": make(tmp_path / "data"), "batch_size": 2}
    assert train("test_mdeq_segmentation", data, out=tmp_path / "run", trainer=QUICK)["status"] == "finished"
