"""Digits cut into tasks that come one after the other: two digits each, told apart.

A batch is ``x (B, C, H, W)``, ``y (B,)`` 0 or 1, and ``task (B,)``, the number of the task. Training shows the tasks in
turn, ``epochs_per_task`` epochs each; validation and test hold all tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.data.images import Arrays, ImageData
from zoo.data.loader import Batch, ResumableIterable, ResumableLoader
from zoo.data.transforms import ImageTransform
from zoo.data.vision import MNIST, Digits


@dataclass(frozen=True)
class Numbered:
    """The transform of one task: the images, their labels within the task, and the task's number."""

    images: ImageTransform
    task: int
    per_task: int

    def __call__(self, x: Tensor, y: Tensor, random: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        return self.images(x, random), y % self.per_task, torch.full_like(y, self.task)


class SequentialTasks(ResumableIterable):
    """The tasks' loaders in turn: in epoch e that of task ``e // each``, and the last task from then on.

    Every pass has as many batches as the smallest task. ``where`` knows the position of a run in progress (see
    `ResumableLoader`), so that a resumed run goes on with the task and the batch that it was at.
    """

    def __init__(
        self, loaders: Sequence[ResumableLoader], each: int, where: Callable[[], tuple[int, int] | None]
    ) -> None:
        super().__init__(where, loaders[0].ranks)
        self.loaders, self.each = loaders, each

    def __len__(self) -> int:
        return min(len(loader) for loader in self.loaders)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.start()
        loader = self.loaders[min(epoch // self.each, len(self.loaders) - 1)]
        loader.set_epoch(epoch)
        yield from islice(loader, len(self) - first)  # the loader skips the first ones by itself

    def state_dict(self) -> dict[str, Any]:
        return self.loaders[0].state_dict()


class Chain:
    """The batches of several loaders, one after the other."""

    def __init__(self, loaders: Sequence[ResumableLoader]) -> None:
        self.loaders = loaders

    def __len__(self) -> int:
        return sum(len(loader) for loader in self.loaders)

    def __iter__(self) -> Iterator[Batch]:
        for loader in self.loaders:
            yield from loader


class SplitTasks(ImageData):
    """A data set of ten classes as five tasks of two: 0 or 1, 2 or 3, and so on.

    Args:
        root: the folder of the data sets; None: the environment's ZOO_DATA, else ./data.
        batch_size: samples a batch, of one task.
        epochs_per_task: epochs that each task is trained for before the next comes; five times as many in all.
        num_workers: processes that make batches ahead.
        val_fraction: the part of the training images, of every class, that is held out for validation; 0: none.
        seed: of the order; not of the split.
        download: fetch files that are missing.

    Raises:
        DataError: at ``prepare_data`` or ``setup``: a file is missing, or it is not what was published.
        ValueError: an argument is out of range, or a run has too few epochs to show every task.
    """

    source: ClassVar[type[ImageData]]
    per_task: ClassVar[int] = 2
    num_classes = 2

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        epochs_per_task: int = 1,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        seed: int = 0,
        download: bool = True,
    ) -> None:
        super().__init__(root, batch_size, num_workers, False, val_fraction, seed, download)
        if epochs_per_task < 1:
            raise ValueError(f"{type(self).__name__}: epochs_per_task must be at least 1; got {epochs_per_task}.")
        self.epochs_per_task = epochs_per_task
        self.whole = self.source(root=root, download=download)

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return len(self.classes) // self.per_task

    @property
    def features(self) -> int:
        """Numbers in a sample."""
        return self.in_chans * self.image_size**2

    def fetch(self) -> None:
        self.whole.fetch()

    def read(self) -> Arrays:
        return self.whole.read()

    def loader(self, name: str) -> SequentialTasks | Chain:
        if name != "train":
            return Chain(self._loaders(name))
        needed, epochs = self.tasks * self.epochs_per_task, self.trainer.max_epochs if self.trainer else None
        if epochs is not None and 0 <= epochs < needed:
            raise ValueError(
                f"{self.tasks} tasks of {self.epochs_per_task} epochs take {needed} epochs; the run has {epochs}. Set "
                f"--trainer.max_epochs {needed}, or lower --data.epochs_per_task."
            )
        return SequentialTasks(self._loaders(name), self.epochs_per_task, self.position)

    def _loaders(self, name: str) -> list[ResumableLoader]:
        train = name == "train"
        x, y = self.split(name)
        out = []
        for task in range(self.tasks):
            rows = torch.nonzero(y // self.per_task == task)[:, 0]
            out.append(
                ResumableLoader(
                    x[rows],
                    y[rows],
                    Numbered(self.transform, task, self.per_task),
                    batch_size=self.batch_size,
                    shuffle=train,
                    seed=self.seed,
                    workers=self.num_workers,
                    where=self.position if train else None,
                    ranks=self.ranks,
                    joint=True,
                )
            )
        return out


class SplitMNIST(SplitTasks):
    """MNIST as five tasks of two digits.

    Reference: Zenke, Poole, Ganguli, "Continual learning through synaptic intelligence", ICML 2017, arXiv:1703.04200.
    """

    source = MNIST
    in_chans, image_size, mean, std, classes = 1, 28, MNIST.mean, MNIST.std, MNIST.classes


class SplitDigits(SplitTasks):
    """scikit-learn's digits 8x8 as five tasks of two digits. No download.

    Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998.
    """

    reads_files = False
    source = Digits
    in_chans, image_size, mean, std, classes = 1, 8, Digits.mean, Digits.std, Digits.classes
    white = Digits.white
