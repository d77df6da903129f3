"""CIFAR-100 and SVHN: tiny sets in the published layouts, and files that are missing or broken."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch
from scipy.io import savemat

from zoo.data.files import DataError
from zoo.data.svhn import SVHN
from zoo.data.vision import CIFAR100

COUNTS = {"train": 200, "test": 100}


@pytest.fixture
def small_cifar100(tmp_path, monkeypatch):
    from torchvision import datasets

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    sums = {}
    for i, (name, count) in enumerate(COUNTS.items()):
        pixels = np.random.default_rng(i).integers(0, 256, (count, 3072), dtype=np.uint8)
        fine = [k % 100 for k in range(count)]
        data = pickle.dumps({"data": pixels, "fine_labels": fine, "coarse_labels": [k // 5 % 20 for k in fine]})
        (folder / name).write_bytes(data)
        sums[name] = [name, hashlib.md5(data).hexdigest()]
    monkeypatch.setattr(CIFAR100, "published", COUNTS)
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [sums["train"]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [sums["test"]])
    return tmp_path


def test_cifar100_has_its_fine_labels(small_cifar100):
    data = CIFAR100(str(small_cifar100), batch_size=10, val_fraction=0.5)
    data.prepare_data()
    assert data.sizes == {"train": 100, "val": 100, "test": 100}
    assert len(data.classes) == data.num_classes == 100 and data.classes[99] == "worm"
    x, y = next(iter(data.test_dataloader()))
    assert x.shape == (10, 3, 32, 32) and y.tolist() == list(range(10))


def test_cifar100_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"CIFAR100: cifar-100-python was not found"):
        CIFAR100(str(tmp_path), download=False).prepare_data()


@pytest.fixture
def small_svhn(tmp_path, monkeypatch):
    monkeypatch.setattr(SVHN, "published", COUNTS)
    for part, count in COUNTS.items():
        x = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        y = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]  # 10 stands for 0
        savemat(tmp_path / f"{part}_32x32.mat", {"X": x, "y": y})
    return tmp_path


def test_svhn_reads_matlab_and_ten_is_zero(small_svhn):
    data = SVHN(str(small_svhn), batch_size=10)
    data.prepare_data()
    assert data.sizes == {"train": 180, "val": 20, "test": 100}
    images, labels = data.split("test")
    assert images.shape == (100, 3, 32, 32) and labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    x = np.random.default_rng(100).integers(0, 256, (32, 32, 3, 100), dtype=np.uint8)
    assert torch.equal(images[7], torch.from_numpy(x[..., 7].transpose(2, 0, 1).copy()))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"X": np.zeros((32, 32, 3, 5), np.uint8), "y": np.ones((5, 1), np.uint8)}, "were published"),
        ({"X": np.zeros((32, 32, 3, 100), np.uint8), "y": np.full((100, 1), 11, np.uint8)}, "labels go from 11"),
        (None, "no file of MATLAB's"),
    ],
)
def test_svhn_refuses_other_files(small_svhn, content, said):
    path = small_svhn / "test_32x32.mat"
    if content is None:
        path.write_bytes(b"MATLAB, they say" * 20)
    else:
        savemat(path, content)
    with pytest.raises(DataError, match=said):
        SVHN(str(small_svhn)).setup()


def test_svhn_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"SVHN: train_32x32.mat was not found.*Downloading is off"):
        SVHN(str(tmp_path), download=False).prepare_data()
