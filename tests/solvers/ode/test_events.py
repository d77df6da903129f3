"""Terminal events: where dense output ends, and which derivatives there are."""

from __future__ import annotations

import pytest
import torch

from zoo import odeint


def fall(t, y):
    return torch.cat([y[:, 1:], -9.81 * torch.ones_like(y[:, :1])], 1)


def ground(t, y):
    return y[:, 0]


@pytest.mark.parametrize("name", ["dopri5", "rk4"])
def test_dense_output_rests_behind_an_event(name):
    height = torch.tensor([[1.0], [50.0]], dtype=torch.float64)
    y0 = torch.cat([height, torch.zeros_like(height)], 1)
    spec = {"name": name, "first_step": 0.25}
    solution = odeint(fall, y0, [0.0, 1.0], spec, event=ground, dense=True)
    end = float(solution.stats.event_time[0])
    assert end == pytest.approx((2 / 9.81) ** 0.5, abs=1e-6)
    for t in (end, end + 1e-3, end + 0.02, 0.8, 1.0):
        state = solution.evaluate(t)
        torch.testing.assert_close(state[0], solution.value[-1, 0], rtol=0, atol=1e-6)
        assert float(state[1, 0]) == pytest.approx(50 - 9.81 / 2 * t**2, abs=1e-6)
    before = solution.evaluate(end - 0.02)
    assert float(before[0, 0]) == pytest.approx(1 - 9.81 / 2 * (end - 0.02) ** 2, abs=1e-6)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_second_derivative_through_an_event_is_refused(per_sample):
    height = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    y0 = torch.cat([height, torch.zeros_like(height)], 1)
    spec = {"name": "dopri5", "per_sample": per_sample}
    solution = odeint(fall, y0, [0.0, 1.0], spec, args=(), event=ground)
    torch.autograd.grad(solution.value[-1, 0, 1], height, retain_graph=True)
    with pytest.raises(RuntimeError, match=r"A terminal event gives first derivatives only.*without an event"):
        torch.autograd.grad(solution.value[-1, 0, 1], height, create_graph=True)
