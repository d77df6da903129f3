"""Nonlinear least squares as a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.deq.optimization.splitting import apply, largest
from zoo.deq.optimization.status import ProgramRecord, Status
from zoo.implicit import ImplicitMixin
from zoo.solve import Spec

DAMPING = 1e-3  # of the first step, relative to the diagonal of J'J
FACTOR = (1 / 3, 2.0)  # by which the damping shrinks after a step that helped, and grows after one that did not


class LeastSquares(ImplicitMixin, nn.Module):
    """The layer ``(start, inputs) -> argmin_x 1/2 |r(x, inputs)|^2  subject to  lower <= x <= upper``, batched.

        >>> def decay(x, t, y):                       # y = x_0 exp(-x_1 t), one curve a sample
        ...     return x[:, :1] * torch.exp(-x[:, 1:] * t) - y
        >>> t = torch.linspace(0, 2, 9).expand(1, 9)
        >>> LeastSquares(decay)(torch.ones(1, 2), t, 3 * torch.exp(-0.5 * t)).round(decimals=3)
        tensor([[3.0000, 0.5000]])

    Levenberg-Marquardt steps with a damping of each sample's own,

        x+ = clip(x - (J'J + mu diag(J'J))^-1 J'r, lower, upper),

    are taken until an undamped one would be small. The gradient to the inputs, and to whatever ``r`` captures, is that
    of the stationary point, by the adjoint: exact, with the second derivatives of ``r`` that a Gauss-Newton matrix
    leaves out. The start has none.

    Args:
        residual: called as ``residual(x, *inputs)`` with x (B, N); returns (B, M), each row from its own sample.
        solver: refines and checks the answer at the end, where a gradient is wanted; its ``rtol``, ``atol`` and
            ``max_steps`` are those of the damped steps.
        adjoint: how gradients cross the solve.
        lower, upper: bounds of x, numbers or (N,).

    Reference: More, "The Levenberg-Marquardt algorithm: implementation and theory", 1978.
    """

    lower: Tensor | None
    upper: Tensor | None

    def __init__(
        self,
        residual: Callable[..., Tensor],
        solver: Spec | Any = None,
        adjoint: Spec | Any = None,
        *,
        lower: Tensor | float | None = None,
        upper: Tensor | float | None = None,
    ) -> None:
        super().__init__()
        self.residual = residual
        for name, bound in (("lower", lower), ("upper", upper)):
            self.register_buffer(
                name, None if bound is None else torch.as_tensor(bound, dtype=torch.get_default_dtype())
            )
        self.program: ProgramRecord | None = None
        self.configure_implicit(
            solver or {"name": "picard", "rtol": 1e-6, "atol": 1e-8, "max_steps": 100},
            adjoint or {"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-8, "atol": 0.0, "max_steps": 200}},
        )

    def forward(self, start: Tensor, *inputs: Tensor) -> Tensor:
        """Solve from a start (B, N); inputs are batch first.

        Raises:
            ValueError: a start or a residual of another shape than (B, N) and (B, M).
        """
        if start.dim() != 2:
            raise ValueError(f"LeastSquares starts from (B, N), one point a sample; got {tuple(start.shape)}.")
        with torch.no_grad():
            x, inverse, status, steps = self._descend(self._clip(start.detach().clone()), inputs)
        if torch.is_grad_enabled():
            # The joint: a Gauss-Newton step, whose fixed points are the stationary points.
            x = self.solve(
                lambda z, P, *given: self._clip(z - apply(P, self._slope(z, given))), x, args=(inverse, *inputs)
            )
        with torch.no_grad():
            slope = self._slope(x.detach(), inputs).detach()
            error = largest(x - self._clip(x - apply(inverse, slope)))
        self.program = ProgramRecord(status, torch.zeros_like(error), error, slope, steps, 1)
        if self.throw and not self.program.solved:
            bad = next(i for i, s in enumerate(status) if s is not Status.solved)
            raise ValueError(f"The least squares of sample {bad} are not solved: {status[bad].value}")
        lost = torch.tensor([s is Status.nonfinite for s in status], device=x.device)
        return torch.where(lost[:, None], torch.nan, x)

    def _clip(self, x: Tensor) -> Tensor:
        x = x if self.lower is None else torch.maximum(x, self.lower.to(x))
        return x if self.upper is None else torch.minimum(x, self.upper.to(x))

    def _slope(self, x: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """``J'r``, with its graph where gradients are recorded."""
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            half = 0.5 * self._values(x, inputs).square().sum()
            (slope,) = torch.autograd.grad(half, x, create_graph=recorded, materialize_grads=True)
        return slope

    def _values(self, x: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        r = self.residual(x, *inputs)
        if r.dim() != 2 or len(r) != len(x):
            raise ValueError(f"The residual must return (B, M) with B = {len(x)}; got {tuple(r.shape)}.")
        return r

    def _jacobian(self, x: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """(B, M, N), one forward-mode product a variable, all in one batch."""
        basis = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None].expand(-1, len(x), -1)

        def product(v: Tensor) -> Tensor:
            return torch.func.jvp(lambda z: self._values(z, inputs), (x,), (v,))[1]

        return torch.func.vmap(product)(basis).permute(1, 2, 0)

    def _descend(self, x: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Status, ...], Tensor]:
        """The damped steps; also the inverse of J'J over the free variables, the statuses and the steps taken."""
        solver = self._present("picard", "implicit")[0]
        mu = x.new_full((len(x), 1), DAMPING)
        steps = torch.zeros(len(x), dtype=torch.long, device=x.device)
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        r = self._values(x, inputs)
        for k in range(solver.max_steps + 1):
            J = self._jacobian(x, inputs)
            broken = ~(r.isfinite().all(1) & J.isfinite().all((1, 2)))[:, None]
            J, finite = torch.where(broken[:, :, None], 0.0, J), torch.where(broken, 0.0, r)
            H, slope = J.transpose(1, 2) @ J, (J.transpose(1, 2) @ finite[:, :, None])[:, :, 0]
            scale = H.diagonal(dim1=1, dim2=2)
            scale = torch.where(scale > 0, scale, 1.0)
            # A variable that a step of descent holds at its bound is left out: the others move along the face.
            free = torch.where((self._clip(x - slope / scale) == x) & (slope != 0), 0.0, 1.0)
            block = free[:, :, None] * H * free[:, None, :] + torch.diag_embed(scale * (1 - free))
            inverse = torch.linalg.solve_ex(block + torch.diag_embed(1e-12 * scale), eye.expand_as(H))[0]
            error = largest(x - self._clip(x - apply(inverse, slope)))
            solved = (error <= solver.atol + solver.rtol * largest(x)) & ~broken[:, 0]
            going = ~(solved | broken[:, 0])
            if k == solver.max_steps or not bool(going.any()):
                break
            damped = block + torch.diag_embed(mu * scale)
            move = torch.linalg.solve_ex(damped, (free * slope)[:, :, None])[0][:, :, 0]
            tried = torch.where(going[:, None], self._clip(x - move), x)
            r1 = self._values(tried, inputs)
            better = (r1.square().sum(1) <= r.square().sum(1)) & going
            x, r = torch.where(better[:, None], tried, x), torch.where(better[:, None], r1, r)
            mu = torch.where(better[:, None], FACTOR[0] * mu, FACTOR[1] * mu).clamp(1e-12, 1e12)
            steps += going
        ends = zip(solved.tolist(), broken[:, 0].tolist(), strict=True)
        status = tuple(Status.nonfinite if b else Status.solved if s else Status.max_steps for s, b in ends)
        return x, inverse, status, steps.cpu()
