"""Control paths: a continuous curve ``X(t)`` through the observations of a series, for `zoo.node.cde`.

Between the knots ``t_i`` and ``t_{i+1}`` a path is one polynomial of the share ``u`` of the way,

    X(u) = a + b u + c u^2 + d u^3,   u = (t - t_i) / (t_{i+1} - t_i)

and at the knots it equals the observations, exactly. A channel that was not seen at a knot is interpolated linearly
between the nearest times at which it was, and constant before the first and after the last of them.

    linear       the straight line: its slope jumps at the knots
    hermite      a cubic whose slope at a knot is that of the line that led there (backward differences): continuously
                 differentiable, and a piece depends on no knot beyond its right one
    cubic        the natural cubic spline: twice continuously differentiable; every knot acts on every piece
    rectilinear  first time moves on while all channels rest, then they jump: nothing is known before it is observed

Reference: Kidger et al., "Neural Controlled Differential Equations for Irregular Time Series", 2020,
https://arxiv.org/abs/2005.08926; Morrill et al., "Neural Controlled Differential Equations for Online Prediction
Tasks", 2021, https://arxiv.org/abs/2106.11028 (hermite, rectilinear)

Shape letters: ``B`` series, ``T`` knots, ``D`` channels, ``C`` channels with the time as the first.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["linear", "hermite", "cubic", "rectilinear"]
KINDS = ("linear", "hermite", "cubic", "rectilinear")


class Path(NamedTuple):
    """A curve of C channels, in pieces; its first channel is the time since the first knot.

    Attributes:
        times: (B, T) of the knots.
        knots: (B, T, C) values at the knots, after their jumps; the ``a`` of each piece is its left one.
        b, c, d: (B, T - 1, C) coefficients of each piece.
        jump: (B, T, C) by which the curve jumps at each knot, in no time; zero but for rectilinear paths.
    """

    times: Tensor
    knots: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    jump: Tensor

    def between(self, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(b, c, d)``, each (B, C), of the curve from t0 to t1 (B,), which lie within one piece or beyond the ends.

        Beyond the ends, and along pieces without length, the time alone moves.
        """
        length = torch.zeros_like(self.knots[:, 0])
        length[:, 0] = t1 - t0
        if self.b.shape[1] == 0:
            return length, torch.zeros_like(length), torch.zeros_like(length)
        middle = 0.5 * (t0 + t1)
        at = torch.searchsorted(self.times, middle[:, None].contiguous(), right=True) - 1
        inside = ((at >= 0) & (at < self.b.shape[1])).to(length.dtype)
        at = at.clamp(0, self.b.shape[1] - 1)
        left, right = self.times.gather(1, at), self.times.gather(1, at + 1)
        span = right - left
        inside = inside * (span > 0)
        span = torch.where(span > 0, span, 1.0)
        u0, u1 = (t0[:, None] - left) / span, (t1[:, None] - left) / span
        b, c, d = (x.gather(1, at[..., None].expand(-1, -1, x.shape[2]))[:, 0] for x in (self.b, self.c, self.d))
        w = u1 - u0
        return (
            inside * w * (b + 2 * c * u0 + 3 * d * u0**2) + (1 - inside) * length,
            inside * w**2 * (c + 3 * d * u0),
            inside * w**3 * d,
        )

    def evaluate(self, t: Tensor) -> Tensor:
        """``X(t)`` (B, C) at t (B,); at a knot that jumps, the value after it; beyond the ends the time moves on."""
        at = (torch.searchsorted(self.times, t[:, None].contiguous(), right=True) - 1).clamp_min(0)
        b, c, d = self.between(self.times.gather(1, at)[:, 0], t)
        return self.knots.gather(1, at[..., None].expand(-1, -1, self.knots.shape[2]))[:, 0] + b + c + d


def fill(times: Tensor, values: Tensor, mask: Tensor, forward: bool = False) -> Tensor:
    """Values (B, T, D) with every gap filled: along the line between its neighbors, or ``forward`` by the last one.

    Constant before the first observation of a channel (0 for ``forward``, which may not look ahead) and after the
    last; 0 where a channel was never seen.
    """
    count = times.shape[1]
    steps = torch.arange(count, device=times.device)[:, None].expand_as(mask)
    before = torch.where(mask, steps, -1).cummax(1).values
    known = torch.where(mask, values, 0.0)
    last = torch.where(before >= 0, known.gather(1, before.clamp_min(0)), 0.0)
    if forward:
        return last
    after = torch.where(mask, steps, count).flip(1).cummin(1).values.flip(1)
    coming = torch.where(after < count, known.gather(1, after.clamp_max(count - 1)), 0.0)
    clock = times[..., None].expand_as(values)
    t0, t1 = clock.gather(1, before.clamp_min(0)), clock.gather(1, after.clamp_max(count - 1))
    span = torch.where(t1 > t0, t1 - t0, 1.0)
    line = last + (coming - last) * (clock - t0) / span
    line = torch.where(before >= 0, torch.where(after < count, line, last), coming)
    return torch.where(mask, known, line)  # as observed, bit by bit


def control(kind: Kind, times: Tensor, values: Tensor, mask: Tensor, extra: Tensor | None = None) -> Path:
    """The path of a kind through padded series, with time as its first channel.

    Args:
        times: (B, T), not decreasing; rows of padding repeat the last.
        values, mask: (B, T, D) and what was seen of them.
        extra: (B, T, K) channels known at every knot, after the values.
    """
    times = times.contiguous()
    clock = (times - times[:, :1])[..., None]
    x = torch.cat([fill(times, values, mask, kind == "rectilinear"), *([] if extra is None else [extra])], 2)
    knots = torch.cat([clock, x], 2)
    rise, span = knots[:, 1:] - knots[:, :-1], clock[:, 1:] - clock[:, :-1]
    zero, none = torch.zeros_like(rise), torch.zeros_like(knots)
    if kind == "linear" or times.shape[1] == 1:
        return Path(times, knots, rise, zero, zero, none)
    if kind == "rectilinear":
        time_only = torch.cat([rise[..., :1], zero[..., 1:]], 2)
        jump = torch.cat([none[:, :1], torch.cat([zero[..., :1], rise[..., 1:]], 2)], 1)
        return Path(times, knots, time_only, zero, zero, jump)
    length = torch.where(span > 0, span, 1.0)
    if kind == "hermite":
        slope = rise / length
        b = torch.cat([rise[:, :1], slope[:, :-1] * span[:, 1:]], 1)
        return Path(times, knots, b, 2 * (rise - b), b - rise, none)
    bend = _second_derivatives(span, rise)
    left, right = bend[:, :-1] * span**2, bend[:, 1:] * span**2
    return Path(times, knots, rise - left / 3 - right / 6, left / 2, (right - left) / 6, none)


def _second_derivatives(span: Tensor, rise: Tensor) -> Tensor:
    """``X''`` (B, T, C) at the knots of the natural cubic spline: 0 at both ends, and within

        h_{i-1} X''_{i-1} + 2 (h_{i-1} + h_i) X''_i + h_i X''_{i+1} = 6 (r_i / h_i - r_{i-1} / h_{i-1})

    with the pieces' lengths h and rises r. A series ends at its last knot before the padding, whose pieces have no
    length: from there on ``X'' = 0``.
    """
    batch, pieces, _ = rise.shape
    h = span[..., 0]
    inner = (h[:, :-1] > 0) & (h[:, 1:] > 0)  # knots with a piece on either side
    slope = rise / torch.where(span > 0, span, 1.0)
    matrix = torch.eye(pieces + 1, dtype=h.dtype, device=h.device).repeat(batch, 1, 1)
    row = torch.arange(1, pieces, device=h.device)
    matrix[:, row, row - 1] = torch.where(inner, h[:, :-1], 0.0)
    matrix[:, row, row] = torch.where(inner, 2 * (h[:, :-1] + h[:, 1:]), 1.0)
    matrix[:, row, row + 1] = torch.where(inner, h[:, 1:], 0.0)
    right = torch.zeros(batch, pieces + 1, rise.shape[2], dtype=h.dtype, device=h.device)
    right[:, 1:-1] = torch.where(inner[..., None], 6 * (slope[:, 1:] - slope[:, :-1]), 0.0)
    return torch.linalg.solve(matrix, right)
