"""The guess of the first step."""

from __future__ import annotations

import math

import pytest
import torch

import zoo
from zoo.solvers.ode.tableaus import BOSH3, DOPRI5, DOPRI8, HEUN, TSIT5

METHODS = {t.name: t for t in (HEUN, BOSH3, DOPRI5, TSIT5, DOPRI8)}


def oscillator(t, y):
    return 3.0 * torch.stack([y[:, 1], -y[:, 0]], 1)


@pytest.mark.parametrize("name", METHODS)
def test_the_share_is_that_of_the_estimate_on_a_linear_field(name):
    """One small step of ``y' = -3 y``: the estimate is ``share h^q 3^q``, but for a few per cent."""
    h, tableau = 0.02, METHODS[name]
    spec = {"name": name, "rtol": 0.0, "atol": 1.0, "first_step": h}
    stats = zoo.odeint(lambda t, y: -3.0 * y, torch.ones(1, 1, dtype=torch.float64), [0.0, h], spec).stats
    assert float(stats.residual) == pytest.approx(tableau.error_constant * (3 * h) ** tableau.order, rel=0.1)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("tol", [1e-4, 1e-6])
@pytest.mark.parametrize("name", METHODS)
def test_the_first_step_of_a_rotation_is_neither_rejected_nor_wasted(name, tol, per_sample):
    y0 = torch.tensor([[1.0, 1.0], [2.0, -2.0], [-0.5, 0.5]], dtype=torch.float64)
    spec = {"name": name, "rtol": tol, "atol": tol, "per_sample": per_sample}
    first = zoo.odeint(oscillator, y0, [0.0, 1.0], spec).stats.trace[0]
    assert float(first.max()) <= 1.0
    # A step k times too short has an estimate k^-order as large, and 0.7^order is what is aimed at.
    assert float(first.max()) >= 0.1 ** METHODS[name].order


def test_a_state_of_zeros_does_not_begin_with_a_crawl():
    y0 = torch.zeros(4, 3, dtype=torch.float64)
    stats = zoo.odeint(lambda t, y: 1 - y, y0, [0.0, 1.0], {"name": "dopri5", "rtol": 1e-5, "atol": 1e-5}).stats
    assert int(stats.accepted.max()) <= 5
    assert int(stats.rejected.max()) == 0


def test_a_field_that_is_still_at_first_is_not_stepped_over():
    """A pulse that begins at 0.5; the cautious trial step grows until it is seen."""
    y0 = torch.zeros(1, 1, dtype=torch.float64)
    pulse = lambda t, y: torch.exp(-((10 * (t - 1.0)) ** 2)).expand_as(y)  # noqa: E731
    found = zoo.odeint(pulse, y0, [0.0, 2.0], {"name": "dopri5", "rtol": 1e-6, "atol": 1e-6}).value[-1]
    assert float(found) == pytest.approx(math.sqrt(math.pi) / 10, abs=1e-4)
