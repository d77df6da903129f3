"""The guess of the first step, against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.solve import odeint
from zoo.solvers.ode.base import Field
from zoo.solvers.ode.first_step import first_step
from zoo.solvers.ode.runge_kutta import Bosh3, Dopri5, Heun

D = torch.float64


def guess(solver, f, y0, span, t0=0.0):
    """`first_step` as a solve calls it."""
    field = Field(f, None)
    t = torch.full((), t0, dtype=y0.dtype)
    k = field(t, y0)
    per_sample = solver.per_sample
    norm = lambda x: x.square().mean(1).sqrt()  # noqa: E731
    spans = np.full(len(y0), span) if per_sample else np.asarray(span)
    return first_step(solver, field, t.expand(len(y0), 1) if per_sample else t, y0, k, norm, spans)


@pytest.mark.parametrize("method", [Heun, Bosh3, Dopri5])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_first_step_of_a_linear_field(method, sign):
    """``y' = L y``: 0.7 of the step at which ``share h^q L^(q-1) |f|`` meets the tolerance."""
    y0 = torch.tensor([[2.0], [1.0]], dtype=D)
    solver = method(rtol=1e-6, atol=1e-7)
    scale = 1e-7 + 1e-6 * y0[:, 0].numpy()
    for rate in (3.0, 40.0):

        def decay(t: Tensor, y: Tensor, rate=rate) -> Tensor:
            return -rate * y

        each = solver.error_constant * rate ** (solver.order - 1) * rate * y0[:, 0].numpy() / scale
        steps = 0.7 * each ** (-1 / solver.order)
        assert guess(solver, decay, y0, 5 * sign) == pytest.approx(sign * steps.min(), rel=1e-6)
        mean = method(rtol=1e-6, atol=1e-7, norm="mean")
        power = math.sqrt(np.square(each).mean())
        assert guess(mean, decay, y0, 5 * sign) == pytest.approx(sign * 0.7 * power ** (-1 / mean.order), rel=1e-6)
        own = method(rtol=1e-6, atol=1e-7, per_sample=True)
        assert guess(own, decay, y0, 5 * sign).tolist() == pytest.approx(sign * steps, rel=1e-6)


def test_the_first_step_follows_a_field_that_changes_with_time():
    """The trial goes from ``(t, y)`` to ``(t + h0, y + h0 f)``, with ``h0`` a hundredth of ``|y| / |f|``."""
    solver = Heun(rtol=1e-6, atol=0.0)
    y0 = torch.ones(1, 1, dtype=D)
    for sign in (1.0, -1.0):
        h = guess(solver, lambda t, y: 2.0 + 3.0 * t + 0 * y, y0, 5.0 * sign)  # h0 = 0.005, d2 = 3 / scale
        assert h == pytest.approx(sign * 0.7 * (0.5 * 3.0 / 1e-6) ** -0.5, rel=1e-6)
        h = guess(solver, lambda t, y: -2.0 * y + 3.0 * t, y0, 5.0 * sign)  # along itself: 3 + (-2)(-2)
        assert h == pytest.approx(sign * 0.7 * (0.5 * 7.0 / 1e-6) ** -0.5, rel=1e-6)


def test_the_first_step_is_bounded():
    y0, solver = torch.ones(1, 1, dtype=D), Heun(rtol=1e-3, atol=0.0)
    assert guess(solver, lambda t, y: -y, y0, 1e-3) == pytest.approx(1e-3)  # the span
    # A constant field: no slope, so no more than 2 |y| / |f| (the trial step is a hundredth of |y| / |f|).
    assert guess(solver, lambda t, y: torch.full_like(y, 4.0), y0, 9.0) == pytest.approx(0.5)
    assert guess(solver, lambda t, y: torch.full_like(y, 4.0), y0, -9.0) == pytest.approx(-0.5)
    # No field at all: the trial step of 1e-6 says nothing but the bound.
    assert guess(solver, lambda t, y: 0 * y, y0, 9.0) == pytest.approx(2e-4)
    # From rest at zero, a constant field: the whole span.
    rest = Heun(rtol=1e-3, atol=1e-3)
    assert guess(rest, lambda t, y: torch.full_like(y, 4.0), 0 * y0, 9.0) == pytest.approx(9.0)
    assert guess(rest, lambda t, y: 0 * y, 0 * y0, 9.0) == pytest.approx(2e-4)
    # A slope that is not finite: a thousandth of the span.
    for sign in (1.0, -1.0):
        broken = guess(solver, lambda t, y: torch.where(t == 0, 1.0, math.nan) * y, y0, 9.0 * sign)
        assert broken == pytest.approx(9e-3 * sign)


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_a_state_of_next_to_nothing_is_a_hundred_thousandth_of_the_tolerance(share):
    solver, y0 = Heun(rtol=0.0, atol=1.0), torch.full((1, 1), share * 1e-5, dtype=D)
    most = 2 * share * 1e-5 / 4.0
    whole = guess(solver, lambda t, y: torch.full_like(y, 4.0), y0, 9.0)
    assert whole == pytest.approx(9.0 if share < 1 else most)
    slow = torch.full((1, 1), share * 1e-5, dtype=D)  # and so is a field
    assert guess(solver, lambda t, y: slow, torch.ones(1, 1, dtype=D), 1e9) == pytest.approx(
        2e-4 if share < 1 else 2 / (share * 1e-5)
    )


def test_the_first_step_takes_rounding_off_what_changes():
    """In bfloat16 the trial step is 1/16 of ``|y| / |f|``, and 1/128 of ``|f|`` may be rounding alone."""
    seen = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.append(float(y[0, 0]))
        return -y

    y0 = torch.ones(1, 1, dtype=torch.bfloat16)
    stats = odeint(f, y0, [0.0, 8.0], {"name": "heun", "rtol": 1e-2, "atol": 0.0, "max_steps": 1}).stats
    assert seen[:2] == [1.0, 0.9375]
    slope = (1 / 16 - 1 / 128) * 16  # of the 1 that it is
    h = 0.7 * (0.5 * slope / 1e-2) ** -0.5
    assert stats.last_dt.item() == pytest.approx(h, rel=1e-3) or stats.rejected.item() == 1
    assert seen[2] == pytest.approx(1 - h, abs=2**-8)
