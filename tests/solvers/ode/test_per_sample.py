"""Steps of every sample's own: what they cost, and that they are its own."""

from __future__ import annotations

import torch

from zoo.solve import odeint


def van_der_pol(t, y, mu):
    x, v = y[:, :1], y[:, 1:]
    return torch.cat([v, mu * (1 - x**2) * v - x], 1)


def test_per_sample_steps_cost_what_the_samples_need():
    mu = torch.linspace(0.5, 15, 64, dtype=torch.float64)[:, None]
    y0 = 2 * torch.randn(64, 2, dtype=torch.float64)

    def solve(tol, per_sample):
        spec = {"name": "dopri5", "rtol": tol, "atol": tol, "per_sample": per_sample}
        return odeint(van_der_pol, y0, [0.0, 3.0], spec, args=(mu,))

    exact = solve(1e-10, True).value[-1]
    whole, own = solve(1e-5, False), solve(1e-5, True)
    assert own.stats.sample_nfe < whole.stats.sample_nfe / 3
    assert (own.value[-1] - exact).abs().amax(1).median() < 1e-4
    assert own.stats.accepted.unique().numel() > 5


def test_per_sample_results_do_not_depend_on_the_batch():
    mu = torch.tensor([[0.5], [3.0], [8.0]], dtype=torch.float64)
    y0 = torch.randn(3, 2, dtype=torch.float64)
    spec = {"name": "tsit5", "per_sample": True}
    ts = [0.0, 0.5, 2.0]
    together = odeint(van_der_pol, y0, ts, spec, args=(mu,)).value
    held = odeint(lambda t, y: van_der_pol(t, y, mu), y0, ts, spec).value  # no args: nobody leaves the batch
    for i in range(3):
        alone = odeint(van_der_pol, y0[i : i + 1], ts, spec, args=(mu[i : i + 1],)).value[:, 0]
        assert (alone - together[:, i]).abs().max() < 1e-13
        assert (alone - held[:, i]).abs().max() < 1e-13


def test_a_step_that_everyone_rejects_costs_no_slope():
    """Heun's method has the slope at its start from no former step; a rejected step leaves it as it was."""
    seen = []

    def f(t, y):
        seen.append(float(t.flatten()[0]))
        return torch.cos(40 * t) * torch.ones_like(y)

    solver = {"name": "heun", "per_sample": True, "first_step": 0.5, "rtol": 1e-4}
    stats = odeint(f, torch.zeros(1, 1), [0.0, 1.0], solver).stats
    assert stats.rejected[0] > 2
    # a slope for every accepted step, and a second stage for each attempt
    assert len(seen) == stats.nfe == int(stats.accepted[0]) + int(stats.accepted[0] + stats.rejected[0])
