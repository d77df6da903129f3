"""Masks: they move with their images; files of published layouts are read, and named where they are wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.files import DataError
from zoo.data.masks import IGNORE, SceneTransform
from zoo.data.segmentation import VOC, Cityscapes
from zoo.data.shapes import Shapes, outline, scenes
from zoo.training.options import Options
from zoo.training.request import resolve

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def pictures(*sizes):
    """Images whose red channel is their mask."""
    random = np.random.default_rng(0)
    masks = [torch.from_numpy(random.integers(1, 5, s, dtype=np.uint8)) for s in sizes]
    return [m.repeat(3, 1, 1) for m in masks], masks


def test_masks_move_with_their_images():
    images, masks = pictures(*[(13, 17)] * 20)
    transform = SceneTransform(**PLAIN, crop=(8, 8), frame=(16, 24))
    x, y = transform(images, masks, torch.Generator().manual_seed(0))
    assert x.shape == (20, 3, 8, 8) and y.shape == (20, 8, 8) and y.dtype == torch.long
    torch.testing.assert_close(x[:, 0] * 255, y.float())
    left = [m[:8, :8].tolist() for m in masks]
    assert sum(y[i].tolist() == left[i] for i in range(20)) < 3  # places and sides are drawn


@pytest.mark.parametrize("random", [None, torch.Generator()])
def test_a_mask_of_another_size_than_its_image_is_refused(random):
    images, masks = pictures((13, 17), (13, 17))
    masks[1] = masks[1][:12]
    with pytest.raises(ValueError, match=r"Mask 1 of this batch is \(12, 17\), its image \(3, 13, 17\)"):
        SceneTransform(**PLAIN, crop=(8, 8), frame=(16, 24))(images, masks, random)


def test_evaluation_sees_the_whole_image_padded():
    images, masks = pictures((13, 17), (16, 24))
    x, y = SceneTransform(**PLAIN, crop=(8, 8), frame=(16, 24))(images, masks)
    assert x.shape == (2, 3, 16, 24)
    assert torch.equal(y[0, :13, :17], masks[0].long())
    assert (y[0, 13:] == IGNORE).all() and (y[0, :, 17:] == IGNORE).all() and not (y[1] == IGNORE).any()
    with pytest.raises(ValueError, match="17x17 is larger than the frame of 16x24"):
        SceneTransform(**PLAIN, crop=(8, 8), frame=(16, 24))(*pictures((17, 17)))


def test_scales_enlarge_and_shrink():
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    mask = torch.zeros(32, 32, dtype=torch.uint8)
    mask[8:24, 8:24] = 1
    transform = SceneTransform(**PLAIN, crop=(64, 64), frame=(32, 32), scales=(0.5, 2.0), mirrored=False)
    _, y = transform([image] * 40, [mask] * 40, torch.Generator().manual_seed(1))
    sides = (y == 1).sum((1, 2)).double().sqrt()
    assert 8 <= sides.min() < 12 and 26 < sides.max() <= 32
    assert set(y.unique().tolist()) == {0, 1, IGNORE}


def test_shapes_are_the_same_everywhere_and_hold_every_class():
    images, masks = scenes(60, seed=1)
    again, _ = scenes(60, seed=1)
    assert np.array_equal(images, again) and images.shape == (60, 3, 32, 32)
    assert set(np.unique(masks)) == set(range(5))
    grid = np.mgrid[-1.2:1.2:200j, -1.2:1.2:200j]
    areas = [outline(k, *grid).mean() * 2.4**2 for k in range(1, 5)]
    exact = [np.pi * 0.85**2, 1.5**2 / np.sqrt(3), np.pi * (1 - 0.55**2), 4 * 0.56 - 0.56**2]
    np.testing.assert_allclose(areas, exact, rtol=0.03)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr("zoo.data.shapes.scenes", lambda n, seed: scenes(n // 40, seed))


def test_shapes_are_split_and_resumable(few):
    data = Shapes(batch_size=8)
    assert data.sizes == {"train": 27, "val": 3, "test": 10}
    assert len(data.fingerprint()) == 64
    loader = data.train_dataloader()
    first = list(loader)
    assert [x.shape for x, _ in first] == [(8, 3, 32, 32)] * 3
    loader.set_epoch(0)
    for (x, y), (x2, y2) in zip(first, loader, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)
    assert Shapes(crop=(16, 24)).crop == (16, 24) and Shapes(crop=16).crop == (16, 16)
    assert next(iter(Shapes(batch_size=8, crop=[16, 24]).train_dataloader()))[1].shape == (8, 16, 24)
    for bad in (-1, (16, -8), (16, 0), (16, 16, 16)):
        with pytest.raises(ValueError, match="crop must not be negative, and one number or two"):
            Shapes(crop=bad)


def test_the_crop_is_one_number_or_two_on_the_command_line():
    words = ["--model", "mdeq_segmentation_xl", "--data", "cityscapes"]
    for extra, crop in (([], [768, 1024]), (["--data.crop", "512"], 512), (["--data.crop", "[256,512]"], [256, 512])):
        assert Options(resolve([*words, *extra])).section("data")["crop"] == crop


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def streets(tmp_path):
    """Three scenes in the published layout, small."""
    for split, city, count in (("train", "aachen", 2), ("val", "ulm", 1)):
        for i in range(count):
            stem = f"{city}_{i:06d}_000019"
            png(
                tmp_path / f"Cityscapes/leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png",
                np.full((32, 64, 3), i, np.uint8),
            )
            mask = np.tile(np.array([0, 7, 26, 33], np.uint8), (32, 16))
            png(tmp_path / f"Cityscapes/gtFine/{split}/{city}/{stem}_gtFine_labelIds.png", mask)
    return tmp_path


def test_cityscapes_in_the_published_layout(streets, monkeypatch):
    monkeypatch.setattr(Cityscapes, "frame", (32, 64))
    data = Cityscapes(str(streets), batch_size=2, val_fraction=0.5, crop=16)
    data.prepare_data()
    assert data.sizes == {"train": 1, "val": 1, "test": 1}
    x, y = next(iter(data.test_dataloader()))
    assert x.shape == (1, 3, 32, 64)
    assert y[0, 0, :4].tolist() == [IGNORE, 0, 13, 18]
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (1, 3, 16, 16) and y.shape == (1, 16, 16)
    same = data.fingerprint()
    next(streets.glob("Cityscapes/leftImg8bit/val/*/*.png")).write_bytes(b"")
    with pytest.raises(DataError, match="it is empty"):
        Cityscapes(str(streets)).prepare_data()
    assert len(same) == 64


def test_a_mask_of_another_size_is_named_before_a_run(streets):
    path = next(streets.glob("Cityscapes/gtFine/val/*/*.png"))
    png(path, np.zeros((32, 60), np.uint8))
    with pytest.raises(DataError, match=r"the mask is 32x60, its image ulm_0.* is 32x64"):
        Cityscapes(str(streets)).prepare_data()
    path.unlink()
    with pytest.raises(DataError, match=r"labelIds.png was not found.*val part"):
        Cityscapes(str(streets)).prepare_data()


def test_a_set_that_is_not_there_says_where_it_belongs(tmp_path):
    for kind in (Cityscapes, VOC):
        with pytest.raises(DataError, match=r"data.root or by the environment variable ZOO_DATA"):
            kind(str(tmp_path)).prepare_data()


def test_voc_of_images_of_many_sizes(tmp_path):
    folder = tmp_path / "VOCdevkit/VOC2012"
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    for split, sizes in (("train", [(30, 40), (50, 20)]), ("val", [(24, 24)])):
        names = []
        for i, size in enumerate(sizes):
            names.append(f"2007_{split}{i}")
            png(folder / f"JPEGImages/{names[-1]}.jpg", np.zeros((*size, 3), np.uint8))
            mask = Image.fromarray(np.full(size, 20 if i else 255, np.uint8), mode="P")
            mask.putpalette(list(range(256)) * 3)
            (folder / "SegmentationClass").mkdir(exist_ok=True)
            mask.save(folder / f"SegmentationClass/{names[-1]}.png")
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
    data = VOC(str(tmp_path), batch_size=2, val_fraction=0.0, crop=32)
    data.prepare_data()
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (2, 3, 32, 32) and set(y.unique().tolist()) <= {20, IGNORE}
    x, y = next(iter(data.test_dataloader()))
    assert x.shape == (1, 3, 512, 512) and (y == IGNORE).all()
