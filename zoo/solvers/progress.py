"""Which samples of a batch are still being solved, and what was measured of each; on the host."""

from __future__ import annotations

import math

import numpy as np
import torch

from zoo.solvers.base import Result, Solver, Stats


def noise(floor: float, device: str) -> float:
    """The relative change of a residual that other kernels, chosen for another batch size, may explain.

    Args:
        floor: the resolution of the map's dtype.
        device: where it computes; TensorFloat-32 has 10 bits.
    """
    if device == "cuda" and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32):
        floor = max(floor, 2.0**-10)
    return 64 * floor


class BatchProgress:
    """The samples in hand, which of them are active, and the measurements so far.

    ``rows`` are the samples in hand, by their place in the whole batch; ``active``, ``best``, ``least`` likewise.

    Args:
        batch, size: ``B`` and ``N``.
        solver: whose tolerances count.
        floor: least relative tolerance.
        newest: whether the last iterate is the answer, not the best.
        holds: whether a settled sample is measured again by each evaluation (`Solver.holds`).
        noise: the change of a residual that rounding explains where other samples left the batch.

    Attributes:
        coupled: True once a settled sample's residual has changed, False once it has not although others had moved
            far enough to show; None: unknown.
        changed: whether the newest step changed which samples are active.
    """

    def __init__(
        self, batch: int, size: int, solver: Solver, floor: float, *, newest: bool, holds: bool, noise: float
    ) -> None:
        self.absolute, self.relative, self.newest = solver.atol * math.sqrt(size), max(solver.rtol, floor), newest
        self.restart = solver.forgets_at if math.isfinite(solver.forgets_at) else None
        self.holds, self.floor, self.noise = holds, floor, noise
        self.rows = np.arange(batch)
        self.active = np.ones(batch, dtype=bool)
        self.left = batch  # how many are active
        self.settled = np.arange(0)  # the places of the others, without the dead
        self.best = np.full(batch, np.inf)  # the least residual of each, and at which step (of the whole batch)
        self.best_at = np.zeros(batch, dtype=np.int64)
        self.least = np.full(batch, np.inf)  # the least residual since the sample's history was last forgotten
        self.steps = np.zeros(batch, dtype=np.int64)
        self.converged, self.dead = np.zeros(batch, dtype=bool), np.zeros(batch, dtype=bool)
        self.log: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.coupled: bool | None = None
        self.apart = False  # whether a part of the batch was seen to be answered as the whole was
        self.changed = False
        self.norm = self.best  # the newest residuals: how far each sample in hand is about to move

    @property
    def is_cut(self) -> bool:
        """Whether samples have left the batch."""
        return len(self.rows) < len(self.steps)

    def lost(self, norm: np.ndarray) -> np.ndarray | None:
        """The active samples whose residual is not finite; None where there are none."""
        if math.isfinite(norm.sum()):
            return None
        lost = self.active & ~np.isfinite(norm)
        return lost if lost.any() else None

    def note(
        self, k: int, norm: np.ndarray, scale: np.ndarray, lost: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Take down step ``k``; returns which samples it improved, and whose residual has grown too much, if any."""
        self.log.append((self.rows, norm, scale))
        self.changed = False
        bound = self.relative * scale
        bound += self.absolute
        woken = self._look_again(k, norm, scale, bound) if self.holds and len(self.settled) else None
        self.norm = norm
        hit = norm <= bound
        found = np.count_nonzero(hit)
        better = np.isfinite(norm) if self.newest else norm < self.best
        if found and not self.newest:
            better |= hit
        if self.left < len(self.rows):
            hit &= self.active
            better &= self.active
            found = found and np.count_nonzero(hit)
        np.putmask(self.best, better, norm)
        if self.is_cut:
            self.best_at[self.rows[better]] = k
        else:
            np.putmask(self.best_at, better, k)
        grown = None
        if self.restart is not None:
            over = norm > self.restart * self.least
            if np.count_nonzero(over) and (over := over & self.active).any():
                grown = over
                self.least[over] = np.inf
            np.fmin(self.least, norm, out=self.least)
        if woken is not None:
            grown = woken if grown is None else grown | woken
        if found:
            self.converged[self.rows[hit]] = True
            self._settle(k, hit)
        if lost is not None:
            self.dead[self.rows[lost]] = True
            self._settle(k, lost)
        return better, grown

    def _look_again(self, k: int, norm: np.ndarray, scale: np.ndarray, bound: np.ndarray) -> np.ndarray | None:
        """Compare the settled samples with what they were; returns those that must go on, if any."""
        here = self.settled
        now, cut = norm[here], self.is_cut
        self.best_at[self.rows[here]] = k  # what is told of them was measured with the newest of the others
        margin = (self.noise if cut else 64 * self.floor) * scale[here]
        same = np.abs(now - self.best[here]) <= margin  # False for NaN
        if same.all():
            if not self.coupled:
                self.apart = self.apart or cut
            if self.coupled is None and (margin <= 0.01 * self.norm[self.active].max()).any():
                self.coupled = False
            return None
        self.coupled = True
        woken = np.zeros_like(self.active)
        woken[here] = ~same & ~(now <= bound[here])
        if not woken.any():
            return None
        self.active |= woken
        self._count()
        self.best[woken] = self.least[woken] = np.inf
        self.converged[self.rows[woken]] = False
        return woken

    def _settle(self, k: int, which: np.ndarray) -> None:
        self.steps[self.rows[which]] = k
        self.active &= ~which
        self._count()

    def _count(self) -> None:
        self.left, self.changed = int(self.active.sum()), True
        self.settled = np.flatnonzero(~self.active & ~self.dead[self.rows])

    def lose(self, which: np.ndarray) -> None:
        """Count samples as lost whose next iterate was not finite."""
        self.dead[self.rows[which]] = True
        self._settle(len(self.log), which)

    def staying(self) -> np.ndarray | None:
        """The places of the samples that stay in hand where half of them or more are settled; None: nobody leaves.

        Nobody leaves where samples depend on one another. At first, one settled sample stays as a witness: a map that
        holds something of each sample may give it the share of another.
        """
        if self.coupled or 2 * self.left > len(self.rows):
            return None
        stay = self.active.copy()
        if self.holds and not self.apart:
            stay[self.settled[-1:]] = True
        keep = np.flatnonzero(stay)
        return None if len(keep) == len(self.rows) else keep

    def cut(self, keep: np.ndarray) -> None:
        """Let go of all samples in hand but those at the places ``keep``."""
        self.rows, self.active = self.rows[keep], self.active[keep]
        self.best, self.least, self.norm = self.best[keep], self.least[keep], self.norm[keep]
        self._count()

    def close(self, k: int) -> None:
        """The samples that are still active took ``k`` steps."""
        self.steps[self.rows[self.active]] = k

    def stats(self, calls: int, samples: int) -> Stats:
        """The statistics of a solve that took ``calls`` evaluations, of so many ``samples`` in all."""
        batch = len(self.steps)
        if self.is_cut:
            trace = np.full((len(self.log), batch), np.nan)
            for k, (rows, norm, scale) in enumerate(self.log):
                trace[k, rows] = _relative(norm, scale)
        else:
            trace = _relative(np.array([norm for _, norm, _ in self.log]), np.array([scale for *_, scale in self.log]))
        return Stats(
            nfe=calls,
            steps=torch.from_numpy(self.steps),
            residual=torch.from_numpy(trace[self.best_at, np.arange(batch)]),
            converged=torch.from_numpy(self.converged),
            trace=torch.from_numpy(trace),
            sample_nfe=samples,
            lost=torch.from_numpy(self.dead),
            coupled=self.coupled,
        )

    @property
    def result(self) -> Result:
        if self.dead.any():
            return Result.nonfinite
        if self.converged.all():
            return Result.converged
        return Result.dependent if self.coupled else Result.max_steps


def _relative(norm: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """``norm / scale``; of a scale that is 0, 1 where the norm is more."""
    with np.errstate(invalid="ignore", over="ignore"):  # infinity over infinity: a sample that has diverged
        return norm / np.where(scale > 0, scale, np.where(norm > 0, norm, 1.0))
