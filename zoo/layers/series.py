"""What every model of irregular time series shares: its arguments, what it gives back, the order of events.

A batch of ragged series is padded: row ``i`` of a series is a time and the channels that were seen then. A row in which
nothing was seen changes nothing but the time; padding is such rows, at the time of the last real one.

Shape letters: ``B`` series, ``T`` rows, ``D`` channels, ``Q`` times that are asked for, ``E = T + Q`` events.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Outcome(NamedTuple):
    """What a model of series says; None where it was not asked.

    Attributes:
        values: (B, Q, D) expected at the times that were asked for.
        logits: (B, C) of the classes.
        kl: (B,) divergence of a latent variable from its prior, in nats; None for models without one.
    """

    values: Tensor | None = None
    logits: Tensor | None = None
    kl: Tensor | None = None


class Events(NamedTuple):
    """Rows and asked times of each series in one order of time; at equal times it is asked before it is seen.

    Attributes:
        time: (B, E), never decreasing.
        gap: (B, E) since the event before; 0 for the first.
        values, mask: (B, E, D) with zeros where nothing was seen; the mask is of the values' dtype.
        seen: (B, E) whether the event is an observation of one channel or more.
        asked: (B, E) whether it is an asked time.
        place: (B, Q) where each asked time stands among the events.
    """

    time: Tensor
    gap: Tensor
    values: Tensor
    mask: Tensor
    seen: Tensor
    asked: Tensor
    place: Tensor

    def at_asked(self, states: list[Tensor]) -> Tensor:
        """Return those of E states (B, H) at the asked times, (B, Q, H)."""
        stacked = torch.stack(states, 1)
        return stacked.gather(1, self.place[..., None].expand(-1, -1, stacked.shape[-1]))


def events(times: Tensor, values: Tensor, mask: Tensor, query: Tensor | None = None) -> Events:
    """Return the events of checked series, see `check_series`."""
    seen = mask.any(-1)
    weight = mask.to(values.dtype)
    values = torch.where(mask, values, 0.0)
    if query is None:
        place = times.new_zeros(len(times), 0, dtype=torch.long)
        return Events(times, gaps(times), values, weight, seen, torch.zeros_like(seen), place)
    batch, asked = query.shape
    every = torch.cat([query, times], 1)  # a stable sort keeps the asked ones first
    time, order = every.sort(dim=1, stable=True)
    rank = order.argsort(1)

    def arrange(x: Tensor) -> Tensor:
        padded = torch.cat([x.new_zeros(batch, asked, *x.shape[2:]), x], 1)
        index = order if x.dim() == 2 else order[..., None].expand(-1, -1, x.shape[2])
        return padded.gather(1, index)

    return Events(time, gaps(time), arrange(values), arrange(weight), arrange(seen), order < asked, rank[:, :asked])


def gaps(times: Tensor) -> Tensor:
    """Return the time from the row before, (B, T); 0 for the first."""
    return torch.cat([torch.zeros_like(times[:, :1]), times[:, 1:] - times[:, :-1]], 1)


def check_series(times: Tensor, values: Tensor, mask: Tensor, query: Tensor | None, features: int) -> None:
    """Refuse series that no model can use.

    Args:
        times: (B, T), never decreasing, and increasing wherever something was seen.
        values: (B, T, D) floating point; finite where the mask is True, anything elsewhere.
        mask: (B, T, D) bool, what was seen.
        query: (B, Q), never decreasing, or None.
        features: D of the model.

    Raises:
        ValueError, TypeError: says which series, what it holds and what was expected.
    """
    if values.dim() != 3 or values.shape[-1] != features or times.shape != values.shape[:2]:
        raise ValueError(
            f"The model takes values (B, T, {features}) and times (B, T); got {tuple(values.shape)} and "
            f"{tuple(times.shape)}."
        )
    if mask.shape != values.shape or mask.dtype != torch.bool:
        raise TypeError(f"The mask must be bool of shape {tuple(values.shape)}; got {mask.dtype} {tuple(mask.shape)}.")
    if values.shape[0] == 0 or values.shape[1] == 0:
        raise ValueError(f"Empty series: values have the shape {tuple(values.shape)}; expected B >= 1 and T >= 1.")
    if query is not None and (query.dim() != 2 or len(query) != len(times) or query.shape[1] == 0):
        raise ValueError(f"query must be (B, Q) with B = {len(times)} and Q >= 1, or None; got {tuple(query.shape)}.")
    seen = mask.any(-1)
    step = times[:, 1:] - times[:, :-1]
    problems = [
        (~seen.any(1), "holds no observation at all (its mask is False everywhere); leave it out"),
        (~torch.isfinite(times).all(1), "has a time that is not finite"),
        ((step < 0).any(1), "has times that decrease; sort its rows by time"),
        (((step == 0) & seen[:, 1:]).any(1), "has two rows at one time; merge them into one"),
        (
            (mask & ~torch.isfinite(values)).flatten(1).any(1),
            "holds NaN or infinity where its mask is True; mask missing values",
        ),
    ]
    if query is not None:
        problems.append((~torch.isfinite(query).all(1), "is asked for a time that is not finite"))
        problems.append(((query[:, 1:] < query[:, :-1]).any(1), "is asked for times that decrease; sort the query"))
    wrong = torch.stack([bad for bad, _ in problems])
    if wrong.any():
        kind = int(wrong.any(1).nonzero()[0])
        rows = wrong[kind].nonzero().flatten().tolist()
        raise ValueError(f"Series {rows[0]} of the batch {problems[kind][1]} ({len(rows)} such of {len(times)}).")


def check_sizes(name: str, features: int, num_classes: int, **sizes: int) -> None:
    """Refuse sizes of a model that cannot be."""
    least = min([features, *sizes.values()])
    if least < 1 or num_classes < 0 or num_classes == 1:
        given = ", ".join(f"{k}={v}" for k, v in {"features": features, **sizes}.items())
        raise ValueError(
            f"{name} needs sizes of at least 1, and num_classes of 0 (it predicts values) or at least 2; got {given}, "
            f"num_classes={num_classes}."
        )


def readout(width: int, hidden: int, out: int) -> nn.Sequential:
    """Return a network of one hidden layer from a state to numbers."""
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, out))
