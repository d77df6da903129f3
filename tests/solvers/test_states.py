"""What a state may be: a batch, one sample without a batch axis, complex numbers; and what a map may not do to it."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import nn

import zoo
from zoo.deq import DEQ
from zoo.solvers.packing import Packing


@pytest.mark.parametrize("solver", ["picard", "anderson", "broyden", "newton"])
def test_a_map_that_writes_into_its_state_is_refused(solver):
    z0 = torch.tensor([[-1.0, 2.0]])
    with torch.no_grad(), pytest.raises(ValueError, match="wrote into its input"):
        zoo.fixed_point(lambda z: 0.5 * z.relu_() + 1, z0, solver)
    assert z0.tolist() == [[-1.0, 2.0]]


@pytest.mark.parametrize("solver", ["picard", "anderson", "broyden", "reversible"])
def test_a_map_that_begins_to_write_late_is_found_or_answered_rightly(solver):
    def late(calls):
        calls.append(1)
        return lambda z: (0.5 * (z.cos_() if len(calls) > 2 else z.cos()), calls.append(1))[0]

    z0 = torch.tensor([[-1.0, 2.0]])
    with torch.no_grad(), pytest.raises(ValueError, match="wrote into its input"):
        zoo.fixed_point(late([]), z0, solver)
    with torch.inference_mode():
        found = zoo.fixed_point(late([]), z0, {"name": solver, "rtol": 1e-5})
        torch.testing.assert_close(found.value, torch.full((1, 2), 0.450183611), rtol=1e-4, atol=0)
    assert z0.tolist() == [[-1.0, 2.0]]


@pytest.mark.parametrize("adjoint", ["implicit", "phantom", "jfb", "unroll"])
def test_a_cell_that_begins_in_place_is_refused(adjoint):
    cell = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))

    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, z, x):
            return 0.1 * self.cell(z) + x

    with pytest.raises(ValueError, match="inplace=False"):
        DEQ(Cell(), adjoint=adjoint)(torch.randn(3, 4))


def test_a_map_that_writes_into_its_arguments_is_refused():
    with pytest.raises(ValueError, match="wrote into its input"):
        zoo.fixed_point(lambda z, x: 0.5 * z + x.relu_(), torch.zeros(2, 3), args=(torch.randn(2, 3),))


def test_the_answer_is_never_the_caller_s_own_storage():
    z0 = torch.ones(2, 3)
    with torch.no_grad():
        value = zoo.fixed_point(lambda z: torch.ones_like(z), z0).value
    value.zero_()
    assert z0.eq(1).all()


@pytest.mark.parametrize("solver", ["picard", "anderson", "broyden", "newton"])
def test_a_state_without_a_batch_axis_is_one_sample(solver):
    n = 6
    w = (0.9 * torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]).requires_grad_()
    x = torch.randn(n, dtype=torch.float64)
    tight = {"rtol": 1e-10, "atol": 1e-13, "max_steps": 500}
    solution = zoo.fixed_point(
        lambda z: torch.tanh(w @ z + x),
        torch.zeros(n, dtype=torch.float64),
        {"name": solver, **tight},
        {"name": "implicit", "solver": {"name": "gmres", **tight}},
    )
    assert (
        solution.value.shape == (n,) and solution.stats.residual.shape == (1,) and solution.result.name == "converged"
    )
    found = torch.autograd.grad(solution.value.sum(), w)[0]
    z = solution.value.detach().requires_grad_()
    fz = torch.tanh(w @ z + x)
    jacobian = torch.autograd.functional.jacobian(lambda q: torch.tanh(w.detach() @ q + x), z.detach())
    u = torch.linalg.solve(torch.eye(n, dtype=torch.float64) - jacobian.T, torch.ones(n, dtype=torch.float64))
    assert torch.allclose(found, torch.autograd.grad(fz, w, u)[0], rtol=1e-7)


def test_a_number_is_a_state():
    solution = zoo.fixed_point(
        torch.cos, torch.tensor(0.5, dtype=torch.float64), {"name": "newton", "rtol": 1e-12, "atol": 1e-13}
    )
    assert solution.value.dim() == 0 and abs(float(solution.value) - 0.7390851332151607) < 1e-10


def test_an_integral_without_a_batch_axis_is_one_sample():
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    for solver in ({"name": "dopri5", "rtol": 1e-9, "atol": 1e-9}, {"name": "tsit5", "rtol": 1e-9, "per_sample": True}):
        solution = zoo.odeint(lambda t, y: turn @ y + 0 * t, y0, [0.0, 1.0], solver)
        assert solution.value.shape == (2, 2) and solution.stats.accepted.numel() == 1
        exact = torch.stack([torch.cos(torch.tensor(1.0).double()), -torch.sin(torch.tensor(1.0).double())])
        assert torch.allclose(solution.value[-1], exact, atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_complex_states_are_solved_as_pairs_of_reals(shape):
    a = torch.tensor(0.3 + 0.4j, dtype=torch.complex128, requires_grad=True)
    b = torch.full(shape, 1.0 - 2.0j, dtype=torch.complex128)
    tight = {"name": "anderson", "rtol": 1e-12, "atol": 1e-13, "max_steps": 200}
    solution = zoo.fixed_point(lambda z: a * z + b, torch.zeros_like(b), tight)
    assert solution.value.dtype == torch.complex128
    assert torch.allclose(solution.value, b / (1 - a.detach()))
    (got,) = torch.autograd.grad(solution.value.abs().square().sum(), a)
    again = a.detach().requires_grad_()
    (exact,) = torch.autograd.grad((b / (1 - again)).abs().square().sum(), again)
    assert torch.allclose(got, exact, rtol=1e-2)


def test_complex_states_are_integrated():
    y0 = torch.ones(2, 1, dtype=torch.complex128)
    solution = zoo.odeint(lambda t, y: 1j * y, y0, [0.0, 1.0], {"name": "dopri5", "rtol": 1e-9, "atol": 1e-9})
    assert torch.allclose(solution.value[-1], torch.exp(torch.tensor(1j, dtype=torch.complex128)).expand(2, 1))


def test_integers_are_told_what_to_do():
    with pytest.raises(TypeError, match="floating dtype"):
        zoo.fixed_point(lambda z: z, torch.zeros(2, 3, dtype=torch.long))


def test_a_packed_trajectory_keeps_its_times():
    packing = Packing.of((torch.zeros(2, 3), torch.zeros(2)))
    y = torch.randn(5, 2, 4)
    a, b = packing.unpack(y)
    assert a.shape == (5, 2, 3) and b.shape == (5, 2)


class Motion(NamedTuple):
    place: torch.Tensor
    speed: torch.Tensor


@pytest.mark.parametrize("adjoint", ["unroll", "checkpoint"])
def test_a_named_tuple_reaches_the_field_as_one(adjoint):
    start = Motion(torch.ones(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64))
    spec = {"name": "dopri5", "rtol": 1e-8, "atol": 1e-10}
    event = lambda t, y: y.place[:, 0] - 0.5  # noqa: E731
    solution = zoo.odeint(lambda t, y: Motion(y.speed, -y.place), start, [0.0, 1.0], spec, adjoint, dense=True)
    assert isinstance(solution.value, Motion) and isinstance(solution.evaluate(0.5), Motion)
    assert torch.allclose(solution.value.place[-1], torch.ones(2, 3).double().cos(), atol=1e-7)
    solution = zoo.odeint(lambda t, y: Motion(y.speed, -y.place), start, [0.0, 2.0], spec, adjoint, event=event)
    assert solution.event_time.tolist() == pytest.approx([1.0471975512] * 2, abs=1e-6)
    found = zoo.fixed_point(lambda z: Motion(0.5 * z.place + 1, 0.5 * z.speed), start)
    assert isinstance(found.value, Motion)
