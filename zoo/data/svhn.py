"""SVHN: house numbers in street photographs, cut to one digit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy.io import loadmat

from zoo.data import files
from zoo.data.images import Arrays, ImageData
from zoo.storage.guards import BROKEN, MiB, is_file, opened, reason


class SVHN(ImageData):
    """73,257 and 26,032 digits of house numbers, 32x32 color.

    Read from MATLAB's files ``train_32x32.mat`` and ``test_32x32.mat`` in the root, or in ``SVHN/`` or ``svhn/`` there.
    The published label 10 stands for the digit 0.

    Reference: Netzer et al., "Reading digits in natural images with unsupervised feature learning", 2011.
    """

    num_classes = 10
    in_chans = 3
    image_size = 32
    mean = (0.4377, 0.4438, 0.4728)
    std = (0.1980, 0.2010, 0.1970)
    classes = tuple("0123456789")
    padding = 4
    augmented = True
    published: ClassVar[dict[str, int]] = {"train": 73_257, "test": 26_032}  # samples of each part

    def _candidates(self, part: str) -> list[Path]:
        return [folder / f"{part}_32x32.mat" for folder in (self.root, self.root / "SVHN", self.root / "svhn")]

    def fetch(self) -> None:
        for part in self.published:
            looked = self._candidates(part)
            if any(is_file(p) for p in looked):
                continue
            why = "Downloading is off (download=false)."
            if self.download:
                from torchvision.datasets import SVHN as Source

                url, name, checksum = Source.split_list[part]
                attempt = partial(files.download, url, self.root / "SVHN" / name, checksum)
                if not (why := files.first_that_works([attempt])):
                    continue
                why = f"The download failed ({why})."
            raise files.missing("SVHN", looked, "train_32x32.mat", why)

    def read(self) -> Arrays:
        return Arrays(*self._part("train"), *self._part("test"))

    def _part(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        looked = self._candidates(part)
        path = next((p for p in looked if is_file(p)), None)
        if path is None:
            raise files.missing("SVHN", looked, "train_32x32.mat", "It may be downloaded by prepare_data().")
        with files.checked(), opened(path, 512 * MiB) as file:
            try:
                content = loadmat(file, variable_names=("X", "y"))
            except (*BROKEN, TypeError) as error:  # scipy's own errors derive from these
                raise files.corrupt(path, f"it is no file of MATLAB's ({reason(error)})") from error
        images, labels = (np.asarray(content.get(key)) for key in ("X", "y"))
        count, side = self.published[part], self.image_size
        if images.dtype != np.uint8 or images.shape != (side, side, 3, count) or labels.shape != (count, 1):
            raise files.corrupt(path, f"its X is {images.dtype} {images.shape} and its y {labels.shape}; uint8 "
                                f"{(side, side, 3, count)} and {(count, 1)} were published")  # fmt: skip
        labels = labels[:, 0].astype(np.int64)
        if labels.min() < 1 or labels.max() > 10:
            raise files.corrupt(path, f"its labels go from {labels.min()} to {labels.max()}, not from 1 to 10")
        return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels % 10
