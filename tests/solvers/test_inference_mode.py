"""Solvers that take derivatives answer within inference mode as they do outside of it."""

from __future__ import annotations

import pytest
import torch

from zoo.solve import fixed_point, odeint


@pytest.mark.parametrize("made_there", [False, True])
def test_newton_is_newton_in_inference_mode(made_there):
    torch.manual_seed(0)
    w, x = torch.randn(4, 4, dtype=torch.float64) * 0.4, torch.randn(3, 4, dtype=torch.float64)

    def solve(x):
        return fixed_point(lambda z: torch.tanh(z @ w) + x, torch.zeros_like(x), {"name": "newton", "rtol": 1e-10})

    with torch.no_grad():
        want = solve(x)
    with torch.inference_mode():
        found = solve(x.clone() if made_there else x)
    assert torch.equal(found.stats.steps, want.stats.steps) and found.stats.nfe == want.stats.nfe
    torch.testing.assert_close(found.value, want.value)


def test_implicit_steps_in_inference_mode():
    y0, spec = torch.randn(3, 2, dtype=torch.float64), {"name": "implicit_midpoint", "steps": 4}
    with torch.no_grad():
        want = odeint(lambda t, y: -(y**3), y0, [0.0, 1.0], spec)
    with torch.inference_mode():
        found = odeint(lambda t, y: -(y**3), y0, [0.0, 1.0], spec)
    assert found.stats.nfe == want.stats.nfe
    torch.testing.assert_close(found.value, want.value)
