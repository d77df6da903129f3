"""Few-shot episodes: small classification tasks cut out of a data set of many classes.

An episode has ``N`` classes (ways) that it numbers anew, ``K`` labeled images of each to learn from (the support) and
``Q`` others of each to be tested on (the query). A batch is ``M`` episodes::

    support_x (M, N K, C, H, W)   support_y (M, N K)   query_x (M, N Q, C, H, W)   query_y (M, N Q)

Reference: Vinyals et al., "Matching networks for one shot learning", 2016, arXiv:1606.04080.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.data.images import Arrays, ImageData
from zoo.data.loader import ResumableLoader, generator
from zoo.data.transforms import ImageTransform

FIXED = 20161  # of the episodes that models are measured on: the same for every seed
Episode = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Sampler:
    """Draw episodes from images in memory; called by `ResumableLoader` as a transform of episode numbers.

    Attributes:
        images: uint8 (n, C, H, W).
        members: (classes, most), rows of the images of each class, padded; ``counts``: how many are none of padding.
        rotations: whether each class, turned by 90, 180 and 270 degrees, makes three more.
        ways, shots, queries: N, K, Q.
        transform: from uint8 to what a model gets.
    """

    images: Tensor
    members: Tensor
    counts: Tensor
    rotations: bool
    ways: int
    shots: int
    queries: int
    transform: ImageTransform

    def __call__(self, ids: Tensor, _: Tensor, random: torch.Generator | None) -> Episode:
        """Return as many episodes as ``ids``, by the generator; without one, those of these numbers."""
        if random is not None:
            return self.draw(len(ids), random)
        parts = [self.draw(1, generator(FIXED, int(i))) for i in ids]
        return tuple(torch.cat(p) for p in zip(*parts, strict=True))  # type: ignore[return-value]  # a tuple of four

    def draw(self, count: int, random: torch.Generator) -> Episode:
        """Draw new episodes."""
        pool, most = len(self.counts) * (4 if self.rotations else 1), self.members.shape[1]
        kind = torch.rand(count, pool, generator=random).topk(self.ways).indices  # (M, N), none twice
        turn, kind = kind // len(self.counts), kind % len(self.counts)
        lots = torch.rand(count, self.ways, most, generator=random)
        lots = lots.masked_fill(torch.arange(most) >= self.counts[kind, None], -1.0)
        chosen = lots.topk(self.shots + self.queries).indices  # (M, N, K + Q)
        x = self.images[self.members[kind[..., None], chosen]]  # (M, N, K + Q, C, H, W)
        for quarter in range(1, 4 if self.rotations else 1):
            x[turn == quarter] = x[turn == quarter].rot90(quarter, (-2, -1))
        x = self.transform(x.flatten(0, 2)).view(x.shape)
        y = torch.arange(self.ways).expand(count, -1)
        support, query = x[:, :, : self.shots].flatten(1, 2), x[:, :, self.shots :].flatten(1, 2)
        return support, y.repeat_interleave(self.shots, 1), query, y.repeat_interleave(self.queries, 1)


def by_class(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of each class (classes, most), padded with 0, and how many are no padding."""
    rows = [torch.nonzero(labels == kind)[:, 0] for kind in labels.unique()]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(r) for r in rows])


class Episodes(ImageData):
    """Episodes of a set of images whose classes are parted: those of the test were never seen in training.

    Training episodes depend on ``(seed, epoch, batch)`` alone. Those of validation and test are fixed: the same for
    every seed, batch size and model.

    Args:
        root: the folder of the data sets; None: the environment's ZOO_DATA, else ./data.
        batch_size: episodes a batch.
        ways: classes of an episode.
        shots: labeled images of each class.
        queries: images of each class that an episode is measured on.
        train_ways: classes of a training episode; None: as many as ``ways``. More teach more an episode.
        train_episodes: episodes of one epoch.
        val_episodes: fixed episodes of the validation.
        test_episodes: fixed episodes of the test; 600 and more are usual.
        rotations: whether turned classes count as classes of their own; None: as is usual for the set.
        num_workers: processes that make batches ahead.
        seed: of the training episodes.
        download: fetch files that are missing.

    Raises:
        DataError: at ``prepare_data`` or ``setup``: a file is missing, or it is not what was published.
        ValueError: an argument is out of range, or the set has fewer classes, or images of one, than an episode needs.
    """

    turned: ClassVar[bool] = False  # whether rotations are usual

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 8,
        ways: int = 5,
        shots: int = 1,
        queries: int = 10,
        train_ways: int | None = None,
        train_episodes: int = 1000,
        val_episodes: int = 200,
        test_episodes: int = 1000,
        rotations: bool | None = None,
        num_workers: int = 0,
        seed: int = 0,
        download: bool = True,
    ) -> None:
        super().__init__(root, batch_size, num_workers, False, 0.1, seed, download)
        for name, value, least in (
            ("ways", ways, 2),
            ("shots", shots, 1),
            ("queries", queries, 1),
            ("train_ways", train_ways or ways, 2),
            ("train_episodes", train_episodes, 1),
            ("val_episodes", val_episodes, 1),
            ("test_episodes", test_episodes, 1),
        ):
            if value < least:
                raise ValueError(f"{type(self).__name__}: {name} must be at least {least}; got {value}.")
        self.ways, self.shots, self.queries, self.train_ways = ways, shots, queries, train_ways or ways
        self.episodes = {"train": train_episodes, "val": val_episodes, "test": test_episodes}
        self.rotations = self.turned if rotations is None else rotations

    @property
    def sizes(self) -> dict[str, int]:
        """Episodes of each split: of one epoch in training."""
        return dict(self.episodes)

    def sampler(self, split: str) -> Sampler:
        """Return what draws the episodes of one split."""
        x, y = self.split(split)
        ways = self.train_ways if split == "train" else self.ways
        members, counts = by_class(y)
        turned = self.rotations
        made = Sampler(x, members, counts, turned, ways, self.shots, self.queries, self.transform)
        have, pool = int(counts.min()), len(counts) * (4 if turned else 1)
        name = type(self).__name__
        if pool < ways:
            raise ValueError(f"{name}: {ways} ways, but the {split} split has only {pool} classes; lower them.")
        if have < self.shots + self.queries:
            raise ValueError(
                f"{name}: an episode needs {self.shots} + {self.queries} images of a class (shots + queries), but one "
                f"class has only {have}; lower one of them."
            )
        return made

    def loader(self, name: str) -> ResumableLoader:
        train = name == "train"
        ids = torch.arange(self.episodes[name])
        return ResumableLoader(
            ids,
            ids,
            self.sampler(name),
            batch_size=self.batch_size,
            shuffle=train,
            seed=self.seed,
            workers=self.num_workers,
            where=self.position if train else None,
            ranks=self.ranks,
            joint=True,
        )


class DigitEpisodes(Episodes):
    """Episodes of scikit-learn's digits, 8x8: trained on the digits 0 to 5, tested on 6 to 9. No download.

    Validation episodes hold the training digits, in images that are not trained on: ten classes are too few to hold
    out a third group.

    Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998.
    """

    reads_files = False
    in_chans = 1
    image_size = 8
    mean = (0.3053,)
    std = (0.3760,)
    classes = tuple("0123456789")
    white = 16

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 8,
        ways: int = 4,
        shots: int = 1,
        queries: int = 10,
        train_ways: int | None = None,
        train_episodes: int = 1000,
        val_episodes: int = 200,
        test_episodes: int = 1000,
        rotations: bool | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            root, batch_size, ways, shots, queries, train_ways, train_episodes, val_episodes, test_episodes, rotations,
            num_workers, seed,
        )  # fmt: skip

    def fetch(self) -> None:
        pass

    def read(self) -> Arrays:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images, labels = bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int64)
        train = labels < 6
        return Arrays(images[train], labels[train], images[~train], labels[~train])
