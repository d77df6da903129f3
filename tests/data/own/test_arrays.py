"""Arrays of the user's own: formats, parts, images and vectors, and labels that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import zoo
from zoo.data.files import DataError
from zoo.data.own.arrays import Arrays
from zoo.storage.preprocessing import Preprocessing
from zoo.storage.table_preprocessing import TablePreprocessing
from zoo.training.train import train

QUICK = {"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 1, "accelerator": "cpu",
         "enable_progress_bar": False}  # fmt: skip


def vectors(n=50, d=3):
    random = np.random.default_rng(0)
    return random.normal(5, 3, (n, d)).astype(np.float32), np.arange(n) % 2


def pictures(n=40, shape=(6, 6)):
    return np.random.default_rng(1).integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n) % 4


def save(folder, x, y, form):
    if form == "npz":
        np.savez(folder / "a.npz", x=x, y=y)
    elif form == "safetensors":
        save_file({"x": x, "y": y}, folder / "a.safetensors")
    else:
        np.save(folder / "a.npy", x)
        np.save(folder / "y.npy", y)
        return {"path": str(folder / "a.npy"), "targets_path": str(folder / "y.npy")}
    return {"path": str(folder / f"a.{form}")}


@pytest.mark.parametrize("form", ["npz", "npy", "safetensors"])
def test_every_format_gives_the_same(tmp_path, form):
    x, y = vectors()
    data = Arrays(**save(tmp_path, x, y, form), batch_size=8)
    assert data.sizes == {"train": 40, "val": 6, "test": 4}
    assert data.model_arguments() == {"features": 3, "num_classes": 2}
    batches = list(data.train_dataloader())
    a, b = batches[0]
    assert a.dtype == torch.float32 and a.shape == (8, 3) and b.dtype == torch.int64
    prepared = TablePreprocessing.read(data.preprocessing)(x)
    every = {tuple(np.round(r, 4)) for p in data.sizes for r in _all(data, p).tolist()}
    assert every == {tuple(np.round(r, 4)) for r in prepared.tolist()}
    assert data.fingerprint() == Arrays(**save(tmp_path, x, y, form), seed=3).fingerprint()


def _all(data, part):
    return torch.cat([x for x, _ in data.loader(part)]) if part != "train" else torch.cat(
        [data._splits[part][0][torch.arange(data.sizes[part])].sub(data._mean).div(data._std)])  # fmt: skip


def test_a_mapped_array_stays_on_disk(tmp_path):
    data = Arrays(**save(tmp_path, *vectors(), "npy"))
    assert isinstance(data.split("train")[0].array, np.memmap)


@pytest.mark.parametrize("shape", [(6, 6), (1, 6, 6), (3, 6, 5), (6, 5, 3)])
def test_images_of_any_layout(tmp_path, shape):
    x, y = pictures(shape=shape)
    data = Arrays(**save(tmp_path, x, y, "npz"), batch_size=4)
    a, _ = next(iter(data.test_dataloader()))
    channels = 3 if 3 in shape else 1
    assert a.shape[:2] == (4, channels) and data.model_arguments()["in_chans"] == channels
    prepare = Preprocessing.read(data.preprocessing)
    rows = data.split("test")[0].index
    torch.testing.assert_close(a, prepare(list(x[rows][:4])), rtol=1e-5, atol=1e-5)


def test_named_parts_are_taken_as_they_are(tmp_path):
    x, y = vectors()
    np.savez(tmp_path / "a.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    data = Arrays(str(tmp_path / "a.npz"))
    assert data.sizes["test"] == 20 and data.sizes["train"] + data.sizes["val"] == 30
    with pytest.raises(ValueError, match="test_fraction=0.3 does nothing here: the file holds x_test"):
        Arrays(str(tmp_path / "a.npz"), test_fraction=0.3).setup()


def test_numbers_are_standardized_and_come_back(tmp_path):
    x, _ = vectors()
    y = np.stack([x[:, 0] * 7, x[:, 1] - 100], 1)
    data = Arrays(**save(tmp_path, x, y, "npz"), aim="regression", batch_size=100)
    assert data.model_arguments() == {"features": 3, "targets": 2}
    ((a, b),) = data.test_dataloader()
    prepare = TablePreprocessing.read(data.preprocessing)
    torch.testing.assert_close(
        prepare.answers(b)[:, 0], 7 * (a[:, 0] * data._std[0] + data._mean[0]), rtol=1e-4, atol=1e-3
    )


def test_workers_read_the_same(tmp_path):
    where = save(tmp_path, *pictures(), "npy")
    one, two = (list(Arrays(**where, batch_size=8, num_workers=n).train_dataloader()) for n in (0, 2))
    assert all(torch.equal(a, b) for p, q in zip(one, two, strict=True) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (vectors()[0], np.arange(49) % 2, r"x has the shape \(50, 3\) and y \(49,\)"),
        (vectors()[0], np.zeros(50, int), "one class alone"),
        (vectors()[0], np.arange(50) % 2 - 1, "the label -1 of train is out of range"),
        (vectors()[0], np.linspace(0, 1, 50), "labels are whole numbers"),
        (np.zeros((50, 2, 3, 4, 5), np.float32), np.arange(50) % 2, "a row is a vector"),
        (np.full((50, 3), np.nan, np.float32), np.arange(50) % 2, "x holds NaN"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, x, y, said):
    with pytest.raises(DataError, match=said):
        Arrays(**save(tmp_path, x, y, "npz")).setup()


def test_a_label_of_the_test_must_be_one_of_training(tmp_path):
    x, y = vectors()
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y + 1)
    with pytest.raises(DataError, match="the label 2 of test is out of range; labels go from 0 to 1"):
        Arrays(str(tmp_path / "a.npz")).setup()


def test_files_that_are_none(tmp_path):
    np.savez(tmp_path / "a.npz", images=vectors()[0], labels=vectors()[1])
    with pytest.raises(DataError, match=r"No array named 'x'.*Known: images, labels.*--data.x and --data.y"):
        Arrays(str(tmp_path / "a.npz")).setup()
    assert Arrays(str(tmp_path / "a.npz"), x="images", y="labels").sizes["test"] > 0
    with pytest.raises(ValueError, match="--data.targets_path FILE"):
        Arrays("a.npy")
    for name in ("b.npz", "b.npy", "b.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        more = {"targets_path": str(tmp_path / name)} if name.endswith("npy") else {}
        with pytest.raises(DataError, match=name):
            Arrays(str(tmp_path / name), **more).setup()


def test_a_model_of_images_trains_and_answers(tmp_path):
    where = save(tmp_path, *pictures(shape=(8, 8)), "npz")
    run = train("test_mdeq", {"name": "arrays", **where, "batch_size": 8}, out=tmp_path / "run", trainer=QUICK,
                task={"warmup_steps": 1}, solver={"name": "anderson", "max_steps": 60})  # fmt: skip
    assert zoo.predict(run.folder, pictures(1, (8, 8))[0][0]).label in "0123"
