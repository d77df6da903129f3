"""Every method of the installed torchdiffeq, as ``torchdiffeq:<method>``, filling the same statistics.

The methods are read off the installation, so that a new release brings its methods along. torchdiffeq keeps its own
rules: one step and one error norm (the root mean square over the whole batch) for all samples, and interpolation to
the requested times instead of steps onto them.

Reference: Chen, "torchdiffeq", https://github.com/rtqichen/torchdiffeq, 2018.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo._compat import torchdiffeq_callbacks, torchdiffeq_failure, torchdiffeq_methods
from zoo.solvers.ode.base import Field, ODESolution, Problem, WholeSolver
from zoo.solvers.ode.progress import IntegrationProgress

EVALUATIONS = 20  # for each of its max_steps, at most, of a method that does not tell its steps (scipy's)


@dataclass(frozen=True, kw_only=True)
class TorchDiffEq(WholeSolver):
    """One method of torchdiffeq.

    Args:
        steps, step_size: for its fixed-step methods, as elsewhere; at most one of the two, 32 steps by default.
        first_step: for its adaptive methods.
        options: further options of torchdiffeq's own, passed on as they are.
    """

    steps: int | None = None
    step_size: float | None = None
    first_step: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    method: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.step_size is not None:
            raise ValueError(f"{self.method}: give steps ({self.steps}) or step_size ({self.step_size}), not both.")

    def run(self, problem: Problem) -> ODESolution:
        name = f"torchdiffeq:{self.method}"
        for wanted, what in (
            (problem.dense, "dense output"),
            (problem.event is not None, "a terminal event of each sample"),
            (problem.step_wrapper is not None, "the checkpoint adjoint"),
        ):
            if wanted:
                raise ValueError(
                    f"{name} does not offer {what}; use one of this package's own methods, such as dopri5."
                )
        callbacks = torchdiffeq_callbacks(self.method)
        adaptive = "callback_accept_step" in callbacks
        watch = _Watch(problem.field, problem.ts[0], self._budget(adaptive))
        for callback in callbacks:
            setattr(watch, callback, getattr(watch, f"on_{callback.removeprefix('callback_')}"))
        times = problem.ts.tolist()
        estimates = adaptive or self.method == "scipy_solver"
        log = IntegrationProgress(problem.batch, times[0], fixed=not estimates)
        try:
            value = self._solve(watch, problem, times, adaptive)
            log.reached[:] = times[-1]
        except AssertionError as error:
            value = self._until_failure(watch, problem, times, adaptive)
            failed = {"max_steps": log.short, "stalled": log.stalled, "nonfinite": log.dead}[torchdiffeq_failure(error)]
            failed[:] = True
            log.reached[:] = watch.time
        if torch.is_grad_enabled() and (watch.requires_grad or problem.y0.requires_grad) and not value.requires_grad:
            raise ValueError(
                f"{name} computes outside of autograd: gradients cannot be unrolled; use adjoint 'backsolve'."
            )
        if len(value) < len(times):  # scipy gave up, and says nothing
            log.stalled[:] = True
            log.reached[:] = times[max(0, len(value) - 1)]
            value = _repeat_last(value if len(value) else problem.y0[None], len(times))
        if self.method == "scipy_solver":  # it interpolates, at the start too
            value = torch.cat([problem.y0[None].to(value), value[1:]])
        log.accepted[:], log.rejected[:] = watch.accepted or watch.tried - watch.rejected, watch.rejected
        log.last_dt[:] = watch.last_dt
        return log.solution(value, problem.field, problem.ts, [])

    def _budget(self, adaptive: bool) -> float:
        """Attempts at most, or for scipy, which tells none, evaluations; fixed steps are taken as asked for."""
        if "max_num_steps" in self.options:
            return float(self.options["max_num_steps"])
        return self.max_steps if adaptive or self.method == "scipy_solver" else math.inf

    def _solve(self, watch: _Watch, p: Problem, times: list[float], adaptive: bool) -> Tensor:
        from torchdiffeq import odeint

        options = dict(self.options)
        if adaptive:
            if self.first_step is not None:
                options.setdefault("first_step", self.first_step)
            if p.norm is not None:
                options.setdefault("norm", lambda x: p.norm(x).amax())
        elif self.method != "scipy_solver" and not {"grid_constructor", "step_size"} & set(options):
            size = self.step_size if self.step_size is not None else abs(p.ts[-1] - p.ts[0]) / (self.steps or 32)
            if "adams" in self.method:  # its weights hold for even steps only
                options["step_size"] = size
            else:
                options["grid_constructor"] = lambda f, y, ts: _grid(ts, size)
        # A clock of float32 cannot tell times apart that lie close together; torchdiffeq hands t to f in y's dtype.
        clock = p.y0.dtype if p.y0.device.type == "mps" else torch.float64
        ts = torch.tensor(times, dtype=clock, device=p.y0.device)
        return odeint(watch, p.y0, ts, rtol=self.rtol, atol=self.atol, method=self.method, options=options)

    def _until_failure(self, watch: _Watch, p: Problem, times: list[float], adaptive: bool) -> Tensor:
        """torchdiffeq drops all on failure: solve again to what was reached, and repeat the last state after it."""
        if watch.state is None:  # nothing is known of the way: scipy, or a field that is not finite at the start
            return _repeat_last(p.y0[None], len(times))
        if not bool(torch.isfinite(watch.state).all()) and watch.before[1] is not None:
            watch.time, watch.state = watch.before
        sign, state, reached = math.copysign(1.0, times[-1] - times[0]), watch.state, watch.time
        done = [t for t in times if sign * t <= sign * reached]
        counts, watch.most = (watch.tried, watch.accepted, watch.rejected), math.inf
        head = self._solve(watch, p, done, adaptive) if len(done) > 1 else p.y0[None]
        watch.time, (watch.tried, watch.accepted, watch.rejected) = reached, counts
        return _repeat_last(torch.cat([head, state[None]]), len(times))[: len(times)]


def _repeat_last(value: Tensor, count: int) -> Tensor:
    """``count`` states, those after the known ones repeating the last."""
    return torch.cat([value, value[-1:].expand(max(0, count - len(value)), *value.shape[1:])])


def _grid(ts: Tensor, size: float) -> Tensor:
    """Even steps of at most ``size`` from each requested time to the next."""
    times = ts.double().tolist()
    grid = [times[0]]
    for a, b in itertools.pairwise(times):
        n = max(1, math.ceil(abs(b - a) / size - 1e-9))
        grid += [a + (b - a) * i / n for i in range(1, n)] + [b]
    return torch.tensor(grid, dtype=ts.dtype, device=ts.device)


class _Watch:
    """The field as torchdiffeq calls it, and the callbacks by which it tells its steps."""

    def __init__(self, f: Field, start: float, most: float) -> None:
        self.f, self.time, self.most = f, float(start), most
        self.tried = self.accepted = self.rejected = 0
        self._dt: Any = math.nan
        self.state: Any = None
        self.before: tuple[float, Any] = (self.time, None)
        self.requires_grad = False

    @property
    def tells_steps(self) -> bool:
        return hasattr(self, "callback_step")

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        if not self.tells_steps and self.f.calls >= EVALUATIONS * self.most:
            raise AssertionError("max_num_steps exceeded")
        dy = self.f(t.to(y.dtype), y)
        if not self.tells_steps and not math.isfinite(dy.detach().sum().item()):  # scipy would go on for ever
            raise AssertionError("non-finite values in f")
        self.requires_grad = self.requires_grad or dy.requires_grad
        return dy

    def on_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        self.before = (self.time, self.state)
        self.time, self.state = float(t.detach()), y
        if self.tried >= self.most:  # torchdiffeq counts anew from each requested time, and fixed steps not at all
            raise AssertionError("max_num_steps exceeded")
        self.tried, self._dt = self.tried + 1, dt.detach()

    def on_accept_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        self.accepted += 1

    def on_reject_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        self.rejected += 1

    @property
    def last_dt(self) -> float:
        return float(self._dt)


_ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "adaptive_heun": 2, "fehlberg2": 2, "bosh3": 3, "rk4": 4,
           "dopri5": 5, "tsit5": 5, "dopri8": 8, "implicit_euler": 1, "implicit_midpoint": 2,
           "trapezoid": 2}  # fmt: skip


def _method(method: str) -> type[TorchDiffEq]:
    """The class of a method; module and name are where pickle finds it."""
    name = f"method_{method}"
    namespace = {"method": method, "order": _ORDERS.get(method, 1), "__module__": __name__, "__qualname__": name,
                 "__doc__": f"torchdiffeq's {method}.", "__annotations__": {}}  # fmt: skip
    return dataclass(frozen=True, kw_only=True)(type(f"torchdiffeq:{method}", (TorchDiffEq,), namespace))


globals().update({f"method_{method}": _method(method) for method in torchdiffeq_methods()})
