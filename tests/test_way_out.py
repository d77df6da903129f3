"""What a solve cannot do as it was asked: the right answer all the same, or a sentence with the way out."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import nn

import zoo
from zoo.deq import DEQ
from zoo.registry import unknown
from zoo.solve import make_solver

D = torch.float64


class Cell(nn.Module):
    def __init__(self, states: int = 4, inputs: int = 4) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(states, states), nn.Linear(inputs, states)

    def forward(self, z, x):
        return torch.tanh(0.3 * self.w(z) + self.u(x))


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        solver = {"name": "anderson", "rtol": 1e-11, "atol": 1e-13}
        self.layer = DEQ(Cell(), solver, {"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-11}})

    def forward(self, t, y):
        return self.layer(y) - y


def test_backsolve_takes_a_field_with_an_equilibrium_inside():
    torch.manual_seed(0)
    field = Field().double()
    y0 = torch.randn(2, 4, dtype=D, requires_grad=True)
    given = [y0, *field.parameters()]
    grads = {}
    for adjoint in ("unroll", "backsolve"):
        solution = zoo.odeint(field, y0, [0.0, 1.0], {"name": "dopri5", "rtol": 1e-9, "atol": 1e-11}, adjoint)
        grads[adjoint] = torch.autograd.grad(solution.value[-1].square().sum(), given)
    torch.testing.assert_close(grads["backsolve"], grads["unroll"], rtol=1e-6, atol=1e-9)


def test_backsolve_still_finds_what_an_equilibrium_inside_depends_on():
    field = Field()
    with pytest.raises(ValueError, match="depends on 4 tensor"):
        zoo.odeint(field, torch.randn(2, 4), [0.0, 1.0], "dopri5", "backsolve", params=[])


def test_reversible_takes_a_map_that_differentiates_inside():
    torch.manual_seed(0)
    w = (0.2 * torch.randn(4, 4, dtype=D)).requires_grad_()
    x = torch.randn(2, 4, dtype=D)

    def f(z):
        with torch.enable_grad():
            q = z if z.requires_grad else z.clone().requires_grad_()
            (slope,) = torch.autograd.grad(torch.tanh(q @ w + x).sum(), q, create_graph=True)
        return slope

    def written_out(z):
        return (1 - torch.tanh(z @ w + x) ** 2) @ w.T

    solver = {"name": "reversible", "max_steps": 12, "rtol": 1e-12, "atol": 1e-14}
    grads = []
    for map_ in (f, written_out):
        value = zoo.fixed_point(map_, torch.zeros(2, 4, dtype=D), solver, "reversible").value
        grads += torch.autograd.grad(value.sum(), w)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-8, atol=1e-10)


def test_a_state_unlike_the_input_is_told_of_z0():
    layer = DEQ(Cell(8, 4))
    x = torch.randn(2, 4)
    with pytest.raises(RuntimeError, match=r"\(2, 4\), and the cell refuses .* z0=torch.zeros"):
        layer(x)
    assert layer(x, z0=torch.zeros(2, 8)).shape == (2, 8)


def test_an_error_of_the_cell_at_another_state_is_its_own():
    class Late(Cell):
        def forward(self, z, x):
            if z.abs().max() > 0:
                raise RuntimeError("of the cell's own")
            return super().forward(z, x)

    with pytest.raises(RuntimeError, match="^of the cell's own$"):
        DEQ(Late())(torch.ones(2, 4))


class Ends(nn.Module):
    def __init__(self, solver) -> None:
        super().__init__()
        self.solver = solver

    def forward(self, y):
        return zoo.odeint(lambda t, y: -y, y, [0.0, 1.0], self.solver).value[-1]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_of_fixed_steps_answers_other_inputs():
    module = Ends({"name": "rk4", "steps": 4})
    with pytest.warns(FutureWarning):
        traced = torch.jit.trace(module, (torch.ones(2, 4),), check_trace=False)
    x = torch.linspace(-3, 5, 8).view(2, 4)
    torch.testing.assert_close(traced(x), module(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("module", [DEQ(Cell()).eval(), Ends("dopri5"), Ends({"name": "implicit_euler", "steps": 4})])
def test_a_trace_of_a_solve_is_refused(module):
    x = torch.ones(2, 4)
    with torch.no_grad(), pytest.warns(FutureWarning), pytest.raises(RuntimeError, match="cannot be traced"):
        torch.jit.trace(module, (x,))
    if isinstance(module, Ends):  # a program holds picard and anderson: tests/solvers/test_bounded.py
        with torch.no_grad(), pytest.raises(RuntimeError, match="cannot be traced or exported"):
            torch.export.export(module, (x,))


def test_an_event_that_is_nan_from_the_start_is_refused():
    with pytest.raises(ValueError, match="NaN at the start"):
        zoo.odeint(lambda t, y: -y, torch.ones(2, 1), [0.0, 1.0], event=lambda t, y: y[:, 0] * float("nan"))


def test_dense_output_of_no_step_says_so():
    solution = zoo.odeint(lambda t, y: y * float("nan"), torch.ones(1, 1), [0.0, 1.0], dense=True)
    with pytest.raises(ValueError, match="nonfinite.* took no step"):
        solution.evaluate(0.5)


@pytest.mark.parametrize(
    "kind, theirs, ours",
    [("solver", "fixed_point_iter", "picard"), ("option", "f_tol", "rtol"), ("option", "step_t", "jump_ts")],
)
def test_the_names_of_other_packages_lead_to_ours(kind, theirs, ours):
    assert f"Did you mean {ours!r}?" in unknown(kind, theirs, ["midpoint", "steps", "step_size", "tol", ours])
    assert ours not in unknown(kind, theirs, ["midpoint", "steps"])


FIELD = lambda t, y: -y  # noqa: E731


@pytest.mark.parametrize(
    ("solve", "option", "said"),
    [
        (zoo.odeint, {"method": "dopri5"}, "No argument of odeint named 'method'. Did you mean 'solver'?"),
        (zoo.odeint, {"t": [0.0, 1.0]}, "Did you mean 'ts'?"),
        (zoo.odeint, {"event_fn": None}, "Did you mean 'event'?"),
        (zoo.odeint, {"rtol": 1e-6}, "an option of the solver: solver={'name': 'dopri5', 'rtol': 1e-06}."),
        (zoo.odeint, {"dt0": 0.1}, "solver={'name': 'dopri5', 'first_step': 0.1}."),
        (zoo.odeint, {"options": {"step_size": 0.1}}, "stand beside the solver's name: solver={'name': 'rk4', ...}."),
        (zoo.fixed_point, {"max_iter": 9}, "solver={'name': 'anderson', 'max_steps': 9}."),
        (zoo.fixed_point, {"damping": 0.5}, "solver={'name': 'anderson', 'damping': 0.5}."),
        (zoo.fixed_point, {"f_solver": "anderson"}, "Did you mean 'solver'?"),
        (zoo.fixed_point, {"thorw": True}, "Did you mean 'throw'?"),
    ],
)
def test_keywords_of_other_packages_lead_to_ours(solve, option, said):
    given = (FIELD, torch.ones(1, 2), *([[0.0, 1.0]] * (solve is zoo.odeint)))
    with pytest.raises(TypeError) as error:
        solve(*given, **option)
    assert said in str(error.value)


def test_the_entry_points_show_their_arguments():
    assert list(inspect.signature(zoo.fixed_point).parameters)[:4] == ["f", "z0", "solver", "adjoint"]
    assert list(inspect.signature(zoo.odeint).parameters)[:3] == ["f", "y0", "ts"]


def test_a_command_called_as_a_function_leads_to_its_python():
    code = """
import zoo
for name in ("fit", "evaluate", "compare", "export", "convert", "sample"):
    try:
        getattr(zoo, name)()
    except AttributeError as error:
        assert f"python -m zoo.{name}. From Python: " in str(error), error
    else:
        raise AssertionError(name)
from zoo import fit
assert callable(fit.main)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("solver", "adjoint"), [("anderson", "implicit"), ("newton", "implicit"), ("broyden", "phantom")]
)
def test_forward_mode_through_a_fixed_point_leads_to_reverse_mode(solver, adjoint):
    x = torch.randn(2, 4)
    with fwAD.dual_level(), pytest.raises(RuntimeError, match=r"forward-mode.*Use loss.backward\(\)"):
        dual = fwAD.make_dual(x, torch.ones_like(x))
        zoo.fixed_point(lambda z: torch.tanh(0.3 * z + dual), torch.zeros(2, 4), solver, adjoint)


@pytest.mark.parametrize("solve", ["picard", "anderson", "rk4", "dopri5"])
def test_unrolled_solves_carry_tangents(solve):
    def run(x):
        if solve in ("picard", "anderson"):
            f = lambda z: torch.tanh(0.3 * z + x)  # noqa: E731
            return zoo.fixed_point(f, torch.zeros(2, 4, dtype=D), {"name": solve, "rtol": 1e-12}, "unroll").value
        return zoo.odeint(lambda t, y: torch.tanh(x - y), torch.zeros(2, 4, dtype=D), [0.0, 1.0], solve).value[-1]

    x = torch.linspace(-1, 1, 8, dtype=D).view(2, 4)
    with fwAD.dual_level():
        forward = fwAD.unpack_dual(run(fwAD.make_dual(x, torch.ones_like(x)))).tangent
    x.requires_grad_()
    torch.testing.assert_close(forward, torch.autograd.grad(run(x).sum(), x)[0])  # each number depends on its own x


def test_failures_that_have_their_sentence_keep_it_under_forward_mode():
    with fwAD.dual_level(), pytest.raises(zoo.SolveError):
        x = fwAD.make_dual(torch.ones(1, 2), torch.ones(1, 2))
        zoo.fixed_point(lambda z: 1 - z + x, torch.zeros(1, 2), "picard", "unroll", throw=True)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (torch.eye(3).to_sparse(), "must be dense.*to_dense"),
        (torch.zeros(2, 2, device="meta"), "the device meta"),
        (torch.zeros(2, 2).to(torch.float8_e4m3fn), "float8.*bfloat16"),
        (torch.zeros(2, 2).numpy(), "torch.as_tensor"),
        ({"a": torch.zeros(2, 2)}, r"tuple\(.0.values\(\)\)"),
    ],
)
def test_a_state_that_no_solver_can_work_on_leads_to_one(state, said):
    with pytest.raises(TypeError, match=said):
        zoo.fixed_point(lambda z: z, state)
    with pytest.raises(TypeError, match=said):
        zoo.odeint(FIELD, state, [0.0, 1.0])


@pytest.mark.parametrize(
    ("solver", "said"),
    [
        ({"name": "anderson", "rtol": "1e-3"}, "rtol must be a number; got '1e-3'"),
        ({"name": "anderson", "rtol": float("nan")}, "negative, or NaN"),
        ({"name": "anderson", "max_steps": 10.5}, "max_steps must be a whole number"),
        ({"name": "anderson", "window": 2.5}, "window must be a whole number"),
        ({"name": "gmres", "max_steps": float("inf")}, "max_steps must be a whole number"),
        ({"name": "dopri5", "rtol": "x"}, "Dopri5: rtol must be a number"),
        ({"name": "rk4", "steps": "3"}, "steps must be a number"),
        ({"name": "rk4", "step_size": "0.1"}, "step_size must be a number"),
    ],
)
def test_options_of_another_type_are_named(solver, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make_solver(solver)


def test_numbers_of_numpy_are_numbers():
    solver = make_solver({"name": "anderson", "rtol": np.float32(1e-3), "max_steps": np.int64(7)})
    assert solver.max_steps == 7


@pytest.mark.parametrize("ts", [None, 1.0, ["a", "b"], torch.tensor([0, 1j]), [[0.0], [0.0, 1.0]]])
def test_times_that_are_none_are_refused(ts):
    with pytest.raises(TypeError, match="ts must be a tensor"):
        zoo.odeint(FIELD, torch.ones(1, 1), ts)


def test_what_is_no_function_is_refused():
    y = torch.ones(1, 2)
    with pytest.raises(TypeError, match="f must be a function or a module; got Tensor. The function comes first"):
        zoo.odeint(y, FIELD, [0.0, 1.0])
    with pytest.raises(TypeError, match="got int"):
        zoo.fixed_point(3, y)
    with pytest.raises(TypeError, match=r"called as f\(t, y, \*args\), with 0 args"):
        zoo.odeint(nn.Linear(2, 2), y, [0.0, 1.0])
    with pytest.raises(TypeError, match=r"comma: args=\(x,\)"):
        zoo.odeint(FIELD, y, [0.0, 1.0], args=y)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("adjoint", ["implicit", "neumann", "phantom", "unroll"])
def test_a_gradient_that_is_not_finite_stays_so(adjoint, bad):
    """A scaler of mixed precision leaves out the step that overflows by this sign; zeros would hide it."""
    w = (0.2 * torch.eye(4)).requires_grad_()
    x = torch.linspace(-1, 1, 12).view(3, 4)
    value = zoo.fixed_point(lambda z: torch.tanh(z @ w + x), torch.zeros(3, 4), "anderson", adjoint).value
    (grad,) = torch.autograd.grad(value, w, torch.ones_like(x).index_fill(0, torch.tensor([1]), bad))
    assert not torch.isfinite(grad).all()
