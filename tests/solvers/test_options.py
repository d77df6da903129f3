"""What every option is when it is left open, and which values each one takes; files and papers rely on it."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from zoo.adjoints import ADJOINTS
from zoo.solvers import SOLVERS
from zoo.solvers.krylov import GMRES
from zoo.solvers.learned import Proposer
from zoo.solvers.ode.one_step import Controller
from zoo.solvers.train_learned import loss, train

FIXED = {"rtol": 1e-3, "atol": 1e-6, "max_steps": 30}
ODE = {"rtol": 1e-5, "atol": 1e-6, "max_steps": 10_000}
STEPS = {**ODE, "steps": None, "step_size": None, "first_step": None, "per_sample": False, "norm": "max",
         "controller": Controller()}  # fmt: skip
DEFAULTS = {
    "picard": {**FIXED, "damping": 1.0},
    "anderson": {**FIXED, "window": 5, "damping": 1.0, "ridge": None, "restart": 10.0},
    "learned": {**FIXED, "weights": None, "network": None, "ridge": None, "restart": 10.0},
    "broyden": {**FIXED, "window": 60, "singular": 1e-2, "restart": 1e4},
    "newton": {**FIXED, "halvings": 3, "linear_solver": GMRES(rtol=1e-2, atol=0.0, max_steps=20)},
    "reversible": {**FIXED, "damping": 0.5, "max_steps": 22},
    "gmres": {**FIXED, "window": 30},
    "bicgstab": FIXED,
    "cg": {**FIXED, "symmetric": False},
    "neumann": FIXED,
    **{n: {**STEPS, "compile": False}
       for n in ("euler", "midpoint", "heun", "bosh3", "rk4", "dopri5", "tsit5", "dopri8")},
    **{n: {**STEPS, "check": True} for n in ("leapfrog", "yoshida4")},
    **{n: {**STEPS, "linear_solver": GMRES(rtol=1e-8, atol=0.0, max_steps=100)}
       for n in ("implicit_euler", "implicit_midpoint", "trapezoid")},
}  # fmt: skip
TRAITS = {  # linear, krylov, monotone, unrollable
    "picard": (False, False, False, True), "anderson": (False, False, False, True),
    "learned": (False, False, False, True), "broyden": (False, False, False, True),
    "newton": (False, False, False, False), "reversible": (False, False, False, False),
    "gmres": (True, True, True, False), "bicgstab": (True, True, False, False), "cg": (True, True, False, False),
    "neumann": (True, False, False, False),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name):
    made = SOLVERS.build(name)
    assert {k: getattr(made, k) for k in DEFAULTS[name]} == DEFAULTS[name]
    if name in TRAITS:
        assert (made.linear, made.krylov, made.monotone, made.unrollable) == TRAITS[name]


def test_all_own_solvers_are_listed():
    assert set(DEFAULTS) == {n for n in SOLVERS.names() if ":" not in n}


def test_defaults_of_the_implicit_steps():
    for name in ("implicit_euler", "implicit_midpoint", "trapezoid"):
        inner = SOLVERS.build(name).solver
        assert (type(inner).__name__, inner.rtol, inner.atol, inner.max_steps) == ("Newton", 1e-7, 1e-9, 20)
        assert inner.linear_solver == GMRES(rtol=1e-3, atol=0.0, max_steps=50)


def test_defaults_of_the_adjoints():
    implicit, phantom, jfb, shine = (ADJOINTS.build(n) for n in ("implicit", "phantom", "jfb", "shine"))
    assert implicit.solver == GMRES(rtol=1e-3, max_steps=30) and implicit.select == "best"
    assert (phantom.steps, phantom.damping, jfb.steps, jfb.damping) == (5, 0.5, 1, 1.0)
    assert shine.refine == 0 and shine.solver == GMRES(rtol=1e-3)
    cut = ADJOINTS.build("neumann").solver
    assert (cut.max_steps, cut.rtol, cut.atol) == (5, 1e-6, 0.0)
    assert ADJOINTS.build("backsolve").solver is None and ADJOINTS.build("backsolve").seminorm is True


def test_defaults_of_the_learned_solver():
    def of(function):
        return {k: p.default for k, p in inspect.signature(function).parameters.items() if p.default is not p.empty}

    assert of(train) == {"updates": 500, "steps": 6, "lr": 3e-3, "clip": 1.0, "report": None}
    assert of(loss) == {"resolved": 1e-6}
    assert of(Proposer) == {"shapes": None, "window": 5, "hidden": 16, "width": 32, "residual": False}
    assert dataclasses.asdict(Controller()) == {
        "p": 0.0,
        "i": 1.0,
        "d": 0.0,
        "safety": 0.9,
        "shrink": 0.2,
        "grow": 10.0,
    }


ALLOWED = {
    ("picard", "damping"): ([1e-9, 0.5, 1.0], [0.0, -0.5, 1.0001]),
    ("anderson", "damping"): ([1e-9, 1.0], [0.0, 1.0001]),
    ("anderson", "window"): ([1, 2], [0, -1]),
    ("anderson", "ridge"): ([0.0, 1e-9, None], [-1e-9]),
    ("broyden", "window"): ([1, 2], [0]),
    ("gmres", "window"): ([1, 2], [0]),
    ("reversible", "damping"): ([1e-9, 0.999], [0.0, 1.0]),
    ("picard", "max_steps"): ([1, 2], [0, -1]),
    ("picard", "rtol"): ([0.0, 1e-300], [-1e-300]),
    ("picard", "atol"): ([0.0, 1e-300], [-1e-300]),
    ("phantom", "steps"): ([1, 2], [0]),
    ("phantom", "damping"): ([1e-9, 1.0], [0.0, 1.0001]),
    ("shine", "refine"): ([0, 1], [-1]),
}


@pytest.mark.parametrize(("name", "option"), ALLOWED)
def test_bounds_of_options(name, option):
    registry = ADJOINTS if name in ("phantom", "shine") else SOLVERS
    good, bad = ALLOWED[name, option]
    for value in good:
        assert getattr(registry.build({"name": name, option: value}), option) == value
    for value in bad:
        with pytest.raises(ValueError, match=option):
            registry.build({"name": name, option: value})


@pytest.mark.parametrize("name", [n for n in TRAITS])
def test_both_tolerances_zero_are_refused(name):
    with pytest.raises(ValueError, match="both 0"):
        SOLVERS.build({"name": name, "rtol": 0.0, "atol": 0.0})
    for options in ({"rtol": -1.0}, {"atol": -1.0}, {"max_steps": 0}):
        with pytest.raises(ValueError):
            SOLVERS.build({"name": name, **options})


def test_a_proposer_needs_room_and_shapes():
    for options in ({"window": 0}, {"hidden": 0}, {"width": 0}, {"residual": True}, {"residual": True, "shapes": []}):
        with pytest.raises(ValueError):
            Proposer(**options)
    made = Proposer([(2,)], window=1, hidden=1, width=1, residual=True)
    assert made.first is not None and made.residual is not None
    assert Proposer([(2,)]).residual is None and Proposer().first is None
    assert made.mixer[0].in_features == 1 * 4 // 2 + 2 and made.mixer[2].out_features == 2
    assert Proposer(window=3).mixer[0].in_features == 3 + 3 + 3 + 2
