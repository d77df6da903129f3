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


def falling(t, y):
    return -torch.ones_like(y)


STARTS = torch.tensor([[1.0], [2.0]])
WRONG = {
    "booleans": (lambda t, y: y[:, 0] < 0.5, TypeError, r"numbers whose sign changes.*bool.*difference"),
    "integers": (lambda t, y: (y[:, 0] > 0).long(), TypeError, "numbers whose sign changes.*int64"),
    "a scalar": (lambda t, y: y.min(), ValueError, r"for each of the 2 samples.*shape \(\)"),
    "a float": (lambda t, y: 0.5, TypeError, r"must return a tensor \(B,\).*got float"),
    "three axes": (lambda t, y: y[:, :, None], ValueError, r"shape \(2, 1, 1\)"),
    "another batch": (lambda t, y: y[:1, 0], ValueError, r"shape \(1,\)"),
    "no function": (0.5, TypeError, "must be a function"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("per_sample", [False, True])
def test_what_is_no_event_is_refused_in_words(case, per_sample):
    event, error, words = WRONG[case]
    with pytest.raises(error, match=words):
        odeint(falling, STARTS, [0.0, 3.0], {"name": "dopri5", "per_sample": per_sample}, event=event)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_tiny_event_neither_fires_by_underflow_nor_is_missed(per_sample):
    spec = {"name": "dopri5", "per_sample": per_sample}
    solution = odeint(falling, STARTS, [0.0, 0.9], spec, event=lambda t, y: 1e-24 * y[:, 0])
    assert solution.result.name == "converged" and solution.stats.event_time.isnan().all()
    solution = odeint(falling, STARTS, [0.0, 3.0], spec, event=lambda t, y: 1e-24 * y[:, 0])
    assert solution.stats.event_time.tolist() == pytest.approx([1.0, 2.0], abs=1e-5)


@pytest.mark.parametrize("name", ["dopri5", "rk4"])
@pytest.mark.parametrize("together", [False, True])
def test_of_several_events_the_first_ends_a_sample(name, together):
    y0 = torch.tensor([[1.0], [2.0], [9.0]], dtype=torch.float64)
    low, high = lambda t, y: y[:, 0] - 0.5, lambda t, y: y[:, 0] - 1.5
    event = (lambda t, y: torch.cat([y - 0.5, y - 1.5], 1)) if together else (low, high)
    solution = odeint(
        falling, y0, [0.0, 2.0, 3.0], {"name": name, "step_size": 2.0} if name == "rk4" else name, event=event
    )
    assert solution.stats.event_time[:2].tolist() == pytest.approx([0.5, 0.5], abs=1e-9)
    assert solution.stats.event_index.tolist() == [0, 1, -1]
    assert solution.value[-1, :, 0].tolist() == pytest.approx([0.5, 1.5, 6.0], abs=1e-9)


@pytest.mark.parametrize("adjoint", ["unroll", "checkpoint"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_time_of_an_event_has_its_derivative(adjoint, per_sample):
    """``h - g t^2 / 2`` meets the level c at ``t* = sqrt(2 (h - c) / g)``."""
    height = torch.tensor([[1.0], [50.0], [2.0]], dtype=torch.float64, requires_grad=True)
    g, c = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (9.81, 0.25))

    def field(t, y):
        return torch.cat([y[:, 1:], -g * torch.ones_like(y[:, :1])], 1)

    y0 = torch.cat([height, torch.zeros_like(height)], 1)
    spec = {"name": "dopri5", "per_sample": per_sample}
    solution = odeint(field, y0, [0.0, 1.0], spec, adjoint, args=(), event=lambda t, y: y[:, 0] - c)
    meets = [0, 2]
    exact = torch.sqrt(2 * (height[meets, 0] - c) / g)
    assert torch.allclose(solution.event_time[meets], exact, atol=1e-7) and solution.event_time[1].isnan()
    assert not solution.stats.event_time.requires_grad
    found = torch.autograd.grad(solution.event_time[meets].sum(), (height, g, c))
    wanted = torch.autograd.grad(exact.sum(), (height, g, c))
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-5)
    assert odeint(field, y0, [0.0, 1.0], spec, args=()).event_time is None
