"""Symplectic steps against their formula, and where coupled fields are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo.solve import odeint
from zoo.solvers.ode.integrate import integrate
from zoo.solvers.ode.symplectic import Leapfrog

D = torch.float64


def pushed(power: int):
    """``dq/dt = t^power (1, 3)``, ``dp/dt = t^power (2, 5)``: two degrees of freedom, each with its own answer."""
    return lambda t, y: t**power * torch.tensor([[1.0, 3.0, 2.0, 5.0]], dtype=y.dtype).expand_as(y)


@pytest.mark.parametrize(("name", "exact"), [("leapfrog", 1), ("yoshida4", 3)])
def test_a_symplectic_step_sees_the_right_times(name, exact):
    y0 = torch.tensor([[0.5, -1.0, 2.0, 0.25]], dtype=D)
    for power in range(exact + 1):
        for a, b in ((0.5, 2.0), (2.0, 0.5)):
            value = odeint(pushed(power), y0, [a, b], {"name": name, "steps": 1}).value[-1]
            grown = (b ** (power + 1) - a ** (power + 1)) / (power + 1)
            expected = y0 + grown * torch.tensor([[1.0, 3.0, 2.0, 5.0]], dtype=D)
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


def test_leapfrog_is_its_formula():
    q, p, h = torch.tensor([[1.0, 0.3]], dtype=D), torch.tensor([[0.2, -0.7]], dtype=D), 0.25
    c, m = torch.tensor([2.0, 3.0], dtype=D), torch.tensor([0.5, 4.0], dtype=D)
    solution = odeint(lambda t, y: torch.cat([y[:, 2:] * m, -y[:, :2] * c], 1), torch.cat([q, p], 1), [0.0, h, 2 * h],
                      {"name": "leapfrog", "step_size": h, "check": False})  # fmt: skip
    for state in solution.value[1:]:
        p = p - h / 2 * c * q
        q = q + h * m * p
        p = p - h / 2 * c * q
        torch.testing.assert_close(state, torch.cat([q, p], 1), rtol=1e-14, atol=0)
    assert solution.stats.nfe == 5  # two a step, and the first slope
    assert odeint(lambda t, y: 0 * y, solution.value[0], [0.0, 1.0], {"name": "leapfrog", "steps": 4}).stats.nfe == 12


@pytest.mark.parametrize("at", [0.0, 1.0, -0.5, 1.1, -11.0, -1 / 11, 3.0])
@pytest.mark.parametrize("which", [0, 1])
def test_a_coupled_field_is_refused_wherever_it_starts(at, which):
    def coupled(t: Tensor, y: Tensor) -> Tensor:
        return torch.cat([y[:, 1:], -y[:, :1]], 1) + y * torch.eye(2, dtype=y.dtype)[which]

    with pytest.raises(ValueError, match="dq/dt changes with q" if which == 0 else "dp/dt changes with p"):
        odeint(coupled, torch.full((1, 2), at, dtype=D), [0.0, 1.0], {"name": "leapfrog", "steps": 4})


@pytest.mark.parametrize("size", [0.5, 8.0])
@pytest.mark.parametrize("which", [0, 1])
def test_a_coupling_within_a_hundred_tolerances_passes(which, size):
    def coupled(t: Tensor, y: Tensor, by: float) -> Tensor:
        other = torch.full_like(y[:, :1], size)
        return torch.cat([other, other], 1) + by * y * torch.eye(2, dtype=y.dtype)[which]

    y0 = torch.zeros(1, 2, dtype=D)  # moved by 0.1, at a slope of ``size``
    threshold = 100 * 1e-5 * max(1.0, size) / 0.1
    solver = {"name": "leapfrog", "steps": 2, "rtol": 1e-5}
    odeint(lambda t, y: coupled(t, y, 0.995 * threshold), y0, [0.0, 1.0], solver)
    with pytest.raises(ValueError, match="separable"):
        odeint(lambda t, y: coupled(t, y, 1.005 * threshold), y0, [0.0, 1.0], solver)


def test_the_coupling_is_looked_at_where_the_solve_begins():
    def coupled(t: Tensor, y: Tensor) -> Tensor:
        assert t.dim() == 0 and t.dtype == y.dtype
        return y.flip(1) * torch.tensor([1.0, -1.0], dtype=y.dtype) + (y if abs(t.item() - 0.5) < 1e-12 else 0 * y)

    with pytest.raises(ValueError, match="separable"):
        odeint(coupled, torch.ones(1, 2, dtype=D), [0.5, 1.0], {"name": "leapfrog", "steps": 1})
    odeint(coupled, torch.ones(1, 2, dtype=D), [0.75, 1.0], {"name": "leapfrog", "steps": 1})
    for shape in ((3,), (2, 3)):
        with pytest.raises(ValueError, match="even number"):
            integrate(lambda t, y: y, torch.ones(shape), [0.0, 1.0], Leapfrog(steps=1))
