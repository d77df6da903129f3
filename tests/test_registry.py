"""Names to things: lazy, never overwritten, and a wrong name is answered by the nearest."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import pytest
import torch

import zoo
import zoo.deq
from zoo.registry import Entry, Registry, UnknownName, check_options, option_names, unknown


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A thing with options. And a second sentence."""

    rtol: float = 1e-3
    max_steps: int = 30


@pytest.fixture
def things():
    registry = Registry(
        "thing",
        Entry("decimal", "decimal:Decimal", "a number", "exact"),
        Entry("fraction", "fractions:Fraction", "a ratio", "exact"),
        Entry("broken", "no_such_module:Nothing", "cannot be imported", "lost"),
    )
    registry.register("thing", kind="made")(Thing)
    return registry


def test_a_name_is_imported_when_it_is_first_asked_for(things):
    assert things["decimal"] is Decimal
    assert things["fraction"] is Fraction
    assert "broken" in things
    with pytest.raises(ModuleNotFoundError):
        things["broken"]


def test_names_are_listed_by_pattern_and_kind(things):
    assert things.names() == ["broken", "decimal", "fraction", "thing"]
    assert things.names("*c*", kind="exact") == ["decimal", "fraction"]
    assert things.names("DEC*") == []
    assert [e.summary for e in things.entries("decimal")] == ["a number"]


def test_registering_takes_the_first_line_and_never_overwrites(things):
    (entry,) = things.entries("thing")
    assert entry.summary == "A thing with options. And a second sentence."
    assert entry.path.endswith(":Thing")
    with pytest.raises(ValueError, match="'decimal' is taken by decimal:Decimal"):
        things.register("decimal")(Thing)


def test_build_takes_a_name_a_mapping_or_an_instance(things):
    assert things.build("thing") == Thing()
    assert things.build({"name": "thing", "rtol": 1e-5}) == Thing(rtol=1e-5)
    made = Thing(max_steps=2)
    assert things.build(made) is made


def test_defaults_fill_what_a_spec_leaves_open(things):
    assert things.build({"name": "thing", "rtol": 1.0}, rtol=2.0, max_steps=4) == Thing(rtol=1.0, max_steps=4)
    made = Thing()
    assert things.build(made, rtol=2.0) is made


def test_wrong_names_and_options_are_answered_by_the_nearest(things):
    with pytest.raises(UnknownName, match="No thing named 'decimel'. Did you mean 'decimal'"):
        things["decimel"]
    with pytest.raises(UnknownName, match="No option of thing 'thing' named 'max_step'. Did you mean 'max_steps'"):
        things.build({"name": "thing", "max_step": 3})
    with pytest.raises(UnknownName, match="needs a 'name'"):
        things.build({"rtol": 3})


def test_the_message_is_a_sentence_and_no_repr():
    assert str(UnknownName("It's a sentence.")) == "It's a sentence."
    assert unknown("thing", "zzz", []) == "No thing named 'zzz'. Known: none."


def test_options_are_those_of_the_signature():
    def factory(a, *, b=1, **rest):
        return a, b, rest

    assert option_names(factory) == ("a", "b")
    check_options("option", factory, {"a": 1, "b": 2})
    with pytest.raises(UnknownName):
        check_options("option", factory, {"c": 2})


@pytest.mark.parametrize("thing", [3, None, object(), "class"])
def test_what_is_no_solver_and_no_adjoint_is_refused_in_words(thing):
    from zoo.solvers.anderson import Anderson

    thing = Anderson if thing == "class" else thing
    f, z = (lambda z: 0.5 * z + 1), torch.zeros(2, 3)
    with pytest.raises(TypeError, match="A solver is a name such as 'picard'"):
        zoo.fixed_point(f, z, thing)
    with pytest.raises(TypeError, match="An? adjoint is a name such as 'implicit'"):
        zoo.fixed_point(f, z, "picard", thing)
    layer = zoo.deq.DEQ(torch.nn.Identity())
    if thing is not None:
        with pytest.raises(TypeError, match="A solver is a name"):
            layer.solver = thing
    layer.solver = "broyden"
    assert type(layer.solver).__name__ == "Broyden"


def test_a_tighter_rtol_alone_takes_atol_along():
    from zoo.solve import make_solver

    assert make_solver({"name": "anderson", "rtol": 1e-8}).atol == pytest.approx(1e-11)
    assert make_solver({"name": "anderson", "rtol": 1e-1}).atol == 1e-6
    assert make_solver({"name": "anderson", "rtol": 1e-8, "atol": 1e-3}).atol == 1e-3
    layer = zoo.deq.DEQ(torch.nn.Identity(), {"name": "anderson", "rtol": 1e-2, "atol": 1e-4, "max_steps": 7})
    layer.configure_implicit({"name": "broyden", "rtol": 1e-7})
    assert layer.solver.atol == pytest.approx(1e-10) and layer.solver.max_steps == 7
    layer.configure_implicit("picard")
    assert layer.solver.atol == pytest.approx(1e-10)
    solution = zoo.fixed_point(
        lambda z: 0.5 * z + 1e-6,
        torch.zeros(1, 1, dtype=torch.float64),
        {"name": "picard", "rtol": 1e-8, "max_steps": 60},
    )
    assert abs(solution.value.item() - 2e-6) < 1e-10


def test_a_solver_is_replaced_by_one_with_other_options():
    from zoo.solve import make_solver

    solver = make_solver({"name": "anderson", "window": 3})
    assert solver.replace(max_steps=2).max_steps == 2 and solver.replace(max_steps=2).window == 3
    assert solver.max_steps == 30
