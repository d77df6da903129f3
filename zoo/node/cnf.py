"""Continuous normalizing flow: a density that an ODE carries to a normal distribution.

    dz/dt = f(t, z),  z(0) = x,        log p(x) = log N(z(T); 0, I) + int_0^T tr(df/dz) dt

The trace is exact, or Hutchinson's estimate ``e . (df/dz e)`` with one random ``e`` a sample, fixed over the solve.
Both are Jacobian-vector products in forward mode, taken along with f itself: nothing is stored for a backward pass of
their own, so that every adjoint can differentiate them. Two integrals that regularize the path come along on request:
the kinetic energy ``int |f|^2 dt`` and the Jacobian's norm ``int |df/dz e|^2 dt``; and an estimate of the error that
the solver makes along the path, taken at one random time (`zoo.solvers.ode.runge_kutta.local_error`).

The same field can be trained without a solve: `CNF.flow_matching_loss` is flow matching (`zoo.node.flow_matching`).

Reference: Grathwohl et al., "FFJORD", 2019, https://arxiv.org/abs/1810.01367;
Finlay et al., "How to train your neural ODE", 2020, https://arxiv.org/abs/2002.02798 (the two integrals);
Ghosh et al., "STEER", 2020, https://arxiv.org/abs/2006.10711 (a random end time: the argument ``end`` of `CNF.flow`);
Pal, Edelman and Rackauckas, "Locally regularized neural differential equations", 2023,
https://arxiv.org/abs/2303.02262 (the error at a random time)

What differs from the papers: the field is smooth everywhere (tanh), and the trace comes in forward mode, not reverse.

Shape letters: ``B`` samples, ``D`` dimensions of one sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.implicit import ImplicitMixin
from zoo.node.derivatives import jvp
from zoo.node.fields import MLPField, Time
from zoo.node.flow_matching import Coupling, flow_matching_loss
from zoo.solvers.ode.runge_kutta import RungeKutta, local_error

Trace = Literal["exact", "hutchinson"]


class Flow(NamedTuple):
    """Where a flow took a batch, and what happened on the way; (B, D), then (B,) each."""

    z: Tensor
    trace: Tensor  # int tr(df/dz) dt
    kinetic: Tensor  # int |f|^2 dt
    jacobian: Tensor  # int |df/dz e|^2 dt, whose mean over e is int |df/dz|_F^2 dt; the norm itself where exact
    error: Tensor  # root mean square error of a step at a random time, times T: on average its sum; 0 if not asked for

    @property
    def log_prob(self) -> Tensor:
        """``log p(x)`` in nats, (B,)."""
        return self.trace + normal_log_prob(self.z)


def normal_log_prob(z: Tensor) -> Tensor:
    """``log N(z; 0, I)``, (B,)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)


class Augmented(nn.Module):
    """The field of ``(z, integrals)``: the sample, and as many integrals of `Flow` as it has room for, (B, 1..3).

    ``e`` (B, D) is Hutchinson's noise; without it the trace is exact, at ``D`` times the cost of f.
    """

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor], *noise: Tensor) -> tuple[Tensor, Tensor]:
        z, integrals = state
        if noise:
            f, along = jvp(self.field, t, z, noise[0])
            trace, norm = (noise[0] * along).sum(1), along.square().sum(1)
        else:
            d = z.shape[1]  # all D unit vectors at once, in a batch of B D
            basis = torch.eye(d, dtype=z.dtype, device=z.device).repeat(len(z), 1)
            times = t.expand(len(z), 1).repeat_interleave(d, 0) if t.dim() else t
            f, along = jvp(self.field, times, z.repeat_interleave(d, 0), basis)
            f = f.view(len(z), d, d)[:, 0]
            trace = (basis * along).sum(1).view(len(z), d).sum(1)
            norm = along.square().sum(1).view(len(z), d).sum(1)
        return f, torch.stack([trace, f.square().sum(1), norm][: integrals.shape[1]], 1)


class CNF(ImplicitMixin, nn.Module):
    """FFJORD: log-densities of samples (B, D), and new samples.

    Args:
        features: D.
        hidden: units of the field's hidden layers.
        time: how the field knows the time.
        act: its activation; it must be smooth, as its derivative is integrated.
        end: T, the time at which samples are normally distributed.
        trace: in training; evaluation takes the exact one.
    """

    problem_types: ClassVar[tuple[str, ...]] = ("ode",)

    def __init__(
        self,
        features: int = 2,
        hidden: Sequence[int] = (64, 64, 64),
        time: Time = "concat_squash",
        act: Literal["tanh", "softplus", "silu"] = "tanh",
        end: float = 1.0,
        trace: Trace = "exact",
    ) -> None:
        super().__init__()
        if features < 1 or not end > 0:
            raise ValueError(f"A flow needs at least one feature and end above 0; got {features} and {end}.")
        if act not in ("tanh", "softplus", "silu"):
            raise ValueError(
                f"act must be smooth (tanh, softplus or silu), as its derivative is integrated; got {act!r}."
            )
        if trace not in ("exact", "hutchinson"):
            raise ValueError(f"trace must be 'exact' or 'hutchinson'; got {trace!r}.")
        self.features, self.end, self.trace = features, end, trace
        self.field = Augmented(MLPField(features, hidden, time, act))
        self.configure_implicit({"name": "dopri5", "rtol": 1e-4, "atol": 1e-5, "max_steps": 1000}, "unroll")

    def flow(self, x: Tensor, trace: Trace | None = None, *, end: float | None = None, error: bool = False) -> Flow:
        """Take samples (B, D) to the normal distribution, with the integrals along the way.

        Args:
            x: the samples.
            trace: exact, or by Hutchinson's estimate; None: as the model was made, exact in evaluation mode.
            end: another end time than the model's, as STEER draws one for each training step.
            error: also estimate the error that the solver makes, which needs one more step.

        Raises:
            ValueError: another shape than (B, D), no samples or some that are not finite, an end that is not above 0,
                or an error asked of a solver that makes no estimate.
        """
        end = self.end if end is None else end
        if not end > 0:
            raise ValueError(f"The flow's end must be above 0; got {end}.")
        if not error:
            z, integrals = self._carry(x, trace, 3, (0.0, end))
            divergence, kinetic, jacobian = integrals[-1].unbind(1)
            return Flow(z[-1], divergence, kinetic, jacobian, torch.zeros_like(kinetic))
        solver = self._present("dopri5", "unroll")[0]
        if not isinstance(solver, RungeKutta) or not solver.embedded:
            raise ValueError(
                f"The solver {type(solver).__name__} estimates no error that could be penalized; use one that does, "
                "such as dopri5, tsit5, bosh3 or heun, or leave the error out."
            )
        when = end * float(torch.rand(()).clamp(0.01, 0.99))
        z, integrals = self._carry(x, trace, 3, (0.0, when, end))
        assert self.last is not None and self.last.stats.accepted is not None
        size = end / max(1, int(self.last.stats.accepted.max()))
        wrong = end * local_error(solver, self.field.field, when, size, z[1])
        divergence, kinetic, jacobian = integrals[-1].unbind(1)
        return Flow(z[-1], divergence, kinetic, jacobian, wrong)

    def log_prob(self, x: Tensor, trace: Trace | None = None) -> Tensor:
        """``log p(x)`` in nats, (B,)."""
        z, integrals = self._carry(x, trace, 1, (0.0, self.end))
        return integrals[-1, :, 0] + normal_log_prob(z[-1])

    def flow_matching_loss(self, x: Tensor, coupling: Coupling = "independent") -> Tensor:
        """Flow matching on samples (B, D), with fresh noise and times: a scalar; see `zoo.node.flow_matching`.

        Raises:
            ValueError: another shape than (B, D), no samples or some that are not finite, or too few for the coupling.
        """
        self._check(x)
        self.last = None  # nothing is solved: what an earlier solve took is not this loss's cost
        return flow_matching_loss(self.field.field, x, end=self.end, coupling=coupling)

    def _check(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[1] != self.features:
            raise ValueError(f"Expected samples of shape (B, {self.features}); got {tuple(x.shape)}.")
        if not len(x):
            raise ValueError(f"Expected at least one sample; got a batch of shape {tuple(x.shape)}.")
        bad = ~torch.isfinite(x.detach()).all(1)
        if bad.any():
            where = bad.nonzero().flatten().tolist()[:5]
            raise ValueError(f"The batch is not finite in samples {where}; check the data for NaN.")

    def _carry(self, x: Tensor, trace: Trace | None, count: int, ts: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        """The samples at the times, and the first integrals of `Flow`: those not asked for cost no steps."""
        self._check(x)
        if trace is None:
            trace = self.trace if self.training else "exact"
        noise = (torch.randn_like(x),) if trace == "hutchinson" else ()
        z, integrals = self.integrate(self.field, (x, x.new_zeros(len(x), count)), ts, args=noise)
        return z, integrals

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """New samples (count, D): normal ones, taken back along the flow.

        Raises:
            ValueError: a count below 1.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1; got {count}.")
        like = next(self.parameters())
        z = torch.randn(count, self.features, generator=generator, dtype=like.dtype, device=like.device)
        return self.inverse(z)

    def inverse(self, z: Tensor) -> Tensor:
        """Where the flow carries normal samples (B, D) to, backwards in time."""
        self._check(z)
        return self.integrate(self.field.field, z, (self.end, 0.0))[-1]

    def forward(self, x: Tensor) -> Tensor:
        """``log p(x)`` (B,) of samples (B, D)."""
        return self.log_prob(x)
