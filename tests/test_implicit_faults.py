"""Small faults of `ImplicitMixin` and its scopes: which options carry over, budgets, records."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo.implicit import ImplicitMixin, implicit_layers, implicit_modules, record_solves, solver_budget, untracked


class Layer(ImplicitMixin, nn.Module):
    def __init__(self, rate: float = 0.5, **options) -> None:
        super().__init__()
        self.rate = rate
        self.configure_implicit(**{"solver": "picard", "adjoint": "jfb", **options})

    def forward(self, x):
        return self.solve(lambda z: self.rate * z + x, torch.zeros_like(x))


class Flow(ImplicitMixin, nn.Module):
    problem_types = ("ode",)

    def __init__(self) -> None:
        super().__init__()
        self.configure_implicit("dopri5", "unroll")


def test_tolerances_and_budget_carry_over():
    layer = Layer(solver={"name": "picard", "rtol": 1e-2, "atol": 1e-5, "max_steps": 7, "damping": 0.5})
    layer.configure_implicit("anderson")
    assert (layer.solver.rtol, layer.solver.atol, layer.solver.max_steps) == (1e-2, 1e-5, 7)
    assert layer.solver.damping == 1.0  # an option of the method itself does not
    layer.configure_implicit({"name": "broyden", "rtol": 1e-4})
    assert (layer.solver.rtol, layer.solver.max_steps) == (1e-4, 7) and layer.solver.atol < 1e-5  # goes with its rtol
    layer.configure_implicit(eval_solver="picard")
    assert (layer.eval_solver.rtol, layer.eval_solver.max_steps) == (1e-4, 7)
    fresh = zoo.solve.make_solver("anderson")
    layer.configure_implicit(fresh)
    assert layer.solver is fresh and layer.eval_solver.max_steps == 7
    flow = Flow()
    flow.configure_implicit({"name": "heun", "rtol": 1e-2})
    flow.configure_implicit("tsit5")
    assert (flow.solver.rtol, flow.solver.max_steps) == (1e-2, 10_000)


def test_what_is_left_open_stays():
    layer = Layer()
    solver, adjoint = layer.solver, layer.adjoint
    layer.configure_implicit()
    assert layer.solver is solver and layer.adjoint is adjoint and layer.eval_solver is None and layer.throw is False
    layer.configure_implicit(throw=True)
    layer.configure_implicit(adjoint="implicit")
    assert layer.throw is True and layer.solver is solver and type(layer.adjoint).__name__ == "Implicit"
    layer.configure_implicit(throw=False)
    assert layer.throw is False


def test_solvers_of_another_problem_are_refused():
    layer, flow = Layer(), Flow()
    wrong = [(layer, {"solver": "dopri5"}), (layer, {"eval_solver": "dopri5"}), (layer, {"adjoint": "backsolve"})]
    for module, options in [*wrong, (flow, {"solver": "picard"}), (flow, {"adjoint": "implicit"})]:
        before = module.solver, module.eval_solver, module.adjoint
        with pytest.raises(ValueError, match="poses"):
            module.configure_implicit(**options)
        assert (module.solver, module.eval_solver, module.adjoint) == before


def test_a_budget_within_a_budget():
    layer, x = Layer(solver={"name": "picard", "rtol": 1e-12, "atol": 0.0, "max_steps": 20}), torch.ones(1, 2)

    def steps(**scope) -> int:
        with solver_budget(**scope):
            layer(x)
        return int(layer.last.stats.steps.max())

    assert [steps(most=3), steps(most=50), steps(less=4), steps(most=5, less=2), steps(less=99), steps()] == [
        3, 20, 16, 3, 1, 20,
    ]  # fmt: skip
    with solver_budget(most=6), solver_budget(less=1):
        layer(x)
        assert layer.last.stats.steps.item() == 5
    layer(x)
    assert layer.last.stats.steps.item() == 20 and layer.solver.max_steps == 20


def test_a_cut_solve_does_not_raise_and_an_aside_neither():
    layer, x = Layer(rate=0.99, throw=True, solver={"name": "picard", "rtol": 1e-9, "max_steps": 5}), torch.ones(1, 2)
    with pytest.raises(zoo.SolveError):
        layer(x)
    with solver_budget(less=1):
        layer(x)
    with record_solves() as outer:
        with untracked():
            layer(x)
        assert outer == []
        with pytest.raises(zoo.SolveError):
            layer(x)
    assert [m for m, _ in outer] == [layer] and outer[0][1] is layer.last
    easy = Layer(throw=True, solver={"name": "picard", "max_steps": 50})
    easy(x)


def test_a_sum_of_records_takes_their_place():
    layer, x = Layer(), torch.ones(1, 2)
    with record_solves() as seen:
        layer(x)
        first = layer.last
        layer(x)
        second = layer.last
        layer(x)
        third = layer.last
        layer.record(first, parts=[first, second])
        assert [r for _, r in seen] == [third, first] and layer.last is first
        layer.record(None)
        assert layer.last is None and len(seen) == 2
        with record_solves() as inner:
            layer(x)
        assert len(inner) == 1 and len(seen) == 2
    layer(x)
    assert len(seen) == 2


def test_the_solver_of_the_mode():
    layer, x = Layer(rate=0.99, eval_solver={"name": "picard", "max_steps": 3}), torch.ones(1, 2)
    layer.configure_implicit({"name": "picard", "max_steps": 2})
    for training, steps in ((True, 2), (False, 3)):
        layer.train(training)(x)
        assert layer.last.stats.steps.item() == steps
    bare = Layer.__new__(Layer)
    nn.Module.__init__(bare)
    with pytest.raises(RuntimeError, match="no solver yet"):
        bare._present("picard", "jfb")
    bare.solver = layer.solver
    with pytest.raises(RuntimeError, match="no solver yet"):
        bare._present("picard", "jfb")


def test_modules_are_found_by_name():
    model = nn.Sequential(nn.Linear(1, 1), Layer(), nn.Sequential(Flow()))
    assert [name for name, _ in implicit_modules(model)] == ["1", "2.0"]
    assert implicit_layers(model) == [model[1], model[2][0]] and implicit_layers(model[1]) == [model[1]]
    outer = Layer()
    outer.inner = Layer()
    assert len(implicit_modules(outer)) == 2 and implicit_layers(outer) == [outer]


def test_entry_points_check_their_args():
    z0 = torch.zeros(2, 3)
    for wrong in ((torch.ones(3, 1),), (torch.tensor(1.0),), (1.0,), (torch.ones(1, 2),)):
        with pytest.raises(ValueError, match=r"args\[0\]"):
            zoo.fixed_point(lambda z, a: z / 2, z0, args=wrong)
    with pytest.raises(ValueError, match=r"args\[1\]"):
        zoo.fixed_point(lambda z, a, b: z / 2, z0, args=(z0, torch.ones(3)))
    assert zoo.fixed_point(lambda z, a: z / 2 + a, z0, args=(z0,), throw=True).result is zoo.Result.converged
    with pytest.raises(zoo.SolveError) as error:
        zoo.fixed_point(lambda z: z * 0.999 + 1, z0, {"name": "picard", "max_steps": 2}, throw=True)
    assert error.value.solution.stats.steps.tolist() == [2, 2]
    assert zoo.fixed_point(lambda z: z * 0.999 + 1, z0, {"name": "picard", "max_steps": 2}).result is not None
    nested = zoo.solve.make_solver({"name": "newton", "linear_solver": "bicgstab"})
    assert type(nested.linear_solver).__name__ == "BiCGStab"
    nested = zoo.solve.make_adjoint({"name": "implicit", "solver": {"name": "gmres", "window": 3}})
    assert nested.solver.window == 3
