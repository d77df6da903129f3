"""Neural CDE: the state of an ODE that is driven by the data.

    dz = f(z) dX(t),   z(t_0) = g(X(t_0)),      f(z) a matrix (H, C)

``X`` is a continuous path through the observations, the time among its channels (`zoo.node.interpolation`): the model
is a continuous-time recurrent network whose updates are never discontinuous. Classes are read from the last state,
values at asked times from the state there; after the last observation the time alone moves, ``dz = f(z)_0 dt``.

From one event to the next the path is one polynomial of ``s in [0, 1]``, and ``dz/ds = f(z) X'(s)`` one solve
(`zoo.node.piecewise`): a solver never steps across a knot, where the slope of a linear path jumps and a cubic's bends.

Reference: Kidger, Morrill, Foster and Lyons, "Neural Controlled Differential Equations for Irregular Time Series",
2020, https://arxiv.org/abs/2005.08926

What differs from the paper: values are predicted too, and the default path is linear: a cubic through noisy values at
irregular times overshoots, since two close rows give it a steep slope, and takes ten times as many evaluations.

Shape letters: ``B`` series, ``T`` rows, ``D`` channels, ``Q`` asked times, ``H`` numbers of the state,
``C`` channels of the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.implicit import ImplicitMixin, SolveRecord
from zoo.layers.series import Outcome, check_series, check_sizes, events, readout
from zoo.node.interpolation import KINDS, Kind, Path, control
from zoo.node.ode_rnn import SOLVER
from zoo.node.piecewise import merge_records, solve_piece
from zoo.registry import unknown


class CDEField(nn.Module):
    """``f(z)`` (B, H, C): a network whose last layer ends in ``tanh``, which keeps the state from running away."""

    def __init__(self, width: int, channels: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.width, self.channels = width, channels
        layers: list[nn.Module] = []
        for a, b in pairwise([width, *hidden]):
            layers += [nn.Linear(a, b), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear([width, *hidden][-1], width * channels), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z).view(-1, self.width, self.channels)


class NeuralCDE(ImplicitMixin, nn.Module):
    """Neural CDE that predicts values at asked times, or classifies.

    Args:
        features: D, channels of the series.
        num_classes: 0 to predict values; else of the classifier.
        width: H, numbers of the state.
        hidden: units of the hidden layers of the field.
        head: units of the hidden layer of start and read-out.
        path: ``linear``, ``hermite``, ``cubic`` or ``rectilinear``; the last for predictions made online.
        counts: also drive by how often each channel has been seen so far, in tens: where it is informative that
            something was measured.

    Raises:
        ValueError: sizes that cannot be.
        UnknownName: no such path.
    """

    problem_types: ClassVar[tuple[str, ...]] = ("ode",)

    def __init__(
        self,
        features: int = 2,
        num_classes: int = 0,
        width: int = 32,
        hidden: Sequence[int] = (64,),
        head: int = 64,
        path: Kind = "linear",
        counts: bool = False,
    ) -> None:
        super().__init__()
        check_sizes("A neural CDE", features, num_classes, width=width, head=head)
        if path not in KINDS:
            raise ValueError(unknown("path", path, KINDS))
        self.features, self.num_classes, self.path, self.counts = features, num_classes, path, counts
        channels = 1 + features * (2 if counts else 1)
        self.start = readout(channels, head, width)
        self.field = CDEField(width, channels, hidden)
        self.head = readout(width, head, num_classes or features)
        self.configure_implicit(SOLVER, "unroll")

    def driven(self, s: Tensor, z: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        """``dz/ds = f(z) X'(s)`` along the piece ``b s + c s^2 + d s^3`` of the path."""
        slope = b + s * (2 * c + 3 * s * d)
        return torch.einsum("bhc,bc->bh", self.field(z), slope)

    def forward(self, times: Tensor, values: Tensor, mask: Tensor, query: Tensor | None = None) -> Outcome:
        """Values (B, Q, D) at the asked times, or logits (B, num_classes), of padded series (`zoo.layers.series`).

        Args:
            times: (B, T); values: (B, T, D), of any content where ``mask`` (B, T, D) is False.
            query: (B, Q) times to predict at; not needed for classes.

        Raises:
            ValueError: series that no model can use, or no query to predict at.
        """
        check_series(times, values, mask, query, self.features)
        if not self.num_classes and query is None:
            raise ValueError("A model without classes predicts values: give the times to predict at as query (B, Q).")
        seen = mask.to(values.dtype).cumsum(1) / 10 if self.counts else None
        path = control(self.path, times, values, mask, seen)
        order = events(times, values, mask, None if self.num_classes else query)
        states, z = self.run(path, order.time, order.asked)
        if self.num_classes:
            return Outcome(logits=self.head(z))
        return Outcome(values=self.head(order.at_asked(states)))

    def run(self, path: Path, time: Tensor, asked: Tensor) -> tuple[list[Tensor], Tensor]:
        """The state before each of the events at the times (B, E), E of (B, H), and the last one.

        The path's jumps, if it has any, are taken at the events that are knots: those not asked, in order.
        """
        z = self.start(path.evaluate(path.times[:, 0]))
        params = tuple(self.field.parameters())
        records: list[SolveRecord] = []
        jumps = bool(path.jump.any())
        knot = torch.cumsum(~asked, 1) - 1
        none = torch.zeros_like(path.jump[:, 0])
        before = []
        for k in range(time.shape[1]):
            if k:
                z = solve_piece(self, self.driven, z, path.between(time[:, k - 1], time[:, k]), params, records)
            before.append(z)
            if jumps:
                at = knot[:, k].clamp_min(0)[:, None, None].expand(-1, 1, none.shape[1])
                jump = torch.where(asked[:, k, None], none, path.jump.gather(1, at)[:, 0])
                z = solve_piece(self, self.driven, z, (jump, none, none), params, records)
        self.record(merge_records(records), records)
        return before, z
