"""The time loops, number by number: the end of a step's shrinking, statistics, events."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.solve import odeint
from zoo.solvers.base import Result
from zoo.solvers.ode.integrate import integrate
from zoo.solvers.ode.runge_kutta import Euler

D = torch.float64
EPS = 2.0**-52


# The end of shrinking


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("ts", [(0.0, 1.0), (0.0, -1.0), (-4.0, 1.0), (4.0, -1.0), (1.0, 4.0)])
def test_a_step_is_lost_below_sixteen_units_of_the_clock(per_sample, ts):
    """A field that is NaN everywhere but at the start: each attempt is a fifth of the last."""
    tiny = 16 * EPS * max(map(abs, ts))
    calls = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        calls.append(t.reshape(-1)[0].item())
        return torch.where(t == ts[0], y, math.nan)

    for start, attempts in ((5 * 1.02 * tiny, 2), (5 * tiny, 2), (5 * 0.98 * tiny, 1), (125 * 1.02 * tiny, 4)):
        solver = {"name": "heun", "first_step": start, "per_sample": per_sample}
        y0 = torch.ones(2, 1, dtype=D)
        solution = odeint(f, y0, list(ts), solver)
        assert solution.result is Result.nonfinite and not solution.stats.converged.any()
        assert solution.stats.rejected.tolist() == [attempts] * 2 and solution.stats.accepted.tolist() == [0, 0]
        assert solution.stats.steps.tolist() == [attempts] * 2 and len(solution.stats.trace) == attempts
        assert solution.stats.reached.tolist() == [ts[0]] * 2
        assert torch.equal(solution.value, y0.expand(2, 2, 1)) and solution.stats.last_dt.isnan().all()
        assert calls[1] == pytest.approx(ts[0] + math.copysign(start, ts[1] - ts[0]), rel=1e-12)
        calls.clear()


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_jump_stalls_and_says_so(per_sample):
    """An error estimate that is finite, and too large at every step size: the field jumps at once."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t == 0, -1e18, 1e18).expand_as(y).to(y.dtype)

    solution = odeint(f, torch.ones(1, 1, dtype=D), [0.0, 1.0],
                      {"name": "heun", "first_step": 1e-10, "per_sample": per_sample})  # fmt: skip
    assert solution.result is Result.stalled and solution.stats.accepted.item() == 0
    shrinks = math.ceil(math.log(1e-10 / (16 * EPS), 5))
    assert solution.stats.rejected.item() == shrinks


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_rejected_step_shrinks_by_a_tenth_at_least(per_sample):
    """Heun on ``y' = t``: ``e = dt^2 / 2``; a ratio just above 1 asks for next to the whole step, which fails again."""
    solver = {"name": "heun", "rtol": 0.0, "first_step": 1.0, "atol": 0.5 / 1.0001, "per_sample": per_sample,
              "controller": {"safety": 1.0}}  # fmt: skip
    times = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        times.append(t.reshape(-1)[0].item())
        return t.expand_as(y)

    stats = odeint(f, torch.zeros(1, 1, dtype=D), [0.0, 8.0], solver).stats
    assert stats.trace[:2, 0].tolist() == pytest.approx([1.0001, 1.0001 * 0.81], rel=1e-3)
    assert stats.rejected.item() == stats.trace[:, 0].gt(1).sum()
    assert [t for t in times if t][:2] == pytest.approx([1.0, 0.9], rel=1e-4)


# The error of a batch


def test_the_norm_over_the_batch_is_the_greatest_or_the_mean():
    rate = torch.tensor([[1.0], [0.0], [0.5]], dtype=D)
    y0, dt = torch.ones(3, 1, dtype=D), 0.25
    each = dt / 2 * (rate * (rate * dt)).abs()[:, 0] / (0.1 + 0.0)  # dt/2 |k2 - k1|
    solver = {"name": "heun", "rtol": 0.0, "atol": 0.1, "first_step": dt}
    for norm, expected in (("max", each.max()), ("mean", each.square().mean().sqrt())):
        stats = odeint(lambda t, y: -rate * y, y0, [0.0, dt], {**solver, "norm": norm}).stats
        assert stats.trace[0].tolist() == pytest.approx([expected.item()] * 3, rel=1e-12)
        assert stats.residual.tolist() == pytest.approx(each.tolist(), rel=1e-12)
    own = odeint(lambda t, y: -rate * y, y0, [0.0, dt], {**solver, "per_sample": True}).stats
    assert own.trace[0].tolist() == pytest.approx(each.tolist(), rel=1e-12)


def test_a_sample_of_several_numbers_counts_by_its_root_mean_square():
    rate = torch.tensor([[[1.0, 0.0], [2.0, 0.5]]], dtype=D)
    y0, dt = torch.ones(1, 2, 2, dtype=D), 0.25
    each = dt / 2 * rate.square() * dt / 0.1
    solver = {"name": "heun", "rtol": 0.0, "atol": 0.1, "first_step": dt}
    for per_sample in (False, True):
        stats = odeint(lambda t, y: -rate * y, y0, [0.0, dt], {**solver, "per_sample": per_sample}).stats
        assert stats.trace[0].item() == pytest.approx(each.square().mean().sqrt().item(), rel=1e-12)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_step_near_a_requested_time_lands_on_it(per_sample):
    """A step that ends up to 5 % short of the time is stretched to it; a shorter one is not."""
    for gap, steps in ((1.04, 1), (1.06, 2), (0.5, 1)):
        times = []

        def f(t: Tensor, y: Tensor, times=times) -> Tensor:
            times.append(t.reshape(-1)[0].item())
            return 0 * y

        solver = {"name": "heun", "first_step": 1.0, "per_sample": per_sample}
        stats = odeint(f, torch.ones(1, 1, dtype=D), [2.0, 2.0 + gap], solver).stats
        assert stats.accepted.item() == steps and stats.reached.item() == 2.0 + gap
        assert times[1] == pytest.approx(2.0 + gap if steps == 1 else 3.0)
        assert stats.last_dt.item() == pytest.approx(gap if steps == 1 else gap - 1)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_step_cut_by_a_requested_time_is_taken_up_again(per_sample):
    times = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        times.append(round(t.reshape(-1)[0].item(), 6))
        return t.expand_as(y)

    # Heun on y' = t estimates dt^2 / 2: a ratio of dt^2
    solver = {"name": "heun", "rtol": 0.0, "atol": 0.5, "first_step": 0.9, "per_sample": per_sample}
    stats = odeint(f, torch.zeros(1, 1, dtype=D), [0.0, 0.8, 1.7, 4.0], solver).stats
    # 0.8 (cut), then the longer of 0.9, which was meant, and what 0.8 proposes (0.9 / 0.8 of it)
    assert stats.trace[0, 0].item() == pytest.approx(0.64)
    assert times[1] == 0.8
    assert stats.trace[1, 0].item() == pytest.approx(0.81)
    assert stats.accepted.item() == len(stats.trace) and stats.rejected.item() == 0


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_budget_counts_attempts(per_sample):
    y0 = torch.ones(2, 1, dtype=D)
    for most in (1, 3):
        solver = {"name": "heun", "first_step": 0.1, "max_steps": most, "per_sample": per_sample,
                  "controller": {"grow": 1.0}, "rtol": 1.0}  # fmt: skip
        solution = odeint(lambda t, y: -y, y0, [0.0, 0.15, 2.0], solver)
        assert solution.result is Result.max_steps and not solution.stats.converged.any()
        assert solution.stats.steps.tolist() == [most] * 2
        assert solution.stats.reached.tolist() == pytest.approx([0.1 if most == 1 else 0.25] * 2)
        if most == 1:  # every later row repeats what was reached
            assert torch.equal(solution.value[1], solution.value[2]) and not torch.equal(solution.value[0], y0 * 0)
    fixed = odeint(lambda t, y: -y, y0, [0.0, 0.1], {"name": "euler", "steps": 3, "max_steps": 2})
    assert fixed.result is Result.fixed_steps and fixed.stats.accepted.tolist() == [3, 3]  # taken as asked for


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_events_end_each_sample_at_its_own_time(per_sample, sign):
    """``y' = sign``, ended at y = 0; one sample begins on the event, and goes on; one never meets it."""
    start = torch.tensor([[-0.25], [-0.5], [0.0], [-9.0]], dtype=D) * sign
    ts = [0.0, 0.25 * 1.5, 2.0]
    solver = {"name": "dopri5", "first_step": 0.3, "per_sample": per_sample}
    for args in (None, ()):
        s = odeint(lambda t, y: torch.full_like(y, sign), start, ts, solver, args=args, event=lambda t, y: y[:, 0])
        assert s.result is Result.terminated and s.stats.converged.tolist() == [False, False, True, True]
        assert s.stats.event_time[:2].tolist() == pytest.approx([0.25, 0.5], abs=1e-12)
        assert s.stats.event_time[2:].isnan().all()
        assert s.stats.reached.tolist() == pytest.approx([0.25, 0.5, 2.0, 2.0], abs=1e-12)
        expected = torch.tensor([[0.0, -0.125, 0.375, -8.625], [0.0, 0.0, 2.0, -7.0]], dtype=D)[..., None] * sign
        torch.testing.assert_close(s.value[1:], expected, rtol=0, atol=1e-12)


def test_an_event_and_dense_output_agree():
    start = torch.tensor([[-0.25], [-9.0]], dtype=D)
    s = odeint(lambda t, y: torch.ones_like(y), start, [0.0, 2.0], {"name": "dopri5", "first_step": 0.3}, dense=True,
               event=lambda t, y: y[:, 0])  # fmt: skip
    for time in (0.0, 0.1, 0.25, 0.28, 1.0, 2.0):
        expected = torch.tensor([[min(0.0, time - 0.25)], [time - 9.0]], dtype=D)
        torch.testing.assert_close(s.evaluate(time), expected, rtol=0, atol=1e-9)
    assert s.evaluate([0.1, 0.2]).shape == (2, 2, 1) and s.evaluate(0.1).shape == (2, 1)
    for wrong in (-1e-3, 2.001):
        with pytest.raises(ValueError, match="outside"):
            s.evaluate(wrong)
    with pytest.raises(ValueError, match="list of times"):
        s.evaluate([[0.1]])


@pytest.mark.parametrize("ts", [(0.0, 1.0, 3.0), (3.0, 1.0, 0.0)])
def test_dense_output_in_both_directions(ts):
    s = odeint(lambda t, y: torch.stack([t**2, 2 * t**3])[None].expand_as(y), torch.zeros(1, 2, dtype=D), list(ts),
               {"name": "dopri5", "first_step": 0.7}, dense=True)  # fmt: skip
    for t in (0.0, 0.3, 1.0, 1.7, 2.99, 3.0):
        expected = [(t**3 - ts[0] ** 3) / 3, (t**4 - ts[0] ** 4) / 2]
        assert s.evaluate(t)[0].tolist() == pytest.approx(expected, abs=1e-9)


def test_args_are_checked_where_integrate_is_called():
    y0 = torch.ones(2, 1)
    for wrong in ((torch.ones(3, 1),), (torch.tensor(1.0),), (1.0,), (torch.ones(1, 2),)):
        with pytest.raises(ValueError, match=r"args\[0\]"):
            integrate(lambda t, y, a: y, y0, [0.0, 1.0], Euler(steps=1), args=wrong)
    with pytest.raises(ValueError, match=r"args\[1\]"):
        integrate(lambda t, y, a, b: y, y0, [0.0, 1.0], Euler(steps=1), args=(y0, torch.ones(1, 2)))


def test_nothing_dense_unless_asked():
    for adjoint in ("unroll", "checkpoint", "backsolve"):
        for needs in (False, True):
            y0 = torch.ones(1, 1, requires_grad=needs)
            s = odeint(lambda t, y: -y, y0, [0.0, 1.0], "dopri5", adjoint)
            assert s.interpolant is None
            with pytest.raises(ValueError, match="dense=True"):
                s.evaluate(0.5)


def test_a_state_without_a_batch_axis_ends_at_its_event():
    for event in (lambda t, y: y[0], lambda t, y: y[:1]):
        s = odeint(lambda t, y: torch.tensor([1.0, 2.0], dtype=D), torch.tensor([-0.5, 0.0], dtype=D), [0.0, 2.0],
                   "dopri5", event=event)  # fmt: skip
        assert s.result is Result.terminated and s.stats.event_time.tolist() == pytest.approx([0.5])
        torch.testing.assert_close(s.value[-1], torch.tensor([0.0, 1.0], dtype=D), rtol=0, atol=1e-9)


def test_no_step_is_longer_than_max_step():
    for per_sample in (False, True):
        solver = {"name": "heun", "max_step": 0.25, "per_sample": per_sample}
        stats = odeint(lambda t, y: 0 * y, torch.ones(1, 1, dtype=D), [0.0, 1.0], {**solver, "first_step": 1.0}).stats
        assert stats.last_dt.item() == 0.25 and stats.accepted.item() == 4
