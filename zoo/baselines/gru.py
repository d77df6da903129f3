"""Explicit twins of the continuous models of irregular series: a GRU that is told the time gaps, and GRU-D.

    gru      h <- GRU([m x, m, dt], h)                            dt the time since the state last changed
    gru_d    h <- GRU([x^, m, dt], exp(-relu(W dt + b)) h)        per channel dt since it was last seen, and
             x^ = m x + (1 - m) (g x_last + (1 - g) x_mean),      g = exp(-relu(w dt + v))

``x`` are the channels observed and ``m`` says which were. Neither has a state between observations: asked for a time,
it takes one step more, with its own last prediction in place of an observation, and answers with what it reads then.

Reference: Cho et al., 2014, https://arxiv.org/abs/1406.1078; Che et al., "Recurrent Neural Networks for Multivariate
Time Series with Missing Values", 2018, https://arxiv.org/abs/1606.01865 (GRU-D)

What differs from the papers: GRU-D's mean is 0, as the data are standardized; both predict values too.

Shape letters: ``B`` series, ``T`` rows, ``D`` channels, ``Q`` asked times, ``H`` numbers of the state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.layers.series import Events, Outcome, check_series, check_sizes, events, readout


class SeriesGRU(nn.Module):
    """GRU over irregular series that predicts values at asked times, or classifies.

    Args:
        features: D, channels of the series.
        num_classes: 0 to predict values; else of the classifier.
        width: H, numbers of the state.
        head: units of the hidden layer that answers are read through.
        decay: GRU-D: the state and the last values fade with the time.

    Raises:
        ValueError: sizes that cannot be.
    """

    def __init__(
        self, features: int = 2, num_classes: int = 0, width: int = 48, head: int = 64, decay: bool = False
    ) -> None:
        super().__init__()
        check_sizes("A GRU", features, num_classes, width=width, head=head)
        self.features, self.num_classes, self.width, self.decay = features, num_classes, width, decay
        self.cell = nn.GRUCell(features * 3 if decay else features * 2 + 1, width)
        self.head = readout(width, head, num_classes or features)
        if decay:
            self.fade_state = nn.Linear(features, width)
            self.fade_weight = nn.Parameter(torch.zeros(features))
            self.fade_bias = nn.Parameter(torch.zeros(features))

    def forward(self, times: Tensor, values: Tensor, mask: Tensor, query: Tensor | None = None) -> Outcome:
        """Return values (B, Q, D) at the asked times, or logits (B, num_classes), of padded series.

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

    def run(self, order: Events) -> tuple[list[Tensor], Tensor]:
        """Return the state at each event as an asked time reads it, E of (B, H), and the last one."""
        h = order.values.new_zeros(len(order.values), self.width)
        since = torch.zeros_like(order.values[:, 0])  # (B, D) time since each channel was seen
        idle = order.gap[:, 0]  # (B,) since the state changed
        last = torch.zeros_like(since)
        states = []
        for k in range(order.time.shape[1]):
            gap, mask = order.gap[:, k], order.mask[:, k]
            since, idle = since + gap[:, None], idle + gap
            asked = order.asked[:, k] & (idle > 0)  # at no distance from the state, there is nothing to step over
            moves = (order.seen[:, k] | asked)[:, None]
            if bool(moves.any()):
                x = order.values[:, k]
                if bool(asked.any()) and not self.num_classes:
                    x = torch.where(asked[:, None], self.head(h), x)
                h = torch.where(moves, self.step(x, mask, asked[:, None], since, idle, last, h), h)
            seen = mask > 0
            last, since = torch.where(seen, order.values[:, k], last), torch.where(seen, 0.0, since)
            idle = torch.where(moves[:, 0], 0.0, idle)
            states.append(h)
        return states, h

    def step(
        self, x: Tensor, mask: Tensor, asked: Tensor, since: Tensor, idle: Tensor, last: Tensor, h: Tensor
    ) -> Tensor:
        """Return the state after an event: an observation x where the mask is 1, its prediction where asked (B, 1)."""
        if not self.decay:
            return self.cell(torch.cat([x, mask, idle[:, None]], 1), h)
        share = torch.exp(-torch.relu(self.fade_weight * since + self.fade_bias))
        filled = torch.where((mask > 0) | asked, x, share * last)
        h = h * torch.exp(-torch.relu(self.fade_state(since)))
        return self.cell(torch.cat([filled, mask, since], 1), h)
