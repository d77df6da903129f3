"""Integration piece by piece, along the events of ragged series, and one record of it.

Every series of a batch has its own times. Its piece from one event to the next, ``dt`` long, is stretched to
``s in [0, 1]``:

    dy/ds = dt f(y),    y(s = 0) = y(t),    y(s = 1) = y(t + dt)

so that the whole batch shares one clock, and takes as many pieces as its longest series has events. The union of all
times, the usual way out, has as many pieces as the batch has distinct times. Where a series has ended, ``dt = 0`` and
its state rests. Whatever jumps (an update by an observation, the slope of a control) does so between two pieces, so
that no step ever crosses a jump.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import overload

import torch
from torch import Tensor

from zoo.implicit import ImplicitMixin, SolveRecord
from zoo.solvers.base import Result, Stats


def solve_piece(
    module: ImplicitMixin,
    f: Callable[..., Tensor],
    y: Tensor,
    args: tuple[Tensor, ...],
    params: Iterable[Tensor],
    records: list[SolveRecord],
) -> Tensor:
    """``y(1)`` of ``dy/ds = f(s, y, *args)``, ``y(0) = y``, by the module's solver; the record goes to ``records``.

    A piece of no length for the whole batch (all ``args`` zero) costs nothing.
    """
    if not any(bool(a.any()) for a in args):
        return y
    y = module.integrate(f, y, (0.0, 1.0), args=args, params=params)[-1]
    if module.last is not None:
        records.append(module.last)
    return y


class StatsView(Sequence[Stats]):
    """The backward solves of several pieces as one list: the k-th entry adds up the k-th of every piece.

    A view, as a backward solve is written into its piece's record when it runs.
    """

    def __init__(self, parts: Sequence[Stats]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return max(len(p.backward) for p in self.parts)

    @overload
    def __getitem__(self, k: int) -> Stats: ...
    @overload
    def __getitem__(self, k: slice) -> list[Stats]: ...
    def __getitem__(self, k: int | slice) -> Stats | list[Stats]:
        """A piece that the loss does not depend on has no backward solve, and counts nothing."""
        if isinstance(k, slice):
            return [self[i] for i in range(len(self))[k]]
        k = range(len(self))[k]
        return sum_stats([p.backward[k] for p in self.parts if k < len(p.backward)])


def sum_stats(parts: Sequence[Stats]) -> Stats:
    """The stats of several solves in a row, as of one: counts are added, the worst of the rest is kept."""

    def added(name: str) -> Tensor | None:
        each = [getattr(p, name) for p in parts]
        return None if each[0] is None else torch.stack(each).sum(0)

    return dataclasses.replace(
        parts[-1],
        nfe=sum(p.nfe for p in parts),
        sample_nfe=sum(p.sample_nfe for p in parts),
        steps=torch.stack([p.steps for p in parts]).sum(0),
        residual=torch.stack([p.residual for p in parts]).amax(0),
        converged=torch.stack([p.converged for p in parts]).all(0),
        trace=torch.cat([p.trace for p in parts]),
        accepted=added("accepted"),
        rejected=added("rejected"),
        backward=StatsView(parts),
    )


def reduce_copies(record: SolveRecord, copies: int) -> SolveRecord:
    """The record of (copies * B) rows as one of B samples: of a sample's copies, the worst counts; calls stay."""
    stats = record.stats

    def worst(x: Tensor) -> Tensor:
        return x.reshape(copies, -1).amax(0)

    return SolveRecord(
        record.result,
        dataclasses.replace(
            stats,
            steps=worst(stats.steps),
            residual=worst(stats.residual),
            converged=stats.converged.reshape(copies, -1).all(0),
            trace=stats.trace.reshape(-1, copies, len(stats.steps) // copies).amax(1),
            accepted=None if stats.accepted is None else worst(stats.accepted),
            rejected=None if stats.rejected is None else worst(stats.rejected),
        ),
    )


def merge_records(records: Sequence[SolveRecord]) -> SolveRecord | None:
    """One record of all pieces, for `ImplicitMixin.last`; None where there was nothing to integrate."""
    if not records:
        return None
    return SolveRecord(Result.worst(r.result for r in records), sum_stats([r.stats for r in records]))
