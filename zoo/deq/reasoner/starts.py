"""Several starts for one puzzle; the one whose solve ends with the least residual has the answer.

No label and no rule of the puzzle is asked: a small residual is the sign of a right answer. The first start is the
usual one, the k-th of the others is the same for every puzzle, so that an answer does not depend on its batch-mates.

Reference: "Equilibrium reasoners", ICML 2026, https://arxiv.org/abs/2605.21488 (breadth at test)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.implicit import SolveRecord
from zoo.solvers.base import Result, Solution, Stats


@dataclass(frozen=True)
class Starts:
    """How many starts a solve has in evaluation.

    Args:
        count: starts at most, the usual one among them.
        seed: of the others.
        every: try all of them; else only while a puzzle has not converged.

    Raises:
        ValueError: fewer than one.
    """

    count: int = 1
    seed: int = 0
    every: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"A number of starts is at least 1; got {self.count}.")


_starts: ContextVar[Starts | None] = ContextVar("zoo_reasoner_starts", default=None)


@contextmanager
def random_starts(count: int, *, seed: int = 0, every: bool = False) -> Iterator[Starts]:
    """Scope in which reasoners that are evaluated try several starts; see `Starts`.

        >>> from zoo.deq.reasoner.equivariant import EquivariantReasoner
        >>> model = EquivariantReasoner(channels=8, box=(2, 2)).eval()
        >>> with random_starts(4):
        ...     logits = model(torch.zeros(2, 4, 4, dtype=torch.long))
        >>> model.last.stats.residual.shape     # of the best start of each puzzle
        torch.Size([2])

    Raises:
        ValueError: fewer than one start.
    """
    token = _starts.set(Starts(count, seed, every))
    try:
        yield Starts(count, seed, every)
    finally:
        _starts.reset(token)


def asked_starts() -> Starts:
    """Return the starts of the scope; one outside of any."""
    return _starts.get() or Starts()


@dataclass(frozen=True)
class Best:
    """The best of several solves of a batch.

    Attributes:
        start: (B,) which start each of them came from, 0 for the usual one.
        residuals: (K, B) of each start that was tried; NaN where a puzzle had converged before.
        solution: of all solves in one: evaluations and steps are those of all, the rest are the best start's.
    """

    start: Tensor
    residuals: Tensor
    solution: Solution[Tensor]


def best_of(
    asked: Starts,
    batch: int,
    solve: Callable[[Tensor, Tensor | None], tuple[Tensor, SolveRecord]],
    start: Callable[[torch.Generator], Tensor],
) -> Best:
    """Solve a batch from several starts and keep, puzzle by puzzle, what has the least residual.

    Args:
        asked: how many starts.
        batch: puzzles.
        solve: solves the puzzles of some rows (R,) from their starts (R, ...), or from the usual one where that is
            None; returns the states and the record.
        start: draws one start (1, ...).
    """
    generator = torch.Generator().manual_seed(asked.seed)
    z, record = solve(torch.arange(batch), None)
    total, results, chosen = record.stats, [record.result], torch.zeros(batch, dtype=torch.long)
    residuals = [total.residual]
    for k in range(1, asked.count):
        drawn = start(generator)
        rows = torch.arange(batch) if asked.every else (~total.converged).nonzero().flatten()
        if not len(rows):
            break
        other, record = solve(rows, drawn.expand(len(rows), *drawn.shape[1:]))
        results.append(record.result)
        residuals.append(total.residual.new_full((batch,), torch.nan).index_copy(0, rows, record.stats.residual))
        better = torch.nan_to_num(record.stats.residual, nan=torch.inf) < total.residual[rows]
        won = rows[better]
        z = z.index_copy(0, won.to(z.device), other[better.to(z.device)])
        chosen[won] = k
        total = _joined(total, record.stats, rows, better)
    result = Result.converged if bool(total.converged.all()) else Result.worst(results)
    return Best(chosen, torch.stack(residuals), Solution(z, result, total))


def _joined(one: Stats, other: Stats, rows: Tensor, better: Tensor) -> Stats:
    """The statistics of a batch after some of its rows were solved again; ``better`` (R,) says where that is kept."""
    won = rows[better]

    def kept(name: str) -> Tensor:
        return getattr(one, name).index_copy(0, won, getattr(other, name)[better])

    return dataclasses.replace(
        one,
        nfe=one.nfe + other.nfe,
        sample_nfe=one.sample_nfe + other.sample_nfe,
        steps=one.steps.index_add(0, rows, other.steps),
        residual=kept("residual"),
        converged=kept("converged"),
        lost=None if one.lost is None or other.lost is None else kept("lost"),
    )
