"""The curves of a comparison: memory by depth, gradients by tolerance, accuracy by budget; and how they are drawn."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zoo.compare import figures, solver_curves
from zoo.compare import measure as measuring
from zoo.implicit import ImplicitMixin, implicit_modules


class Layer(ImplicitMixin, nn.Module):
    """``z = tanh(W z + x)`` with a contraction, or the same as a field."""

    def __init__(self, solver, adjoint):
        super().__init__()
        self.w = nn.Linear(6, 6, dtype=torch.float32)
        nn.init.orthogonal_(self.w.weight, gain=0.7)
        self.problem_types = ("fixed_point", "ode")
        self.configure_implicit(solver, adjoint)

    def forward(self, x):
        if "steps" in vars(self.solver):
            return self.integrate(lambda t, y: torch.tanh(self.w(y)), x, (0.0, 1.0), params=self.parameters())[-1]
        return self.solve(lambda z, x: torch.tanh(self.w(z) + x), torch.zeros_like(x), args=(x,))


class Small(nn.Module):
    """What the curves ask of a task."""

    monitor = "val/accuracy"

    def __init__(self, model):
        super().__init__()
        self.model = model

    def answer(self, batch):
        return self.model(batch[0])

    def rows(self, batch):
        return len(batch[0])

    def cut(self, batch, count):
        return tuple(t[:count] for t in batch)

    def score(self, batch, stage):
        return SimpleNamespace(loss=nn.functional.cross_entropy(self.model(batch[0]), batch[1]))


class Bench(SimpleNamespace):
    def solved(self):
        return [m.last.stats for m in self.modules]


def bench(solver, adjoint):
    torch.manual_seed(0)
    task = Small(Layer(solver, adjoint))
    batch = torch.randn(8, 6), torch.randint(6, (8,))
    modules = [m for _, m in implicit_modules(task)]
    return Bench(task=task, model=task.model, modules=modules, train=[batch], test=[batch])


@pytest.mark.parametrize("solver, adjoint", [("picard", "implicit"), ("rk4", "unroll"), ("anderson", "unroll")])
def test_memory_grows_with_the_solve_only_where_it_is_unrolled(solver, adjoint):
    b = bench(solver, adjoint)
    before = [(m.solver, m.adjoint) for m in b.modules]
    own, other = solver_curves.growth(b)["ways"]
    flat, growing = (other, own) if adjoint == "unroll" else (own, other)
    assert own["adjoint"] == adjoint and {own["own"], other["own"]} == {True, False}
    assert flat["adjoint"] in ("implicit", "backsolve") and len(set(flat["bytes"][:3])) == 1
    assert flat["bytes"][-1] < 2 * flat["bytes"][0]  # samples that leave the batch are brought together
    assert growing["bytes"][-1] > 3 * growing["bytes"][0] and growing["evaluations"][-1] >= 16
    assert [(m.solver, m.adjoint) for m in b.modules] == before


def test_what_cannot_be_unrolled_leaves_the_models_own_curve():
    own, other = solver_curves.growth(bench("newton", "implicit"))["ways"]
    assert own["bytes"] and other["adjoint"] == "unroll" and "Newton" in other["why"]


@pytest.mark.parametrize("solver, adjoint", [("picard", "implicit"), ("broyden", "implicit"), ("dopri5", "unroll")])
def test_exact_gradients_fall_with_the_tolerance(solver, adjoint):
    b = bench(solver, adjoint)
    if solver == "dopri5":
        with torch.no_grad():
            b.model.w.weight.mul_(3)  # a field that bends within a step
    found = solver_curves.gradient(b)
    assert found["reference"] == "float64" and found["adjoint"] == adjoint
    assert found["error"][-1] < min(2e-3, found["error"][0])
    assert found["cosine"][-1] == pytest.approx(1, abs=1e-5)
    assert found["evaluations"] == sorted(found["evaluations"])


def test_a_biased_gradient_keeps_its_bias():
    b = bench("picard", "jfb")
    assert solver_curves.gradient(b)["error"][-1] > 1e-2
    b = bench("picard", {"name": "neumann", "terms": 1})
    assert solver_curves.gradient(b)["error"][-1] > 1e-2


def test_no_gradient_curve_without_a_reference(monkeypatch):
    b = bench("picard", "implicit")
    with torch.no_grad():
        b.model.w.weight.mul_(30)  # no contraction: Picard's method goes nowhere
    assert "no reference" in solver_curves.gradient(b)
    fixed = bench("rk4", "unroll")
    assert solver_curves.gradient(fixed) == "ClassicRK4 takes fixed steps, so that it has no tolerance"


def test_the_budget_is_of_the_solver_that_evaluates():
    b = bench("picard", "implicit")
    b.model.configure_implicit(eval_solver={"name": "anderson", "rtol": 1e-4})
    seen = []
    answer = b.task.answer
    b.task.answer = lambda batch: seen.append(b.model._present("", "")[0]) or answer(batch)
    found = solver_curves.anytime(b)
    assert [type(s).__name__ for s in seen] == ["Anderson"] * len(solver_curves.BUDGETS)
    assert [s.max_steps for s in seen] == found["budget"] and b.model.eval_solver.rtol == 1e-4
    assert solver_curves.anytime(bench("dopri5", "unroll")) == "an integration in time has no answer before its end"


def test_a_curve_fails_alone():
    def full(bench):
        raise torch.OutOfMemoryError("no room")

    assert measuring._curve(full, None) == "OutOfMemoryError: no room"


def row(name, **drawn):
    return {"label": name, "seeds": [0], "metric": "accuracy", "values": {}, "std": {}, "reasons": {}, "level": None,
            "asked": None, "curves": drawn}  # fmt: skip


@pytest.mark.slow
def test_the_figures_say_who_has_no_line_and_cut_no_marker(tmp_path, monkeypatch):
    kept = {}
    whole = figures.write
    monkeypatch.setattr(
        figures, "write", lambda figure, folder, name, caption: kept.update({name: figure}) or whole(
            figure, folder, name, caption)
    )  # fmt: skip
    ways = [{"adjoint": "implicit", "own": True, "evaluations": [3, 5], "bytes": [10.0, 10.0]},
            {"adjoint": "unroll", "why": "cannot"}]  # fmt: skip
    gradient = {"adjoint": "implicit", "reference": "float64", "tolerance": [0.1, 0.01], "error": [0.1, None],
                "cosine": [0.9, 1.0]}  # fmt: skip
    full = row("deq", residuals=[1.0, None, 0.1], anytime={"budget": [1, 2], "score": [0.983, 0.986]},
               growth={"ways": ways}, gradient=gradient)  # fmt: skip
    explicit = row("net")
    explicit["reasons"] = {"nfe_forward": "solves nothing"}
    drawn = {p.name: p.caption for p in figures.draw([full, explicit], tmp_path, "x")}
    assert {"x_costs", "x_solves", "x_growth", "x_gradient"} <= set(drawn)
    for name in ("x_solves", "x_growth", "x_gradient"):
        assert "Without a line: net (solves nothing)" in drawn[name]
    assert "deq by unroll (cannot)" in drawn["x_growth"]
    low, high = kept["x_solves"].axes[1].get_ylim()
    assert high - 98.6 > 0.03 * (high - low)  # the marker at the top is whole
