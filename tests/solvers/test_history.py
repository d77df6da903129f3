"""The buffers that solvers hand on to one another."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.solvers import history


@pytest.mark.parametrize("solver", ["anderson", "broyden"])
def test_a_buffer_of_inference_mode_is_not_used_outside_of_it(solver):
    x = torch.randn(3, 7)

    def solve() -> torch.Tensor:
        return zoo.fixed_point(lambda z: torch.tanh(0.3 * z.roll(1, 1) + x), torch.zeros(3, 7), solver).value

    with torch.inference_mode():
        first = solve().clone()
    with torch.no_grad():
        torch.testing.assert_close(solve(), first)
    torch.testing.assert_close(solve(), first)


@pytest.mark.parametrize("solver", ["anderson", "broyden"])
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_a_value_is_not_overwritten_by_the_next_solve(solver, steps):
    spec = {"name": solver, "max_steps": steps, "rtol": 1e-30, "atol": 1e-30}

    def solve(x: torch.Tensor) -> torch.Tensor:
        return zoo.fixed_point(lambda z: torch.tanh(0.3 * z.roll(1, 1) + x), torch.zeros(3, 7), spec).value

    with torch.no_grad():
        first = solve(torch.ones(3, 7))
        kept = first.clone()
        solve(torch.randn(3, 7))
    torch.testing.assert_close(first, kept, rtol=0, atol=0)


def test_only_a_few_buffers_are_kept_however_many_shapes_there_were():
    for batch in range(1, 20):
        zoo.fixed_point(torch.tanh, torch.ones(batch, 3), "anderson")
    assert len(history._spares) <= history._MOST
