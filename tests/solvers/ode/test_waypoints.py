"""Where steps land: a greatest step, and times at which the field jumps."""

from __future__ import annotations

import math

import pytest
import torch

from zoo import odeint
from zoo.solvers.ode.waypoints import Waypoint, waypoints


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_pulse_between_two_steps_is_met_with_a_greatest_step(per_sample):
    def pulse(t, y):
        return torch.exp(-(((t - 5) / 0.01) ** 2)) * torch.ones_like(y)

    y0 = torch.zeros(2, 1, dtype=torch.float64)
    spec = {"name": "dopri5", "per_sample": per_sample}
    solution = odeint(pulse, y0, [0.0, 10.0], {**spec, "max_step": 0.05})
    assert solution.value[-1, 0, 0].item() == pytest.approx(0.01 * math.sqrt(math.pi), abs=1e-5)
    assert solution.stats.accepted.min() >= 200 and solution.stats.last_dt.abs().max() <= 0.05
    assert odeint(pulse, y0, [0.0, 10.0], spec).value[-1].abs().max() < 1e-6  # what nothing can see without it


def switched(t, y):
    """``y' = -y cos 3t`` before t = 0.5, ``+4 y cos 3t`` after."""
    return torch.where(t < 0.5, -1.0, 4.0) * torch.cos(3 * t) * y


def exact(a: float, b: float) -> float:
    def part(x, z, factor):
        return factor * (math.sin(3 * z) - math.sin(3 * x)) / 3

    def since_zero(t):
        return part(0, min(t, 0.5), -1) + (part(0.5, t, 4) if t > 0.5 else 0)

    return math.exp(since_zero(b) - since_zero(a))


@pytest.mark.parametrize("ts", [[0.0, 0.2, 1.0], [1.0, 0.2, 0.0], [0.0, 0.5, 1.0], [0.5, 1.0], [0.0, 0.5]])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", ["dopri5", "tsit5", "bosh3", "dopri8"])
def test_no_step_crosses_a_jump(ts, per_sample, name):
    y0 = torch.ones(2, 1, dtype=torch.float64)
    spec = {"name": name, "rtol": 1e-7, "atol": 1e-9, "per_sample": per_sample}
    plain = odeint(switched, y0, ts, spec, args=())
    solution = odeint(switched, y0, ts, {**spec, "jump_ts": [0.5, 7.0]}, args=())
    for t, y in zip(ts, solution.value[:, 0, 0].tolist(), strict=True):
        assert y == pytest.approx(exact(ts[0], t), rel=2e-6 if name != "bosh3" else 2e-5)
    assert solution.result.name == "converged" and solution.stats.reached.tolist() == [ts[-1]] * 2
    if 0.5 not in ts:
        assert solution.stats.nfe < plain.stats.nfe


def test_fixed_steps_keep_their_order_over_a_jump():
    y0 = torch.ones(1, 1, dtype=torch.float64)

    def error(steps, jumps):
        value = odeint(switched, y0, [0.0, 1.0], {"name": "rk4", "steps": steps, "jump_ts": jumps}).value[-1, 0, 0]
        return abs(value.item() - exact(0, 1))

    assert error(33, [0.5]) < 1e-6 < 1e-4 < error(33, [])
    assert error(16, [0.5]) / error(32, [0.5]) > 10


def test_every_sample_meets_the_jump_on_its_own_way():
    ts = torch.tensor([[0.0, 0.2, 1.0], [0.4, 0.5, 0.7], [0.6, 0.7, 0.8]], dtype=torch.float64)
    spec = {"name": "dopri5", "rtol": 1e-9, "atol": 1e-11, "jump_ts": [0.5, 0.75], "per_sample": True}
    y0 = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    solution = odeint(switched, y0, ts, spec, args=())
    for b in range(3):
        for i in range(3):
            wanted = exact(float(ts[b, 0]), float(ts[b, i]))
            assert solution.value[i, b, 0].item() == pytest.approx(wanted, rel=1e-7)
    (gradient,) = torch.autograd.grad(solution.value[-1].sum(), y0)
    assert torch.allclose(gradient, solution.value[-1], rtol=1e-8)  # the equation is linear


def test_the_order_of_waypoints():
    assert waypoints([0.0, 1.0], [], 0.1) == [Waypoint(0.0, 0.0, True), Waypoint(1.0, 1.0, True)]
    start, jump, end = waypoints([2.0, 0.0], [5.0, 1.0, 2.0], 0.01)
    assert start == Waypoint(2.0, 1.99, True) and end == Waypoint(0.0, 0.0, True)
    assert jump == Waypoint(1.01, 0.99, False)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"name": "rk4", "max_step": 0.1}, "use step_size"),
        ({"name": "dopri5", "max_step": -1.0}, "positive"),
        ({"name": "dopri5", "steps": 5, "max_step": 0.1}, "use step_size"),
        ({"name": "dopri5", "jump_ts": [math.nan]}, "finite"),
    ],
)
def test_options_that_contradict_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        odeint(switched, torch.ones(1, 1), [0.0, 1.0], options)
