"""Segments of a text as batches: parallel streams that can be resumed anywhere, and an evaluation that counts once.

Letters: ``n`` tokens, ``B`` streams of one process, ``W`` processes (ranks), ``T`` tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from zoo.data.loader import ResumableIterable, generator

FILLED = -1  # the target of what only fills up a row


class Segment(NamedTuple):
    """A batch of text.

    Attributes:
        tokens: (B, T) int64, what is read.
        targets: (B, T) int64, what follows each token; below 0 where a row is filled up, and nothing is counted.
        number: of this segment in its streams: it continues the one before, row by row; segment 0 begins.
    """

    tokens: Tensor
    targets: Tensor
    number: int


class Segments(ResumableIterable):
    """An iterable over the segments of one pass over a text; each of its passes is the next epoch.

    What a batch holds depends on ``(seed, epoch, batch)`` and on the ranks alone, so that a resumed run sees what an
    uninterrupted one sees. Every rank makes the same number of steps.

    Training, ``order="streams"``: the text is cut into ``B W`` streams of equal length that are read side by side, so
    that a memory can be carried along each; the cuts shift from epoch to epoch, and what is left over (less than one
    segment a stream) sits out. ``order="random"``: the same segments in a new order each epoch, and no one continues
    another. Evaluation: ``n - 1`` predictions are shared by ``B W`` streams whose lengths differ by one at most, each
    predicted exactly once. Each stream begins without what came before it, so fewer streams are the stricter measure.

    Args:
        tokens: (n,) whole numbers.
        batch_size: streams of one process.
        length: tokens of a segment.
        train: a training pass, or an evaluation.
        order: "streams" or "random"; of a training pass.
        seed: of the shifts and of the order.
        where: ``() -> (epoch, first batch)`` of a run in progress, read when a pass starts; None: this loader counts.
        ranks: ``() -> (rank, W)``; by default those of torch.distributed.

    Raises:
        ValueError: when its length is asked for or it is iterated: the text is too short for one step.
    """

    def __init__(
        self,
        tokens: Tensor,
        *,
        batch_size: int,
        length: int,
        train: bool = False,
        order: Literal["streams", "random"] = "streams",
        seed: int = 0,
        where: Callable[[], tuple[int, int] | None] | None = None,
        ranks: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(where, ranks)
        self.tokens, self.batch_size, self.length, self.train = tokens, batch_size, length, train
        self.order, self.seed = order, seed

    def __len__(self) -> int:
        return self._train_steps() if self.train else -(-self._longest() // self.length)

    def __iter__(self) -> Iterator[Segment]:
        """Yield the segments; nothing is decided before its first ``next``, as Lightning makes the iterator of a
        resumed run before it knows the epoch."""
        epoch, first = self.start()
        yield from self._training(epoch, first) if self.train else self._evaluation(first)

    def _training(self, epoch: int, first: int) -> Iterator[Segment]:
        rank, ranks = self.ranks()
        size, steps, rows = self.length, self._train_steps(), self.batch_size * ranks
        random = generator(self.seed, epoch)
        shift = int(torch.randint(len(self.tokens) - rows * steps * size, (), generator=random))
        starts = shift + size * torch.arange(rows * steps).view(rows, steps)
        if self.order == "random":
            starts = starts.flatten()[torch.randperm(rows * steps, generator=random)].view(rows, steps)
        mine = starts[rank * self.batch_size : (rank + 1) * self.batch_size]
        for k in range(first, steps):
            window = self.tokens[mine[:, k, None] + torch.arange(size + 1)].long()
            yield Segment(window[:, :-1], window[:, 1:], 0 if self.order == "random" else k)

    def _evaluation(self, first: int) -> Iterator[Segment]:
        rank, streams = self.ranks()[0], self._streams()
        total, rows = len(self.tokens) - 1, streams // self.ranks()[1]
        cuts = torch.arange(rank * rows, (rank + 1) * rows + 1) * total // streams
        starts, ends = cuts[:-1, None], cuts[1:, None]
        longest = self._longest()
        for k, begin in enumerate(range(first * self.length, longest, self.length), first):
            at = starts + torch.arange(begin, min(begin + self.length, longest))
            inside = at < ends
            at = at.clamp(max=total - 1)
            yield Segment(self.tokens[at].long(), self.tokens[at + 1].long().masked_fill(~inside, FILLED), k)

    def _train_steps(self) -> int:
        whole = self.batch_size * self.ranks()[1] * self.length
        # one segment is kept back where there is enough, so that the cuts can shift
        steps = max((len(self.tokens) - self.length) // whole, min((len(self.tokens) - 1) // whole, 1))
        if steps < 1:
            raise ValueError(
                f"A training text of {len(self.tokens):,} tokens is too short for {self.batch_size} streams x "
                f"{self.ranks()[1]} processes x {self.length} tokens: lower --data.batch_size or --data.length."
            )
        return steps

    def _streams(self) -> int:
        ranks, total = self.ranks()[1], len(self.tokens) - 1
        if total < ranks:
            raise ValueError(f"A text of {total + 1} tokens cannot be shared by {ranks} processes.")
        return ranks * min(self.batch_size, total // ranks)

    def _longest(self) -> int:
        """Return the predictions of the longest stream: the same for every rank, so that steps are equally many."""
        return -(-(len(self.tokens) - 1) // self._streams())

    def state_dict(self) -> dict[str, Any]:
        return {
            "tokens": len(self.tokens),
            "batch_size": self.batch_size,
            "length": self.length,
            "order": self.order,
            "seed": self.seed,
            "processes": self.ranks()[1],
        }
