"""What every image data set shares: the splits, and the Lightning data module over batches in memory.

Shape letters: ``n`` samples, ``B`` samples a batch, ``C H W`` channels, height, width. Images stay uint8 in memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from zoo.data.base import InMemoryDataModule, digest
from zoo.data.loader import ResumableLoader
from zoo.data.transforms import ImageTransform

Pair = tuple[Any, Any]  # images and labels: tensors, or what else has a length and takes a tensor of rows


class Arrays(NamedTuple):
    """A data set as published: images uint8 (n, C, H, W), labels int64 (n,), for training and for the test."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def stratified(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split into ``1 - fraction`` and ``fraction`` of every class, by a fixed seed.

    Returns:
        two sorted, disjoint index arrays that together hold every sample.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        held[rows[: round(fraction * len(rows))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


class ImageData(InMemoryDataModule[Pair]):
    """Images with one label each, all in memory, as a Lightning data module that plain PyTorch can use too.

    Training batches are cut from a new order each epoch, and augmented, by ``(seed, epoch, batch)`` alone: a resumed
    run sees what an uninterrupted one sees. The split into train, validation and test does not depend on ``seed``, so
    that runs of different seeds are measured on the same samples.

    Args:
        root: the folder of the data sets, in torchvision's layout; None: the environment's ZOO_DATA, else ./data.
        batch_size: samples a batch (and a device).
        num_workers: processes that make batches ahead; 0 is usually the fastest, as all images lie in memory.
        augment: random shifts (and flips, where the class stays the same); None: as is usual for the set.
        val_fraction: the part of the training images, of every class, that is held out for validation; 0: none.
        seed: of the order and the augmentation; not of the split.
        download: fetch files that are missing.

    Raises:
        DataError: at ``prepare_data`` or ``setup``: a file is missing, or it is not what was published.
        ValueError: an argument is out of range.
    """

    num_classes: ClassVar[int]
    in_chans: ClassVar[int]
    image_size: ClassVar[int]
    mean: ClassVar[tuple[float, ...]]  # of the training images, in [0, 1], for each channel
    std: ClassVar[tuple[float, ...]]
    classes: ClassVar[tuple[str, ...]]
    white: ClassVar[int] = 255  # the value of a full pixel
    padding: ClassVar[int] = 0  # pixels that augmentation shifts by, at most
    mirrored: ClassVar[bool] = False  # whether augmentation flips left to right
    augmented: ClassVar[bool] = False  # whether it is usual to augment this set
    joint: ClassVar[bool] = False  # whether the transform takes the targets along (masks)

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        augment: bool | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
        download: bool = True,
    ) -> None:
        super().__init__(root, batch_size, seed)
        name = type(self).__name__
        if num_workers < 0:
            raise ValueError(f"{name}: num_workers must not be negative; got {num_workers}. 0: no worker processes.")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"{name}: val_fraction must lie in [0, 1); got {val_fraction}. 0.1 holds out a tenth.")
        self.num_workers, self.val_fraction = num_workers, val_fraction
        self.augment = self.augmented if augment is None else augment
        self.download = download

    @abstractmethod
    def fetch(self) -> None:
        """Download what is missing, if that is allowed; raises DataError where it then still is."""

    @abstractmethod
    def read(self) -> Arrays:
        """Return the arrays as published; raises DataError where a file is missing, or is not what was published."""

    def prepare_data(self) -> None:
        self.fetch()

    def load(self) -> tuple[dict[str, Pair], str]:
        arrays = self.read()
        train, val = self.held_out(arrays.labels)
        splits = {
            "train": _tensors(arrays.images[train], arrays.labels[train]),
            "val": _tensors(arrays.images[val], arrays.labels[val]),
            "test": _tensors(arrays.test_images, arrays.test_labels),
        }
        return splits, digest(arrays)

    def held_out(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the published training part to train on, and to validate on."""
        return stratified(labels, self.val_fraction, seed=0)

    @property
    def transform(self) -> Any:
        """From raw pixels (B, C, H, W) to what the model gets; augmented where a generator is given."""
        return ImageTransform(
            mean=self.mean,
            std=self.std,
            white=self.white,
            padding=self.padding if self.augment else 0,
            mirrored=self.mirrored and self.augment,
        )

    def loader(self, name: str) -> Iterable[Any]:
        x, y = self.split(name)
        train = name == "train"
        return ResumableLoader(
            x,
            y,
            self.transform,
            batch_size=self.batch_size,
            shuffle=train,
            seed=self.seed,
            workers=self.num_workers,
            where=self.position if train else None,
            ranks=self.ranks,
            joint=self.joint,
        )


def _tensors(images: np.ndarray, labels: np.ndarray) -> Pair:
    """Return tensors; a copy only where torch needs one: what was read straight from a file cannot be written."""
    images, labels = (np.require(a, requirements=["C", "W"]) for a in (images, labels))
    return torch.from_numpy(images), torch.from_numpy(labels)
