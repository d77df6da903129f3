"""ODE-RNN: a recurrent network whose state follows an ODE between the observations.

    dh/dt = f(h)  from one observation to the next,      h <- GRU([m x, m], h)  at each

``x`` are the channels observed and ``m`` says which were. Asked for a time, it answers with ``g(h(t))`` before it sees
what is observed then; after the last observation ``h`` goes on by the ODE alone. Classes are read from the last state.

Reference: Rubanova, Chen and Duvenaud, "Latent Ordinary Differential Equations for Irregularly-Sampled Time Series",
2019, https://arxiv.org/abs/1907.03907

What differs from the paper: a common ``tanh`` GRU cell, without a variance as part of the state; the field is
autonomous, so that only differences of times matter; each piece between two events is an adaptive solve on a clock
that the batch shares (`zoo.node.piecewise`), where the authors take Euler steps over the union of all times.

Shape letters: ``B`` series, ``T`` rows, ``D`` channels, ``Q`` asked times, ``H`` numbers of the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.implicit import ImplicitMixin, SolveRecord
from zoo.layers.series import Events, Outcome, check_series, check_sizes, events, readout
from zoo.node.fields import MLPField, RuledField
from zoo.node.piecewise import merge_records, solve_piece

SOLVER = {"name": "bosh3", "rtol": 1e-3, "atol": 1e-4, "max_steps": 100, "first_step": 1.0}


class Flow(ImplicitMixin, nn.Module):
    """``dh/dt = f(h)`` with an autonomous network ``f``, followed over pieces of each series' own length.

    With a ``rule``, the first numbers of h rest, and a network writes from them the linear field of the others.
    """

    problem_types: ClassVar[tuple[str, ...]] = ("ode",)

    def __init__(self, width: int, hidden: Sequence[int], rule: int = 0) -> None:
        super().__init__()
        self.field = RuledField(width, rule, hidden) if rule else MLPField(width, hidden, "plain")
        self.configure_implicit(SOLVER, "unroll")

    def piece(self, s: Tensor, h: Tensor, dt: Tensor) -> Tensor:
        """``dh/ds`` where s runs from 0 to 1 while the time moves by dt (B, 1)."""
        return dt * self.field(s, h)

    def over(self, dt: Tensor, h: Tensor, records: list[SolveRecord]) -> Tensor:
        """The states (B, H) a time dt (B,) later; negative is earlier."""
        return solve_piece(self, self.piece, h, (dt[:, None],), tuple(self.field.parameters()), records)


class Recurrent(Flow):
    """The state that follows ``f`` between events, and a GRU cell at each observation."""

    def __init__(self, features: int, width: int, hidden: Sequence[int]) -> None:
        super().__init__(width, hidden)
        self.features, self.width = features, width
        self.cell = nn.GRUCell(2 * features, width)

    def run(self, order: Events) -> tuple[list[Tensor], Tensor]:
        """The state before each event, E of (B, H), and the last one."""
        h = order.values.new_zeros(len(order.values), self.width)
        records: list[SolveRecord] = []
        before = []
        seen = order.seen[..., None]
        x = torch.cat([order.values, order.mask], -1)
        for k in range(order.time.shape[1]):
            h = self.over(order.gap[:, k], h, records)
            before.append(h)
            if bool(seen[:, k].any()):
                h = torch.where(seen[:, k], self.cell(x[:, k], h), h)
        self.record(merge_records(records), records)
        return before, h


class ODERNN(Recurrent):
    """ODE-RNN that predicts values at asked times, or classifies.

    Args:
        features: D, channels of the series.
        num_classes: 0 to predict values; else of the classifier.
        width: H, numbers of the state.
        hidden: units of the hidden layers of the field.
        head: units of the hidden layer that answers are read through.

    Raises:
        ValueError: sizes that cannot be.
    """

    def __init__(
        self, features: int = 2, num_classes: int = 0, width: int = 32, hidden: Sequence[int] = (64,), head: int = 64
    ) -> None:
        check_sizes("An ODE-RNN", features, num_classes, width=width, head=head)
        super().__init__(features, width, hidden)
        self.num_classes = num_classes
        self.head = readout(width, head, num_classes or features)

    def forward(self, times: Tensor, values: Tensor, mask: Tensor, query: Tensor | None = None) -> Outcome:
        """Values (B, Q, D) at the asked times, or logits (B, num_classes), of padded series (`zoo.layers.series`).

        Args:
            times: (B, T); values: (B, T, D), of any content where ``mask`` (B, T, D) is False.
            query: (B, Q) times to predict at; not needed for classes.

        Raises:
            ValueError: series that no model can use, or no query to predict at.
        """
        check_series(times, values, mask, query, self.features)
        if self.num_classes:
            return Outcome(logits=self.head(self.run(events(times, values, mask))[1]))
        if query is None:
            raise ValueError("A model without classes predicts values: give the times to predict at as query (B, Q).")
        order = events(times, values, mask, query)
        return Outcome(values=self.head(order.at_asked(self.run(order)[0])))
