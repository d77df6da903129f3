"""Image data: splits, normalization, and files that are missing, broken, foreign, or in a folder nobody may write."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

from zoo.data import DATA
from zoo.data.files import DataError
from zoo.data.transforms import ImageTransform, flip, shift
from zoo.data.vision import CIFAR10, MNIST, Digits, FashionMNIST
from zoo.registry import UnknownName

SMALL = {"train": 40, "t10k": 20}


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def labels(n):
    return np.arange(n, dtype=np.uint8) % 10


def images(n):
    return np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)


class NoNetwork:
    """Stands for torchvision's download where there is no network."""

    def __init__(self):
        self.urls = []

    def __call__(self, url, root, filename, md5):
        self.urls.append(url)
        raise OSError("Name or service not known")


@pytest.fixture(autouse=True)
def network(monkeypatch):
    none = NoNetwork()
    monkeypatch.setattr("torchvision.datasets.utils.download_url", none)
    monkeypatch.delenv("ZOO_DATA", raising=False)
    return none


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A tiny Fashion-MNIST in the published layout, with the checksums that belong to it."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    sums = {}
    for part, n in SMALL.items():
        for kind, array in (("images-idx3-ubyte", images(n)), ("labels-idx1-ubyte", labels(n))):
            data = gzip.compress(idx(array))
            (raw / f"{part}-{kind}.gz").write_bytes(data)
            sums[f"{part}-{kind}.gz"] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(MNIST, "published", SMALL)
    monkeypatch.setattr(MNIST, "_source", lambda self: (("https://example.invalid/",), sums))
    return tmp_path


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """A tiny CIFAR-10 in the published layout, with the checksums that belong to it."""
    from torchvision import datasets

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    sums = []
    for i, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 3072), dtype=np.uint8)
        data = pickle.dumps({"data": pixels, "labels": [int(v) for v in labels(20)], "filenames": ["x"] * 20})
        (folder / name).write_bytes(data)
        sums.append([name, hashlib.md5(data).hexdigest()])
    monkeypatch.setattr(CIFAR10, "published", dict.fromkeys(CIFAR10.published, 20))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[5:])
    return tmp_path


def test_digits_split_is_stratified_disjoint_and_independent_of_the_seed():
    a, b = Digits(seed=0), Digits(seed=5)
    assert a.sizes == {"train": 1295, "val": 143, "test": 359}
    assert a.fingerprint() == b.fingerprint()
    for name in a.sizes:
        assert torch.equal(a.split(name)[0], b.split(name)[0])
        counts = torch.bincount(a.split(name)[1], minlength=10)
        assert counts.max() - counts.min() <= 0.1 * counts.max() + 1
    seen = [bytes(x.numpy()) for name in a.sizes for x in a.split(name)[0]]
    assert len(seen) == 1797
    assert len(set(seen)) == 1797  # the set has no doubles, so no image lies in two splits


def test_digits_are_normalised():
    x = torch.cat([x for x, _ in Digits(augment=False).train_dataloader()])
    assert x.dtype == torch.float32
    assert x.shape[1:] == (Digits.in_chans, Digits.image_size, Digits.image_size)
    assert abs(x.mean().item()) < 0.02
    assert abs(x.std().item() - 1) < 0.02


@pytest.mark.parametrize("name", [n for n in DATA.names(kind="classification") if hasattr(DATA[n], "mean")])
def test_every_registered_set_says_what_it_holds(name):
    kind = DATA[name]
    assert len(kind.classes) == kind.num_classes
    assert len(kind.mean) == len(kind.std) == kind.in_chans


def test_a_wrong_name_is_answered_by_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'fashion_mnist'"):
        DATA.build("fashion-mnist")


@pytest.mark.parametrize(
    ("options", "word"),
    [({"batch_size": 0}, "batch_size"), ({"num_workers": -1}, "num_workers"), ({"val_fraction": 1.0}, "val_fraction")],
)
def test_arguments_out_of_range_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        Digits(**options)


def test_shift_crops_the_padded_image_and_flip_mirrors():
    x = torch.randint(1, 256, (64, 3, 6, 5), dtype=torch.uint8)
    shifted = shift(x, 2, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, [2] * 4)
    for image, out in zip(padded, shifted, strict=True):
        windows = [image[:, dy : dy + 6, dx : dx + 5] for dy in range(5) for dx in range(5)]
        assert any(torch.equal(out, w) for w in windows)
    flipped = flip(x, torch.Generator().manual_seed(0))
    same = [torch.equal(a, b) for a, b in zip(x, flipped, strict=True)]
    assert 16 < sum(same) < 48
    assert all(s or torch.equal(a, b.flip(2)) for s, a, b in zip(same, x, flipped, strict=True))


def test_evaluation_is_not_augmented():
    transform = ImageTransform(mean=(0.0,), std=(1.0,), padding=2, mirrored=True)
    x = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(transform(x), x / 255)


@pytest.mark.parametrize("unpacked", [False, True])
def test_idx_files_are_read_packed_and_unpacked(small, unpacked):
    raw = small / "FashionMNIST" / "raw"
    if unpacked:
        for path in list(raw.iterdir()):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    data = FashionMNIST(str(small), download=False, val_fraction=0.25)
    data.prepare_data()
    assert data.sizes == {"train": 30, "val": 10, "test": 20}
    assert np.array_equal(data.split("test")[0][:, 0].numpy(), images(20))
    assert np.array_equal(data.split("test")[1].numpy(), labels(20))
    x, _ = next(iter(data.train_dataloader()))
    assert x.shape == (30, 1, 28, 28)


def test_the_root_comes_from_the_environment(small, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(small))
    assert FashionMNIST().sizes["test"] == 20


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_folder_that_nobody_may_write_is_read_and_stays_as_it_is(small):
    folders = [small, small / "FashionMNIST", small / "FashionMNIST" / "raw"]
    before = sorted(folders[-1].iterdir())
    for folder in folders:
        folder.chmod(0o555)
    try:
        data = FashionMNIST(str(small))
        data.prepare_data()
        assert data.sizes["train"] == 40
        assert sorted(folders[-1].iterdir()) == before
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.parametrize("download", [False, True])
def test_a_missing_file_is_named_with_the_way_out(small, network, download):
    path = small / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    path.unlink()
    with pytest.raises(DataError) as e:
        FashionMNIST(str(small), download=download).prepare_data()
    for part in (str(path), "FashionMNIST/raw", "--data.root", "ZOO_DATA"):
        assert part in str(e.value)
    assert ("Name or service not known" in str(e.value)) == download
    assert network.urls == (["https://example.invalid/t10k-labels-idx1-ubyte.gz"] if download else [])
    assert not list(path.parent.glob(".download*"))


def test_setup_without_files_says_so_too(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz was not found"):
        MNIST(str(tmp_path), download=False).setup()


def test_a_root_that_cannot_be_made_is_an_error_and_no_traceback(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="The download failed"):
        MNIST(str(tmp_path / "file")).prepare_data()


def test_a_download_lies_in_its_place_only_when_complete(small, monkeypatch):
    path = small / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    data = path.read_bytes()
    path.unlink()

    def half(url, root, filename, md5):
        with open(os.path.join(root, filename), "wb") as f:
            f.write(data[:30])
        raise RuntimeError("File not found or corrupted.")

    def whole(url, root, filename, md5):
        with open(os.path.join(root, filename), "wb") as f:
            f.write(data)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", half)
    with pytest.raises(DataError, match="The download failed"):
        FashionMNIST(str(small)).prepare_data()
    assert not path.exists()
    monkeypatch.setattr("torchvision.datasets.utils.download_url", whole)
    FashionMNIST(str(small)).prepare_data()
    assert path.read_bytes() == data


def broken(data, how):
    plain = bytearray(gzip.decompress(data))
    if how == "empty":
        return b""
    if how == "half a gzip stream":
        return data[: len(data) // 2]
    if how == "flipped bits":
        return data[:40] + bytes(255 - b for b in data[40:60]) + data[60:]
    if how == "another magic":
        plain[2] = 13
    if how == "another count":
        plain[7] -= 1
    if how == "values missing":
        del plain[-10:]
    if how == "a web page":
        return b"<html>404</html>"
    return gzip.compress(bytes(plain))


HOW = ["empty", "half a gzip stream", "flipped bits", "another magic", "another count", "values missing", "a web page"]


@pytest.mark.parametrize("how", HOW)
def test_a_broken_idx_file_is_named(small, how):
    path = small / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(broken(path.read_bytes(), how))
    data = FashionMNIST(str(small))
    data.prepare_data()
    with pytest.raises(DataError, match="is no complete data file") as e:
        data.setup()
    assert str(path) in str(e.value)


def test_a_label_beyond_the_classes_is_refused(small):
    path = small / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(labels(40) + 1)))
    with pytest.raises(DataError, match="label 10"):
        FashionMNIST(str(small)).setup()


def test_complete_files_of_other_checksums_are_read_with_a_warning(small):
    path = small / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(images(40)), mtime=1))
    with pytest.warns(UserWarning, match=r"checksums differ.*\(train-images-idx3-ubyte\.gz\)"):
        FashionMNIST(str(small)).setup()


@pytest.mark.parametrize("place", ["root", "CIFAR10", "archive"])
def test_cifar_is_read_from_its_folder_and_from_the_archive(small_cifar, place, recwarn):
    folder = small_cifar / "cifar-10-batches-py"
    expected = pickle.loads((folder / "test_batch").read_bytes())["data"].reshape(-1, 3, 32, 32)
    if place == "CIFAR10":
        (small_cifar / "CIFAR10").mkdir()
        folder.rename(small_cifar / "CIFAR10" / folder.name)
    if place == "archive":
        with tarfile.open(small_cifar / "cifar-10-python.tar.gz", "w:gz") as archive:
            archive.add(folder, folder.name)
        folder.rename(small_cifar / "elsewhere")
    data = CIFAR10(str(small_cifar), download=False)
    data.prepare_data()
    assert data.sizes == {"train": 90, "val": 10, "test": 20}
    assert np.array_equal(data.split("test")[0].numpy(), expected)
    assert not [w for w in recwarn if "checksums" in str(w.message)]


def test_a_rebuilt_cifar_is_read_with_a_warning(small_cifar):
    path = small_cifar / "cifar-10-batches-py" / "data_batch_2"
    old = pickle.dumps(pickle.loads(path.read_bytes()), protocol=2).replace(b"numpy._core", b"numpy.core")
    path.write_bytes(old)  # as Python 2 wrote the published files
    with pytest.warns(UserWarning, match=r"checksums differ.*\(data_batch_2\)"):
        CIFAR10(str(small_cifar)).setup()


class Bad:
    """A pickle that would run code: it must not be run."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"\x80\x04\x95half", "cannot be unpickled"),
        (pickle.dumps([1]), "not a mapping"),
        (pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "labels": [0] * 3}), r"\(20, 3072\) were published"),
        (pickle.dumps({"data": np.zeros((20, 3072), np.uint8), "labels": [0] * 19}), "20 labels"),
        (pickle.dumps({"data": np.zeros((20, 3072), np.uint8), "labels": [10] * 20}), "from 0 to 9"),
        (pickle.dumps(Bad()), "which no data file needs"),
    ],
)
def test_a_broken_cifar_file_is_named(small_cifar, content, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = small_cifar / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(content)
    with pytest.raises(DataError, match=why) as e:
        CIFAR10(str(small_cifar)).setup()
    assert str(path) in str(e.value)
    assert not (tmp_path / "owned").exists()


def test_a_missing_cifar_file_and_a_missing_set_are_named(small_cifar, tmp_path):
    (small_cifar / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4 is missing"):
        CIFAR10(str(small_cifar)).setup()
    with pytest.raises(DataError, match=r"cifar-10-batches-py was not found.*--data\.root"):
        CIFAR10(str(tmp_path / "nowhere"), download=False).prepare_data()


def test_a_half_downloaded_cifar_archive_is_named(small_cifar):
    folder = small_cifar / "cifar-10-batches-py"
    path = small_cifar / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    folder.rename(small_cifar / "elsewhere")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(DataError, match="the archive is broken or ends early"):
        CIFAR10(str(small_cifar)).setup()
