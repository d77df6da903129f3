"""Cityscapes and Pascal VOC in torchvision's layouts, read from their files batch by batch.

The published training part is cut into training and validation, the published validation part is the test, as the
labels of the test part were never published (Cityscapes) or are not part of the download (VOC).
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data import files
from zoo.data.images import Arrays, Pair
from zoo.data.masks import IGNORE, MaskData
from zoo.storage.guards import MiB, is_file, open_picture, picture_size


class Pictures:
    """Images in files; indexed by a tensor of rows, it reads them: a list of uint8 (3, H, W).

    Args:
        paths: the files.
        most: height and width of the largest, at most.
    """

    def __init__(self, paths: Sequence[Path], most: tuple[int, int]) -> None:
        self.paths, self.most = list(paths), most

    def __len__(self) -> int:
        return len(self.paths)

    def part(self, rows: np.ndarray) -> Pictures:
        """Return these rows alone."""
        return Pictures([self.paths[i] for i in rows], self.most)

    def __getitem__(self, rows: Tensor) -> list[Tensor]:
        pixels = (_pixels(self.paths[i], "RGB", self.most) for i in rows.tolist())
        return [torch.from_numpy(x.transpose(2, 0, 1).copy()) for x in pixels]


class Masks:
    """Masks in files; indexed by a tensor of rows, it reads them: a list of uint8 (H, W).

    Args:
        paths: one file an image.
        table: uint8 (256,), from a file's numbers to classes.
        most: height and width of the largest, at most.
    """

    def __init__(self, paths: Sequence[Path], table: np.ndarray, most: tuple[int, int]) -> None:
        self.paths, self.table, self.most = list(paths), table, most

    def __len__(self) -> int:
        return len(self.paths)

    def part(self, rows: np.ndarray) -> Masks:
        """Return these rows alone."""
        return Masks([self.paths[i] for i in rows], self.table, self.most)

    def __getitem__(self, rows: Tensor) -> list[Tensor]:
        return [torch.from_numpy(self.table[self._labels(self.paths[i])]) for i in rows.tolist()]

    def _labels(self, path: Path) -> np.ndarray:
        labels = _pixels(path, "", self.most)
        if labels.ndim != 2 or labels.dtype != np.uint8:
            raise files.corrupt(
                path, f"a mask holds one number of 8 bits a pixel, this is {labels.dtype} {labels.shape}"
            )
        return labels


class FileScenes(MaskData):
    """Images and masks in files, which are too many to lie in memory."""

    layout: str  # in words, below the root

    @abstractmethod
    def published(self, split: str) -> tuple[list[Path], list[Path]]:
        """Return images and masks of ``train`` or ``val``; raises RuntimeError or OSError without them."""

    @abstractmethod
    def table(self) -> np.ndarray:
        """Return uint8 (256,): from a mask's numbers to classes."""

    def fetch(self) -> None:
        self.setup()  # sizes are compared here, before a run begins

    def read(self) -> Arrays:
        """Return the lists of files: `Pictures` and `Masks` stand for arrays, and read what is asked of them."""
        table = self.table()
        (images, masks), (test_images, test_masks) = self.listed("train"), self.listed("val")
        lists: Any = (
            Pictures(images, self.frame),
            Masks(masks, table, self.frame),
            Pictures(test_images, self.frame),
            Masks(test_masks, table, self.frame),
        )
        return Arrays(*lists)

    def listed(self, split: str) -> tuple[list[Path], list[Path]]:
        """Return the files of a split, in order, each there, and each mask as large as its image.

        Raises:
            DataError: a file is missing, or a mask has another size than its image.
        """
        name = type(self).__name__
        try:
            images, masks = self.published(split)
        except files.DataError:
            raise
        except (RuntimeError, OSError, ValueError, AssertionError) as error:
            why = f"The {split} part is not there ({error})."
            raise files.missing(name, [self.root / self.layout], self.layout, why) from error
        if not images:
            raise files.missing(name, [self.root / self.layout], self.layout, f"The {split} part is empty.")
        order = sorted(range(len(images)), key=lambda i: images[i])
        for i in order:
            for path in (images[i], masks[i]):
                if not is_file(path):
                    raise files.missing(name, [path], self.layout, f"It belongs to the {split} part.")
            with files.checked():
                (h, w), (mh, mw) = (picture_size(x[i], self.frame) for x in (images, masks))
            if (h, w) != (mh, mw):
                raise files.corrupt(masks[i], f"the mask is {mh}x{mw}, its image {images[i].name} is {h}x{w}")
        return [images[i] for i in order], [masks[i] for i in order]

    def load(self) -> tuple[dict[str, Pair], str]:
        """Return the lists of files, and the sha256 over their names and sizes: reading their 10 GB takes too long."""
        lists: Any = self.read()
        found = hashlib.sha256(lists.labels.table.tobytes())
        for path in [path for part in lists for path in part.paths]:
            found.update(f"{path.name} {path.stat().st_size}\n".encode())
        train, val = self.held_out(lists.labels)
        splits: dict[str, Pair] = {
            name: (lists.images.part(rows), lists.labels.part(rows)) for name, rows in (("train", train), ("val", val))
        }
        return {**splits, "test": (lists.test_images, lists.test_labels)}, found.hexdigest()


class Cityscapes(FileScenes):
    """5,000 street scenes of 2048x1024 with fine labels of 19 classes (2,975 to train, 500 to test).

    In ``Cityscapes/`` of the root: ``leftImg8bit`` and ``gtFine``, or the two published archives, which are unpacked.
    They are to be had from https://www.cityscapes-dataset.com after registration.

    Reference: Cordts et al., "The Cityscapes dataset for semantic urban scene understanding", 2016, arXiv:1604.01685.
    """

    num_classes = 19
    in_chans = 3
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    scales = (0.5, 2.0)
    usual_crop = (512, 1024)
    frame = (1024, 2048)
    layout = "Cityscapes"

    def published(self, split: str) -> tuple[list[Path], list[Path]]:
        from torchvision.datasets import Cityscapes as Source

        found = Source(self.root / self.layout, split, mode="fine", target_type="semantic")
        return [Path(p) for p in found.images], [Path(p[0]) for p in found.targets]

    def table(self) -> np.ndarray:
        from torchvision.datasets import Cityscapes as Source

        table = np.full(256, IGNORE, np.uint8)
        for kind in Source.classes:
            if 0 <= kind.train_id < self.num_classes:
                table[kind.id] = kind.train_id
        return table


class VOC(FileScenes):
    """2,913 photographs with masks of 20 classes and background (1,464 to train, 1,449 to test), Pascal VOC 2012.

    In ``VOCdevkit/VOC2012`` of the root, downloaded there if that is allowed.

    Reference: Everingham et al., "The Pascal visual object classes challenge: a retrospective", 2015.
    """

    downloads = True
    num_classes = 21
    in_chans = 3
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    scales = (0.5, 2.0)
    usual_crop = (320, 320)
    frame = (512, 512)
    layout = "VOCdevkit/VOC2012"

    def fetch(self) -> None:
        if self.download and not (self.root / self.layout).is_dir():
            from torchvision.datasets import VOCSegmentation as Source

            why = files.first_that_works([lambda: Source(self.root, "2012", "train", download=True) and None])
            if why:
                raise files.missing("VOC", [self.root / self.layout], self.layout, f"The download failed ({why}).")
        super().fetch()

    def published(self, split: str) -> tuple[list[Path], list[Path]]:
        from torchvision.datasets import VOCSegmentation as Source

        names = self.root / self.layout / "ImageSets" / "Segmentation" / f"{split}.txt"
        if is_file(names):
            files.read_bytes(names, MiB)  # torchvision reads it whole
        found = Source(self.root, "2012", split)
        return [Path(p) for p in found.images], [Path(p) for p in found.masks]

    def table(self) -> np.ndarray:
        table = np.full(256, IGNORE, np.uint8)
        table[: self.num_classes] = np.arange(self.num_classes)
        return table


def _pixels(path: Path, mode: str, most: tuple[int, int]) -> np.ndarray:
    with files.checked():
        return np.asarray(open_picture(path, path, most, mode))
