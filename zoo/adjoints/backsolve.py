"""The adjoint equation of an ODE, solved backwards in time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.adjoints.base import Adjoint
from zoo.adjoints.rng import saved_autocast
from zoo.solvers.autograd import leaves, refuse_second_order
from zoo.solvers.base import BackwardLog, Map, Result
from zoo.solvers.ode.base import ODESolution, ODESolver, VectorField
from zoo.solvers.ode.events import Events
from zoo.solvers.ode.integrate import integrate
from zoo.solvers.ode.one_step import OneStep
from zoo.solvers.packing import Packed


@dataclass(frozen=True, kw_only=True)
class Backsolve(Adjoint):
    """Memory of the requested states only; the gradient of the *equation*, approximate at the tolerance.

    From each requested time back to the one before, the state, the adjoint ``a = dL/dy`` and the gradients are solved
    together: ``da/dt = -a^T df/dy``, ``dg/dt = -a^T df/dtheta``. The state starts anew from the stored one each time.
    Prefer `Checkpoint`, whose gradient is exact, unless one state an accepted step is too much.

    Args:
        solver: of the backward equation; by default the forward one. A solver that works forwards may meet a stiff
            equation backwards.
        seminorm: leave the parameter gradients out of the error control. They do not feed back into the equation, and
            controlling them wastes up to half of the evaluations.

    Reference: Chen et al., "Neural ordinary differential equations", NeurIPS 2018; Kidger, Chen, Lyons, "Hey, that's
    not an ODE: faster ODE adjoints via seminorms", ICML 2021.
    """

    solver: ODESolver | None = None
    seminorm: bool = True

    def integrate(
        self,
        f: VectorField,
        y0: Tensor,
        ts: Tensor | Sequence[float],
        solver: ODESolver,
        args: tuple[Tensor, ...] | None = None,
        params: tuple[Tensor, ...] | None = None,
        *,
        event: Events | None = None,
        dense: bool = False,
    ) -> ODESolution:
        if not torch.is_grad_enabled():
            return integrate(f, y0, ts, solver, args=args, event=event, dense=dense)
        if event is not None or dense:
            raise ValueError("Backsolve gives no gradient to dense output and events; use checkpoint or unroll.")
        with torch.no_grad():
            solution = integrate(f, y0, ts, solver, args=args)
        times = torch.as_tensor(ts, dtype=torch.float64).tolist()
        if isinstance(times[0], list):
            raise ValueError(
                "Backsolve needs the same times for all samples; use checkpoint or unroll for ts of (B, T)."
            )
        params = _parameters(f) if params is None else tuple(params)
        _check(f, y0, times[0], args or (), params)
        log = BackwardLog()
        stats = dataclasses.replace(
            solution.stats,
            nfe=solution.stats.nfe + 1,
            sample_nfe=solution.stats.sample_nfe + len(y0),
            backward=log,
        )
        backward = _Backward(
            f, times, self._backward_solver(solver, times), self.seminorm, len(args or ()), log, solution.result,
            saved_autocast(y0.device.type),
        )  # fmt: skip
        value = _Solve.apply(backward, solution.value, y0, *(args or ()), *params)
        return dataclasses.replace(solution, value=value, stats=stats)

    def _backward_solver(self, forward: ODESolver, times: list[float]) -> ODESolver:
        solver = self.solver or forward
        if not isinstance(solver, OneStep):
            return solver
        if not solver.adaptive and solver.step_size is None:
            size = abs(times[-1] - times[0]) / (solver.steps or 32)
            solver = dataclasses.replace(solver, steps=None, step_size=size)
        plain: dict[str, Any] = {"per_sample": False, "norm": "max", "first_step": None, "compile": False}
        known = {field.name for field in dataclasses.fields(solver)}
        return dataclasses.replace(solver, **{k: v for k, v in plain.items() if k in known})


@dataclass(frozen=True)
class _Backward:
    """What the backward solve needs besides tensors."""

    f: Map
    times: list[float]
    solver: ODESolver
    seminorm: bool
    args: int
    log: BackwardLog
    result: Result
    autocast: Callable[[], Any]

    def __call__(self, value: Tensor, grads: Tensor, y0: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradients to ``y0`` and to the inputs (args, then params) that want one."""
        if not self.result.success:
            raise RuntimeError(
                f"Backsolve cannot go back along a solve that did not reach its end: {self.result.value}"
            )
        args, params = inputs[: self.args], inputs[self.args :]
        shape, numel = y0.shape, y0.numel()
        wanted = [p.requires_grad for p in inputs]
        args = [a.detach().requires_grad_(a.requires_grad) for a in args]
        targets = [x for x, want in zip((*args, *params), wanted, strict=True) if want]

        def field(t: Tensor, flat: Tensor) -> Tensor:
            y, a = (x.view(shape) for x in flat[0, : 2 * numel].split(numel))
            with torch.enable_grad(), self.autocast():
                y = y.detach().requires_grad_()
                dy = self.f(t, y, *args)
                if dy.requires_grad:
                    pulled = torch.autograd.grad(dy, (y, *targets), -a, allow_unused=True, materialize_grads=True)
                else:
                    pulled = tuple(torch.zeros_like(x) for x in (y, *targets))
            return torch.cat([dy.detach().reshape(-1), *(p.reshape(-1).to(y.dtype) for p in pulled)])[None]

        root = 1 / math.sqrt(numel / len(y0))
        sizes = [x.numel() for x in targets]

        def norm(error: Tensor) -> Tensor:
            parts = error[0, : 2 * numel].view(2 * len(y0), -1)
            worst = torch.linalg.vector_norm(parts, dim=1).amax() * root
            if not self.seminorm:
                for part, size in zip(error[0, 2 * numel :].split(sizes), sizes, strict=True):
                    worst = torch.maximum(worst, torch.linalg.vector_norm(part) / math.sqrt(size))
            return worst[None]

        a = grads[-1].reshape(-1)
        rest = torch.zeros(sum(sizes), dtype=y0.dtype, device=y0.device)
        solves = []
        for i in range(len(self.times) - 1, 0, -1):
            start = torch.cat([value[i].reshape(-1), a, rest])[None]
            solution = integrate(field, start, self.times[i - 1 : i + 1][::-1], self.solver, norm=norm)
            solves.append(solution.stats)
            if not solution.result.success:
                raise RuntimeError(
                    f"Backsolve: the backward solve from t = {self.times[i]} to {self.times[i - 1]} failed. "
                    f"{solution.result.value} The adjoint checkpoint needs no backward solve."
                )
            end = solution.value[-1, 0]
            a = end[numel : 2 * numel] + grads[i - 1].reshape(-1)
            rest = end[2 * numel :]
        total = {k: sum(getattr(s, k) for s in solves) for k in ("nfe", "sample_nfe", "steps", "accepted", "rejected")}
        self.log.append(dataclasses.replace(solves[-1], **total))
        found = iter([g.view_as(x) for g, x in zip(rest.split(sizes), targets, strict=True)])
        return [
            a.view(shape),
            *(next(found).to(x.dtype) if want else None for x, want in zip(inputs, wanted, strict=True)),
        ]


class _Solve(torch.autograd.Function):
    """The states forward; the backward solve backward."""

    @staticmethod
    def forward(ctx: Any, backward: _Backward, value: Tensor, y0: Tensor, *inputs: Tensor) -> Tensor:  # type: ignore[override]
        ctx.backward_solve = backward
        ctx.save_for_backward(value, y0, *inputs)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        refuse_second_order("The adjoint Backsolve")
        value, y0, *inputs = ctx.saved_tensors
        return None, None, *ctx.backward_solve(value, grads[0], y0, inputs)


def _parameters(f: Map) -> tuple[Tensor, ...]:
    """The parameters of a field that is a module; none are known of another callable."""
    own = f.f if isinstance(f, Packed) else f
    module = getattr(own, "__self__", own)
    return tuple(p for p in module.parameters() if p.requires_grad) if isinstance(module, nn.Module) else ()


def _check(f: Map, y0: Tensor, t: float, args: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    """Raise where ``f`` depends on tensors that would silently get no gradient: by the graph of one evaluation."""
    known = {id(p) for p in params}
    for p in params:
        if p.grad_fn is not None and any(id(x) in known for x in leaves(p)):
            raise ValueError("params holds a tensor and one that was computed from it, which would count its gradient "
                             "twice; give those that f uses directly.")  # fmt: skip
    with torch.enable_grad():
        y = y0.detach().requires_grad_()
        bound = tuple(a.detach().requires_grad_(a.requires_grad) for a in args)
        dy = f(torch.full((), t, dtype=y.dtype, device=y.device), y, *bound)
    own = {id(x) for x in (y, *bound)} | known
    stop = {p.grad_fn for p in params if p.grad_fn is not None}
    missing = sum(id(leaf) not in own for leaf in leaves(dy, stop))
    if missing:
        raise ValueError(
            f"f depends on {missing} tensor{'s' * (missing > 1)} that require gradients (parameters, or what generated "
            "weights were computed from) and that backsolve was not told of: they would silently get none. Give what "
            "f uses as odeint(..., params=...), pass f as an nn.Module, or use the adjoint checkpoint."
        )
