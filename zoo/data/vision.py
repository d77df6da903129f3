"""Small image data sets: scikit-learn's digits, MNIST, Fashion-MNIST, CIFAR-10.

Files are read where torchvision keeps them, from the published archives themselves where those lie there, so that a
folder that cannot be written works too. Mean and deviation are those of the published training images.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from zoo.data import files
from zoo.data.images import Arrays, ImageData, stratified
from zoo.storage.arrays import read_pickle
from zoo.storage.guards import MiB, is_file, is_folder, read_tar

FINE = (  # the classes of CIFAR-100, in the order of their numbers
    *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy"),
    *("bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock"),
    *("cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish"),
    *("forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion"),
    *("lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange"),
    *("orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine"),
    *("possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk"),
    *("skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank"),
    *("telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale"),
    *("willow_tree", "wolf", "woman", "worm"),
)


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
    classes: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    padding = 4
    mirrored = True
    augmented = True
    published: ClassVar[Mapping[str, int]] = {**{f"data_batch_{i}": 10_000 for i in range(1, 6)}, "test_batch": 10_000}
    key: ClassVar[str] = "labels"  # of the labels in each file
    layout: ClassVar[str] = "cifar-10-batches-py"  # the folder of the files
    archive: ClassVar[str] = "cifar-10-python.tar.gz"

    def _folders(self) -> list[Path]:
        return [self.root, self.root / type(self).__name__]

    def _found(self) -> Path | None:
        """Return the folder of the batches, else the archive; None where there is neither."""
        batches = [f / self.layout for f in self._folders()]
        archives = [f / self.archive for f in self._folders()]
        return next((p for p in batches if is_folder(p)), None) or next((p for p in archives if is_file(p)), None)

    def _missing(self, why: str) -> files.DataError:
        looked = [f / self.layout for f in self._folders()]
        return files.missing(type(self).__name__, [*looked, self.root / self.archive], self.layout, why)

    @classmethod
    def _source(cls) -> Any:
        """Return torchvision's class, which has the address and the checksums."""
        from torchvision.datasets import CIFAR10 as Source

        return Source

    def fetch(self) -> None:
        if self._found() is not None:
            return
        why = "Downloading is off (download=false)."
        if self.download:
            Source = self._source()
            archive = self.root / Source.filename
            why = files.first_that_works([partial(files.download, Source.url, archive, Source.tgz_md5)])
            if not why:
                return
            why = f"The download failed ({why})."
        raise self._missing(why)

    def read(self) -> Arrays:
        Source = self._source()
        place = self._found()
        if place is None:
            raise self._missing("It may be downloaded by prepare_data().")
        checksums = dict([*Source.train_list, *Source.test_list])
        content = self._members(place, list(checksums))
        foreign = [name for name, (_, data) in content.items() if files.md5(data) != checksums[name]]
        parts = {name: self._decode(path, data) for name, (path, data) in content.items()}
        if foreign:
            files.warn_foreign(type(self).__name__, foreign, place)
        train = [parts[name] for name, _ in Source.train_list]
        return Arrays(
            np.concatenate([x for x, _ in train]),
            np.concatenate([y for _, y in train]),
            *parts[Source.test_list[0][0]],
        )

    def _members(self, place: Path, names: list[str]) -> dict[str, tuple[Path, bytes]]:
        """Return the files by name, from the folder or out of the archive."""
        if place.is_dir():
            for name in names:
                if not is_file(place / name):
                    raise files.corrupt(place, f"{name} is missing in it")
            return {name: (place / name, files.read_bytes(place / name, 256 * MiB)) for name in names}
        with files.checked():
            found = {
                Path(name).name: (place / Path(name).name, data)
                for name, data in read_tar(place, lambda name: Path(name).name in names, 512 * MiB)
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
        images, labels = content.get("data"), content.get(self.key)
        count = self.published[path.name]
        shape = (count, self.in_chans * self.image_size**2)
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != shape:
            got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            raise files.corrupt(path, f"its images are {got}, uint8 {shape} were published")
        if not isinstance(labels, list) or len(labels) != count:
            raise files.corrupt(path, f"it does not hold {count:,} labels")
        if not all(type(n) is int and 0 <= n < self.num_classes for n in labels):
            raise files.corrupt(path, f"its labels are not whole numbers from 0 to {self.num_classes - 1}")
        return images.reshape(-1, self.in_chans, self.image_size, self.image_size), np.array(labels, np.int64)


class CIFAR100(CIFAR10):
    """50,000 and 10,000 color photographs of 100 classes, 32x32.

    Read from the folder ``cifar-100-python`` in the root or in ``CIFAR100/`` there, else from the published
    ``cifar-100-python.tar.gz``. The hundred fine labels are taken.

    Reference: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """

    num_classes = 100
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    classes = FINE
    published: ClassVar[Mapping[str, int]] = {"train": 50_000, "test": 10_000}
    key = "fine_labels"
    layout = "cifar-100-python"
    archive = "cifar-100-python.tar.gz"

    @classmethod
    def _source(cls) -> Any:
        from torchvision.datasets import CIFAR100 as Source

        return Source
