"""Batches of a data set that lies in memory: an order that can be resumed anywhere, and that every rank agrees on.

Letters: ``n`` samples, ``B`` samples a batch, ``W`` processes (ranks), ``P`` parts that one pass is cut into.

What a batch holds is a function of ``(seed, epoch, part)`` and of nothing else: no global random state, no worker, no
history. So a run that is resumed, at an epoch's end or within one, sees what an uninterrupted run sees.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Transform = Callable[..., Any]  # (x[rows], generator | None) -> what the model gets; jointly: (x, y, generator) -> both
Batch = tuple[Tensor, Tensor]


def generator(*key: int) -> torch.Generator:
    """Return a random generator that depends on the numbers of ``key`` (each >= 0), and in all their bits."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed) >> 1)


class BatchDataset(Dataset[Batch]):
    """A data set whose items are whole batches, by ``(epoch, part, parts)``. Workers share it; it holds no state."""

    def __init__(
        self, x: Any, y: Any, transform: Transform, *, shuffle: bool, keep: int, seed: int, joint: bool = False
    ) -> None:
        self.x, self.y, self.transform, self.joint = x, y, transform, joint
        self.shuffle, self.keep, self.seed = shuffle, keep, seed
        self._order: tuple[int, Tensor | None] = (-1, None)  # of one epoch; not state, only not computed twice

    def order(self, epoch: int) -> Tensor:
        """Return the samples in the order of one epoch, (n,)."""
        if not self.shuffle:
            return torch.arange(len(self.y))
        known, order = self._order
        if known != epoch or order is None:
            order = torch.randperm(len(self.y), generator=generator(self.seed, epoch))
            self._order = epoch, order
        return order

    def __getitem__(self, key: tuple[int, int, int]) -> Batch:
        epoch, part, parts = key
        n = self.keep
        rows = self.order(epoch)[part * n // parts : (part + 1) * n // parts]
        random = generator(self.seed, epoch, 1 + part) if self.shuffle else None
        if self.joint:
            return self.transform(self.x[rows], self.y[rows], random)
        return self.transform(self.x[rows], random), self.y[rows]


class ResumableIterable(ABC):
    """An iterable over the batches of one pass, from where the Trainer is; each of its passes is the next epoch.

    Args:
        where: ``() -> (epoch, first batch)`` of a run in progress, read when a pass starts; None: this object counts.
        ranks: ``() -> (rank, W)``; by default those of torch.distributed.
    """

    def __init__(
        self, where: Callable[[], tuple[int, int] | None] | None, ranks: Callable[[], tuple[int, int]] | None
    ) -> None:
        self.where, self.ranks = where or (lambda: None), ranks or distributed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take this epoch next. A run by a Trainer does not need it."""
        self.epoch = epoch

    def start(self) -> tuple[int, int]:
        """Return the epoch and the first batch of a pass that begins now, and count it."""
        epoch, first = self.where() or (self.epoch, 0)
        self.epoch = epoch + 1
        return epoch, first

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what the order depends on. Where the run is, the Trainer knows exactly, so it is not kept here."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Warn where the order cannot be that of the run that is resumed."""
        for name, now in self.state_dict().items():
            if state.get(name, now) != now:
                warnings.warn(
                    f"The run that is resumed was made with {name}={state[name]}, now it is {now}: from here on its "
                    f"batches differ from those of an uninterrupted run. Set it back for an exact continuation.",
                    stacklevel=2,
                )


class ResumableLoader(ResumableIterable):
    """An iterable over the batches of one pass; each of its passes is the next epoch.

    One pass is cut into ``P = K W`` parts whose sizes differ by one at most, and rank ``r`` takes the parts
    ``k W + r``. So every rank makes the same number ``K`` of steps, and every sample of an evaluation is counted once:
    no sample is repeated to fill a rank up, as a distributed sampler would. It is no ``DataLoader`` by type, so that
    Lightning does not put such a sampler in.

    Args:
        x: images, uint8 (n, C, H, W), and ``y``: labels (n,); or what else has a length and takes a tensor of rows.
        transform: ``(x[rows], generator)`` to what the model gets; the generator is None when evaluating.
        joint: the transform is ``(x[rows], y[rows], generator)`` to both: a mask turns along with its image.
        batch_size: samples a batch and rank, at most (one more, where ranks could not make equal steps otherwise).
        shuffle: train: a new order each epoch, all batches of one size, so what is left over sits out one epoch.
        seed: of the order and of the transform.
        workers: processes that make batches ahead. 0: in this process, usually the fastest, as nothing is decoded.
        where: ``() -> (epoch, first batch)`` of a run in progress, read when a pass starts; None: this loader counts.
        ranks: ``() -> (rank, W)``; by default those of torch.distributed.

    Raises:
        ValueError: fewer samples than ranks.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        transform: Transform,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
        where: Callable[[], tuple[int, int] | None] | None = None,
        ranks: Callable[[], tuple[int, int]] | None = None,
        joint: bool = False,
    ) -> None:
        self.x, self.y, self.transform, self.joint = x, y, transform, joint
        self.batch_size, self.shuffle, self.seed, self.workers = batch_size, shuffle, seed, workers
        super().__init__(where, ranks)
        self._pool: tuple[int, _Keys, DataLoader[Batch]] | None = None

    def __len__(self) -> int:
        return self._cut()[0]

    def _cut(self) -> tuple[int, int, int]:
        """Return batches of this rank, samples of one pass, ranks."""
        n, ranks = len(self.y), self.ranks()[1]
        if n < ranks:
            raise ValueError(f"{n} samples cannot be shared by {ranks} processes; use at most {n} devices.")
        whole = self.batch_size * ranks
        if not self.shuffle:
            return min(-(-n // whole), n // ranks), n, ranks
        count = max(1, n // whole)
        return count, min(n, count * whole), ranks

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; nothing is decided before its first ``next``, as Lightning makes the iterator of a resumed
        run before it knows the epoch."""
        epoch, first = self.start()
        count, keep, ranks = self._cut()
        rank = self.ranks()[0]
        keys = [(epoch, k * ranks + rank, count * ranks) for k in range(first, count)]
        if self.workers == 0:
            parts = self._parts(keep)
            yield from (parts[key] for key in keys)
        else:
            if self._pool is None or self._pool[0] != keep:
                sampler = _Keys()
                # workers that stay, as starting them again costs more than an epoch of a small set
                pool = DataLoader(
                    self._parts(keep),
                    batch_size=None,
                    sampler=sampler,
                    num_workers=self.workers,
                    persistent_workers=True,
                )
                self._pool = keep, sampler, pool
            self._pool[1].keys = keys
            yield from self._pool[2]

    def _parts(self, keep: int) -> BatchDataset:
        return BatchDataset(
            self.x, self.y, self.transform, shuffle=self.shuffle, keep=keep, seed=self.seed, joint=self.joint
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "samples": len(self.y),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "processes": self.ranks()[1],
        }


class _Keys:
    """The sampler of the workers: the keys of the next pass."""

    def __init__(self) -> None:
        self.keys: list[tuple[int, int, int]] = []

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def distributed() -> tuple[int, int]:
    """Return rank and number of processes of torch.distributed, (0, 1) where it does not run."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def other_step(was: Sequence[int] | None, now: Sequence[int] | None) -> str:
    """Return a sentence where a resumed run takes its steps on another number of samples than before.

    Args:
        was, now: samples a batch, processes, batches accumulated a step; None where they are not known.

    Returns:
        the sentence, with the option that keeps the number where a whole one does; empty where it is kept.
    """
    if was is None or now is None or math.prod(was) == math.prod(now):
        return ""
    size, processes, _ = now
    count, rest = divmod(math.prod(was), size * processes)
    keeps = (
        f"--trainer.accumulate_grad_batches {count} keeps it."
        if not rest
        else f"No --trainer.accumulate_grad_batches keeps it: choose a --data.batch_size that, times {processes}, "
        f"divides {math.prod(was)}."
    )
    return (
        f"A step of the run that is resumed was taken on {_product(was)} samples, now it is {_product(now)} (batch x "
        f"processes x accumulated), which is another training. {keeps}"
    )


def _product(numbers: Sequence[int]) -> str:
    return f"{math.prod(numbers)} = {' x '.join(map(str, numbers))}"
