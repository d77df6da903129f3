"""Pictures of the user's own: layouts, splits, sizes, colors, broken files, and what a trained model keeps of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.data import DATA
from zoo.data.files import DataError
from zoo.data.own.augment import seeded
from zoo.data.own.image_folder import ImageFolder, ImageNet
from zoo.storage.preprocessing import Preprocessing
from zoo.training.export import export
from zoo.training.train import train

QUICK = {"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 1, "accelerator": "cpu",
         "enable_progress_bar": False}  # fmt: skip


def picture(path, value, size=(8, 8), mode="L", kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(value)
    shape = size if mode == "L" else (*size, 3)
    Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8), mode).save(path, kind)


def folder(root, classes=("cat", "dog"), each=10, **how):
    for k, name in enumerate(classes):
        for i in range(each):
            picture(root / name / f"{i}.png", 100 * k + i, **how)
    return root


def names(data, part):
    return [data.split(part)[0].path(i).relative_to(data.root).as_posix() for i in range(data.sizes[part])]


@pytest.fixture
def pets(tmp_path):
    return folder(tmp_path / "pets")


def test_one_folder_is_cut_by_class_and_the_same_for_every_seed(pets):
    data, other = ImageFolder(str(pets)), ImageFolder(str(pets), seed=7)
    assert data.sizes == {"train": 16, "val": 2, "test": 2}
    assert data.classes == ("cat", "dog") and data.num_classes == 2 and data.in_chans == 1 and data.image_size == 8
    for part in data.sizes:
        assert names(data, part) == names(other, part)
        assert torch.bincount(data.split(part)[1]).tolist() == [data.sizes[part] // 2] * 2
    every = [n for part in data.sizes for n in names(data, part)]
    assert len(set(every)) == len(every) == 20
    assert data.fingerprint() == other.fingerprint()


def test_folders_of_parts_are_taken_as_they_are(tmp_path):
    for part, each in (("train", 5), ("valid", 3), ("test", 2)):
        folder(tmp_path / part, each=each)
    data = ImageFolder(str(tmp_path))
    assert data.sizes == {"train": 10, "val": 6, "test": 4}
    assert all(n.startswith("valid/") for n in names(data, "val"))
    with pytest.raises(ValueError, match="val_fraction=0.3 does nothing here: the pictures of .*valid are taken"):
        ImageFolder(str(tmp_path), val_fraction=0.3).setup()


def test_a_missing_test_folder_is_cut_out_of_training(tmp_path):
    folder(tmp_path / "train", each=10)
    folder(tmp_path / "val", each=4)
    data = ImageFolder(str(tmp_path), test_fraction=0.2)
    assert data.sizes == {"train": 16, "val": 8, "test": 4}


def test_few_pictures_leave_one_for_each_part(tmp_path):
    data = ImageFolder(str(folder(tmp_path, each=3)))
    assert data.sizes == {"train": 2, "val": 2, "test": 2}


def test_sizes_and_colors_are_mixed(tmp_path):
    folder(tmp_path, each=4)
    picture(tmp_path / "cat" / "wide.jpg", 1, (20, 50), "RGB", "JPEG")
    data = ImageFolder(str(tmp_path), image_size=(12, 16), batch_size=4)
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (4, 3, 12, 16) and y.dtype == torch.int64 and data.in_chans == 3
    assert data.preprocessing["size"] == [12, 16]
    assert ImageFolder(str(tmp_path)).setup() is None  # without a size: 224
    other = ImageFolder(str(tmp_path))
    other.setup()
    assert other.image_size == 224


def test_pixels_are_normalized_by_the_training_part(pets):
    data = ImageFolder(str(pets), batch_size=16)
    x = next(iter(data.train_dataloader()))[0]
    assert abs(float(x.mean())) < 1e-3 and abs(float(x.std()) - 1) < 1e-2


def test_evaluation_sees_what_predict_sees(tmp_path):
    folder(tmp_path, each=4, size=(9, 13), mode="RGB")
    data = ImageFolder(str(tmp_path), image_size=8, batch_size=2)
    x = next(iter(data.test_dataloader()))[0]
    prepare = Preprocessing.read(data.preprocessing)
    paths = [str(data.split("test")[0].path(i)) for i in range(2)]
    torch.testing.assert_close(x, prepare(paths), rtol=0, atol=0)
    assert prepare.classes == ("cat", "dog") and prepare.data == "image_folder"


@pytest.mark.parametrize("workers", [0, 2])
def test_augmented_batches_depend_on_seed_epoch_and_batch_alone(pets, workers):
    def batches(epoch, **options):
        loader = ImageFolder(str(pets), batch_size=4, augment=True, color_jitter=0.4, **options).train_dataloader()
        loader.set_epoch(epoch)
        return [x for x, _ in loader]

    torch.manual_seed(5)
    first = batches(3)
    state = torch.get_rng_state()
    again = batches(3, num_workers=workers)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], batches(4)[0]) and not torch.equal(first[0], batches(3, seed=1)[0])
    assert torch.equal(torch.get_rng_state(), state) or workers  # the states of the process are left alone


def test_the_global_states_are_put_back():
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    with seeded(torch.Generator().manual_seed(0)):
        a = torch.rand(3)
    with seeded(torch.Generator().manual_seed(0)):
        assert torch.equal(torch.rand(3), a)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize("option", [{"scale": (0.5, 0.6)}, {"flip": 1.0}, {"erase": 1.0}, {"color_jitter": 0.5}])
def test_each_option_of_the_augmentation_does_something(tmp_path, option):
    folder(tmp_path, each=4, mode="RGB")
    plain, changed = (
        next(iter(ImageFolder(str(tmp_path), augment=True, batch_size=4, **o).train_dataloader()))[0]
        for o in ({}, option)
    )
    assert not torch.equal(plain, changed)
    with pytest.raises(ValueError, match="does nothing here: pictures are not augmented; give --data.augment true"):
        ImageFolder(str(tmp_path), **option)


def test_a_policy_is_of_colors(tmp_path):
    color = folder(tmp_path / "color", each=4, mode="RGB")
    data = ImageFolder(str(color), augment=True, policy="rand-m9-mstd0.5", batch_size=4)
    assert torch.isfinite(next(iter(data.train_dataloader()))[0]).all()
    with pytest.raises(ValueError, match="policy='rand-m9' does nothing here: .*the pictures are gray"):
        ImageFolder(str(folder(tmp_path / "gray")), augment=True, policy="rand-m9").setup()


# ------------------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\nbroken"])
def test_a_corrupt_picture_is_named_or_left_out(pets, content):
    (pets / "cat" / "3.png").write_bytes(content)
    with pytest.raises(DataError, match=r"cat/3.png is no picture that can be read: .*--data.on_corrupt skip"):
        ImageFolder(str(pets)).prepare_data()
    with pytest.warns(UserWarning, match=r"cat/3.png is left out|1 of 20 pictures are left out"):
        data = ImageFolder(str(pets), on_corrupt="skip")
        data.prepare_data()
    assert sum(data.sizes.values()) == 19 and not any("cat/3.png" in n for p in data.sizes for n in names(data, p))


def test_a_truncated_picture_is_met_when_it_is_read(pets):
    """Its head is whole, so that only decoding tells; `check` decodes all before a run begins."""
    whole = ImageFolder(str(pets), batch_size=16)
    victim = whole.split("train")[0].path(2)
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(DataError, match=victim.name):
        list(ImageFolder(str(pets), batch_size=16).train_dataloader())
    with pytest.raises(DataError, match=victim.name):
        ImageFolder(str(pets), check=True).prepare_data()
    with pytest.warns(UserWarning, match=f"{victim.name} is left out"):
        ((x, y),) = ImageFolder(str(pets), batch_size=16, on_corrupt="skip").train_dataloader()
    assert len(x) == len(y) == 15


def test_pictures_of_16_bits_are_refused(pets):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(pets / "cat" / "3.png")
    with pytest.raises(DataError, match=r"cat/3.png has 16 or more bits a channel"):
        ImageFolder(str(pets)).setup()


def test_folders_that_are_none(tmp_path):
    with pytest.raises(DataError, match="holds no folders of classes. Expected a folder for each class"):
        ImageFolder(str(tmp_path)).setup()
    with pytest.raises(DataError, match="nowhere is no folder"):
        ImageFolder(str(tmp_path / "nowhere")).setup()
    folder(tmp_path, classes=("cat",))
    with pytest.raises(DataError, match="one class alone, 'cat'"):
        ImageFolder(str(tmp_path)).setup()
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match="dog holds no pictures"):
        ImageFolder(str(tmp_path)).setup()


def test_a_test_folder_with_another_class_is_named(tmp_path):
    folder(tmp_path / "train")
    folder(tmp_path / "test", classes=("cat", "dogg"))
    with pytest.raises(DataError, match=r"dogg: No class of the training part named 'dogg'. Did you mean 'dog'"):
        ImageFolder(str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_corrupt": "maybe"}, "on_corrupt is 'raise' or 'skip'; got 'maybe'"),
        ({"val_fraction": 0.0}, "must be above 0"),
        ({"test_fraction": 0.95}, "leave something to train on"),
        ({"image_size": (8, 0)}, "image_size is one number or two"),
        ({"augment": True, "scale": (0.9, 0.1)}, "scale must increase"),
    ],
)
def test_options_out_of_range(options, said):
    with pytest.raises(ValueError, match=said):
        ImageFolder(**options)


# -------------------------------------------------------------------------------------------------------- other layouts
def test_imagenet_tests_on_its_validation_part(tmp_path):
    folder(tmp_path / "imagenet" / "train", mode="RGB")
    folder(tmp_path / "imagenet" / "val", each=3, mode="RGB")
    data = DATA["imagenet"](root=str(tmp_path), batch_size=2)
    assert isinstance(data, ImageNet) and data.sizes == {"train": 18, "val": 2, "test": 6}
    assert next(iter(data.test_dataloader()))[0].shape == (2, 3, 224, 224)


# ------------------------------------------------------------------------------------------------------------- the road
@pytest.mark.slow
def test_train_load_predict_export(pets, tmp_path):
    run = train("test_mdeq", {"name": "image_folder", "root": pets, "batch_size": 4}, out=tmp_path / "run",
                trainer=QUICK, task={"warmup_steps": 1})  # fmt: skip
    assert run["data_sha256"] == ImageFolder(str(pets)).fingerprint()
    some = sorted((pets / "dog").glob("*.png"))[:3]
    answers = zoo.predict(run.folder, some)
    assert {a.label for a in answers} <= {"cat", "dog"} and [a.source for a in answers] == [str(p) for p in some]
    folder_ = export(run.folder, tmp_path / "exported").place
    for a, b in zip(answers, zoo.predict(folder_, some), strict=True):
        assert a.label == b.label and abs(a.probability - b.probability) < 1e-5
