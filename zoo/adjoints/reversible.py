"""The exact gradient of the reversible iteration, at the memory of one evaluation."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.adjoints.base import Adjoint, wrong_pair
from zoo.adjoints.recompute import Recomputation, RecomputedStep, kept_tensors
from zoo.adjoints.rng import RNGState, saved_autocast
from zoo.solvers.base import Map, Solution, Solver, Stats
from zoo.solvers.iterate import iterate
from zoo.solvers.packing import resolution
from zoo.solvers.reversible import Reversible as ReversibleSolver


@dataclass(frozen=True, kw_only=True)
class Reversible(Adjoint):
    """Undo the steps on the way back: the gradient of the computation itself, without a linear solve and unbiased
    however few steps were taken; tensors kept: those of one evaluation.

    Serves the solver `reversible` only. The two iterates are float64, whatever the map computes in, so that the steps
    can be undone. Gradients reach whatever the map captured, and what it draws at random (dropout) is drawn again. A
    sample that is lost to infinity or NaN gives no gradient, nor does one that grows so much that its steps cannot be
    undone. First derivatives only.

    Raises:
        TypeError: another solver.
        ValueError: more steps than can be undone in float64, judged by ``(1 - damping)^(-2 max_steps)``.

    Reference: McCallum, Arora and Foster, "Reversible deep equilibrium models", 2025.
    """

    def solve(self, f: Map, z0: Tensor, solver: Solver, args: tuple[Tensor, ...] | None = None) -> Solution[Tensor]:
        if not isinstance(solver, ReversibleSolver):
            raise wrong_pair(self, "a fixed point", solver, "reversible as the solver, or the adjoint implicit")
        growth = (1 - solver.damping) ** (-2 * solver.max_steps) * torch.finfo(torch.float64).eps
        if growth > 1e-2:
            raise ValueError(
                f"{solver.max_steps} reversible steps of damping {solver.damping} cannot be undone: rounding errors "
                f"would grow to {growth:.1e}. Take fewer steps (max_steps) or a smaller damping, or use the adjoint "
                "implicit."
            )
        undo = _Undo(f, args or (), solver.damping, z0)
        floor = resolution(f, z0)
        solution = iterate(undo.call, z0.double(), undo.watch(solver), select="last", floor=floor, keep_state=True)
        undo.end = solution.state.y.detach(), solution.state.z.detach()
        lost, kept = undo.cannot(solution.stats)
        if lost.any():
            undo.lost = lost.to(z0.device)[:, None]
            value = torch.where(undo.lost, solution.value.detach(), solution.value)
            solution = dataclasses.replace(solution, value=value)
        if kept:
            warnings.warn(
                f"{kept} of {len(z0)} samples grew so much that their reversible steps cannot be undone, and give no "
                "gradient: the map does not contract there. Normalize it, or take fewer steps (max_steps).",
                stacklevel=2,
            )
        return dataclasses.replace(solution, value=solution.value.to(z0.dtype), state=None)


class _Undo:
    """The evaluations of one solve, each a `RecomputedStep` that finds its input again by undoing what came after.

    Evaluation 0 is f(z0); step k (from 1) makes evaluation 2k - 1 = f(y_k) and 2k = f(z_k).
    """

    def __init__(self, f: Map, args: tuple[Tensor, ...], damping: float, z0: Tensor) -> None:
        self.f, self.args, self.damping, self.dtype = f, args, damping, z0.dtype
        self.start = z0.detach()
        self.lost: Tensor | None = None  # (B, 1)
        self.draws: list[RNGState] = []  # of each evaluation
        self.masks: list[Tensor | None] = []  # of each step: the samples that it moved
        self.solve = Recomputation("Reversible", z0.device)
        self.end: tuple[Tensor, Tensor] | None = None
        self.at: tuple[int, Tensor, Tensor] | None = None  # (evaluation, y, z): both as they were when it was made
        self.known: tuple[int, Tensor] = (-1, torch.empty(0))  # the newest replayed evaluation, and its answer
        self.first = torch.empty(0)  # (B,) sizes of the start and of its residual, together

    def cannot(self, stats: Stats) -> tuple[Tensor, int]:
        """(B,) whose steps cannot be undone, and how many of them are finite all the same.

        Undoing leaves rounding errors of the size of the last state, times ``(1 - damping)^-2`` for every step. Where
        they exceed the first move, what comes out has nothing to do with the early states.
        """
        assert self.end is not None and stats.lost is not None
        size = torch.linalg.vector_norm(torch.cat(self.end, 1), dim=1).cpu()
        error = size * torch.finfo(torch.float64).eps * (1 - self.damping) ** (-2.0 * stats.steps)
        grown = ~stats.converged & ~stats.lost & ~(error <= self.first.cpu())
        return stats.lost | grown, int(grown.sum())

    def watch(self, solver: ReversibleSolver) -> Solver:
        """The same solver, noting which samples each step moves."""
        return _Watched(**{f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)}, masks=self.masks)

    def call(self, z: Tensor) -> Tensor:
        number = len(self.draws)
        autocast = saved_autocast(z.device.type)

        def replay() -> None:
            with autocast():
                out = self._evaluate(self._input(number).requires_grad_(z.requires_grad))
            self.known = number, out.detach()

        frame = RecomputedStep(replay, self.solve)
        self.draws.append(frame.draws)
        out = frame.record(lambda: self._evaluate(z))
        if number == 0:
            self.first = torch.linalg.vector_norm(torch.cat([z.detach(), (out - z).detach()], 1), dim=1)
        self.solve.watch(out, self.args, (z, *self.args))
        return out

    def _evaluate(self, z: Tensor) -> Tensor:
        return self.f(z.to(self.dtype), *self.args).double()

    def _input(self, number: int) -> Tensor:
        """The input of an evaluation, from the end of the solve, one undone evaluation after the other."""
        assert self.end is not None
        if self.at is None or self.at[0] < number:
            self.at = (2 * len(self.masks), *self.end)
        now, y, z = self.at
        with torch.no_grad():
            while now > number:  # evaluation `now` is known; undo the line that used evaluation `now - 1`
                now -= 1
                mask = self.masks[now // 2]
                number_known, used = self.known
                if number_known != now:
                    with self.draws[now].again(), kept_tensors():  # f may differentiate: not of the step replayed
                        used = self._evaluate(y if now % 2 else z)
                old = ((z if now % 2 else y) - self.damping * used) / (1 - self.damping)
                if mask is not None:
                    old = torch.where(mask[:, None], old, z if now % 2 else y)
                y, z = (y, old) if now % 2 else (old, z)
        self.at = (now, y, z)
        if number == 0:  # known, not undone: behind a start of exact zeros a norm would enlarge what rounding left
            return self.start.double().clone()
        z = (y if now % 2 else z).detach().clone()
        # A lost sample cannot be undone. It has no gradient, and from its start the map's answer is finite: 0 * NaN
        # would reach the parameters that it shares with the others.
        return z if self.lost is None else torch.where(self.lost, self.start.to(z.dtype), z)


@dataclass(frozen=True, kw_only=True)
class _Watched(ReversibleSolver):
    masks: list[Tensor | None] = dataclasses.field(default_factory=list)

    def step(self, f: Map, state: object, active: Tensor | None) -> object:  # type: ignore[override]
        self.masks.append(active)
        return super().step(f, state, active)  # type: ignore[arg-type]
