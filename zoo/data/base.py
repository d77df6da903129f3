"""The Lightning data module of every data set here: splits in memory, batches that resume exactly.

One base class holds the plumbing; images, tensors, series and texts say what a split is and how it is batched.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import lightning as L
import numpy as np
from torch import Tensor

from zoo._compat import fit_position, sampler_ranks
from zoo.data.loader import distributed

S = TypeVar("S")  # a split, as a set keeps it
MODEL_ARGUMENTS = ("num_classes", "in_chans", "vocab_size", "features", "targets")


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the data sets: ``root``, else the environment's ``ZOO_DATA``, else ``./data``.

    Raises:
        ValueError: no folder can have that name.
    """
    path = Path(root or os.environ.get("ZOO_DATA") or "data").expanduser()
    try:
        path.stat()
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        if not isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
            why = getattr(error, "strerror", None) or error
            raise ValueError(f"{str(path)[:80]!r} cannot be a folder of data ({why}); give --data.root DIR.") from None
    return path


def digest(arrays: Iterable[np.ndarray | Tensor]) -> str:
    """Return the sha256 over types, shapes and values."""
    found = hashlib.sha256()
    for array in arrays:
        kind = array.dtype.str if isinstance(array, np.ndarray) else str(array.dtype)
        found.update(f"{kind}{tuple(array.shape)}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


class InMemoryDataModule(L.LightningDataModule, ABC, Generic[S]):
    """A data set in memory, split into ``train``, ``val`` and ``test``; plain PyTorch can use it too.

    Batches of an epoch depend on ``(seed, epoch, batch)`` alone, so that a resumed run sees what an uninterrupted one
    sees; the splits do not depend on ``seed``, so that runs of different seeds are measured on the same samples.

    Args:
        root: the folder of the data sets; None: the environment's ZOO_DATA, else ./data.
        batch_size: samples a batch (and a device).
        seed: of the order.

    Raises:
        ValueError: an argument is out of range, or does nothing.
    """

    reads_files: ClassVar[bool] = True  # below the root; False: the set is drawn, or part of a package

    def __init__(self, root: str | None, batch_size: int, seed: int) -> None:
        super().__init__()
        if not self.reads_files:
            self.refuse_idle("nothing is read from a folder. Name a set of your own files, or mnist", root=root)
        name = type(self).__name__
        if batch_size < 1:
            raise ValueError(f"{name}: batch_size must be at least 1; got {batch_size}.")
        if seed < 0:
            raise ValueError(f"{name}: seed must not be negative; got {seed}.")
        self.root, self.batch_size, self.seed = data_root(root), batch_size, seed
        self._splits: dict[str, S] = {}
        self._fingerprint = ""

    def refuse_idle(self, why: str, **options: Any) -> None:
        """Raise ValueError where an option that does nothing here has another value than its default.

        Args:
            why: it does nothing, as a clause.
            **options: the values as they were given.
        """
        known = inspect.signature(type(self)).parameters
        for name, value in options.items():
            if name in known and value != known[name].default:
                set_name = type(self).__name__
                raise ValueError(f"{set_name}: {name}={value!r} does nothing here: {why}. Leave --data.{name} out.")

    @abstractmethod
    def load(self) -> tuple[dict[str, S], str]:
        """Return the splits and their fingerprint; raises DataError where a file is missing or not as published."""

    @abstractmethod
    def loader(self, name: str) -> Iterable[Any]:
        """Return the batches of a split; those of ``train`` resume where the Trainer is."""

    def setup(self, stage: str | None = None) -> None:
        if not self._splits:
            self._splits, self._fingerprint = self.load()

    def fingerprint(self) -> str:
        """Return the sha256 over all that was read: two runs with the same one saw the same data."""
        self.setup()
        return self._fingerprint

    def split(self, name: str) -> S:
        """Return all samples of ``train``, ``val`` or ``test``."""
        self.setup()
        return self._splits[name]

    def size_of(self, split: S) -> int:
        """Return the number of samples in a split; that of its first part, where it is a tuple."""
        return len(cast(Sized, split[0] if isinstance(split, tuple) else split))

    @property
    def sizes(self) -> dict[str, int]:
        """Samples in each split."""
        self.setup()
        return {name: self.size_of(split) for name, split in self._splits.items()}

    def model_arguments(self) -> dict[str, Any]:
        """Return what this data set decides of a model: the arguments of its class that follow from the data.

        By default those of ``num_classes``, ``in_chans``, ``vocab_size``, ``features`` and ``targets`` that the class
        has as attributes. A set may have to be read for it.
        """
        return {
            name: getattr(self, name) for name in MODEL_ARGUMENTS if hasattr(type(self), name) or name in vars(self)
        }

    def train_dataloader(self) -> Iterable[Any]:
        return self.loader("train")

    def val_dataloader(self) -> Iterable[Any]:
        return self.loader("val") if self.size_of(self.split("val")) else []

    def test_dataloader(self) -> Iterable[Any]:
        return self.loader("test")

    def position(self) -> tuple[int, int] | None:
        """Return epoch and batches done of a fit in progress, by the Trainer's own count; None outside of one.

        That count is saved with every checkpoint and takes a batch that an interruption cut short as not done.
        """
        return fit_position(self.trainer) if self.trainer is not None else None

    def ranks(self) -> tuple[int, int]:
        """Return the rank and the number of processes that share a batch.

        By the Trainer, which knows the ranks that share a batch (tensor parallel ones) from those that do not.
        """
        return sampler_ranks(self.trainer) if self.trainer is not None else distributed()
