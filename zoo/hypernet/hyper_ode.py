"""Neural ODEs whose vector field another network writes, for every sample or for all.

    dy/dt = f(t, y; theta(c)),        theta(c) = generator(c)

A family of dynamical systems has one law and many parameters: a pendulum's length and friction are constant along a
trajectory and differ between trajectories. The code ``c`` is what a few observations say of the system at hand, and the
generated field is that system's own. Gradients reach the generator through every adjoint, backsolve too: generated
weights go to the solve as arguments of their samples, never as something that the field merely holds.

Shape letters: ``B`` samples, ``C`` numbers in a code, ``T`` rows, ``D`` channels, ``Q`` times that are asked for.

References: Chen, Rubanova, Bettencourt and Duvenaud, "Neural ordinary differential equations", NeurIPS 2018; Grathwohl
et al., "FFJORD", ICLR 2019, whose released code has fields with generated weights (``hyper``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from zoo.hypernet.generators.base import Generator
from zoo.hypernet.generators.base import Spec as GeneratorSpec
from zoo.hypernet.lipschitz import constrain
from zoo.hypernet.target import HyperTarget, Select
from zoo.implicit import DelegatesImplicit, ImplicitMixin
from zoo.layers.series import Outcome, check_series, check_sizes, gaps
from zoo.solve import Spec

CONDITIONS = ("weights", "input", "none")


class HyperODE(ImplicitMixin, nn.Module):
    """The layer ``(y0, code, ts) -> y(ts)`` around a field of your own, whose parameters are written from the code.

        >>> class Field(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = nn.Linear(2, 2)
        ...     def forward(self, t, y):
        ...         return torch.tanh(self.linear(y))
        >>> layer = HyperODE(Field(), code_size=3)
        >>> layer(torch.randn(4, 2), torch.randn(4, 3), [0.0, 0.5, 1.0]).shape    # four samples, four fields
        torch.Size([3, 4, 2])

    Args:
        field: called as ``field(t, y)``; ``t`` broadcasts against ``y``. It is taken over, see `HyperTarget`.
        code_size: C.
        select: which of the field's parameters are generated; the others are ordinary ones.
        generator: a name of ``zoo.hypernet.GENERATORS``, or a mapping with its options.
        limit: the largest Lipschitz constant of each generated weight; None leaves them free. It bounds the stiffness:
            trajectories part no faster than ``exp(t prod(limit))`` with 1-Lipschitz activations between the layers.
        solver, adjoint: as everywhere.

    Raises:
        ValueError, TargetError: a selection, a generator or a limit that cannot be.
    """

    problem_types = ("ode",)

    def __init__(
        self,
        field: nn.Module,
        code_size: int,
        *,
        select: Select = "*",
        generator: GeneratorSpec = "full",
        limit: float | None = None,
        solver: Spec | Any = "dopri5",
        adjoint: Spec | Any = "unroll",
    ) -> None:
        super().__init__()
        if limit is not None and not limit > 0:
            raise ValueError(f"limit must be above 0; got {limit}. None: no constraint.")
        self.target = HyperTarget(field, select)
        self.generator = Generator(self.target, code_size, generator, init="hyperfan_in")
        self.limit = limit
        self.configure_implicit(solver, adjoint)

    def weights(self, code: Tensor) -> dict[str, Tensor]:
        """Return the generated weights (..., *shape) of codes (..., C), within the limit if there is one."""
        theta = self.generator(code)
        if self.limit is not None:
            for s in self.target.spec:
                if s.role == "weight":
                    theta[s.name] = constrain(theta[s.name], len(s.shape), self.limit)
        return theta

    def forward(self, y0: Tensor, code: Tensor, ts: Tensor | Sequence[float]) -> Tensor:
        """Return the states (T, B, ...) at the times ``ts``.

        Args:
            y0: the start, (B, ...).
            code: (B, C) for a field of every sample's own; (C,) for one field.
            ts: see `zoo.odeint`; (B, T) with a solver of ``per_sample=True``.

        Raises:
            ValueError: another number of codes than of samples.
        """
        theta, others = self.weights(code), tuple(self.target.parameters())
        if code.dim() == 1:

            def shared(t: Tensor, y: Tensor) -> Tensor:
                return self.target(theta, t, y)

            return self.integrate(shared, y0, ts, params=(*theta.values(), *others))
        if code.dim() != 2 or len(code) != len(y0):
            raise ValueError(f"{len(y0)} samples need a code each, or one (C,) for all; got {tuple(code.shape)}.")
        names = list(theta)

        def each(t: Tensor, y: Tensor, *tensors: Tensor) -> Tensor:
            if t.dim() == 0:  # a time of every sample's own, as its weights are
                t = t.expand(len(y), *(1 for _ in y.shape[1:]))
            return self.target.each(dict(zip(names, tensors, strict=True)), t, y)

        return self.integrate(each, y0, ts, args=tuple(theta.values()), params=others)


class Field(nn.Module):
    """An autonomous field: ``dy/dt = W_n tanh(... tanh(W_1 y + b_1)) + b_n``, of the first ``out`` channels of y.

    Further channels are constant in time: what a code given as an input is.
    """

    def __init__(self, out: int, constant: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.constant = constant
        sizes = [out + constant, *hidden]
        self.body = nn.Sequential()
        for a, b in pairwise(sizes):
            self.body.extend([nn.Linear(a, b), nn.Tanh()])
        self.body.append(nn.Linear(sizes[-1], out))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        dy = self.body(y)
        return torch.cat([dy, torch.zeros_like(y[:, : self.constant])], 1) if self.constant else dy


class HyperODEForecast(DelegatesImplicit, nn.Module):
    """Recognize a system from a few observations, write its field, and follow it.

        h = GRU(time gaps, values, masks),   c = code(h),   y(t_T) = last seen + start(h),   dy/dt = f(y; theta(c))

    Args:
        features: D, channels of a series, all of which are the state.
        width: of the encoder.
        code_size: C.
        hidden: widths of the field.
        condition: how the code reaches the field: ``weights`` writes them; ``input`` appends it to the state, the usual
            way; ``none`` is one field for all systems. The other two are what the first is compared with.
        generator: a name of ``zoo.hypernet.GENERATORS``, for ``weights``.
        limit: Lipschitz constant of each generated weight, or None.

    Raises:
        ValueError: sizes or a condition that cannot be.
    """

    num_classes = 0

    def __init__(
        self,
        features: int = 2,
        width: int = 64,
        code_size: int = 8,
        hidden: Sequence[int] = (32, 32),
        condition: str = "weights",
        generator: str = "full",
        limit: float | None = 8.0,
    ) -> None:
        super().__init__()
        check_sizes(type(self).__name__, features, 0, width=width, code_size=code_size, hidden=min(hidden, default=1))
        if condition not in CONDITIONS:
            raise ValueError(f"condition must be one of {', '.join(CONDITIONS)}; got {condition!r}.")
        self.features, self.condition = features, condition
        self.encoder = nn.GRU(1 + 2 * features, width, batch_first=True)
        self.start = nn.Linear(width, features)
        nn.init.zeros_(self.start.weight)  # at first the last observation itself
        nn.init.zeros_(self.start.bias)
        self.code = nn.Linear(width, code_size) if condition != "none" else None
        self.constant = code_size if condition == "input" else 0
        field = Field(features, self.constant, hidden)
        self.flow: HyperODE | PlainODE = PlainODE(field)
        if condition == "weights":
            self.flow = HyperODE(field, code_size, generator=generator, limit=limit)

    def forward(self, times: Tensor, values: Tensor, mask: Tensor, query: Tensor | None = None) -> Outcome:
        """Return values at the asked times.

        Args:
            times: (B, T), values (B, T, D) and mask (B, T, D) bool: what was seen.
            query: (B, Q) times after the last one seen, increasing; where the series differ in them (or in their last
                seen time), the solver must be one of ``per_sample=True``.

        Raises:
            ValueError: series that no model can use; no query, or one that does not follow what was seen.
        """
        check_series(times, values, mask, query, self.features)
        if query is None:
            raise ValueError("This model predicts values: give the times to predict at as query (B, Q).")
        weight = mask.to(values.dtype)
        values = torch.where(mask, values, 0.0)
        rows = torch.arange(times.shape[1], device=times.device)
        last = torch.where(mask.any(-1), rows, 0).amax(1)  # padding rows follow it
        states, _ = self.encoder(torch.cat([gaps(times)[..., None], values, weight], -1))
        pick = last[:, None, None]
        h = states.take_along_dim(pick, 1)[:, 0]
        y0 = values.take_along_dim(pick, 1)[:, 0] + self.start(h)
        ts = torch.cat([times.take_along_dim(last[:, None], 1), query], 1)
        if not (ts[:, 1:] > ts[:, :-1]).all():
            raise ValueError("The asked times must increase and lie after the last observation of their series.")
        ts = ts.to(torch.float64)
        if (ts == ts[:1]).all():
            ts = ts[0]
        if self.code is None:
            states = self.flow(y0, ts)
        elif self.condition == "weights":
            states = self.flow(y0, self.code(h), ts)
        else:
            states = self.flow(torch.cat([y0, self.code(h)], 1), ts)[..., : self.features]
        return Outcome(values=states[1:].transpose(0, 1))


class PlainODE(ImplicitMixin, nn.Module):
    """``(y0, ts) -> y(ts)`` with one field for all samples."""

    problem_types = ("ode",)

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.configure_implicit("dopri5", "unroll")

    def forward(self, y0: Tensor, ts: Tensor | Sequence[float]) -> Tensor:
        return self.integrate(self.field, y0, ts, args=())
