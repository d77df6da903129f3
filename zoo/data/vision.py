"""Small image data sets: scikit-learn's digits, MNIST, Fashion-MNIST, CIFAR-10.

Files are read where torchvision keeps them, from the published archives themselves where those lie there, so that a
folder that cannot be written works too. Mean and deviation are those of the published training images.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from zoo.data import files
from zoo.data.images import Arrays, ImageData, stratified
from zoo.storage.arrays import read_pickle
from zoo.storage.guards import MiB, is_file, is_folder, read_tar


class Digits(ImageData):
    """1,797 handwritten digits, 8x8 gray pixels of 17 levels, part of scikit-learn: no download.

    No test set was published with this half of the data, so a fifth of every class is held out, the same for all
    seeds: 1,438 and 359 images. Both hold digits of the same 13 writers.

    Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998.
    """

    reads_files = False
    num_classes = 10
    in_chans = 1
    image_size = 8
    mean = (0.3053,)
    std = (0.3760,)
    classes = tuple("0123456789")
    white = 16
    padding = 1

    def fetch(self) -> None:
        pass

    def read(self) -> Arrays:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = bunch.images.astype(np.uint8)[:, None]
        labels = bunch.target.astype(np.int64)
        train, test = stratified(labels, 0.2, seed=0)
        return Arrays(images[train], labels[train], images[test], labels[test])


class MNIST(ImageData):
    """60,000 and 10,000 handwritten digits, 28x28 gray.

    Reference: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998.
    """

    num_classes = 10
    in_chans = 1
    image_size = 28
    mean = (0.1307,)
    std = (0.3081,)
    classes = tuple("0123456789")
    padding = 2
    published: ClassVar[dict[str, int]] = {"train": 60_000, "t10k": 10_000}  # samples of each part

    @property
    def folder(self) -> Path:
        return self.root / type(self).__name__ / "raw"

    def _candidates(self, archive: str) -> list[Path]:
        """Return the archive, whose checksum was published, before what was unpacked from it."""
        return [self.folder / archive, self.folder / archive.removesuffix(".gz")]

    def _source(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return mirrors, and the archives with their checksums, as torchvision knows them."""
        from torchvision import datasets

        source = getattr(datasets, type(self).__name__)
        return tuple(source.mirrors), dict(source.resources)

    def fetch(self) -> None:
        mirrors, archives = self._source()
        for archive, checksum in archives.items():
            looked = self._candidates(archive)
            if any(is_file(p) for p in looked):
                continue
            why = "Downloading is off (download=false)."
            if self.download:
                attempts = [partial(files.download, mirror + archive, looked[0], checksum) for mirror in mirrors]
                if not (why := files.first_that_works(attempts)):
                    continue
                why = f"The download failed ({why})."
            name = type(self).__name__
            raise files.missing(name, looked, f"{name}/raw", why)

    def read(self) -> Arrays:
        foreign: list[str] = []
        arrays = [
            self._decode(f"{part}-{kind}.gz", shape, foreign)
            for part, n in self.published.items()
            for kind, shape in (
                ("images-idx3-ubyte", (n, self.image_size, self.image_size)),
                ("labels-idx1-ubyte", (n,)),
            )
        ]
        if foreign:
            files.warn_foreign(type(self).__name__, foreign, self.folder)
        images, labels, test_images, test_labels = arrays
        return Arrays(images[:, None], labels.astype(np.int64), test_images[:, None], test_labels.astype(np.int64))

    def _decode(self, archive: str, shape: tuple[int, ...], foreign: list[str]) -> np.ndarray:
        looked = self._candidates(archive)
        path = next((p for p in looked if is_file(p)), None)
        if path is None:
            name = type(self).__name__
            raise files.missing(name, looked, f"{name}/raw", "It may be downloaded by prepare_data().")
        array = files.read_idx(path, shape)
        if len(shape) == 1 and array.max() >= self.num_classes:
            raise files.corrupt(path, f"it holds the label {array.max()}; there are {self.num_classes} classes")
        if path.suffix == ".gz" and files.md5(files.read_bytes(path)) != self._source()[1][archive]:
            foreign.append(path.name)
        return array


class FashionMNIST(MNIST):
    """60,000 and 10,000 pieces of clothing, 28x28 gray.

    Reference: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking", 2017, arXiv:1708.07747.
    """

    mean = (0.2860,)
    std = (0.3530,)
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    mirrored = True
    augmented = True


class CIFAR10(ImageData):
    """50,000 and 10,000 color photographs, 32x32.

    Read from the folder ``cifar-10-batches-py`` in the root or in ``CIFAR10/`` there, else from the published
    ``cifar-10-python.tar.gz``. A complete set of other checksums is read, with a warning.

    Reference: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """

    num_classes = 10
    in_chans = 3
    image_size = 32
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    padding = 4
    mirrored = True
    augmented = True
    published: ClassVar[int] = 10_000  # samples in each of the six files

    def _folders(self) -> list[Path]:
        return [self.root, self.root / "CIFAR10"]

    def _found(self) -> Path | None:
        """Return the folder of the batches, else the archive; None where there is neither."""
        batches = [f / "cifar-10-batches-py" for f in self._folders()]
        archives = [f / "cifar-10-python.tar.gz" for f in self._folders()]
        return next((p for p in batches if is_folder(p)), None) or next((p for p in archives if is_file(p)), None)

    def _missing(self, why: str) -> files.DataError:
        looked = [f / "cifar-10-batches-py" for f in self._folders()]
        return files.missing("CIFAR10", [*looked, self.root / "cifar-10-python.tar.gz"], "cifar-10-batches-py", why)

    def fetch(self) -> None:
        if self._found() is not None:
            return
        why = "Downloading is off (download=false)."
        if self.download:
            from torchvision.datasets import CIFAR10 as Source

            archive = self.root / Source.filename
            why = files.first_that_works([partial(files.download, Source.url, archive, Source.tgz_md5)])
            if not why:
                return
            why = f"The download failed ({why})."
        raise self._missing(why)

    def read(self) -> Arrays:
        from torchvision.datasets import CIFAR10 as Source

        place = self._found()
        if place is None:
            raise self._missing("It may be downloaded by prepare_data().")
        checksums = dict([*Source.train_list, *Source.test_list])
        content = self._members(place, list(checksums))
        foreign = [name for name, (_, data) in content.items() if files.md5(data) != checksums[name]]
        parts = {name: self._decode(path, data) for name, (path, data) in content.items()}
        if foreign:
            files.warn_foreign("CIFAR10", foreign, place)
        train = [parts[name] for name, _ in Source.train_list]
        return Arrays(
            np.concatenate([x for x, _ in train]),
            np.concatenate([y for _, y in train]),
            *parts["test_batch"],
        )

    def _members(self, place: Path, names: list[str]) -> dict[str, tuple[Path, bytes]]:
        """Return the files by name, from the folder or out of the archive."""
        if place.is_dir():
            for name in names:
                if not is_file(place / name):
                    raise files.corrupt(place, f"{name} is missing in it")
            return {name: (place / name, files.read_bytes(place / name, 64 * MiB)) for name in names}
        with files.checked():
            found = {
                Path(name).name: (place / Path(name).name, data)
                for name, data in read_tar(place, lambda name: Path(name).name in names, 256 * MiB)
            }
        for name in names:
            if name not in found:
                raise files.corrupt(place, f"{name} is missing in it")
        return found

    def _decode(self, path: Path, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        with files.checked():
            content = read_pickle(data, path)
        if not isinstance(content, dict):
            raise files.corrupt(path, f"it holds a {type(content).__name__}, not a mapping")
        images, labels = content.get("data"), content.get("labels")
        shape = (self.published, self.in_chans * self.image_size**2)
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != shape:
            got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            raise files.corrupt(path, f"its images are {got}, uint8 {shape} were published")
        if not isinstance(labels, list) or len(labels) != self.published:
            raise files.corrupt(path, f"it does not hold {self.published:,} labels")
        if not all(type(n) is int and 0 <= n < self.num_classes for n in labels):
            raise files.corrupt(path, f"its labels are not whole numbers from 0 to {self.num_classes - 1}")
        return images.reshape(-1, self.in_chans, self.image_size, self.image_size), np.array(labels, np.int64)
