"""Tensors in memory as a Lightning data module: for data sets that are no images and small enough to hold.

Shape letters: ``n`` samples, ``B`` samples a batch.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from zoo.data.base import data_root
from zoo.data.loader import ResumableLoader, distributed

Split = tuple[Tensor, Tensor]


def unchanged(x: Tensor, random: torch.Generator | None) -> Tensor:
    """The transform that does nothing."""
    return x


class MemoryData(L.LightningDataModule, ABC):
    """Pairs ``(x, y)`` of tensors, samples first, split into ``train``, ``val`` and ``test``.

    Batches of an epoch depend on ``(seed, epoch, batch)`` alone, so that a resumed run sees what an uninterrupted one
    sees; the splits do not depend on ``seed``, so that runs of different seeds are measured on the same samples.

    Args:
        root: the folder of the data sets; None: the environment's ZOO_DATA, else ./data.
        batch_size: samples a batch (and a device).
        seed: of the order.
    """

    joint: ClassVar[bool] = False  # whether the transform takes the targets along

    def __init__(self, root: str | None, batch_size: int, seed: int) -> None:
        super().__init__()
        name = type(self).__name__
        if batch_size < 1:
            raise ValueError(f"{name}: batch_size must be at least 1; got {batch_size}.")
        if seed < 0:
            raise ValueError(f"{name}: seed must not be negative; got {seed}.")
        self.root, self.batch_size, self.seed = data_root(root), batch_size, seed
        self._splits: dict[str, Split] = {}
        self._fingerprint = ""

    @abstractmethod
    def read(self) -> dict[str, Split]:
        """The splits; raises DataError where a file is missing, or is not what was published."""

    def setup(self, stage: str | None = None) -> None:
        if self._splits:
            return
        splits = {name: (x.contiguous(), y.contiguous()) for name, (x, y) in self.read().items()}
        digest = hashlib.sha256()
        for name in ("train", "val", "test"):
            for tensor in splits[name]:
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.numpy().data)
        self._splits, self._fingerprint = splits, digest.hexdigest()

    def fingerprint(self) -> str:
        """The sha256 over all splits: two runs with the same one saw the same data."""
        self.setup()
        return self._fingerprint

    def split(self, name: str) -> Split:
        """All samples of ``train``, ``val`` or ``test``."""
        self.setup()
        return self._splits[name]

    @property
    def sizes(self) -> dict[str, int]:
        """Samples in each split."""
        self.setup()
        return {name: len(x) for name, (x, _) in self._splits.items()}

    @property
    def transform(self) -> Any:
        """From the samples in memory to what the model gets, see `ResumableLoader`."""
        return unchanged

    def train_dataloader(self) -> ResumableLoader:
        return self._batches("train")

    def val_dataloader(self) -> ResumableLoader:
        return self._batches("val")

    def test_dataloader(self) -> ResumableLoader:
        return self._batches("test")

    def _batches(self, name: str) -> ResumableLoader:
        x, y = self.split(name)
        train = name == "train"
        return ResumableLoader(
            x,
            y,
            self.transform,
            batch_size=self.batch_size,
            shuffle=train,
            seed=self.seed,
            where=self._where if train else None,
            ranks=self._ranks,
            joint=self.joint,
        )

    def _where(self) -> tuple[int, int] | None:
        """Epoch and batches done of a fit in progress, by the Trainer's own count."""
        trainer: Any = self.trainer  # Lightning sets overfit_batches and the counters without declaring them
        if trainer is None or not trainer.training:
            return None
        loop = trainer.fit_loop
        epoch = 0 if trainer.overfit_batches else loop.epoch_progress.current.processed
        return epoch, loop.epoch_loop.batch_progress.current.ready

    def _ranks(self) -> tuple[int, int]:
        if self.trainer is None:
            return distributed()
        options = self.trainer.distributed_sampler_kwargs
        return (options["rank"], options["num_replicas"]) if options else (0, 1)
